//! A watch: the state if asked for, then every change of the selection, as frames of one stream. Source: apiserver `pkg/storage/cacher`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use api::{Status, time::Timestamp};
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::StatusCode;
use http_body::Frame;
use rand::Rng;
use serde_json::{Value, json};
use store::Rev;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep},
};

use super::{
    negotiate::{Format, Output, Transform},
    options::ListOptions,
    protobuf,
    render::{self, Headers},
    stream::CHUNK_BYTES,
};
use crate::{
    body::{BoxError, Response, boxed},
    engine::{
        Engine, Object,
        event_history::{Event, Expired},
        form,
        list::When,
        reader::Reader,
        registry::Served,
        select::Selection,
    },
    fairness::Permit,
    pace::Turn,
    wire,
};

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// What a frame takes besides its object as it is stored.
const FRAME_BYTES: usize = 96;
/// So many bytes are copied for what one costs that is parsed, at least.
const COPIED: usize = 16;

/// One watcher: a place in the resource's changes, and what it is to see of them.
struct Watcher {
    engine: Arc<Engine>,
    served: Served,
    selection: Selection,
    transform: Transform,
    framing: Framing,
    headers: Headers,
    /// Objects of the initial state that are yet to be sent.
    initial: Arc<Vec<Arc<Object>>>,
    next_initial: usize,
    /// Until the initial state is sent.
    seat: Option<Permit>,
    /// To be sent after them.
    initial_end: Option<Rev>,
    reader: Reader,
    /// What was read of them and is yet to be looked at.
    events: std::vec::IntoIter<Arc<Event>>,
    /// What is to be told of the last events, once it has been converted: somebody else is asked for that, in a task of its own.
    converting: Option<oneshot::Receiver<Result<Vec<Tidings>, Status>>>,
    converted: std::vec::IntoIter<Tidings>,
    turn: Turn,
    /// Why it cannot begin: all that the stream will tell.
    refused: Option<Status>,
    /// All up to here was read.
    after: Rev,
    /// Events up to here are not news.
    seen: Rev,
    bookmarks: bool,
    next_bookmark: Instant,
    ends: Instant,
    alarm: Pin<Box<Sleep>>,
    /// Whom the alarm wakes. It stays set from one event to the next: a watcher is woken often, and seldom by it.
    alarmed: Option<Waker>,
    /// The alarm went when the caches had come so far; what is due is done when all up to there has been told.
    due: Option<Rev>,
    done: bool,
}

/// One frame: its type, the object, and the revision it is shown under.
type Tidings = (&'static str, Arc<Object>, Rev);

/// What the selection may take of before and of after, and when that was.
type Change = (Option<Arc<Object>>, Option<Arc<Object>>, Rev);

/// The word for what was selected before, is now, or both.
fn tell<T>(old: Option<T>, new: Option<T>) -> Option<(&'static str, T)> {
    match (old, new) {
        (None, Some(new)) => Some(("ADDED", new)),
        (Some(_), Some(new)) => Some(("MODIFIED", new)),
        (Some(old), None) => Some(("DELETED", old)),
        (None, None) => None,
    }
}

async fn told(served: Served, told: Vec<Tidings>) -> Result<Vec<Tidings>, Status> {
    let (words, objects): (Vec<_>, Vec<_>) = told.into_iter().map(|(word, object, rev)| (word, (object, rev))).unzip();
    let shown = form::views(&served, objects).await?;
    Ok(words.into_iter().zip(shown).map(|(word, (object, rev))| (word, object, rev)).collect())
}

/// Where only what is shown tells what is selected.
async fn told_as_shown(served: Served, selection: Selection, changes: Vec<Change>) -> Result<Vec<Tidings>, Status> {
    let all = changes.iter().flat_map(|(old, new, rev)| old.iter().chain(new).map(|object| (object.clone(), *rev)));
    let mut shown = form::views(&served, all.collect()).await?.into_iter().map(|(object, _)| object);
    let mut out = Vec::new();
    for (old, new, rev) in changes {
        let mut seen = |object: Option<Arc<Object>>| object.and_then(|_| shown.next()).filter(|object| selection.matches_shown(object));
        let (old, new) = (seen(old), seen(new));
        out.extend(tell(old, new).map(|(word, object)| (word, object, rev)));
    }
    Ok(out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Lines,
    Protobuf,
}

/// How much of what is at hand a turn was enough for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    All,
    Part,
}

/// Opens the stream, which lasts between `lasts` and twice that where it does not say how long. What is wrong with the revision asked for is told within the stream, as upstream does.
pub(crate) async fn watch(
    engine: &Arc<Engine>,
    served: &Served,
    output: &Output,
    options: ListOptions,
    (seat, lasts): (Option<Permit>, Duration),
) -> Result<Response, Status> {
    let Some(cache) = served.cache.clone() else { return Err(Status::method_not_allowed(&served.kind.group_resource(), "watch")) };
    engine.locked.check(&cache.prefix)?;
    let (framing, media_type) = match output.format {
        Format::Protobuf => (Framing::Protobuf, protobuf::STREAM_MEDIA_TYPE),
        Format::Json | Format::Pretty | Format::Yaml => (Framing::Lines, "application/json"),
    };
    let now = Instant::now();
    let lasts = options
        .timeout_seconds
        .filter(|seconds| *seconds > 0)
        .map_or_else(|| lasts.mul_f64(1.0 + rand::rng().random::<f64>()), |seconds| Duration::from_secs(seconds.min(u64::from(u32::MAX))));
    let alarm = now + if options.bookmarks { lasts.min(BOOKMARK_EVERY) } else { lasts };
    let reader = Reader::new(&cache, options.selection.interest());
    let mut watcher = Watcher {
        engine: engine.clone(),
        served: served.clone(),
        selection: options.selection.clone(),
        transform: output.transform.clone(),
        framing,
        headers: Headers::Shown,
        initial: Arc::default(),
        next_initial: 0,
        seat,
        initial_end: None,
        reader,
        events: Vec::new().into_iter(),
        converting: None,
        converted: Vec::new().into_iter(),
        turn: Turn::default(),
        refused: None,
        after: 0,
        seen: 0,
        bookmarks: options.bookmarks,
        next_bookmark: now + BOOKMARK_EVERY,
        ends: now + lasts,
        alarm: Box::pin(tokio::time::sleep_until(alarm)),
        alarmed: None,
        due: None,
        done: false,
    };
    engine.stop.wakes(watcher.reader.waiter());
    watcher.start(&options).await?;
    if watcher.initial.is_empty() && watcher.converted.as_slice().is_empty() {
        watcher.seat = None;
    }
    Ok(wire::reply(StatusCode::OK, media_type, boxed(watcher)))
}

impl http_body::Body for Watcher {
    type Data = Bytes;
    type Error = BoxError;

    /// The next chunk of frames: all that is ready, in one piece, as far as one turn comes.
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut out = BytesMut::new();
        while out.is_empty() && !self.done {
            ready!(self.turn.poll_rest(cx));
            if self.put_initial(&mut out) == Told::Part || self.put_events(&mut out) == Told::Part || !out.is_empty() {
                continue;
            }
            match self.poll_more(cx, &mut out) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(status)) => {
                    self.put_value(&mut out, "ERROR", status.body());
                    self.done = true;
                }
                // What was read has not been told yet: nothing else is due before.
                Poll::Pending if self.converting.is_some() => return Poll::Pending,
                Poll::Pending if self.engine.stop.is_stopping() => self.done = true,
                Poll::Pending => ready!(self.poll_due(cx, &mut out)),
            }
        }
        Poll::Ready((!out.is_empty()).then(|| Ok(Frame::data(out.freeze()))))
    }
}

impl Watcher {
    async fn start(&mut self, options: &ListOptions) -> Result<(), Status> {
        let wants_state = options.send_initial.unwrap_or(matches!(options.when, When::Newest | When::Any));
        match &options.when {
            When::Newest => self.engine.fresh().await?,
            When::NotOlderThan(rev) | When::Exactly(rev) if wants_state => self.engine.reach(*rev).await?,
            When::Continue(_) => return Err(Status::bad_request("continue is not supported for watch")),
            When::Any | When::NotOlderThan(_) | When::Exactly(_) => {}
        }
        if let (When::NotOlderThan(rev) | When::Exactly(rev), false) = (&options.when, wants_state) {
            self.after = *rev;
            self.refused = self.reader.place_after(*rev).err().map(|expired| too_old(*rev, &expired));
            return Ok(());
        }
        let engine = self.engine.clone();
        let snapshot = self.reader.place_at_state(&self.selection, || *engine.applied.borrow());
        self.after = snapshot.rev;
        if wants_state && form::is_remote(&self.served) {
            let selected = snapshot.objects.iter().filter(|object| self.selection.matches(object));
            let shown = form::views(&self.served, selected.map(|object| (object.clone(), object.rev)).collect()).await?;
            let shown = shown.into_iter().filter(|(object, _)| self.selection.matches_shown(object));
            self.converted = shown.map(|(object, rev)| ("ADDED", object, rev)).collect::<Vec<_>>().into_iter();
        } else if wants_state {
            self.initial = snapshot.objects;
        }
        if wants_state {
            self.initial_end = (options.send_initial == Some(true) && options.bookmarks).then_some(snapshot.rev);
        }
        Ok(())
    }

    fn put_initial(&mut self, out: &mut BytesMut) -> Told {
        if self.put_converted(out) == Told::Part {
            return Told::Part;
        }
        while out.len() < CHUNK_BYTES && !self.turn.is_over() {
            let Some(object) = self.initial.get(self.next_initial).cloned() else { break };
            self.next_initial += 1;
            self.looked();
            if self.selection.matches(&object) {
                self.put("ADDED", &object, object.rev, out);
            }
        }
        if self.next_initial < self.initial.len() {
            return Told::Part;
        }
        if let Some(rev) = self.initial_end.take().filter(|_| self.refused.is_none()) {
            self.put_bookmark(rev, json!({"k8s.io/initial-events-end": "true"}), out);
        }
        if self.next_initial > 0 {
            // Others may share it: it is not to be kept for as long as a watch lasts.
            self.initial = Arc::default();
            self.next_initial = 0;
            self.seat = None;
        }
        Told::All
    }

    fn put_converted(&mut self, out: &mut BytesMut) -> Told {
        while out.len() < CHUNK_BYTES && !self.turn.is_over() {
            let Some((word, object, rev)) = self.converted.next() else {
                // What was converted of the initial state has been sent.
                if self.initial.is_empty() {
                    self.seat = None;
                }
                return Told::All;
            };
            self.put(word, &object, rev, out);
        }
        Told::Part
    }

    /// An object's head was looked at, if no more.
    fn looked(&mut self) {
        api::steps::took(1);
        self.turn.took(0);
    }

    /// More to be told: events, or those that were being converted.
    fn poll_more(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<(), Status>> {
        if let Some(converting) = &mut self.converting {
            let stopped = || Err(Status::unavailable("the server is shutting down"));
            let shown = ready!(Pin::new(converting).poll(cx)).unwrap_or_else(|_| stopped())?;
            self.converting = None;
            self.converted = shown.into_iter();
            return Poll::Ready(Ok(()));
        }
        let events = ready!(self.poll_events(cx))?;
        self.take(events, out);
        Poll::Ready(Ok(()))
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Arc<Event>>, Status>> {
        if let Some(status) = self.refused.take() {
            return Poll::Ready(Err(status));
        }
        self.reader.poll_read(cx).map_err(|expired| too_old(self.after, &expired))
    }

    fn take(&mut self, events: Vec<Arc<Event>>, out: &mut BytesMut) {
        if self.selection.is_all() {
            out.reserve(events.iter().map(|event| event.size()).sum::<usize>().min(CHUNK_BYTES));
        }
        self.seen = self.after;
        self.after = events.last().map_or(self.seen, |last| last.rev.max(self.seen));
        if form::is_remote(&self.served) {
            return self.convert(&events);
        }
        self.events = events.into_iter();
        self.put_events(out);
    }

    /// Asks for what is to be told of `events`, in a task of its own: nobody waits for it while a frame is polled.
    fn convert(&mut self, events: &[Arc<Event>]) {
        let news = events.iter().filter(|event| event.rev > self.seen);
        let served = self.served.clone();
        let telling: BoxFuture<'static, Result<Vec<Tidings>, Status>> = if self.selection.is_of_shown() {
            let matching = |object: &Option<Arc<Object>>| object.clone().filter(|object| self.selection.matches(object));
            let changes = news.map(|event| (matching(&event.old), matching(&event.new), event.rev));
            let changes: Vec<Change> = changes.filter(|(old, new, _)| old.is_some() || new.is_some()).collect();
            if changes.is_empty() {
                return;
            }
            Box::pin(told_as_shown(served, self.selection.clone(), changes))
        } else {
            let stored = news.filter_map(|event| self.tidings(event)).map(|(word, object, rev)| (word, object.clone(), rev));
            let stored: Vec<Tidings> = stored.collect();
            if stored.is_empty() {
                return;
            }
            Box::pin(told(served, stored))
        };
        let (mut done, converting) = oneshot::channel();
        self.converting = Some(converting);
        self.engine.group.spawn(async move {
            let shown = tokio::select! {
                shown = telling => shown,
                // Nobody watches any more.
                () = done.closed() => return,
            };
            // Who watched may have gone just now.
            let _ = done.send(shown);
        });
    }

    fn put_events(&mut self, out: &mut BytesMut) -> Told {
        while !self.turn.is_over() {
            let Some(event) = self.events.next() else { return Told::All };
            self.looked();
            if event.rev > self.seen {
                self.put_event(&event, out);
            }
        }
        Told::Part
    }

    /// There is nothing to tell: waits for the alarm, then does what is due once all is told that had happened by then.
    fn poll_due(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<()> {
        if let Some(applied) = self.due.take() {
            self.act(applied, out);
        } else {
            ready!(self.poll_alarm(cx));
            self.due = Some(*self.engine.applied.borrow());
        }
        Poll::Ready(())
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_set = self.alarmed.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_set && !self.alarm.is_elapsed() {
            return Poll::Pending;
        }
        self.alarmed = Some(cx.waker().clone());
        self.alarm.as_mut().poll(cx)
    }

    /// A bookmark if one is due, the end if it is time; all up to `applied` has been told.
    fn act(&mut self, applied: Rev, out: &mut BytesMut) {
        let now = Instant::now();
        self.done = now >= self.ends;
        if self.bookmarks && (self.done || now >= self.next_bookmark) {
            self.next_bookmark = now + BOOKMARK_EVERY;
            self.after = self.after.max(applied);
            self.put_bookmark(self.after, json!({}), out);
        }
        let alarm = if self.bookmarks { self.ends.min(self.next_bookmark) } else { self.ends };
        self.alarm.as_mut().reset(alarm);
        self.alarmed = None;
    }

    fn put_event(&mut self, event: &Event, out: &mut BytesMut) {
        let Some((word, object, rev)) = self.tidings(event).filter(|_| self.refused.is_none()) else { return };
        // The state that everybody is told of this event, as it is stored.
        let is_common = rev == event.rev && self.transform == Transform::Plain && !self.served.converts();
        if self.framing != Framing::Protobuf || !is_common || word == "DELETED" && event.new.is_some() {
            return self.put(word, object, rev, out);
        }
        let mut bytes = object.stored().len() / COPIED;
        let shown = event.written(|| {
            bytes = object.stored().len();
            self.event(object, rev)
        });
        self.turn.took(bytes);
        self.put_written(out, word, &shown);
    }

    /// What [`Watcher::event`] made. One that was not written ends the watch: who watches would take it for told.
    fn put_written(&mut self, out: &mut BytesMut, word: &str, shown: &[u8]) {
        if shown.is_empty() {
            self.refused = Some(protobuf::no_form());
        } else {
            protobuf::put_frame(out, word, shown);
        }
    }

    /// Empty where it has no protobuf form.
    fn event(&self, object: &Arc<Object>, rev: Rev) -> Vec<u8> {
        protobuf::shown(&self.served, &self.transform, object, rev, &self.engine.messages).unwrap_or_default()
    }

    /// A bookmark, or what ends the watch.
    fn put_value(&self, out: &mut BytesMut, word: &str, value: Value) {
        match self.framing {
            Framing::Lines => put_frame(out, word, |out| out.put_slice(value.to_string().as_bytes())),
            Framing::Protobuf => protobuf::put_frame(out, word, &protobuf::told(&self.served.kind.schema, &value)),
        }
    }

    /// What the watcher is told of an event, if anything.
    fn tidings<'e>(&self, event: &'e Event) -> Option<(&'static str, &'e Arc<Object>, Rev)> {
        let seen = |object: &'e Option<Arc<Object>>| object.as_ref().filter(|object| self.selection.matches(object));
        let (word, object) = tell(seen(&event.old), seen(&event.new))?;
        // The last state, under the revision of its going.
        Some((word, object, if word == "DELETED" { event.rev } else { object.rev }))
    }

    fn put(&mut self, word: &str, object: &Arc<Object>, rev: Rev, out: &mut BytesMut) {
        if self.refused.is_some() {
            return;
        }
        let bytes = object.stored().len();
        if self.framing == Framing::Protobuf {
            self.turn.took(bytes);
            let shown = self.event(object, rev);
            return self.put_written(out, word, &shown);
        }
        if self.transform == Transform::Plain {
            self.turn.took(if self.served.converts() { bytes } else { bytes / COPIED });
            out.reserve(FRAME_BYTES + object.stored().len());
            return put_frame(out, word, |out| form::put_at(&self.served, object, rev, out));
        }
        if let Transform::Partial { version, .. } = &self.transform
            && let Some(partial) = render::partial_bytes(&self.served.kind, version, object, rev)
        {
            self.turn.took(partial.len());
            return put_frame(out, word, |out| out.put(partial));
        }
        self.turn.took(bytes);
        let value = form::value_at(&self.served, object, rev);
        let headers = std::mem::replace(&mut self.headers, Headers::Left);
        let transformed = render::transformed(&self.served.kind, &self.transform, value, headers, Timestamp::now());
        put_frame(out, word, |out| out.put_slice(transformed.to_string().as_bytes()));
    }

    fn put_bookmark(&mut self, rev: Rev, annotations: Value, out: &mut BytesMut) {
        let kind = &self.served.kind;
        let mut meta = json!({"resourceVersion": rev.to_string()});
        if annotations.as_object().is_some_and(|map| !map.is_empty()) {
            meta["annotations"] = annotations;
        }
        let object = json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": meta});
        let transformed = match &self.transform {
            // The row tells the client about the bookmark; the kind's cells are of nothing.
            Transform::Table { version, .. } => json!({
                "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": {"resourceVersion": rev.to_string()}, "columnDefinitions": null,
                "rows": [{"cells": kind.strategy.cells(&object, Timestamp::now()), "object": {
                    "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": object["metadata"],
                }}],
            }),
            transform => render::transformed(kind, transform, object, Headers::Left, Timestamp::now()),
        };
        self.put_value(out, "BOOKMARK", transformed);
    }
}

fn put_frame(out: &mut BytesMut, word: &str, object: impl FnOnce(&mut BytesMut)) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(word.as_bytes());
    out.put_slice(b"\",\"object\":");
    object(out);
    out.put_slice(b"}\n");
}

fn too_old(rev: Rev, expired: &Expired) -> Status {
    Status::gone(format!("too old resource version: {rev} ({})", expired.floor))
}
