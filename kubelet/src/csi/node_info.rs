//! What drivers say of this node -> its CSINode, and labels and an annotation of its Node.
//!
//! Source: `pkg/volume/csi/nodeinfomanager/nodeinfomanager.go`. The annotation of in-tree plugins that are migrated is left out: none is.

use std::{collections::BTreeMap, time::Duration};

use api::{names::segment, task::Group};
use futures::{FutureExt, future::BoxFuture};
use http::Method;
use serde_json::{Map, Value, json};

use super::objects::{Failed, JSON, MERGE_PATCH, Objects};

const CSI_NODES: &str = "/apis/storage.k8s.io/v1/csinodes";
/// An annotation of the Node: a map of drivers to their names for it.
const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";
/// An object that others write too is read and written again so often.
const TRIES: u32 = 4;
/// Upstream's first pause is shorter, and its whole wait about the same.
const PAUSE: Duration = Duration::from_millis(50);
/// Until the node has its CSINode, which only a driver needs.
const RETRY: Duration = Duration::from_secs(10);

/// What a driver says of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub node_id: String,
    /// Volumes that may be attached at a time; 0: it does not say.
    pub volumes_max: i64,
    pub topology: BTreeMap<String, String>,
}

#[derive(Clone)]
pub struct NodeInfo {
    node_name: String,
    objects: Objects,
}

impl NodeInfo {
    pub fn new(node_name: &str, objects: &Objects) -> Self {
        Self { node_name: node_name.to_owned(), objects: objects.clone() }
    }

    /// Every node has a CSINode, as upstream's.
    pub fn start(&self, group: &Group) {
        let this = self.clone();
        group.spawn(Box::pin(async move {
            while let Err(failed) = this.csi_node().await {
                tracing::debug!(error = failed.why, "failed to make the node's CSINode; retrying");
                tokio::time::sleep(RETRY).await;
            }
        }));
    }

    /// # Errors
    /// The server's words, or a label that has another value.
    pub async fn install<'a>(&'a self, driver: &'a str, said: &'a Said) -> Result<(), String> {
        let node = again(|| self.label_node(driver, said).boxed()).await;
        node.map_err(|why| format!("error updating Node object with CSI driver node info: {why}"))?;
        let of = again(|| self.write(move |drivers| put(drivers, driver, said)).boxed()).await;
        of.map_err(|why| format!("error updating CSINode object with CSI driver node info: {why}"))
    }

    /// # Errors
    /// The server's words.
    pub async fn uninstall<'a>(&'a self, driver: &'a str) -> Result<(), String> {
        let of = again(|| self.write(move |drivers| take(drivers, driver)).boxed()).await;
        of.map_err(|why| format!("error uninstalling CSI driver from CSINode object {why}"))?;
        let node = again(|| self.unname_node(driver).boxed()).await;
        node.map_err(|why| format!("error removing CSI driver node info from Node object {why}"))
    }

    fn path(&self) -> String {
        format!("{CSI_NODES}/{}", segment(&self.node_name))
    }

    fn node_path(&self) -> String {
        format!("/api/v1/nodes/{}", segment(&self.node_name))
    }

    async fn node(&self) -> Result<Value, Failed> {
        self.objects.ask(Method::GET, &self.node_path(), JSON, None).await
    }

    /// The node's own CSINode, made where there is none; one of another node of that name goes first.
    async fn csi_node(&self) -> Result<Value, Failed> {
        let node = self.node().await?;
        let uid = &node["metadata"]["uid"];
        match self.objects.ask(Method::GET, &self.path(), JSON, None).await {
            Ok(there) if is_owned(&there, &self.node_name, uid) => Ok(there),
            Ok(there) => {
                let options = json!({"preconditions": {"uid": there["metadata"]["uid"]}});
                self.objects.ask(Method::DELETE, &self.path(), JSON, Some(&options)).await?;
                Err(Failed { code: 0, why: format!("CSINode {:?} was owned by different node, deleted it", self.node_name) })
            }
            Err(Failed { code: 404, .. }) => {
                let owner = json!({"apiVersion": "v1", "kind": "Node", "name": self.node_name, "uid": uid});
                let new = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
                    "metadata": {"name": self.node_name, "ownerReferences": [owner]}, "spec": {"drivers": []}});
                self.objects.ask(Method::POST, CSI_NODES, JSON, Some(&new)).await
            }
            Err(failed) => Err(failed),
        }
    }

    /// Writes the list of drivers that `change` gives, where it gives one.
    async fn write(&self, change: impl Fn(&[Value]) -> Option<Vec<Value>> + Send) -> Result<(), Failed> {
        let mut there = self.csi_node().await?;
        let drivers = there["spec"]["drivers"].as_array().cloned().unwrap_or_default();
        let Some(changed) = change(&drivers) else { return Ok(()) };
        there["spec"]["drivers"] = changed.into();
        self.objects.ask(Method::PUT, &self.path(), JSON, Some(&there)).await.map(drop)
    }

    /// The node's labels of the driver's topology, and the driver's name for it.
    async fn label_node(&self, driver: &str, said: &Said) -> Result<(), Failed> {
        let node = self.node().await?;
        let labels = &node["metadata"]["labels"];
        let missing = new_labels(labels, &said.topology).map_err(|why| Failed { code: 0, why })?;
        let mut ids = ids(&node).map_err(|why| Failed { code: 0, why })?;
        let is_named = ids.get(driver).and_then(Value::as_str) == Some(&said.node_id);
        if missing.is_empty() && is_named {
            return Ok(());
        }
        ids.insert(driver.to_owned(), said.node_id.clone().into());
        self.patch_node(&node, json!({"labels": missing, "annotations": {NODE_ID: Value::Object(ids).to_string()}})).await
    }

    async fn unname_node(&self, driver: &str) -> Result<(), Failed> {
        let node = self.node().await?;
        let mut ids = ids(&node).map_err(|why| Failed { code: 0, why })?;
        if ids.remove(driver).is_none() {
            return Ok(());
        }
        let left = if ids.is_empty() { Value::Null } else { Value::Object(ids).to_string().into() };
        self.patch_node(&node, json!({"annotations": {NODE_ID: left}})).await
    }

    /// The very node that was looked at.
    async fn patch_node(&self, node: &Value, mut metadata: Value) -> Result<(), Failed> {
        metadata["uid"] = node["metadata"]["uid"].clone();
        metadata["resourceVersion"] = node["metadata"]["resourceVersion"].clone();
        let patch = json!({"metadata": metadata});
        self.objects.ask(Method::PATCH, &self.node_path(), MERGE_PATCH, Some(&patch)).await.map(drop)
    }
}

async fn again<'a>(work: impl Fn() -> BoxFuture<'a, Result<(), Failed>> + Send) -> Result<(), String> {
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match work().await {
            Ok(()) => return Ok(()),
            Err(failed) => tracing::debug!(error = failed.why, "failed to write what a CSI driver says of this node; retrying"),
        }
        tokio::time::sleep(pause).await;
        pause *= 5;
    }
    work().await.map_err(|failed| failed.why)
}

fn is_owned(csi_node: &Value, name: &str, uid: &Value) -> bool {
    let owners = csi_node["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| owner["kind"] == "Node" && owner["name"] == name && owner["uid"] == *uid)
}

/// The drivers' names for the node, as they stand there.
fn ids(node: &Value) -> Result<Map<String, Value>, String> {
    let text = node["metadata"]["annotations"][NODE_ID].as_str().filter(|text| !text.is_empty());
    let parsed = text.map(serde_json::from_str::<Map<String, Value>>).transpose();
    parsed.map(Option::unwrap_or_default).map_err(|error| format!("failed to parse node's {NODE_ID:?} annotation value: {error}"))
}

/// Those that the node has not; one that has another value there is refused, since it is not the driver's.
fn new_labels(there: &Value, topology: &BTreeMap<String, String>) -> Result<Map<String, Value>, String> {
    let mut new = Map::new();
    for (key, value) in topology {
        match there[key].as_str() {
            Some(same) if same == value => {}
            Some(other) => {
                return Err(format!(
                    "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{other:?}"
                ));
            }
            None => drop(new.insert(key.clone(), value.clone().into())),
        }
    }
    Ok(new)
}

/// `None` where the list says so already.
fn put(drivers: &[Value], name: &str, said: &Said) -> Option<Vec<Value>> {
    let keys: Vec<&String> = said.topology.keys().collect();
    let mut new = json!({"name": name, "nodeID": said.node_id, "topologyKeys": keys});
    match said.volumes_max {
        0 => {}
        max if max > 0 => new["allocatable"] = json!({"count": max.min(i64::from(i32::MAX))}),
        max => tracing::error!(driver = name, max, "a CSI driver says a limit of volumes that is none"),
    }
    let there = drivers.iter().find(|driver| driver["name"] == name);
    if there.is_some_and(|there| is_same(there, &new)) {
        return None;
    }
    let others = drivers.iter().filter(|driver| driver["name"] != name).cloned();
    Some(others.chain([new]).collect())
}

fn is_same(there: &Value, new: &Value) -> bool {
    let keys = |driver: &Value| {
        let keys = driver["topologyKeys"].as_array();
        keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    there["nodeID"] == new["nodeID"] && keys(there) == keys(new) && there["allocatable"]["count"] == new["allocatable"]["count"]
}

fn take(drivers: &[Value], name: &str) -> Option<Vec<Value>> {
    let left: Vec<Value> = drivers.iter().filter(|driver| driver["name"] != name).cloned().collect();
    (left.len() < drivers.len()).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(zone: &str, volumes_max: i64) -> Said {
        Said { node_id: "id".into(), volumes_max, topology: [("d/zone".to_owned(), zone.to_owned())].into() }
    }

    #[test]
    fn a_driver_stands_there_once_as_it_says_last() {
        let one = put(&[], "d", &said("a", 3)).unwrap();
        assert_eq!(one, [json!({"name": "d", "nodeID": "id", "topologyKeys": ["d/zone"], "allocatable": {"count": 3}})]);
        assert_eq!(put(&one, "d", &said("b", 3)), None, "keys alone stand there");
        let two = put(&one, "e", &said("a", i64::MAX)).unwrap();
        assert_eq!((two.len(), &two[1]["allocatable"]["count"]), (2, &json!(i32::MAX)));
        let changed = put(&two, "d", &said("a", -1)).unwrap();
        assert_eq!((changed.len(), &changed[1]["allocatable"]), (2, &Value::Null));
        assert_eq!((take(&changed, "x"), take(&changed, "d").unwrap().len()), (None, 1));
    }

    #[test]
    fn labels_that_are_there_are_not_a_drivers_to_change() {
        let labels = json!({"d/zone": "a", "kubernetes.io/hostname": "n"});
        let new = |key: &str, value: &str| new_labels(&labels, &[(key.to_owned(), value.to_owned())].into());
        assert_eq!(new("d/zone", "a"), Ok(Map::new()));
        assert_eq!(new("d/rack", "r").unwrap()["d/rack"], "r");
        assert!(new("kubernetes.io/hostname", "m").unwrap_err().contains("collision"));
        assert!(ids(&json!({"metadata": {"annotations": {NODE_ID: "["}}})).is_err());
        assert!(ids(&json!({"metadata": {}})).unwrap().is_empty());
    }
}
