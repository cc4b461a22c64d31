//! One user who asks for too much, slowly: everybody else is served as if there were no such user.

use e2e::{Api, eventually, object};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::client::TlsStream;

use crate::world::{CONFIGMAPS, SOON, World, configmap, pod_spec};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const NODE: &str = "fair-node";
const SLOW_POSTS: usize = 200;
const LISTS: usize = 100;
/// Then, in each round, so many more lists by the greedy one, and so many requests by everybody else.
const ROUNDS: usize = 10;
const MORE: usize = 30;
const OTHERS: usize = 3;

type Line = TlsStream<TcpStream>;

pub async fn one_user_cannot_starve_the_rest(w: &World) {
    let (greedy, token) = account(w, "greedy").await;
    let (other, _) = account(w, "other").await;
    // The list is four times what the kernel takes of an answer that nobody reads.
    let text = "x".repeat(80_000);
    join_all((0..200).map(|i| w.configmap_of(format!("large-{i}"), &text))).await;
    as_node(w, "POST", "/api/v1/nodes", &node()).await;
    as_node(w, "POST", LEASES, &lease(json!({}))).await;

    // Neither sends, nor reads, more than this.
    let post = format!(
        "POST {REVIEWS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 400\r\n\r\n{{"
    );
    let list = format!("GET {CONFIGMAPS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    let mut lines = begin(&greedy, &post, SLOW_POSTS).await;
    lines.extend(begin(&greedy, &list, LISTS).await);
    let deployment = object(
        "apps/v1",
        "Deployment",
        "steady",
        json!({"spec": {
            "replicas": 5,
            "selector": {"matchLabels": {"app": "steady"}},
            "template": {"metadata": {"labels": {"app": "steady"}}, "spec": pod_spec()},
        }}),
    );
    w.api.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await.expect(201);
    for round in 0..ROUNDS {
        lines.extend(begin(&greedy, &list, MORE).await);
        eventually("the greedy one has all that it can get", SOON, async || waits(w).await > 0).await;
        for i in 0..OTHERS {
            other.post(CONFIGMAPS, &configmap(&format!("own-{round}-{i}"), json!({}))).await.expect(201);
            other.get(&format!("{CONFIGMAPS}/large-1")).await.expect(200);
            renew(w).await;
            as_node(w, "GET", "/api/v1/services", &Value::Null).await;
        }
    }
    eventually("all pods are made and bound", SOON, async || bound(w).await == 5).await;
    let refused = of_metric(w, "apiserver_flowcontrol_rejected_requests_total").await;
    let others: Vec<&String> = refused.iter().filter(|line| !line.contains("flow_schema=\"service-accounts\"")).collect();
    assert!(others.is_empty(), "{others:?}");

    let served = of_metric(w, "apiserver_flowcontrol_dispatched_requests_total").await;
    for schema in
        ["exempt", "kube-controller-manager", "kube-scheduler", "kube-system-service-accounts", "system-node-high", "system-nodes"]
    {
        let own = format!("flow_schema=\"{schema}\"");
        let counted = served.iter().any(|line| line.contains(&own) && !line.ends_with(" 0"));
        assert!(counted, "nobody was of {schema}: {served:?}");
    }

    drop(lines);
    eventually("what it held is given back", SOON, async || waits(w).await == 0 && held(w).await == 0).await;
    greedy.get(&format!("{CONFIGMAPS}/large-1")).await.expect(200);
}

/// A service account that may read and make ConfigMaps, and its token.
async fn account(w: &World, name: &str) -> (Api, String) {
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    w.api.post(accounts, &object("v1", "ServiceAccount", name, json!({}))).await.expect(201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = w.api.post(&format!("{accounts}/{name}/token"), &request).await.expect(201);
    let token = made["status"]["token"].as_str().unwrap().to_owned();
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "create"]}]);
    let group = "rbac.authorization.k8s.io/v1";
    w.api.post(&format!("{RBAC}/namespaces/default/roles"), &object(group, "Role", name, json!({"rules": rules}))).await.expect(201);
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    });
    w.api.post(&format!("{RBAC}/namespaces/default/rolebindings"), &object(group, "RoleBinding", name, binding)).await.expect(201);
    let api = Api::with_token(&w.server.kubeconfig(), &token).unwrap();
    eventually("the account may read", SOON, async || api.get(CONFIGMAPS).await.status == 200).await;
    (api, token)
}

/// So many connections, each with the beginning of a request, and with next to no room for the answer.
async fn begin(api: &Api, request: &str, number: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    for _ in 0..number {
        let mut line = api.connect().await.unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(line.get_ref().0, 4 << 10).unwrap();
        line.write_all(request.as_bytes()).await.unwrap();
        line.flush().await.unwrap();
        lines.push(line);
    }
    lines
}

impl World {
    async fn configmap_of(&self, name: String, text: &str) {
        self.configmap(&name, json!({"text": text})).await;
    }
}

fn node() -> Value {
    let status = json!({
        "allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
        "capacity": {"cpu": "8", "memory": "8Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}],
    });
    object("v1", "Node", NODE, json!({"status": status}))
}

fn lease(meta: Value) -> Value {
    let now = json!("2026-01-01T00:00:00.000000Z");
    let spec = json!({"holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": now});
    let mut lease = object("coordination.k8s.io/v1", "Lease", NODE, json!({"spec": spec}));
    if let (Some(own), Value::Object(more)) = (lease["metadata"].as_object_mut(), meta) {
        own.extend(more);
    }
    lease
}

/// A request of the node itself. It is the node's level that is tried, not the administrator's.
async fn as_node(w: &World, method: &str, path: &str, body: &Value) -> Value {
    let user = format!("system:node:{NODE}");
    let headers = [("content-type", "application/json"), ("impersonate-user", user.as_str()), ("impersonate-group", "system:nodes")];
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let reply = w.api.send(method, path, &headers, body).await.unwrap();
    let wanted = if method == "POST" { 201 } else { 200 };
    reply.expect(wanted)
}

async fn renew(w: &World) {
    let path = format!("{LEASES}/{NODE}");
    let read = as_node(w, "GET", &path, &Value::Null).await;
    as_node(w, "PUT", &path, &lease(json!({"resourceVersion": read["metadata"]["resourceVersion"]}))).await;
}

async fn bound(w: &World) -> usize {
    let pods = w.api.get("/api/v1/namespaces/default/pods?labelSelector=app%3Dsteady").await.expect(200);
    pods["items"].as_array().unwrap().iter().filter(|pod| pod["spec"]["nodeName"] == NODE).count()
}

/// The series of a metric, as they stand on the page.
async fn of_metric(w: &World, name: &str) -> Vec<String> {
    let page = w.api.get("/metrics").await.text();
    page.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
}

async fn of_accounts(w: &World, name: &str) -> usize {
    let series = of_metric(w, name).await;
    let line = series.iter().find(|line| line.contains("flow_schema=\"service-accounts\"")).unwrap_or_else(|| panic!("{series:?}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Requests of pods that wait.
async fn waits(w: &World) -> usize {
    of_accounts(w, "apiserver_flowcontrol_current_inqueue_requests").await
}

/// Seats that pods' requests have.
async fn held(w: &World) -> usize {
    of_accounts(w, "apiserver_flowcontrol_current_executing_seats").await
}
