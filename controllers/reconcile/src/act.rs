//! A plan's actions -> requests: in order where order matters, many at a time where it does not.

use std::{collections::HashSet, mem::discriminant, time::Duration};

use api::{GroupResource, Key, k8s::api::core::v1::ObjectReference};
use client::{Recorder, is_open, kube};
use futures::{StreamExt, stream::FuturesUnordered};
use http::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{Action, queue::Written};

/// Requests of one plan that are under way at the same time.
const AT_ONCE_MAX: usize = 64;
/// Requests of one controller, whatever its keys plan: a few such controllers fit into the queues that one namespace has in its level (six of 50).
const IN_FLIGHT_MAX: usize = 64;
const REQUEST_BOUND: Duration = Duration::from_secs(30);
/// How often one deletion is asked for where no answer says whether it was done.
const DELETIONS_MAX: u32 = 5;
/// Before the second time; twice as long before each other.
const AGAIN: Duration = Duration::from_millis(100);

/// Who writes, and who tells.
pub(crate) struct Act {
    client: kube::Client,
    recorder: Recorder,
    /// Whether the object of that resource and key is there but cannot be read.
    unreadable: Spared,
    places: Semaphore,
}

/// By resource and key.
pub(crate) type Spared = Box<dyn Fn(&GroupResource, &Key) -> bool + Send + Sync>;

/// What came of a plan: what was written, and what failed; after the first failure nothing new was begun.
#[derive(Default)]
pub(crate) struct Acted {
    pub written: Written,
    /// Objects that were made.
    pub created: usize,
    pub failed: Vec<(Action, kube::Error)>,
}

/// All that is read of the answer to a write; a `Status` has no revision.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reply {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

/// One write, and what is told once it is done.
struct Step {
    write: Action,
    told: Vec<Action>,
}

/// The writes that are under way together.
#[derive(Default)]
struct Batch {
    first: Option<Action>,
    paths: HashSet<String>,
}

impl Act {
    pub fn new(client: kube::Client, recorder: Recorder, unreadable: Spared) -> Self {
        Self { client, recorder, unreadable, places: Semaphore::new(IN_FLIGHT_MAX) }
    }

    /// Carries out the actions. Neighbours of one verb in one collection run together, at first one, then, with each that succeeds, one
    /// more (upstream's slow start: what is refused is not tried five hundred times); all else waits for what stands before it, and is not
    /// begun where that failed. Deletions of whole collections are no condition of anything: what stands behind them is done all the same.
    pub async fn all(&self, actions: Vec<Action>) -> Acted {
        let (mut acted, mut running, mut batch) = (Acted::default(), FuturesUnordered::new(), Batch::default());
        let mut left = self.steps(actions).into_iter().peekable();
        let (mut at_once, mut is_stopped) = (1, false);
        loop {
            while !is_stopped
                && running.len() < at_once
                && let Some(step) = left.next_if(|step| running.is_empty() || batch.takes(&step.write))
            {
                if running.is_empty() && !batch.takes(&step.write) {
                    batch = Batch::default();
                }
                batch.add(&step.write);
                running.push(Box::pin(async move { (self.one(&step.write).await, step) }));
            }
            let Some((done, step)) = running.next().await else { return acted };
            match done {
                Ok(write) => {
                    acted.written.extend(write);
                    acted.created += usize::from(matches!(step.write, Action::Create { .. }));
                    step.told.iter().for_each(|told| self.tell(told));
                    at_once = (at_once + 1).min(AT_ONCE_MAX);
                }
                Err(error) => {
                    is_stopped |= !matches!(step.write, Action::DeleteAll { .. });
                    acted.failed.push((step.write, error));
                }
            }
        }
    }

    /// Tells what is an event; nothing else.
    pub fn tell(&self, action: &Action) {
        let Action::Event { regarding, warning, reason, message } = action else { return };
        let regarding: &ObjectReference = regarding;
        if *warning {
            self.recorder.warning(regarding, reason, message.clone());
        } else {
            self.recorder.normal(regarding, reason, message.clone());
        }
    }

    /// Events that stand before the first write are told at once.
    fn steps(&self, actions: Vec<Action>) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::with_capacity(actions.len());
        for action in actions {
            match (action, steps.last_mut()) {
                (told @ Action::Event { .. }, Some(step)) => step.told.push(told),
                (told @ Action::Event { .. }, None) => self.tell(&told),
                (write, _) if self.spares(&write) => {}
                (write, _) => steps.push(Step { write, told: Vec::new() }),
            }
        }
        steps
    }

    /// What cannot be read is neither written over with what could be read of it, nor deleted on its account.
    fn spares(&self, action: &Action) -> bool {
        let (Action::Update { resource, path, .. } | Action::Delete { resource, path, .. }) = action else { return false };
        let spared = key_of(&resource.resource, path).is_some_and(|key| (self.unreadable)(&resource.group_resource(), &key));
        if spared {
            tracing::debug!(path, "left alone: it cannot be read");
        }
        spared
    }

    /// Carries out one write; the resource and revision that came of it.
    async fn one(&self, action: &Action) -> Result<Option<(GroupResource, u64)>, kube::Error> {
        let (resource, request) = match action {
            Action::Event { .. } => return Ok(None),
            Action::Create { resource, path, object } => (resource, request("POST", path, "application/json", object)?),
            Action::Update { resource, path, object } => (resource, request("PUT", path, "application/json", object)?),
            Action::Patch { resource, path, form, patch } => (resource, request("PATCH", path, form.content_type(), patch)?),
            Action::DeleteAll { path, .. } => {
                let options = json!({"propagationPolicy": "Background"});
                return self.send_blindly(request("DELETE", path, "application/json", &options)?).await.map(|()| None);
            }
            Action::Delete { resource, path, options } => {
                return Ok(self.delete(path, options).await?.map(|rev| (resource.group_resource(), rev)));
            }
        };
        Ok(self.send(request).await?.map(|rev| (resource.group_resource(), rev)))
    }

    /// The revision that came of it. Without an answer the same is asked for again: it is about one object, and who only planned anew, before
    /// the caches show that it goes, could choose another in its place.
    async fn delete(&self, path: &str, options: &Value) -> Result<Option<u64>, kube::Error> {
        for tried in 1.. {
            match self.send(request("DELETE", path, "application/json", options)?).await {
                // Gone, or replaced by another of the same name: either way this one is no more. What was to go only as it was seen, and has
                // changed, is looked at again.
                Err(kube::Error::Api(status)) if status.code == 404 || (status.code == 409 && !is_of_revision(options)) => break,
                Err(error) if tried < DELETIONS_MAX && is_open(&error) => tokio::time::sleep(AGAIN * 2_u32.pow(tried - 1)).await,
                done => return done,
            }
        }
        Ok(None)
    }

    /// The revision that came of it.
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Option<u64>, kube::Error> {
        let _place = self.place().await?;
        let reply: Reply = bounded(self.client.request(request)).await?;
        Ok(reply.metadata.resource_version.parse().ok())
    }

    /// What a whole collection held when it was deleted is long, and nobody reads it.
    async fn send_blindly(&self, request: Request<Vec<u8>>) -> Result<(), kube::Error> {
        let _place = self.place().await?;
        bounded(self.client.request_text(request)).await.map(drop)
    }

    /// Who has a place gives it back within [`REQUEST_BOUND`].
    async fn place(&self) -> Result<SemaphorePermit<'_>, kube::Error> {
        self.places.acquire().await.map_err(|_| kube::Error::Service("the controller has ended".into()))
    }
}

impl Batch {
    fn takes(&self, action: &Action) -> bool {
        self.first.as_ref().is_some_and(|first| are_alike(first, action)) && !self.repeats(action)
    }

    fn add(&mut self, action: &Action) {
        self.paths.insert(path(action).to_owned());
        self.first.get_or_insert_with(|| action.clone());
    }

    /// Objects are made at their collection's path: there, the same path is another object.
    fn repeats(&self, action: &Action) -> bool {
        !matches!(action, Action::Create { .. }) && self.paths.contains(path(action))
    }
}

/// One verb on neighbours in one collection: no order is meant between them.
fn are_alike(a: &Action, b: &Action) -> bool {
    discriminant(a) == discriminant(b)
        && match a {
            Action::DeleteAll { .. } => true,
            Action::Create { .. } => path(a) == path(b),
            _ => collection(a) == collection(b),
        }
}

fn path(action: &Action) -> &str {
    match action {
        Action::Create { path, .. }
        | Action::Update { path, .. }
        | Action::Patch { path, .. }
        | Action::Delete { path, .. }
        | Action::DeleteAll { path, .. } => path,
        Action::Event { .. } => "",
    }
}

/// Whether a deletion is refused where the object is not as it was seen.
fn is_of_revision(options: &Value) -> bool {
    options.pointer("/preconditions/resourceVersion").is_some_and(|rev| !rev.is_null())
}

/// The path without its last word: that of an object's subresource is no collection's.
fn collection(action: &Action) -> &str {
    path(action).rsplit_once('/').map_or("", |(collection, _)| collection)
}

async fn bounded<T>(reply: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(REQUEST_BOUND, reply).await {
        Ok(reply) => reply,
        Err(_) => Err(kube::Error::Service("the API server did not answer in time".into())),
    }
}

/// Which object a path under a resource's collection is about.
fn key_of(resource: &str, path: &str) -> Option<Key> {
    let mut words = path.split('/');
    let mut namespace = "";
    while let Some(word) = words.next() {
        match word {
            "namespaces" if resource != "namespaces" => namespace = words.next()?,
            word if word == resource => return words.next().map(|name| Key::new(namespace, name)),
            _ => {}
        }
    }
    None
}

fn request(method: &str, path: &str, content_type: &str, body: &Value) -> Result<Request<Vec<u8>>, kube::Error> {
    let builder = Request::builder().method(method).uri(path).header("content-type", content_type);
    builder.body(body.to_string().into_bytes()).map_err(kube::Error::HttpError)
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use api::{Gvr, task::Group};

    use super::*;

    fn x() -> Gvr {
        Gvr::new("", "v1", "x")
    }

    fn patch(path: &str) -> Action {
        Action::Patch { resource: x(), path: path.into(), form: crate::PatchType::Merge, patch: Value::Null }
    }

    fn create(path: &str) -> Action {
        Action::Create { resource: x(), path: path.into(), object: Value::Null }
    }

    fn delete_all(path: &str) -> Action {
        Action::DeleteAll { resource: x(), path: path.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_keys_of_a_loop_share_its_places() {
        let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (now, seen) = (under_way.clone(), most.clone());
        let server = tower::service_fn(move |_: Request<kube::client::Body>| {
            let under_way = now.clone();
            seen.fetch_max(under_way.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                under_way.fetch_sub(1, Ordering::Relaxed);
                let body = kube::client::Body::from(br#"{"metadata": {"resourceVersion": "7"}}"#.to_vec());
                Ok::<_, Infallible>(http::Response::builder().status(201).body(body).unwrap())
            }
        });
        let (client, group) = (kube::Client::new(server, "default"), Group::new());
        let act = Act::new(client.clone(), Recorder::new(client, "test", None, &group), Box::new(|_, _| false));
        let acted = futures::future::join_all((0..10).map(|_| act.all(vec![create("/api/v1/pods"); 500]))).await;
        assert!(acted.iter().all(|done| done.failed.is_empty() && done.written.len() == 500));
        assert_eq!(most.load(Ordering::Relaxed), IN_FLIGHT_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collection_that_cannot_be_deleted_keeps_nothing_else_from_being_done() {
        let asked = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let seen = asked.clone();
        let server = tower::service_fn(move |request: Request<kube::client::Body>| {
            seen.lock().push(request.uri().path().to_owned());
            let refused = br#"{"kind":"Status","status":"Failure","code":403,"reason":"Forbidden","message":"no"}"#;
            async { Ok::<_, Infallible>(http::Response::builder().status(403).body(kube::client::Body::from(refused.to_vec())).unwrap()) }
        });
        let (client, group) = (kube::Client::new(server, "default"), Group::new());
        let act = Act::new(client.clone(), Recorder::new(client, "test", None, &group), Box::new(|_, _| false));
        let acted = act.all(vec![delete_all("/a"), delete_all("/b"), patch("/n/status"), patch("/m/x")]).await;
        assert_eq!(acted.failed.len(), 3);
        assert_eq!(*asked.lock(), ["/a", "/b", "/n/status"], "the last stands behind a write that failed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_without_an_answer_is_asked_for_again() {
        for (answers, wanted) in [
            (vec![503, 500, 200], (3, 1, 0)),
            (vec![503, 404], (2, 0, 0)),
            (vec![503; 9], (DELETIONS_MAX as usize, 0, 1)),
            (vec![403], (1, 0, 1)),
        ] {
            let asked = Arc::new(AtomicUsize::new(0));
            let (count, codes) = (asked.clone(), answers.clone());
            let server = tower::service_fn(move |request: Request<kube::client::Body>| {
                assert_eq!((request.method().as_str(), request.uri().path()), ("DELETE", "/pods/a"));
                let code = codes[count.fetch_add(1, Ordering::Relaxed)];
                let body = match code {
                    200 => json!({"metadata": {"resourceVersion": "7"}}),
                    code => json!({"kind": "Status", "status": "Failure", "code": code, "reason": "r", "message": "m"}),
                };
                let body = kube::client::Body::from(body.to_string().into_bytes());
                async move { Ok::<_, Infallible>(http::Response::builder().status(code).body(body).unwrap()) }
            });
            let (client, group) = (kube::Client::new(server, "default"), Group::new());
            let act = Act::new(client.clone(), Recorder::new(client, "test", None, &group), Box::new(|_, _| false));
            let options = json!({"preconditions": {"uid": "u"}});
            let acted = act.all(vec![Action::Delete { resource: Gvr::new("", "v1", "pods"), path: "/pods/a".into(), options }]).await;
            assert_eq!((asked.load(Ordering::Relaxed), acted.written.len(), acted.failed.len()), wanted, "{answers:?}");
        }
    }

    #[test]
    fn only_neighbours_of_one_verb_go_together() {
        let cases = [
            (create("/pods"), create("/pods"), true),
            (create("/pods"), create("/services"), false),
            (patch("/pods/a"), patch("/pods/b"), true),
            (patch("/pods/a"), patch("/pods/a"), false),
            (patch("/pods/a"), patch("/pods/a/status"), false),
            (patch("/pods/a"), patch("/services/a"), false),
            (patch("/pods/a"), create("/pods"), false),
            (delete_all("/pods"), delete_all("/services"), true),
        ];
        for (first, second, together) in cases {
            let mut batch = Batch::default();
            assert!(!batch.takes(&first), "an empty batch is begun, not joined");
            batch.add(&first);
            assert_eq!(batch.takes(&second), together, "{first:?}, {second:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_path_is_an_error_of_its_action() {
        assert!(request("DELETE", "/api/v1/namespaces/a b/pods/p", "application/json", &Value::Null).is_err());
        assert_eq!(key_of("pods", "/api/v1/namespaces/pods/pods/p/status"), Some(Key::new("pods", "p")));
        assert_eq!(key_of("namespaces", "/api/v1/namespaces/n"), Some(Key::new("", "n")));
        assert_eq!(key_of("pods", "/api/v1/namespaces/n/services/p"), None);
    }

    #[test]
    fn an_object_is_in_a_batch_once() {
        let mut batch = Batch::default();
        ["/pods/a", "/pods/b"].iter().for_each(|path| batch.add(&patch(path)));
        assert!(!batch.takes(&patch("/pods/a")) && batch.takes(&patch("/pods/c")));
    }
}
