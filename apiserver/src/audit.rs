//! Requests -> audit events, as a policy says, in the sinks that are there: who did what to what, when, and how it ended.
//!
//! Sources: apiserver `pkg/audit/{context,request}.go`, `pkg/endpoints/filters/{audit,authn_audit}.go`. The end of a request is told before its reply is sent
//! (upstream: after), of a stream when its body is gone. What our own loops ask is told as well, without a source address.

mod event;
mod log;
mod policy;
mod truncate;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use api::{Status, time::Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts, uri::PathAndQuery};
use parking_lot::Mutex;
use serde_json::{Value, value::RawValue};

use crate::{
    identity::{Attributes, Peer, User},
    parse,
};

use self::{
    event::{Annotations, Event, ObjectRef, ResponseStatus},
    policy::{Level, Stage, Verdict},
};
pub use self::{
    log::{Log, LogConfig, LogMode},
    policy::Policy,
    truncate::Truncate,
};

/// Of a user agent in an event, with the words that stand for the rest (upstream: `maxUserAgentLength`).
const AGENT_BYTES_MAX: usize = 1024;
/// In the place of the status of a reply that nobody waited for.
const GONE: u16 = 499;
const AGENT_CUT: &str = "...TRUNCATED";
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where events go.
#[async_trait]
pub trait Sink: Send + Sync {
    /// `log`, for metrics.
    fn name(&self) -> &'static str;

    /// Whether a request is refused whose begin it does not take.
    fn is_strict(&self) -> bool;

    /// Of an event with the objects in it; a larger one comes without them.
    fn event_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Takes an event, JSON and a newline. Who stops waiting has given it all the same.
    ///
    /// # Errors
    /// Why not.
    async fn take(&self, event: Bytes) -> Result<(), String>;

    /// The same, for who cannot wait.
    ///
    /// # Errors
    /// Why not.
    fn take_now(&self, event: Bytes) -> Result<(), String>;

    /// Events that it took and that came to nothing after all.
    fn lost(&self) -> u64 {
        0
    }
}

/// The policy and the sinks.
pub struct Auditor {
    policy: Policy,
    sinks: Vec<Box<dyn Sink>>,
    /// Of the sink that takes the smallest.
    event_bytes_max: usize,
    counts: Counts,
}

/// An event as a line, and where that is too long for a sink also without the objects in it.
struct Line {
    whole: Bytes,
    short: Option<Bytes>,
}

impl Line {
    /// # Errors
    /// It is too large all the same.
    fn within(&self, bytes_max: usize) -> Result<&Bytes, &'static str> {
        let found = [&self.whole].into_iter().chain(&self.short).find(|line| line.len() <= bytes_max);
        found.ok_or("event is too large even after truncating")
    }
}

/// An event on its way into the sinks. Who asked may go away meanwhile: those that have not got it get it then.
struct Telling<'a> {
    auditor: &'a Auditor,
    line: Line,
    next: usize,
}

impl Telling<'_> {
    /// False where a sink that must take it did not.
    async fn run(mut self) -> bool {
        let mut is_taken = true;
        while let Some(sink) = self.auditor.sinks.get(self.next) {
            self.next += 1;
            let taken = match self.auditor.fitting(&self.line, sink.as_ref()) {
                Some(event) => sink.take(event).await.map_err(|why| self.auditor.failed(sink.name(), &why)),
                None => Err(()),
            };
            is_taken &= taken.is_ok() || !sink.is_strict();
        }
        is_taken
    }

    fn rest(&mut self) {
        for sink in self.auditor.sinks.iter().skip(std::mem::replace(&mut self.next, usize::MAX)) {
            let Some(event) = self.auditor.fitting(&self.line, sink.as_ref()) else { continue };
            if let Err(why) = sink.take_now(event) {
                self.auditor.failed(sink.name(), &why);
            }
        }
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.rest();
    }
}

#[derive(Default)]
struct Counts {
    events: AtomicU64,
    rejected: AtomicU64,
    /// By level, in the order of [`Level`].
    levels: [AtomicU64; 4],
    /// By the sink's name.
    errors: Mutex<BTreeMap<&'static str, u64>>,
}

/// What becomes the events of one request.
pub(crate) struct Audit {
    auditor: Arc<Auditor>,
    verdict: Verdict,
    id: String,
    uri: String,
    verb: String,
    user: Arc<User>,
    sources: Vec<String>,
    agent: String,
    received: Timestamp,
    is_long_running: bool,
    has_begun: AtomicBool,
    has_ended: AtomicBool,
    said: Mutex<Said>,
}

/// What is known of it later.
#[derive(Default)]
struct Said {
    impersonated: Option<(Arc<User>, &'static str)>,
    object: Option<ObjectRef>,
    request: Option<Box<RawValue>>,
    annotations: Annotations,
}

/// How a request ended: its HTTP status, and the Status that was answered, if one was.
pub(crate) struct Ended<'a> {
    pub code: u16,
    pub status: Option<&'a Value>,
    /// The object that was answered, where [`Audit::wants_response`].
    pub object: Option<&'a [u8]>,
}

impl Auditor {
    pub fn new(policy: Policy, sinks: Vec<Box<dyn Sink>>) -> Arc<Self> {
        let event_bytes_max = sinks.iter().map(|sink| sink.event_bytes_max()).min().unwrap_or(usize::MAX);
        Arc::new(Self { policy, sinks, event_bytes_max, counts: Counts::default() })
    }

    /// What is to be told of a request, if anything is. `id` is its audit id.
    pub(crate) fn begin(self: &Arc<Self>, asked: &Attributes<'_>, parts: &Parts, user: &Arc<User>, id: &str) -> Option<Audit> {
        let verdict = self.policy.verdict(asked);
        self.counts.levels[verdict.level as usize].fetch_add(1, Ordering::Relaxed);
        if verdict.level == Level::None {
            return None;
        }
        let object = asked.resource_request.then(|| ObjectRef::of(asked));
        Some(Audit {
            auditor: self.clone(),
            verdict,
            id: id.to_owned(),
            uri: parts.uri.path_and_query().map_or("", PathAndQuery::as_str).to_owned(),
            verb: asked.verb.to_owned(),
            user: user.clone(),
            sources: sources(parts),
            agent: agent(&parts.headers),
            received: Timestamp::now(),
            is_long_running: false,
            has_begun: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            said: Mutex::new(Said { object, ..Said::default() }),
        })
    }

    /// Metrics under upstream's names.
    pub(crate) fn text(&self, out: &mut String) {
        let counts = &self.counts;
        let mut counter = |name: &str, help: &str, label: &str, values: &[(&str, u64)]| {
            let _ = write!(out, "# HELP {name} [ALPHA] {help}\n# TYPE {name} counter\n");
            for (value, count) in values {
                let labels = if label.is_empty() { String::new() } else { format!("{{{label}=\"{value}\"}}") };
                let _ = writeln!(out, "{name}{labels} {count}");
            }
        };
        let one = |count: &AtomicU64| count.load(Ordering::Relaxed);
        counter(
            "apiserver_audit_event_total",
            "Counter of audit events generated and sent to the audit backend.",
            "",
            &[("", one(&counts.events))],
        );
        let help = "Counter of apiserver requests rejected due to an error in audit logging backend.";
        counter("apiserver_audit_requests_rejected_total", help, "", &[("", one(&counts.rejected))]);
        let [none, metadata, request, response] = counts.levels.each_ref().map(one);
        let levels = [("Metadata", metadata), ("None", none), ("Request", request), ("RequestResponse", response)];
        counter("apiserver_audit_level_total", "Counter of policy levels for audit events (1 per request).", "level", &levels);
        let mut errors = counts.errors.lock().clone();
        for sink in self.sinks.iter().filter(|sink| sink.lost() > 0) {
            *errors.entry(sink.name()).or_default() += sink.lost();
        }
        let errors: Vec<(&str, u64)> = errors.into_iter().collect();
        let help = "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.";
        counter("apiserver_audit_error_total", help, "plugin", &errors);
    }

    fn failed(&self, plugin: &'static str, why: &str) {
        tracing::debug!(plugin, why, "audit event was not taken");
        *self.counts.errors.lock().entry(plugin).or_default() += 1;
    }

    /// What a sink gets of an event. `None`: nothing of it is small enough, which counts as upstream counts it.
    fn fitting(&self, line: &Line, sink: &dyn Sink) -> Option<Bytes> {
        line.within(sink.event_bytes_max()).map_err(|why| self.failed(truncate::NAME, why)).ok().cloned()
    }
}

impl Audit {
    pub fn running_long(mut self, is_long_running: bool) -> Self {
        self.is_long_running = is_long_running;
        self
    }

    /// Whether its reply goes on after its head.
    pub fn is_long_running(&self) -> bool {
        self.is_long_running
    }

    /// # Errors
    /// 500 where a sink that must take it does not.
    pub async fn received(&self) -> Result<(), Status> {
        self.has_begun.store(true, Ordering::Relaxed);
        if self.tell(Stage::RequestReceived, None).await {
            return Ok(());
        }
        self.auditor.counts.rejected.fetch_add(1, Ordering::Relaxed);
        Err(Status::internal("failed to store audit event"))
    }

    /// `constraint` is the verb of the way in which it was allowed, empty for `impersonate`.
    pub fn impersonates(&self, user: &Arc<User>, constraint: &'static str) {
        self.said.lock().impersonated = Some((user.clone(), constraint));
    }

    /// The first value of a key stands.
    pub fn annotate<T: Into<Cow<'static, str>>>(&self, annotations: impl IntoIterator<Item = (T, T)>) {
        let mut said = self.said.lock();
        for (key, value) in annotations {
            said.annotations.entry(key.into()).or_insert_with(|| value.into());
        }
    }

    /// The object that was sent, before anything was done to it.
    pub fn sent(&self, object: &Value) {
        let request = (self.verdict.level >= Level::Request).then(|| self.raw(object)).flatten();
        let mut said = self.said.lock();
        if let Some(about) = &mut said.object {
            about.complete(object);
        }
        said.request = request;
    }

    /// The patch that was sent.
    pub fn sent_patch(&self, patch: &[u8]) {
        if self.verdict.level >= Level::Request {
            let value = parse::json(patch).or_else(|_| parse::yaml(patch)).ok();
            let read = value.and_then(|parsed| self.raw(&parsed.value));
            // What is too deep is refused, and told.
            self.said.lock().request = read.or_else(|| event::on_one_line(patch));
        }
    }

    /// Whether the end is told with the object that is answered.
    pub fn wants_response(&self) -> bool {
        self.verdict.level >= Level::RequestResponse
    }

    /// The head of a stream's reply is about to be sent.
    pub async fn started(&self, ended: &Ended<'_>) {
        self.tell(Stage::ResponseStarted, Some(ended)).await;
    }

    pub async fn complete(&self, ended: &Ended<'_>) {
        self.tell(Stage::ResponseComplete, Some(ended)).await;
    }

    /// The same, where nobody can wait.
    pub fn complete_now(&self, ended: &Ended<'_>) {
        self.has_ended.store(true, Ordering::Relaxed);
        if let Some(line) = self.line(Stage::ResponseComplete, Some(ended)) {
            Telling { auditor: &self.auditor, line, next: 0 }.rest();
        }
    }

    pub async fn panicked(&self, ended: &Ended<'_>) {
        self.tell(Stage::Panic, Some(ended)).await;
    }

    /// False where a sink that must take it did not.
    async fn tell(&self, stage: Stage, ended: Option<&Ended<'_>>) -> bool {
        if matches!(stage, Stage::ResponseComplete | Stage::Panic) {
            self.has_ended.store(true, Ordering::Relaxed);
        }
        let Some(line) = self.line(stage, ended) else { return true };
        Telling { auditor: &self.auditor, line, next: 0 }.run().await
    }

    fn line(&self, stage: Stage, ended: Option<&Ended<'_>>) -> Option<Line> {
        if !self.verdict.tells(stage) {
            return None;
        }
        self.auditor.counts.events.fetch_add(1, Ordering::Relaxed);
        let response = ended.and_then(|ended| ended.object).and_then(|object| self.answered(object));
        let said = self.said.lock();
        let event = Event {
            level: self.verdict.level,
            id: &self.id,
            stage,
            uri: &self.uri,
            verb: &self.verb,
            user: &self.user,
            impersonated: said.impersonated.as_ref().map(|(user, _)| user),
            constraint: said.impersonated.as_ref().map_or("", |(_, constraint)| constraint),
            sources: &self.sources,
            agent: &self.agent,
            object: said.object.as_ref(),
            response_status: ended.map(|ended| ResponseStatus::of(ended.code, ended.status)),
            request: said.request.as_deref(),
            response: response.as_deref(),
            received: self.received,
            now: Timestamp::now(),
            annotations: &said.annotations,
        };
        let whole = event.line();
        let has_object = self.verdict.level >= Level::Request;
        let short = (has_object && whole.len() > self.auditor.event_bytes_max).then(|| event.short_line());
        Some(Line { whole, short })
    }

    /// A list of objects that are as deep as they may be is deeper than what is parsed: it is told as it was answered.
    fn answered(&self, body: &[u8]) -> Option<Box<RawValue>> {
        let read = serde_json::from_slice(body).ok().and_then(|value| self.raw(&value));
        read.or_else(|| event::on_one_line(body))
    }

    /// Written anew: what a client sent may have newlines in it, and a line is an event.
    fn raw(&self, object: &Value) -> Option<Box<RawValue>> {
        if !self.verdict.omit_managed_fields {
            return serde_json::value::to_raw_value(object).ok();
        }
        let mut object = object.clone();
        event::drop_managed_fields(&mut object);
        serde_json::value::to_raw_value(&object).ok()
    }
}

/// A client that goes away before its reply does not keep what it asked for out of the log: it may have been done.
impl Drop for Audit {
    fn drop(&mut self) {
        if *self.has_begun.get_mut() && !*self.has_ended.get_mut() {
            let status = serde_json::json!({"status": "Failure", "message": "the client went away before the reply"});
            self.complete_now(&Ended { code: GONE, status: Some(&status), object: None });
        }
    }
}

/// All but the last can be set by the client (`SourceIPs` in apimachinery `pkg/util/net/http.go`).
fn sources(parts: &Parts) -> Vec<String> {
    let header = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let parsed = |text: &str| text.trim().parse::<std::net::IpAddr>().ok();
    let mut found: Vec<std::net::IpAddr> = header(FORWARDED_FOR).split(',').filter_map(parsed).collect();
    let real = parsed(header(REAL_IP)).filter(|real| !found.contains(real));
    found.extend(real);
    let peer = parts.extensions.get::<Peer>().and_then(|peer| peer.address).map(|address| address.ip().to_canonical());
    found.extend(peer.filter(|peer| found.last() != Some(peer)));
    found.iter().map(ToString::to_string).collect()
}

fn agent(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
    let agent = str::from_utf8(agent).map_or_else(|_| String::from_utf8_lossy(agent), Cow::from);
    match agent.get(..agent.floor_char_boundary(AGENT_BYTES_MAX)) {
        Some(cut) if cut.len() < agent.len() => format!("{cut}{AGENT_CUT}"),
        _ => agent.into_owned(),
    }
}

#[cfg(test)]
mod tests;
