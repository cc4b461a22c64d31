//! A small application -> what every loop makes of it, in time; or which one does nothing.

use std::time::Duration;

use serde_json::{Value, json};

use super::{house::Asker, watchers::Watchers};

/// Debug builds on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

pub struct Canary<'a> {
    admin: &'a Asker,
    namespace: &'a str,
    watchers: &'a mut Watchers,
}

impl Canary<'_> {
    /// # Errors
    /// What did not come to be.
    pub async fn fly(admin: &Asker, namespace: &str, watchers: &mut Watchers) -> Result<(), String> {
        let mut canary = Canary { admin, namespace, watchers };
        canary.node().await?;
        canary.make().await?;
        canary.seen().await?;
        let pod = canary.pod().await?;
        canary.served(&pod).await?;
        canary.collected().await?;
        canary.evicted(&pod).await
    }

    async fn node(&self) -> Result<(), String> {
        let name = self.node_name();
        let _ = self.ask("POST", "/api/v1/nodes", json!({"metadata": {"name": name, "labels": {"canary": self.namespace}}})).await?;
        let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": api::time::rfc3339(api::time::Timestamp::now())});
        let status = json!({"status": {"allocatable": {"cpu": "64", "memory": "64Gi", "pods": "110"}, "conditions": [ready]}});
        let _ = self.ask("PATCH", &format!("/api/v1/nodes/{name}/status"), status).await?;
        let path = format!("/api/v1/nodes/{name}");
        self.until("node lifecycle: no taint on a ready node", &path, |n| n["spec"]["taints"].as_array().is_none_or(Vec::is_empty)).await?;
        self.until("node IPAM: a pod range", &path, |n| n["spec"]["podCIDR"].is_string()).await.map(drop)
    }

    /// The application.
    async fn make(&self) -> Result<(), String> {
        let labels = json!({"app": "canary"});
        // One node alone takes it, so that it shows whether that one was chosen.
        let volume = json!({"name": "v", "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}});
        let container =
            json!({"name": "c", "image": "i", "ports": [{"containerPort": 80}], "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let spec = json!({"nodeSelector": {"canary": self.namespace}, "containers": [container], "volumes": [volume]});
        let template = json!({"metadata": {"labels": labels}, "spec": spec});
        let ns = self.namespace;
        let all = [
            (
                format!("/apis/apps/v1/namespaces/{ns}/deployments"),
                json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": template}),
            ),
            (format!("/api/v1/namespaces/{ns}/services"), json!({"selector": labels, "ports": [{"port": 80}]})),
            (
                format!("/api/v1/namespaces/{ns}/replicationcontrollers"),
                json!({"replicas": 1, "selector": {"app": "canary-rc"}, "template": {"metadata": {"labels": {"app": "canary-rc"}}, "spec": template["spec"]}}),
            ),
            (
                format!("/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets"),
                json!({"maxUnavailable": 1, "selector": {"matchLabels": labels}}),
            ),
        ];
        for (collection, spec) in all {
            let _ = self.ask("POST", &collection, json!({"metadata": {"name": "canary"}, "spec": spec})).await?;
        }
        let label = json!({"canary": ns});
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        let _ = self.ask("POST", roles, json!({"metadata": {"name": format!("part-{ns}"), "labels": label}, "rules": rules})).await?;
        let aggregation = json!({"clusterRoleSelectors": [{"matchLabels": label}]});
        let _ = self.ask("POST", roles, json!({"metadata": {"name": format!("whole-{ns}")}, "aggregationRule": aggregation})).await?;
        Ok(())
    }

    /// What each controller makes at once.
    async fn seen(&self) -> Result<(), String> {
        let ns = self.namespace;
        self.until("service account controller", &format!("/api/v1/namespaces/{ns}/serviceaccounts/default"), |_| true).await?;
        self.until("root CA publisher", &format!("/api/v1/namespaces/{ns}/configmaps/kube-root-ca.crt"), |_| true).await?;
        let role = format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/whole-{ns}");
        self.until("cluster role aggregation", &role, |r| r["rules"].as_array().is_some_and(|rules| !rules.is_empty())).await?;
        let pods = format!("/api/v1/namespaces/{ns}/pods?labelSelector=app%3Dcanary-rc");
        self.until("replication controller", &pods, |l| l["items"].as_array().is_some_and(|all| !all.is_empty())).await?;
        let budget = format!("/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets/canary");
        self.until("disruption controller", &budget, |b| b["status"]["expectedPods"] == 1).await.map(drop)
    }

    /// The deployment's pod, once it is on the canary's node.
    async fn pod(&mut self) -> Result<String, String> {
        let pods = format!("/api/v1/namespaces/{}/pods?labelSelector=app%3Dcanary", self.namespace);
        let list = self
            .until("deployment and replica set controllers", &pods, |l| l["items"].as_array().is_some_and(|all| !all.is_empty()))
            .await?;
        let name = list["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let (path, node) = (self.pod_path(&name), self.node_name());
        self.until("scheduler", &path, |pod| pod["spec"]["nodeName"] == node.as_str()).await?;
        let end = tokio::time::Instant::now() + BOUND;
        while !self.watchers.would_run(self.namespace, &name) {
            if tokio::time::Instant::now() > end {
                return Err("the node agent: no calls, no configs or no files for the canary's pod".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(name)
    }

    /// It becomes ready, and is found.
    async fn served(&mut self, pod: &str) -> Result<(), String> {
        let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": null}]);
        let status = json!({"phase": "Running", "podIP": "10.244.9.9", "podIPs": [{"ip": "10.244.9.9"}], "conditions": conditions});
        let _ = self.ask("PATCH", &format!("{}/status", self.pod_path(pod)), json!({"status": status})).await?;
        let ns = self.namespace;
        self.until("endpoints controller", &format!("/api/v1/namespaces/{ns}/endpoints/canary"), has_address).await?;
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices?labelSelector=kubernetes.io/service-name%3Dcanary");
        self.until("endpoint slice controller", &slices, has_address).await?;
        let end = tokio::time::Instant::now() + BOUND;
        while !self.watchers.has_rules(ns, "canary") {
            if tokio::time::Instant::now() > end {
                return Err("the proxy's model: no rules for the canary's service".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn collected(&self) -> Result<(), String> {
        let maps = format!("/api/v1/namespaces/{}/configmaps", self.namespace);
        let owner = self.ask("POST", &maps, json!({"metadata": {"name": "owner"}})).await?;
        let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]});
        let _ = self.ask("POST", &maps, json!({"metadata": {"name": "owned", "ownerReferences": [reference]}})).await?;
        let _ = self.ask("DELETE", &format!("{maps}/owner"), Value::Null).await?;
        self.until_gone("garbage collector", &format!("{maps}/owned")).await
    }

    async fn evicted(&self, pod: &str) -> Result<(), String> {
        let taint = json!([{"key": "canary", "value": "v", "effect": "NoExecute"}]);
        let _ = self.ask("PATCH", &format!("/api/v1/nodes/{}", self.node_name()), json!({"spec": {"taints": taint}})).await?;
        let is_leaving = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
        self.until_or_gone("taint eviction", &self.pod_path(pod), is_leaving).await?;
        for path in [format!("/api/v1/nodes/{}", self.node_name())] {
            let _ = self.ask("DELETE", &path, Value::Null).await?;
        }
        for name in ["part", "whole"] {
            let _ = self
                .ask("DELETE", &format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}-{}", self.namespace), Value::Null)
                .await?;
        }
        Ok(())
    }

    fn node_name(&self) -> String {
        format!("canary-{}", self.namespace)
    }

    fn pod_path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/pods/{name}", self.namespace)
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Result<Value, String> {
        self.admin.ask(method, path, &body).await.map_err(|(code, message)| format!("{method} {path}: {code} {message}"))
    }

    async fn until(&self, who: &str, path: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value, String> {
        let end = tokio::time::Instant::now() + BOUND;
        loop {
            let answer = self.admin.ask("GET", path, &Value::Null).await;
            match answer {
                Ok(found) if is_so(&found) => return Ok(found),
                other if tokio::time::Instant::now() > end => return Err(format!("{who}: {path} is {other:?}")),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn until_gone(&self, who: &str, path: &str) -> Result<(), String> {
        self.until_or_gone(who, path, |_| false).await
    }

    async fn until_or_gone(&self, who: &str, path: &str, is_so: impl Fn(&Value) -> bool) -> Result<(), String> {
        let end = tokio::time::Instant::now() + BOUND;
        loop {
            match self.admin.ask("GET", path, &Value::Null).await {
                Ok(found) if is_so(&found) => return Ok(()),
                Err((404, _)) => return Ok(()),
                other if tokio::time::Instant::now() > end => return Err(format!("{who}: {path} is {other:?}")),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

/// The namespace was deleted: it goes, with all that is in it.
///
/// # Errors
/// Where it stays.
pub async fn gone(admin: &Asker, namespace: &str) -> Result<(), String> {
    let (path, end) = (format!("/api/v1/namespaces/{namespace}"), tokio::time::Instant::now() + BOUND);
    loop {
        // Pods that were bound wait for a node agent that says they have ended: this is the one.
        let pods = admin.ask("GET", &format!("{path}/pods"), &Value::Null).await.unwrap_or_default();
        for name in pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str()) {
            let _ = admin.ask("DELETE", &format!("{path}/pods/{name}"), &json!({"gracePeriodSeconds": 0})).await;
        }
        match admin.ask("GET", &path, &Value::Null).await {
            Err((404, _)) => return Ok(()),
            other if tokio::time::Instant::now() > end => return Err(format!("namespace controller: {path} is {other:?}")),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn has_address(found: &Value) -> bool {
    found.to_string().contains("10.244.9.9")
}
