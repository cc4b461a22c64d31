//! What was decided -> the few writes that the scheduler makes.

use std::time::Duration;

use api::{names::segment, time::Timestamp};
use client::{is_open, kube, pods::Wanted};
use http::Request;
use serde_json::{Value, json};

use crate::{pod::PodInfo, preemption::VICTIM_REASON};

const REQUEST_BOUND: Duration = Duration::from_secs(30);
/// Between two questions after what became of a binding.
const AGAIN_MIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// Questions after one binding: a pod that can never be read keeps no place among the writes under way.
const QUESTIONS_MAX: usize = 12;

/// Writes with one identity.
#[derive(Clone)]
pub struct Act {
    pub client: kube::Client,
}

impl Act {
    /// Binds the pod. An answer that leaves open whether that was done is settled by reading: a pod that may be on the node must not leave
    /// the snapshot before it is known not to be, or another one is given its place. (Upstream forgets it, and relies on the kubelet.)
    ///
    /// # Errors
    /// What the API server says; 409 if the pod has a node already or is being deleted.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.key.name, "namespace": pod.key.namespace, "uid": pod.uid},
            "target": {"kind": "Node", "name": node},
        });
        match self.send("POST", &format!("{}/binding", path(pod)), "application/json", &binding).await {
            Err(error) if is_open(&error) && self.node_of(pod).await.as_deref() == Some(node) => Ok(()),
            done => done,
        }
    }

    /// Where the pod is bound to, as it is stored. Asks until that is known, for a minute; after that the caches have to show it.
    async fn node_of(&self, pod: &PodInfo) -> Option<String> {
        let mut pause = AGAIN_MIN;
        for _ in 0..QUESTIONS_MAX {
            match self.ask("GET", &path(pod), "application/json", &Value::Null).await {
                Ok(stored) if stored.pointer("/metadata/uid").and_then(Value::as_str) != Some(&pod.uid) => return None,
                Ok(stored) => return Some(stored.pointer("/spec/nodeName")?.as_str()?.to_owned()),
                Err(error) if is_open(&error) => {
                    tracing::warn!(ns = pod.key.namespace, name = pod.key.name, %error, "failed to read the pod after a bind without an answer; retrying");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN_MAX);
                }
                Err(_) => return None,
            }
        }
        None
    }

    /// # Errors
    /// What the API server says.
    pub async fn patch_status(&self, pod: &PodInfo, mut patch: Value) -> Result<(), kube::Error> {
        patch["metadata"] = json!({"uid": pod.uid});
        self.send("PATCH", &format!("{}/status", path(pod)), "application/strategic-merge-patch+json", &patch).await
    }

    /// Marks the pod as a victim and deletes it. One that is gone already is no error.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn evict(&self, victim: &PodInfo, now: Timestamp) -> Result<(), kube::Error> {
        let message = "default-scheduler: preempting to accommodate a higher priority pod";
        let wanted = Wanted { kind: "DisruptionTarget", status: "True", reason: VICTIM_REASON, message };
        if let Some(condition) = victim.pod.changed_condition(wanted, now) {
            ignore_gone(self.patch_status(victim, json!({"status": {"conditions": [condition]}})).await)?;
        }
        let options = json!({"preconditions": {"uid": victim.uid}});
        ignore_gone(self.send("DELETE", &path(victim), "application/json", &options).await)
    }

    async fn send(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Result<(), kube::Error> {
        self.ask(method, path, content_type, body).await.map(drop)
    }

    /// # Errors
    /// What the API server says.
    pub async fn ask(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Result<Value, kube::Error> {
        let builder = Request::builder().method(method).uri(path).header("content-type", content_type);
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = builder.body(body).map_err(kube::Error::HttpError)?;
        match tokio::time::timeout(REQUEST_BOUND, self.client.request::<Value>(request)).await {
            Ok(reply) => reply,
            Err(_) => Err(kube::Error::Service("the API server did not answer in time".into())),
        }
    }
}

/// The pod is not there any more, or is another one, or was bound by somebody else.
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

fn path(pod: &PodInfo) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", segment(&pod.key.namespace), segment(&pod.key.name))
}

fn ignore_gone(done: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match done {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use http::{Method, Response};
    use parking_lot::Mutex;

    use super::*;
    use crate::tests::pod;

    /// Answers in this order; what was asked.
    fn server(mut answers: Vec<(u16, Value)>) -> (Act, Arc<Mutex<Vec<Method>>>) {
        answers.reverse();
        let (asked, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(answers)));
        let seen = asked.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            seen.lock().push(request.method().clone());
            let (code, body) = answers.lock().pop().expect("no more is asked");
            let body = kube::client::Body::from(body.to_string().into_bytes());
            async move { Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap()) }
        });
        (Act { client: kube::Client::new(service, "default") }, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_binding_without_an_answer_is_settled_by_reading() {
        let status = |code: u16| (code, json!({"kind": "Status", "status": "Failure", "code": code, "message": "m", "reason": "r"}));
        let stored = |uid: &str, node: &str| (200, json!({"metadata": {"name": "p", "uid": uid}, "spec": {"nodeName": node}}));
        let unbound = (200, json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}}));
        let rows: [(Vec<(u16, Value)>, bool); 9] = [
            (vec![(201, json!({"kind": "Status", "status": "Success"}))], true),
            (vec![status(409)], false),
            (vec![status(503), stored("u", "a")], true),
            (vec![status(504), status(503), status(500), stored("u", "a")], true),
            (vec![status(503), stored("u", "b")], false),
            (vec![status(503), stored("other", "a")], false),
            (vec![status(503), unbound], false),
            (vec![status(503); 1 + QUESTIONS_MAX], false),
            (vec![status(503), status(404)], false),
        ];
        let info = pod(&json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}}));
        for (answers, bound) in rows {
            let (all, told) = (answers.len(), format!("{answers:?}"));
            let (act, asked) = server(answers);
            assert_eq!(act.bind(&info, "a").await.is_ok(), bound, "{told}");
            let asked = asked.lock();
            assert_eq!(asked.len(), all, "{told}");
            assert!(asked[1..].iter().all(|method| method == Method::GET), "a binding is asked for once: {told}");
        }
    }
}
