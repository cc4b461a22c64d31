//! A room to test in: the real engine over the memory store, two kinds of its own, and requests without sockets.

use std::{
    borrow::Cow,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use api::{Gvk, field_errors::FieldErrors, task::Group, time::Timestamp};
use apiserver::{
    at_rest::AtRest,
    engine::Engine,
    front::{self, Front},
    identity::{Admission, Attributes, Auth, Authenticator, Authorizer, Decision, Known, Peer, User, Verdict},
    kind::{Column, Conversion, Field, Finalizers, Grace, Handler, Kind, Lookup, ScalePaths, Scope, Storage, Strategy, Subresource, names},
    schema::Schema,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

pub const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
pub const THINGS: &str = "/apis/test.io/v1/namespaces/default/things";
pub const PLACES: &str = "/apis/test.io/v1/places";

/// The strategy of the test's kinds.
pub struct Plain;

#[async_trait]
impl Strategy for Plain {
    fn default(&self, object: &mut Value) {
        if object.get("kind") == Some(&json!("Thing")) && object.pointer("/spec/colour").is_none() {
            object["spec"]["colour"] = json!("red");
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        if object.pointer("/spec/size").and_then(Value::as_i64).is_some_and(|size| size < 0) {
            causes.invalid("spec.size", object["spec"]["size"].clone(), "must be greater than or equal to 0");
        }
    }

    fn grace(&self, object: &Value, requested: Option<i64>) -> Grace {
        match object.pointer("/spec/grace").and_then(Value::as_i64) {
            Some(seconds) => Grace::Seconds(requested.unwrap_or(seconds)),
            None => Grace::Now,
        }
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        new.pointer("/spec/old").map(|_| "spec.old: is \"deprecated\"".to_owned()).into_iter().collect()
    }

    fn cells(&self, object: &Value, _: Timestamp) -> Vec<Value> {
        vec![object["metadata"]["name"].clone(), object["spec"]["colour"].clone()]
    }

    async fn answer(&self, ctx: &apiserver::kind::Ctx<'_>, mut object: Value) -> Result<Value, api::Status> {
        object["status"] = json!({"user": ctx.user.name});
        Ok(object)
    }
}

/// v1 calls `colour` what v2 calls `tint`.
fn tinted(to: &Gvk, mut object: Value) -> Value {
    let (from, to) = if to.version == "v2" { ("colour", "tint") } else { ("tint", "colour") };
    let worth = object["spec"][from].take();
    object["spec"] = json!({to: worth});
    object
}

pub fn kind(version: &'static str, kind: &'static str, plural: &'static str, scope: Scope, storage: Storage) -> Kind {
    let column =
        |name: &'static str| Column { name: name.into(), typ: "string".into(), format: "".into(), description: "".into(), priority: 0 };
    Kind {
        group: "test.io".into(),
        version: version.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: Cow::Owned(kind.to_lowercase()),
        short_names: names(&[]),
        categories: names(&[]),
        scope,
        verbs: names(VERBS),
        storage,
        conversion: Conversion::None,
        read: None,
        subresources: Vec::new(),
        columns: vec![column("Name"), column("Colour")].into(),
        fields: Cow::Borrowed(&[]),
        schema: Schema::Open,
        generation: false,
        finalizers: Finalizers::Any,
        strategy: Arc::new(Plain),
    }
}

pub fn kept(prefix: &'static str) -> Storage {
    Storage::Kept { prefix: prefix.into(), ttl_seconds: None }
}

/// As [`kinds`] has it: with a status, a scale and a field that is looked up.
pub fn thing_kind() -> Kind {
    let mut thing = kind("v1", "Thing", "things", Scope::Namespaced, kept("things"));
    thing.generation = true;
    let field = |label: &'static str, pointer: &'static str, lookup| Field {
        label: label.into(),
        pointer: pointer.into(),
        default: "".into(),
        lookup,
        instead: None,
    };
    // The second is another version's, under a label that nobody can name.
    thing.fields = vec![field("spec.colour", "/spec/colour", Lookup::Index), field(" spec.paint", "/spec/paint", Lookup::Scan)].into();
    let verbs = || names(&["get", "patch", "update"]);
    let body = Gvk::new("test.io", "v1", "Thing");
    let scale =
        ScalePaths { spec_replicas: "/spec/size".into(), status_replicas: "/status/size".into(), selector: "/spec/selector".into() };
    thing.subresources = vec![
        Subresource { name: "status".into(), body: body.clone(), schema: Schema::Open, verbs: verbs(), handler: Handler::Status },
        Subresource {
            name: "scale".into(),
            body: Gvk::new("autoscaling", "v1", "Scale"),
            schema: Schema::Open,
            verbs: verbs(),
            handler: Handler::Scale(scale),
        },
    ];
    thing
}

pub fn kinds() -> Vec<Arc<Kind>> {
    let stored_as = Storage::As { group: "test.io".into(), version: "v1".into(), plural: "things".into() };
    let mut tinted_thing = kind("v2", "Thing", "things", Scope::Namespaced, stored_as);
    tinted_thing.conversion = Conversion::Direct(Arc::new(tinted));
    let mut asked = kind("v1", "Ask", "asks", Scope::Cluster, Storage::Nowhere);
    asked.verbs = names(&["create"]);
    let all = [thing_kind(), kind("v1", "Place", "places", Scope::Cluster, kept("places")), tinted_thing, asked];
    all.into_iter().map(Arc::new).collect()
}

/// Everything but what `nobody` asks, which is counted. `lost` is asked for in vain, and what is about something that `hangs` for ever.
#[derive(Default)]
struct Everyone(Arc<AtomicUsize>);

impl Authorizer for Everyone {
    fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        if asked.user.name == "nobody" || asked.user.name == "system:anonymous" {
            self.0.fetch_add(1, Ordering::SeqCst);
            Decision::NoOpinion(String::new())
        } else {
            Decision::Allow(String::new())
        }
    }

    fn ask<'a>(&'a self, asked: &'a Attributes<'a>) -> Option<BoxFuture<'a, Verdict>> {
        if asked.name == "hangs" {
            return Some(Box::pin(std::future::pending()));
        }
        let lost = Verdict { decision: Decision::NoOpinion("who knows".into()), error: "the webhook is lost".into() };
        (asked.user.name == "lost").then(|| Box::pin(std::future::ready(lost)) as BoxFuture<'a, Verdict>)
    }
}

struct Tokens;

#[async_trait]
impl Authenticator for Tokens {
    async fn token(&self, _: &Arc<Engine>, token: &str, _: &[String]) -> Result<Option<Known>, api::Status> {
        if token == "hangs" {
            std::future::pending::<()>().await;
        }
        let user = token.strip_prefix("token-").map(|name| User { name: name.into(), ..User::default() });
        Ok(user.map(|user| Known { user: user.into(), audiences: vec!["test".into()] }))
    }
}

pub struct Room {
    pub engine: Arc<Engine>,
    pub front: Front,
    pub group: Group,
    /// How often somebody was refused.
    pub refused: Arc<AtomicUsize>,
}

pub struct Reply {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    #[track_caller]
    pub fn ok(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{:?}", self.body);
        self.json()
    }

    #[track_caller]
    pub fn refused(self, code: u16, words: &str) -> Value {
        let value = self.ok(code);
        assert!(value["message"].as_str().unwrap_or_default().contains(words), "{value}");
        value
    }
}

impl Room {
    pub async fn new() -> Self {
        Self::over(store::memory::Memory::new()).await
    }

    pub async fn over(store: impl store::Store) -> Self {
        Self::with(store, Vec::new()).await
    }

    pub async fn with(store: impl store::Store, admission: Vec<Arc<dyn Admission>>) -> Self {
        Self::behind(store, admission, |front| front).await
    }

    /// Behind a front that is put together otherwise.
    pub async fn behind(
        store: impl store::Store,
        admission: Vec<Arc<dyn Admission>>,
        front: impl FnOnce(front::Builder) -> front::Builder,
    ) -> Self {
        Self::at_rest(Arc::new(store), Arc::default(), admission, front).await
    }

    /// Over a store in which objects stand so.
    pub async fn at_rest(
        store: Arc<dyn store::Store>,
        at_rest: Arc<AtRest>,
        admission: Vec<Arc<dyn Admission>>,
        front: impl FnOnce(front::Builder) -> front::Builder,
    ) -> Self {
        let (group, everyone) = (Group::new(), Everyone::default());
        let refused = everyone.0.clone();
        let auth = Auth { authenticators: vec![Arc::new(Tokens)], authorizers: vec![Arc::new(everyone)], admission, ..Auth::default() };
        let engine = Engine::with_rest(store, at_rest, kinds(), auth, group.clone());
        engine.ready().await;
        Self { front: front(Front::builder(engine.clone())).build(), engine, group, refused }
    }

    /// `headers` are pairs; the caller is `tester` unless they say otherwise.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> http::Response<apiserver::body::Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let user = User { name: "tester".into(), ..User::default() };
        // A certificate would speak before the token.
        let certificate = (!headers.iter().any(|(name, _)| *name == "authorization")).then(|| user.into());
        let request = request.extension(Peer { certificate, address: None }).body(Full::new(body.into())).unwrap();
        self.front.clone().oneshot(request).await.unwrap()
    }

    pub async fn raw(&self, method: &str, path: &str, body: impl Into<Bytes>, headers: &[(&str, &str)]) -> Reply {
        let (parts, body) = self.send(method, path, body, headers).await.into_parts();
        Reply { code: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.raw("GET", path, "", &[]).await
    }

    pub async fn post(&self, path: &str, value: &Value) -> Reply {
        self.raw("POST", path, value.to_string(), &[]).await
    }

    pub async fn put(&self, path: &str, value: &Value) -> Reply {
        self.raw("PUT", path, value.to_string(), &[]).await
    }

    pub async fn patch(&self, path: &str, kind: &str, value: &Value) -> Reply {
        self.raw("PATCH", path, value.to_string(), &[("content-type", &format!("application/{kind}+json"))]).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Reply {
        self.raw("DELETE", path, options.to_string(), &[]).await
    }

    pub async fn thing(&self, name: &str, labels: &Value) -> Value {
        self.post(THINGS, &thing(name, labels)).await.ok(201)
    }

    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let response = self.send("GET", path, "", &[("accept", accept)]).await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), rest: String::new() }
    }
}

pub fn thing(name: &str, labels: &Value) -> Value {
    json!({"kind": "Thing", "apiVersion": "test.io/v1", "metadata": {"name": name, "labels": labels}, "spec": {"size": 1}})
}

pub fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no version: {object}"))
}

/// An open watch.
pub struct Watch {
    body: apiserver::body::Body,
    rest: String,
}

/// A watch that sleeps, and how often it was woken since.
pub struct Counted {
    pub watch: Watch,
    wakes: Arc<Wakes>,
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counted {
    pub fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::Relaxed)
    }
}

impl Watch {
    /// Looks once, at a watch that has nothing to tell.
    pub fn counted(mut self) -> Counted {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let looked = Pin::new(&mut self.body).poll_frame(&mut Context::from_waker(&waker));
        assert!(looked.is_pending(), "the watch has something to tell");
        Counted { watch: self, wakes }
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.rest.split_once('\n') {
                let value = serde_json::from_str(line).unwrap();
                self.rest = rest.to_owned();
                return Some(value);
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame()).await.expect("no event in time")?;
            self.rest.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        }
    }

    /// `TYPE name` of the next event.
    pub async fn line(&mut self) -> String {
        let event = self.next().await.expect("the watch ended");
        format!("{} {}", event["type"].as_str().unwrap(), event["object"]["metadata"]["name"].as_str().unwrap_or_default())
    }
}
