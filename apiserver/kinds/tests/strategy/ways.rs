//! Every way to write, through the one context: what admission (and, with it, audit) is told of each, once.

use std::sync::Arc;

use api::Status;
use apiserver::identity::{Admission, Auth, Review};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::room::Room;

/// Writes down what it is asked about.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

#[async_trait]
impl Admission for Recorder {
    fn name(&self) -> &'static str {
        "Recorder"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let ctx = review.ctx;
        let resource = [&*ctx.kind.plural, ctx.subresource].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        let kind = |object: Option<&Value>| object.map_or("-", |object| object["kind"].as_str().unwrap_or("?")).to_owned();
        let (new, old) = (kind(review.object.as_deref()), kind(review.old));
        let options = ctx.options["kind"].as_str().unwrap_or("-");
        let dry = if ctx.dry_run { " dry" } else { "" };
        let (verb, operation, manager) = (ctx.verb, ctx.operation, ctx.manager.name);
        self.0.lock().push(format!("{verb} {operation:?} {resource} {} {new} {old} {options} {manager}{dry}", ctx.name));
        Ok(())
    }
}

async fn room() -> (Room, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let key = apiserver::certs::issue::key().unwrap();
    let public = apiserver::certs::issue::public(&key).unwrap();
    let tokens = Arc::new(kinds::auth::Tokens::new(kinds::auth::ISSUER, &key, &public).unwrap());
    let kinds = kinds::all(&kinds::Config::default(), &tokens);
    (Room::new(kinds, Auth { admission: vec![recorder.clone()], ..Auth::default() }).await, recorder)
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "nginx:1"}]}}}})
}

#[tokio::test]
async fn every_way_to_write_is_told_once_with_all_that_it_is() {
    let (room, recorder) = room().await;
    let (all, pods, web) =
        ("/api/v1/namespaces/default", "/api/v1/namespaces/default/pods", "/apis/apps/v1/namespaces/default/deployments");
    let pod = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "nginx:1"}]}});
    let eviction = json!({"kind": "Eviction", "metadata": {"name": "p"}});
    let binding = json!({"kind": "Binding", "metadata": {"name": "p"}, "target": {"name": "n1"}});
    let lease =
        json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 5}});
    let token = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}});
    let scale = json!({"spec": {"replicas": 3}});
    let none = || Value::Null;
    let ways = [
        (
            "POST",
            "/api/v1/namespaces".into(),
            json!({"kind": "Namespace", "metadata": {"name": "x"}}),
            "create Create namespaces x Namespace - CreateOptions ",
        ),
        ("POST", format!("{pods}?fieldManager=me"), pod.clone(), "create Create pods p Pod - CreateOptions me"),
        (
            "POST",
            format!("{pods}?dryRun=All"),
            json!({"kind": "Pod", "metadata": {"name": "q"}, "spec": pod["spec"]}),
            "create Create pods q Pod - CreateOptions  dry",
        ),
        ("PATCH", format!("{pods}/p"), json!({"metadata": {"labels": {"a": "b"}}}), "patch Update pods p Pod Pod PatchOptions "),
        ("PATCH", format!("{pods}/p/status"), json!({"status": {"phase": "Pending"}}), "patch Update pods/status p Pod Pod PatchOptions "),
        ("POST", format!("{pods}/p/binding"), binding, "create Create pods/binding p Binding - CreateOptions "),
        ("GET", format!("{pods}/p/exec?command=sh"), none(), "get Connect pods/exec p PodExecOptions - - "),
        ("POST", format!("{pods}/p/eviction"), eviction, "create Create pods/eviction p Eviction - CreateOptions "),
        ("POST", web.to_owned(), deployment(), "create Create deployments web Deployment - CreateOptions "),
        ("PATCH", format!("{web}/web/scale"), scale, "patch Update deployments/scale web Scale Scale PatchOptions "),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/default/leases/l".into(), lease, "update Create leases l Lease - UpdateOptions "),
        (
            "POST",
            format!("{all}/serviceaccounts"),
            json!({"metadata": {"name": "sa"}}),
            "create Create serviceaccounts sa ServiceAccount - CreateOptions ",
        ),
        ("POST", format!("{all}/serviceaccounts/sa/token"), token, "create Create serviceaccounts/token sa TokenRequest - CreateOptions "),
        ("DELETE", format!("{web}/web"), none(), "delete Delete deployments web - Deployment - "),
        ("DELETE", format!("{all}/serviceaccounts"), none(), "deletecollection Delete serviceaccounts sa - ServiceAccount - "),
        (
            "PUT",
            "/api/v1/namespaces/x/finalize".into(),
            json!({"kind": "Namespace", "metadata": {"name": "x"}, "spec": {}}),
            "update Update namespaces/finalize x Namespace Namespace UpdateOptions ",
        ),
    ];
    for (method, path, body, told) in ways {
        let (code, reply) = room.send(method, &path, body).await;
        assert_eq!(recorder.told(), [told], "{method} {path}: {code} {reply}");
    }
    // What only reads is not admitted, and leaves nothing behind.
    room.send("GET", &format!("{pods}/p/log"), none()).await;
    assert_eq!(recorder.told(), Vec::<String>::new());
}
