//! The definitions of both kinds, which the published types do not have. Source: `k8s.io/metrics/pkg/apis/metrics/v1beta1/types.go`.

use api::Gvk;
use apiserver::schema::Schema;
use serde_json::{Value, json};

use super::{GROUP, VERSION};
use crate::schema::TABLES;

pub fn of(kind: &str) -> Schema {
    let (what, own) = if kind == "NodeMetrics" { ("a node", ("usage", usage())) } else { ("a pod", ("containers", containers())) };
    let mut open_api = json!({
        "type": "object",
        "description": format!("{kind} sets resource usage metrics of {what}."),
        "required": ["timestamp", "window"],
        "properties": {
            "timestamp": {"type": "string", "format": "date-time", "description": "The end of the interval that the metrics were collected in."},
            "window": {"type": "string", "description": "The length of the interval: it is [timestamp - window, timestamp]."},
        },
    });
    open_api["required"].as_array_mut().into_iter().for_each(|names| names.push(own.0.into()));
    open_api["properties"][own.0] = own.1;
    Schema::custom(&Gvk::new(GROUP, VERSION, kind), &open_api, Some(&TABLES))
}

fn usage() -> Value {
    let quantity = json!({"type": "string"});
    json!({"type": "object", "additionalProperties": quantity, "description": "What is used: cpu, and memory as the working set."})
}

fn containers() -> Value {
    json!({
        "type": "array",
        "x-kubernetes-list-type": "atomic",
        "description": "Metrics of all containers, collected within the same interval.",
        "items": {
            "type": "object",
            "description": "ContainerMetrics sets resource usage metrics of a container.",
            "required": ["name", "usage"],
            "properties": {"name": {"type": "string", "description": "Name of the container, as in pod.spec.containers."}, "usage": usage()},
        },
    })
}
