//! Numbers -> bodies of objects, as text.

use serde_json::{Value, json};

/// A `ConfigMap` with so many bytes of data.
pub fn config_map(name: &str, bytes: usize) -> String {
    let text = "x".repeat(bytes);
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"{text}"}}}}"#)
}

/// A pod of one container, with what else its spec and labels hold.
pub fn pod(name: &str, labels: &Value, cpu: &str, more: &Value) -> String {
    let resources = json!({"requests": {"cpu": cpu, "memory": "50Mi"}});
    let mut spec = json!({"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "example.test/c:1", "resources": resources}]});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}).to_string()
}

/// `500m` or `4` -> 500 or 4000; memory is not asked for so.
pub fn millis(cpu: &str) -> anyhow::Result<u64> {
    Ok(match cpu.strip_suffix('m') {
        Some(millis) => millis.parse()?,
        None => cpu.parse::<u64>()? * 1000,
    })
}
