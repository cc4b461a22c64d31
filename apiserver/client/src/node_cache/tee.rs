//! The bytes of a watch -> the same bytes, and what they tell, kept.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tower::BoxError;

use super::{
    Answer,
    entry::{Claim, Entry},
    event::{Told, read},
};

/// A line that is longer is no event; what it was part of is not kept.
const LINE_BYTES_MAX: usize = 32 << 20;
const MODIFIED: &[u8] = br#"{"type":"MODIFIED""#;
const ADDED: &[u8] = br#"{"type":"ADDED""#;

/// What there is to do.
pub enum News<'a> {
    /// All of the collection, by namespace and name. To be written, as what follows.
    Listed(&'a BTreeMap<String, Vec<u8>>),
    Put,
    Gone(&'a str),
}

/// A body that is read by whoever asked, and by us.
pub struct Tee<F> {
    inner: Answer,
    /// None once it cannot be followed any more.
    claim: Option<Claim>,
    line: Vec<u8>,
    /// While the list is told.
    listing: Option<BTreeMap<String, Vec<u8>>>,
    tell: F,
}

impl<F: Fn(News<'_>) + Unpin> Tee<F> {
    /// `from`: the revision that the watch goes on from; `None` where it begins with a list.
    pub fn new(inner: Answer, entry: Arc<Entry>, from: Option<&str>, tell: F) -> Self {
        let mut claim = Claim::of(entry);
        if let (Some(held), Some(from)) = (&claim, from)
            && !held.entry().stands_at(from)
        {
            held.entry().fell_behind();
            claim = None;
        }
        Self { inner, claim, line: Vec::new(), listing: from.is_none().then(BTreeMap::new), tell }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while self.claim.is_some() && !bytes.is_empty() {
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.line.extend_from_slice(bytes);
                break;
            };
            let (head, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.line.is_empty() {
                self.event(head);
            } else {
                self.line.extend_from_slice(head);
                let line = std::mem::take(&mut self.line);
                self.event(&line);
            }
        }
        if self.line.len() > LINE_BYTES_MAX {
            self.lose();
        }
    }

    /// What comes now is not known any more.
    fn lose(&mut self) {
        if let Some(claim) = self.claim.take() {
            claim.entry().fell_behind();
        }
        self.line = Vec::new();
    }

    fn event(&mut self, line: &[u8]) {
        let Some(entry) = self.claim.as_ref().map(Claim::entry) else { return };
        match (read(line), self.listing.as_mut()) {
            (Some(Told::Put { key, .. }), Some(all)) => drop(all.insert(key, as_added(line))),
            (Some(Told::Gone { key, .. }), Some(all)) => drop(all.remove(&key)),
            (Some(Told::End { revision }), Some(_)) => {
                let all = self.listing.take().unwrap_or_default();
                (self.tell)(News::Listed(&all));
                entry.listed(all, revision);
            }
            (Some(Told::Put { key, revision }), None) => {
                entry.changed(key, Some(as_added(line)), line, revision);
                (self.tell)(News::Put);
            }
            (Some(Told::Gone { key, revision }), None) => {
                (self.tell)(News::Gone(&key));
                entry.changed(key, None, line, revision);
            }
            (Some(Told::End { revision } | Told::Reached { revision }), None) => entry.reached(revision),
            (Some(Told::Reached { .. }), Some(_)) => {}
            // An error, or what we cannot read: what comes after it would not be all.
            (None, _) => self.lose(),
        }
    }
}

impl<F: Fn(News<'_>) + Unpin> HttpBody for Tee<F> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.feed(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// One that was changed is there, for who reads it first.
fn as_added(line: &[u8]) -> Vec<u8> {
    let line = line.trim_ascii_end();
    line.strip_prefix(MODIFIED).map_or_else(|| line.to_vec(), |rest| [ADDED, rest].concat())
}
