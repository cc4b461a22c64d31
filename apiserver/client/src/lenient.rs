//! JSON as it is stored -> a typed view of it, as Go would read it, or of as much of it as can be read.
//!
//! What the API server admits is what Go's decoder takes: null is the zero value of whatever stands there (apimachinery
//! `pkg/util/json`). Our types are stricter: a null `Time`, a null entry of a list or map. So a view that cannot be decoded as it is
//! is decoded again from a tree, where null and absent are zero values; and what is still of the wrong type (an older shape, written by
//! another server on the same etcd) counts as null, one field after the other, and is told as a fault. Only what fails pays for it.

mod go;
mod repair;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// A typed view.
#[derive(Clone, Debug)]
pub struct Seen<K> {
    pub object: K,
    /// Where the JSON is not as the type says, and how; the view lacks what stands there. It must not be written back, nor acted on.
    pub fault: Option<String>,
}

/// What is left where nothing else can be read: enough to know that the object is there.
#[derive(Deserialize)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta {
    name: String,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

impl<K> Seen<K> {
    /// All of it was read.
    pub fn whole(object: K) -> Self {
        Self { object, fault: None }
    }
}

/// Reads an object.
///
/// # Errors
/// Where not even its name can be read.
pub fn decode<K: DeserializeOwned>(json: &[u8]) -> serde_json::Result<Seen<K>> {
    match serde_json::from_slice(json) {
        Ok(object) => Ok(Seen::whole(object)),
        Err(error) => decode_again(json, &error),
    }
}

/// Reads what could not be decoded as it is, because of `error`.
fn decode_again<K: DeserializeOwned>(json: &[u8], error: &serde_json::Error) -> serde_json::Result<Seen<K>> {
    if let Ok(tree) = serde_json::from_slice::<Value>(json)
        && let Some(seen) = repair::decode(tree)
    {
        return Ok(seen);
    }
    // Deeper than a tree may be: what is skipped over may be of any depth.
    let HeadMeta { name, namespace, uid, resource_version } = serde_json::from_slice::<Head>(json)?.metadata;
    let head = json!({"metadata": {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": resource_version}});
    let seen = repair::decode(head).ok_or_else(|| serde::de::Error::custom(error))?;
    Ok(Seen { fault: Some(error.to_string()), ..seen })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods;
    use api::k8s::api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Node, Pod, Secret, Service},
    };

    fn read<K: DeserializeOwned>(said: &Value) -> Seen<K> {
        decode(said.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn null_and_absent_are_zero_values_wherever_they_stand() {
        let said = json!({"metadata": {"name": "s", "labels": {"a": null}, "ownerReferences": null, "finalizers": [null]},
            "spec": {"ports": [null, {"port": null, "targetPort": null}], "clusterIPs": [null], "sessionAffinityConfig": null},
            "status": {"conditions": [{"type": "A", "lastTransitionTime": null}, {"type": "B"}, {"lastTransitionTime": null}, null]}});
        let seen: Seen<Service> = read(&said);
        assert_eq!(seen.fault, None);
        let (spec, status) = (seen.object.spec.unwrap(), seen.object.status.unwrap());
        assert_eq!(seen.object.metadata.labels.unwrap()["a"], "");
        assert_eq!(spec.ports.as_ref().map(|p| (p.len(), p[0].port, p[1].port)), Some((2, 0, 0)));
        let conditions = status.conditions.unwrap();
        assert_eq!(conditions.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), ["A", "B", "", ""]);
        assert!(conditions.iter().all(|c| c.last_transition_time.0.to_string() == "0001-01-01T00:00:00Z"), "Go's zero time");

        let secret: Seen<Secret> = read(&json!({"metadata": {"name": "s"}, "data": {"a": null, "b": "Yg=="}, "stringData": {"c": null}}));
        assert_eq!((secret.fault, secret.object.data.unwrap()["a"].0.len()), (None, 0));
        let map: Seen<ConfigMap> = read(&json!({"metadata": {"name": "s"}, "data": {"a": null}}));
        assert_eq!((map.fault, map.object.data.unwrap()["a"].as_str()), (None, ""));
        let node: Seen<Node> =
            read(&json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "k", "effect": null, "timeAdded": null}]},
            "status": {"capacity": {"cpu": null}, "allocatable": null, "images": [null], "addresses": [null]}}));
        assert_eq!(node.fault, None);
    }

    #[test]
    fn every_null_of_a_pod_is_read_by_both_views() {
        let whole = json!({"metadata": {"name": "p", "labels": {"k": "v"}},
            "spec": {"containers": [{"name": "c", "image": "i", "args": ["a"], "ports": [{"containerPort": 1}], "env": [{"name": "A", "value": "b"}],
                    "resources": {"requests": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": 1}, "periodSeconds": 1}}],
                "tolerations": [{"key": "k", "tolerationSeconds": 1}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1"}}],
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}], "podIPs": [{"ip": "1.2.3.4"}],
                "containerStatuses": [{"name": "c", "restartCount": 1, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}});
        let mut paths = Vec::new();
        walk(&whole, "", &mut paths);
        for path in paths.iter().filter(|path| *path != "/metadata" && *path != "/metadata/name") {
            let mut said = whole.clone();
            *said.pointer_mut(path).unwrap() = Value::Null;
            assert_eq!(read::<Pod>(&said).fault, None, "{path}");
            assert_eq!(read::<pods::Pod>(&said).fault, None, "{path}");
        }
    }

    fn walk(value: &Value, path: &str, all: &mut Vec<String>) {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), v)).collect(),
            Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
            _ => return,
        };
        for (name, child) in children {
            let path = format!("{path}/{name}");
            walk(child, &path, all);
            all.push(path);
        }
    }

    #[test]
    fn what_has_the_wrong_type_is_a_fault_and_the_rest_is_read() {
        let said = json!({"metadata": {"name": "d", "namespace": "n", "labels": ["a"]},
            "spec": {"replicas": "many", "minReadySeconds": 3_000_000_000u64, "selector": {"matchLabels": {"a": "b"}}, "paused": true,
                "template": {"spec": {"containers": [{"name": "c", "image": 7}]}}},
            "status": "none"});
        let seen: Seen<Deployment> = read(&said);
        let spec = seen.object.spec.unwrap();
        assert_eq!((seen.object.metadata.namespace.as_deref(), spec.replicas, spec.paused), (Some("n"), None, Some(true)));
        assert_eq!(spec.template.spec.unwrap().containers[0].name, "c");
        let fault = seen.fault.unwrap();
        assert!(fault.starts_with("metadata.labels: invalid type: sequence"), "{fault}");
    }

    #[test]
    fn an_object_is_known_to_be_there_however_strange_it_is() {
        let deep = format!(r#"{{"metadata":{{"name":"d","resourceVersion":"7"}},"spec":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let seen = decode::<Deployment>(deep.as_bytes()).unwrap();
        assert_eq!((seen.object.metadata.name.as_deref(), seen.fault.is_some()), (Some("d"), true));
        // More faults than are looked for one by one.
        let many: Vec<Value> = (0..10_000).map(|_| json!({"name": 1})).collect();
        let seen: Seen<Pod> = read(&json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": many}}));
        assert_eq!((seen.object.metadata.uid.as_deref(), seen.fault.is_some()), (Some("u"), true));
        assert!(decode::<Pod>(b"{\"metadata\": {}}").is_ok(), "its name is not asked for where all can be read");
        assert!(decode::<Pod>(b"{\"spec\": ").is_err());
    }

    #[test]
    fn the_last_day_of_all_is_a_time() {
        let said = json!({"metadata": {"name": "p", "creationTimestamp": "9999-12-31T23:59:59Z"}});
        let seen: Seen<ConfigMap> = read(&said);
        assert_eq!((seen.fault, seen.object.metadata.creation_timestamp.unwrap().0), (None, api::time::Timestamp::MAX));
    }
}
