//! The front door: an HTTP request in, through authentication, its turn, authorization and the engine, a reply out. Sockets and in-process
//! callers alike.

mod access;
mod audited;
mod auth;
mod builder;
mod debug;
mod deleting;
pub(crate) mod encoded;
mod identified;
mod impersonate;
mod info;
pub(crate) mod negotiate;
mod options;
mod patch;
mod pieces;
mod protobuf;
pub(crate) mod query;
mod reading;
pub(crate) mod render;
mod route;
mod scale;
mod seats;
mod stream;
mod watching;
mod writing;
mod yaml;

use std::{
    convert::Infallible,
    ops::Deref,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use api::{Status, time::Timestamp};
use axum::Router;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body::Body as _;
use serde_json::Value;
use tower::Service;
use tracing::Instrument;

use crate::{
    audit::{Audit, Auditor},
    body::{Body, BoxError, Request, Response, boxed},
    connect,
    delegation::{self, Delegate, Delegations, HandedOn},
    engine::{
        Ctx, Engine, Manager,
        context::{Notes, Origin},
        registry::Served,
        subresource,
    },
    fairness::{self, Classification, Fairness, Telling},
    identity::{Operation, User},
    kind::{Connect, Handler, Subresource},
    lane::Lane,
    metrics::{Metrics, Observed, RequestKind},
    schema::Schema,
    wire,
};
pub use auth::allowed_at_once;
pub use builder::Builder;
pub use patch::{PatchWork, json as json_patch, json_within as json_patch_within};

use access::Access;
use identified::{Allotted, Identified, identified};
use info::RequestInfo;
use negotiate::{Format, Route};
use query::Query;
use route::NoRoute;
use seats::Holds;

/// How long a request waits for the caches to be filled after start.
const READY_MAX: Duration = Duration::from_secs(10);

/// The API as a tower service. Cloning shares all of it.
///
/// Every request is authenticated, has its turn and is authorized, whatever it is about. What the registry serves then goes to the tree of resources;
/// all else to the route of its path, with that tree as the fallback.
#[derive(Clone)]
pub struct Front {
    shared: Arc<Shared>,
    router: Router,
}

/// What requests share: the engine, and what the front has beside it.
pub(crate) struct Shared {
    engine: Arc<Engine>,
    fairness: Arc<Fairness>,
    metrics: Arc<Metrics>,
    lane: Lane,
    /// How node agents are called.
    agents: Arc<connect::Agents>,
    /// Group versions that others serve.
    delegations: Arc<Delegations>,
    auditor: Option<Arc<Auditor>>,
    timeouts: Timeouts,
}

/// How long requests may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Streams apart (`--request-timeout`).
    pub request: Duration,
    /// A watch that does not say how long lasts between this and twice this (`--min-request-timeout`).
    pub watch: Duration,
}

impl Default for Timeouts {
    /// Upstream's.
    fn default() -> Self {
        Self { request: Duration::from_secs(60), watch: Duration::from_secs(1800) }
    }
}

/// The API of `engine` and nothing else. Requests carry a [`crate::identity::Peer`] in their extensions where a client certificate was shown.
pub fn service(engine: Arc<Engine>) -> Front {
    Front::builder(engine).build()
}

impl Front {
    /// To serve more than the API, or otherwise than by default.
    pub fn builder(engine: Arc<Engine>) -> Builder {
        Builder::new(engine)
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.shared.engine
    }

    /// How requests share the server.
    pub fn fairness(&self) -> &Arc<Fairness> {
        &self.shared.fairness
    }

    /// What is counted of requests.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }
}

impl<B> Service<http::Request<B>> for Front
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (front, request) = (self.clone(), request.map(boxed));
        Box::pin(async move { Ok(handle(front, request).await) })
    }
}

/// A request as it was let in. What it is about stands in `info` alone; `query` has options only.
struct Entry {
    front: Arc<Shared>,
    engine: Arc<Engine>,
    route: Result<Served, NoRoute>,
    /// Who serves it in our place.
    delegate: Option<Arc<Delegate>>,
    query: Query,
    info: Arc<RequestInfo>,
    user: Arc<User>,
    audit: Option<Arc<Audit>>,
    notes: Notes,
    now: Timestamp,
    class: Classification,
    /// What those cost who watch.
    telling: Option<Telling>,
    /// How long the request may take; of a stream: as if it were none.
    lasts: Duration,
    began: tokio::time::Instant,
    holds: Holds,
    /// For who looks at what waits and is served.
    me: Weak<Entry>,
}

/// The same, in the extensions of the request.
#[derive(Clone)]
struct Admitted(Arc<Entry>);

/// As whom a request was let in, for the handlers of routes.
pub fn user_of(request: &Parts) -> Option<&User> {
    request.extensions.get::<Admitted>().map(|Admitted(entry)| &*entry.user)
}

/// A request about a resource: what its handlers share.
struct Call {
    entry: Arc<Entry>,
    parts: Parts,
}

impl Deref for Call {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

async fn handle(front: Front, request: Request) -> Response {
    let takes_gzip = negotiate::takes_gzip(request.headers());
    let access = Access::of(&request);
    // Not tower-http's layer: it boxes each body once more.
    let served = {
        let observed = pin!(observed(front, request, &access));
        AssertUnwindSafe(observed.instrument(access.span())).catch_unwind().await
    };
    let panicked = served.is_err();
    let mut response = served.unwrap_or_else(|_| {
        tracing::error!("a request handler panicked");
        wire::refusal(&Status::internal("the request handler panicked, the server's log has details"))
    });
    if let Some(audit) = access.audit() {
        response = audited::ended(audit, response, panicked).await;
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    access.answered(&mut response);
    if takes_gzip && response.extensions().get::<HandedOn>().is_none() { stream::compressed(response) } else { response }
}

/// What is asked, by whom it is served, and its options.
struct Asking {
    info: Arc<RequestInfo>,
    route: Result<Served, NoRoute>,
    delegate: Option<Arc<Delegate>>,
    query: Query,
}

/// Serves and counts.
async fn observed(front: Front, request: Request, access: &Access) -> Response {
    let began = Instant::now();
    let mut query = Query::parse(request.uri().query());
    let info = match RequestInfo::new(request.method(), request.uri().path(), &mut query) {
        Ok(info) => Arc::new(info),
        Err(status) => return wire::refusal(&status),
    };
    access.asks(&info);
    let delegate = front.shared.delegations.find(&info.path);
    let is_ours = info.resource_request && delegate.is_none();
    let route = if is_ours { route::find(&front.shared.engine.registry.load(), &info) } else { Err(NoRoute::Nowhere) };
    let is_counted = matches!(route, Ok(_) | Err(NoRoute::Method));
    let dry_run = !query.get("dryRun").is_empty();
    let kind = if info.is_mutating() { RequestKind::Mutating } else { RequestKind::ReadOnly };
    let metrics = front.shared.metrics.clone();
    let in_flight = metrics.enter(kind);
    let told = info.clone();
    let (shared, accept) = (front.shared.clone(), Accepting::of(request.headers()));
    let served = serve(front, request, Asking { info, route, delegate, query }, access).await;
    let response = served.unwrap_or_else(|status| refused(&shared, &accept, &status));
    drop(in_flight);
    if is_counted {
        let bytes = response.body().size_hint().exact();
        let seen = Observed { dry_run, code: response.status().as_u16(), bytes, ..told.observed() };
        metrics.observe(&seen, began.elapsed());
    }
    response
}

async fn serve(front: Front, request: Request, asking: Asking, access: &Access) -> Result<Response, Status> {
    let Asking { info, route, delegate, query } = asking;
    let Front { shared: front, router } = front;
    let engine = front.engine.clone();
    let (mut parts, body) = request.into_parts();
    if info.resource_request {
        wait_ready(&engine).await?;
    }
    let allotted = match Allotted::of(&info, &query, front.timeouts.request) {
        Ok(allotted) => allotted,
        Err(status) => {
            audited::refused(&front, access, &info, &parts, &status).await;
            return Err(status);
        }
    };
    let Identified { user, audit } = identified(&front, access, &info, &mut parts, allotted).await?;
    let class = front.fairness.classify(&info.asked(&user));
    if front.fairness.is_fair() && (!info.is_long_running() || info.verb == "watch") {
        access.is_classified(&class);
    }
    let telling = seats::telling(&front.fairness, &class, &info, route.as_ref().ok());
    let (notes, now, holds) = (Notes::default(), Timestamp::now(), Holds::default());
    if delegate.is_some() {
        access.name(&mut parts.headers);
    }
    let entry = Arc::new_cyclic(|me| Entry {
        front,
        engine,
        route,
        delegate,
        query,
        info,
        user,
        audit,
        notes,
        now,
        class,
        telling,
        lasts: allotted.lasts,
        began: allotted.began,
        holds,
        me: me.clone(),
    });
    allotted.bounds(pin!(routed(router, entry, Request::from_parts(parts, body)))).await
}

/// To its handler, once it is allowed. Routes are found by the path as sent, so that it must be the one that was authorized; the tree does not
/// look at it, and in what it serves names may be encoded.
async fn routed(mut router: Router, entry: Arc<Entry>, mut request: Request) -> Result<Response, Status> {
    entry.enter().await?;
    if let Some(delegate) = &entry.delegate {
        return Ok(entry.hand_on(delegate, request).await);
    }
    let is_as_authorized = request.uri().path() == entry.info.path;
    // What the registry serves has no other route, and most requests are about that: they need not go through all routes to the fallback.
    if entry.route.is_ok() {
        let response = Box::pin(served(entry.clone(), request)).await;
        entry.linger();
        return Ok(entry.holds.until_gone(response));
    }
    request.extensions_mut().insert(Admitted(entry.clone()));
    let Ok(response) = match () {
        () if is_as_authorized => router.call(request).await,
        () if entry.info.resource_request => Box::pin(tree(request)).await,
        () => Ok(wire::not_found()),
    };
    Ok(entry.holds.until_gone(response))
}

/// What has no route of its own: resources, and what nobody serves.
async fn tree(mut request: Request) -> Result<Response, Infallible> {
    let Some(Admitted(entry)) = request.extensions_mut().remove() else {
        return Ok(wire::refusal(&Status::internal("a request came to the resources past the door")));
    };
    Ok(served(entry, request).await)
}

async fn served(entry: Arc<Entry>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let call = Call { entry, parts };
    let mut response = call.run(body).await.unwrap_or_else(|status| {
        // A refusal keeps no seat.
        drop(call.holds.permit());
        refused(&call.front, &Accepting::of(&call.parts.headers), &status)
    });
    // Also where the request was refused.
    render::warn(&mut response, call.notes.take_warnings());
    call.tell_annotations();
    response
}

async fn wait_ready(engine: &Arc<Engine>) -> Result<(), Status> {
    if engine.is_ready() || tokio::time::timeout(READY_MAX, engine.ready()).await.is_ok() {
        return Ok(());
    }
    Err(Status::unavailable("the server is still reading its store"))
}

impl Entry {
    /// Its turn comes before the question whether it may (`DefaultBuildHandlerChain` in apiserver `pkg/server/config.go`): what is refused is
    /// work as well, and a flood of it is kept within its level. Streams to nodes and pods take no seat.
    async fn enter(&self) -> Result<(), Status> {
        let served = self.route.as_ref().ok();
        if !served.is_some_and(|served| self.is_stream(served)) {
            self.sit(self.seats(served), self.began).await?;
        }
        let asked = Instant::now();
        let decided = auth::authorize(&self.engine, &self.info, &self.user, self.audit.as_deref()).await;
        Metrics::authorized(decided.is_ok(), asked.elapsed());
        decided
    }

    /// To who serves it in our place. Who waits for somebody else keeps no seat: the delegate's own bounds hold instead.
    async fn hand_on(&self, delegate: &Arc<Delegate>, request: Request) -> Response {
        drop(self.holds.permit());
        let asked = delegation::Asked {
            user: &self.user,
            path: &self.info.path,
            is_long_running: self.info.is_long_running(),
            is_exempt: self.class.is_exempt(),
            audit_id: access::id_of(request.headers()),
            believed: self.front.delegations.believed(),
        };
        Box::pin(delegation::forward(delegate, self.engine.group(), asked, request)).await
    }

    fn is_stream(&self, served: &Served) -> bool {
        let handler = served.kind.subresource(&self.info.subresource).map(|sub| &sub.handler);
        self.info.is_long_running() && matches!(handler, Some(Handler::Connect(_)))
    }
}

impl Call {
    async fn run(&self, body: Body) -> Result<Response, Status> {
        if !self.info.resource_request {
            return Ok(wire::not_found());
        }
        let served = match &self.route {
            Ok(served) => served,
            Err(none) => return none.reply(&self.info),
        };
        if let Some(refusal) = self.unroutable(served) {
            return Ok(refusal);
        }
        if let Some(text) = served.kind.strategy.deprecation() {
            self.notes.warn(vec![text.into_owned()]);
        }
        if self.info.subresource.is_empty() { self.whole(served, body).await } else { self.part(served, body).await }
    }

    /// What upstream's router says where no route takes what is sent, or gives what is accepted; custom kinds have no routes of their own there, and
    /// streams any form.
    fn unroutable(&self, served: &Served) -> Option<Response> {
        let is_stream = served.kind.subresource(&self.info.subresource).is_some_and(|sub| matches!(sub.handler, Handler::Connect(_)));
        if is_stream || !served.kind.schema.has_protobuf() {
            return None;
        }
        let lists = self.info.form.depth == 1 && self.info.method == Method::GET;
        let takes = (self.info.verb == "patch").then_some(patch::TYPES);
        let route = Route { takes, streams: lists || self.info.form.verb_in_path };
        negotiate::unroutable(&self.parts.headers, &self.query, &route)
    }

    /// To the audit event.
    fn tell_annotations(&self) {
        if let Some(audit) = &self.audit {
            audit.annotate(self.notes.annotations());
        }
        if tracing::enabled!(tracing::Level::DEBUG) {
            let annotations = self.notes.annotations();
            if !annotations.is_empty() {
                tracing::debug!(verb = %self.info.verb, path = ?self.info.path, ?annotations, "request was annotated");
            }
        }
    }

    async fn whole(&self, served: &Served, body: Body) -> Result<Response, Status> {
        let verb = self.info.verb.as_str();
        match verb {
            // A list may become a watch by its query.
            "watch" if !served.kind.serves("watch") => Err(Status::method_not_allowed(&served.kind.group_resource(), verb)),
            "get" => self.get(served).await,
            "list" => self.list(served).await,
            "watch" => self.watch(served).await,
            "create" => self.create(served, body).await,
            "update" => self.update(served, body).await,
            "patch" => self.patch(served, body).await,
            "delete" => self.delete(served, body).await,
            "deletecollection" => self.delete_collection(served, body).await,
            _ => Err(Status::method_not_allowed(&served.kind.group_resource(), verb)),
        }
    }

    async fn part(&self, served: &Served, body: Body) -> Result<Response, Status> {
        let (kind, verb) = (&served.kind, self.info.verb.as_str());
        let Some(sub) = kind.subresource(&self.info.subresource) else { return Err(Status::no_such_path()) };
        match (&sub.handler, verb) {
            (Handler::Connect(connect), _) => self.connect(served, sub, connect.as_ref(), body).await,
            (Handler::Action(action), "create") => self.act(served, sub, action.as_ref(), body).await,
            (Handler::Scale(paths), "get") => self.get_scale(served, paths).await,
            (Handler::Status | Handler::Object, "get") => self.get(served).await,
            (Handler::Status | Handler::Object | Handler::Scale(_), "update") => self.update(served, body).await,
            (Handler::Status | Handler::Object | Handler::Scale(_), "patch") => self.patch(served, body).await,
            _ => Err(Status::method_not_allowed(&kind.group_resource(), verb)),
        }
    }

    async fn connect(&self, served: &Served, sub: &Subresource, handler: &dyn Connect, body: Body) -> Result<Response, Status> {
        if !self.query.get("dryRun").is_empty() {
            return Err(Status::bad_request("dryRun is not supported"));
        }
        let query = self.parts.uri.query().unwrap_or_default();
        let none = Value::Null;
        let ctx = self.ctx(served, Operation::Connect, &self.info.name, &none, false);
        subresource::admit_connect(&ctx, sub, handler, (&self.info.rest, query)).await?;
        if let Some(verb) = handler.also_needs() {
            auth::authorize_also(&self.engine, &self.info, &self.user, verb).await?;
        }
        let Some(target) = handler.target(&ctx, &self.info.rest, query).await? else { return Ok(wire::nothing()) };
        Ok(connect::forward(&self.front.agents, self.engine.group(), target, Request::from_parts(self.parts.clone(), body)).await)
    }

    /// The context of what this request writes.
    fn ctx<'a>(&'a self, served: &'a Served, operation: Operation, name: &'a str, options: &'a Value, dry_run: bool) -> Ctx<'a> {
        let agent = self.parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ctx {
            engine: &self.engine,
            kind: &served.kind,
            served,
            user: &self.user,
            verb: &self.info.verb,
            operation,
            manager: Manager::new(self.query.get("fieldManager"), agent),
            namespace: self.info.place(),
            name,
            subresource: &self.info.subresource,
            options,
            dry_run,
            now: self.now,
            notes: &self.notes,
            origin: Origin::Request,
        }
    }
}

/// What a refusal has to know of its request, which is gone by then.
struct Accepting([Option<HeaderValue>; 2]);

impl Accepting {
    const NAMES: [HeaderName; 2] = [header::ACCEPT, header::USER_AGENT];

    fn of(headers: &HeaderMap) -> Self {
        Self(Self::NAMES.map(|name| headers.get(name).cloned()))
    }

    fn headers(&self) -> HeaderMap {
        Self::NAMES.into_iter().zip(&self.0).filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

/// A failure as a reply, in the syntax that is accepted; a request that found no seat is answered in plain text, as upstream does.
fn refused(front: &Shared, accepting: &Accepting, status: &Status) -> Response {
    let mut response = match negotiate::refusal(&accepting.headers(), &Query::default()) {
        Some(Format::Json) => wire::refusal(status),
        format => {
            let kinds = front.engine.kinds();
            let schema = kinds.iter().map(|kind| &kind.schema).find(|schema| schema.has_protobuf()).unwrap_or(&Schema::Open);
            // Where no kind of this server has that form, neither has a refusal.
            let format = format.filter(|format| *format != Format::Protobuf || schema.has_protobuf()).unwrap_or(Format::Pretty);
            let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = status.body();
            wire::told(render::encoded(schema, format, code, &body), status, body)
        }
    };
    if status.code == 429 && status.message == fairness::REFUSED {
        let after = response.headers_mut().remove(header::RETRY_AFTER);
        response = wire::text(StatusCode::TOO_MANY_REQUESTS, format!("{}\n", fairness::REFUSED));
        response.headers_mut().extend(after.map(|after| (header::RETRY_AFTER, after)));
    }
    response
}
