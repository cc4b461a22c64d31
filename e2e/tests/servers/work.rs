//! A ReplicaSet that grows by one each time -> whether controllers and scheduler work, and whether there was ever one of them too many.

use std::{collections::HashSet, time::Duration};

use e2e::{Api, Patch, eventually, object};
use serde_json::{Value, json};

use crate::cluster::get;

const SET: &str = "/apis/apps/v1/namespaces/default/replicasets/work";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[derive(Default)]
pub struct Work {
    wanted: usize,
    /// All that were ever there, by uid.
    seen: HashSet<String>,
}

impl Work {
    pub async fn start(api: &Api) -> Self {
        let labels = json!({"app": "work"});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none.invalid/none"}]}});
        let spec = json!({"replicas": 0, "selector": {"matchLabels": labels}, "template": template});
        let set = object("apps/v1", "ReplicaSet", "work", json!({"spec": spec}));
        api.post("/apis/apps/v1/namespaces/default/replicasets", &set).await.expect(201);
        Self::default()
    }

    /// One pod more is asked for; it is made, and the scheduler has looked at it, within `bound`.
    pub async fn grows(&mut self, api: &Api, bound: Duration) {
        self.wanted += 1;
        let patch = json!({"spec": {"replicas": self.wanted}});
        eventually("the set is scaled", bound, async || api.patch(SET, Patch::Merge, &patch).await.status == 200).await;
        let wanted = self.wanted;
        let pods = eventually("its pods are made and looked at", bound, async || {
            let pods = get(api, PODS).await.ok_or("no answer".to_owned())?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            let looked_at = pods.iter().filter(|pod| is_looked_at(pod)).count();
            if looked_at >= wanted { Ok(pods) } else { Err(format!("{} of {} are looked at", looked_at, pods.len())) }
        })
        .await;
        self.see(&pods);
    }

    /// Two controllers would each have made what was lacking.
    fn see(&mut self, pods: &[Value]) {
        self.seen.extend(pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned)));
        assert_eq!(self.seen.len(), self.wanted, "a pod too many was made");
    }

    /// After all that may have been late has arrived.
    pub async fn end(mut self, api: &Api) {
        let pods = api.get(PODS).await.expect(200);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        assert_eq!(pods.len(), self.wanted);
        self.see(&pods);
    }
}

/// There is no node: the scheduler says so.
fn is_looked_at(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "PodScheduled" && c["status"] == "False"))
}
