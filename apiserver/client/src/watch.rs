//! A collection over the API -> its objects at once, and each change after that; whatever happens, it goes on.
//!
//! An object that cannot be read as its type says neither ends the watch nor is left out ([`crate::lenient`]).
//! Upstream: client-go `tools/cache/reflector.go`.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use api::{Key, names::segment};
use futures::{AsyncBufRead, AsyncBufReadExt};
use kube::{
    Error, Resource,
    api::{WatchEvent, WatchParams},
    core::Request,
};
use rand::Rng;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};

use crate::{Object, lenient::Seen};

/// An object has 3 MiB at most, and escapes may double it; a line that is longer is no event.
const LINE_MAX: usize = 32 << 20;
/// Between tries, doubled each time; half of it is random.
const RETRY_MIN: Duration = Duration::from_millis(800);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Annotates the end of a list that no server has told.
pub(crate) const FROM_DISK: &str = "skiff.internal/from-disk";
/// How long the server is asked to watch for, in seconds; it ends the watch then (kube's own default).
const WATCH_SECONDS: u32 = 290;
/// One that has not ended by then has been lost by its server, or by whoever stands between.
const WATCH_BOUND: Duration = Duration::from_secs(350);
/// A watch that told changes for so long was a good one, however it ended: what is wrong now is new. One that ended sooner counts as failed.
const LASTED: Duration = Duration::from_secs(2);

/// Which objects.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// `None` is all namespaces.
    pub namespace: Option<String>,
    /// `spec.nodeName=n1`; empty selects all.
    pub field_selector: String,
}

/// What a watch tells.
#[derive(Debug)]
pub enum Change<K> {
    /// All there is at this revision; what is not in it is gone. No object in it tells the revision: the newest may have been deleted since.
    Listed(Listed<K>, u64),
    /// The same from before, since no server answers ([`crate::node_cache`]): there may be more by now, and some of it may be gone. The watch goes on from there.
    Kept(Listed<K>, u64),
    /// New or changed.
    Put(Seen<K>),
    Gone(Seen<K>),
    /// All that happened up to this revision has been told.
    Reached(u64),
    /// The server was not reached, or refused; what was told before stays as it was. It is tried again.
    Failed(Error),
}

/// A whole collection, by key.
pub type Listed<K> = BTreeMap<Key, Seen<K>>;

/// Follows the collection for ever.
pub async fn follow<K: Object>(client: kube::Client, query: Query, mut tell: impl FnMut(Change<K>)) {
    let (mut from, mut failures) = (None, 0);
    loop {
        let began = Instant::now();
        let ended = once(&client, &query, &mut from, &mut tell).await;
        if began.elapsed() >= LASTED {
            failures = 0;
        }
        if ended.is_err() || began.elapsed() < LASTED {
            failures += 1;
        }
        if let Err(error) = ended {
            // What comes next has been forgotten by the server: all is listed again.
            if matches!(&error, Error::Api(status) if status.code == 410) {
                from = None;
            }
            tell(Change::Failed(error));
        }
        if failures > 0 {
            tokio::time::sleep(pause(failures)).await;
        }
    }
}

/// Reads one object.
///
/// # Errors
/// What the API server says, or where the answer is no object.
pub async fn get<K: Object>(client: &kube::Client, namespace: Option<&str>, name: &str) -> Result<Seen<K>, Error> {
    let request = requests::<K>(namespace).get(&segment(name), &kube::api::GetParams::default());
    send(client, request.map_err(Error::BuildRequest)?).await
}

/// Sends a request that is answered with an object.
///
/// # Errors
/// What the API server says, or where the answer is no object.
pub async fn send<K: Object>(client: &kube::Client, request: http::Request<Vec<u8>>) -> Result<Seen<K>, Error> {
    let text = client.request_text(request).await?;
    K::read(text.as_bytes()).map_err(Error::SerdeError)
}

/// Makes requests about a collection, in a namespace where one is given. Names in them are to be made segments.
pub fn requests<K: Object>(namespace: Option<&str>) -> Request {
    Request::new(K::Served::url_path(&(), namespace.map(segment).as_deref()))
}

impl Query {
    /// The one object of that name.
    pub fn named(namespace: &str, name: &str) -> Self {
        // Upstream: apimachinery `pkg/fields` (`EscapeValue`).
        let escaped = name.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
        Self { namespace: Some(namespace.to_owned()), field_selector: format!("metadata.name={escaped}") }
    }
}

fn revision_of<K: Object>(object: &K) -> Option<String> {
    object.object_meta().resource_version.map(str::to_owned)
}

fn pause(failures: u32) -> Duration {
    let whole = RETRY_MIN.saturating_mul(1 << (failures - 1).min(8)).min(RETRY_MAX);
    whole.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// One watch, from where the last one ended: to its end.
async fn once<K: Object>(
    client: &kube::Client,
    query: &Query,
    from: &mut Option<String>,
    tell: &mut impl FnMut(Change<K>),
) -> Result<(), Error> {
    let params = WatchParams {
        field_selector: (!query.field_selector.is_empty()).then(|| query.field_selector.clone()),
        bookmarks: true,
        send_initial_events: from.is_none(),
        timeout: Some(WATCH_SECONDS),
        ..WatchParams::default()
    };
    let request = requests::<K>(query.namespace.as_deref()).watch(&params, from.as_deref().unwrap_or("0")).map_err(Error::BuildRequest)?;
    let mut lines = pin!(client.request_stream(request).await?);
    let (mut line, mut listing) = (Vec::new(), from.is_none().then(BTreeMap::new));
    let told = async {
        while next_line(&mut lines, &mut line).await? {
            if let Some(change) = take(read::<K>(&line)?, from, &mut listing)? {
                tell(change);
            }
        }
        Ok(())
    };
    match timeout(WATCH_BOUND, told).await {
        Ok(ended) => ended,
        Err(_) => Err(Error::Service("the watch did not end in time".into())),
    }
}

/// What is to be told of an event. Until the end of a list nothing is: what was deleted while it was sent is not in it (upstream: `temporaryStore`
/// in `handleAnyWatch`).
fn take<K: Object>(
    event: WatchEvent<Seen<K>>,
    from: &mut Option<String>,
    listing: &mut Option<Listed<K>>,
) -> Result<Option<Change<K>>, Error> {
    let change = match (event, listing.as_mut()) {
        (WatchEvent::Added(seen) | WatchEvent::Modified(seen), Some(all)) => {
            all.insert(seen.object.object_meta().key(), seen);
            return Ok(None);
        }
        (WatchEvent::Deleted(seen), Some(all)) => {
            all.remove(&seen.object.object_meta().key());
            return Ok(None);
        }
        (WatchEvent::Added(seen) | WatchEvent::Modified(seen), None) => {
            *from = revision_of(&seen.object).or(from.take());
            Change::Put(seen)
        }
        (WatchEvent::Deleted(seen), None) => {
            *from = revision_of(&seen.object).or(from.take());
            Change::Gone(seen)
        }
        (WatchEvent::Bookmark(mark), _) => {
            let all = listing.take_if(|_| mark.metadata.annotations.contains_key("k8s.io/initial-events-end"));
            if listing.is_some() {
                return Ok(None);
            }
            let revision = mark.metadata.resource_version.parse().unwrap_or(0);
            *from = Some(mark.metadata.resource_version);
            match all {
                Some(all) if mark.metadata.annotations.contains_key(FROM_DISK) => Change::Kept(all, revision),
                Some(all) => Change::Listed(all, revision),
                None => Change::Reached(revision),
            }
        }
        (WatchEvent::Error(status), _) => return Err(Error::Api(status)),
    };
    Ok(Some(change))
}

/// False at the end.
async fn next_line(lines: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> Result<bool, Error> {
    line.clear();
    loop {
        let chunk = lines.fill_buf().await.map_err(Error::ReadEvents)?;
        if chunk.is_empty() {
            // What was cut off within a line is no event.
            return Ok(false);
        }
        let end = memchr::memchr(b'\n', chunk);
        let taken = end.map_or(chunk.len(), |at| at + 1);
        line.extend_from_slice(chunk.get(..taken).unwrap_or_default());
        lines.consume_unpin(taken);
        if line.len() > LINE_MAX {
            return Err(Error::LinesCodecMaxLineLengthExceeded);
        }
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// An event whose object is any.
#[derive(Deserialize)]
struct Event<'a> {
    r#type: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The type stands first, as every API server writes it, ours and Go's: nothing is read twice then. In any other order it may be.
fn split(line: &[u8]) -> Option<(&str, &[u8])> {
    let rest = line.strip_prefix(br#"{"type":""#)?;
    let end = memchr::memchr(b'"', rest)?;
    let (word, rest) = rest.split_at_checked(end)?;
    let object = rest.strip_prefix(br#"","object":"#)?.trim_ascii_end().strip_suffix(b"}")?;
    Some((std::str::from_utf8(word).ok()?, object))
}

fn read<K: Object>(line: &[u8]) -> Result<WatchEvent<Seen<K>>, Error> {
    if let Some((word, object)) = split(line)
        && let Ok(event) = read_object(word, object)
    {
        return Ok(event);
    }
    match serde_json::from_slice::<Event<'_>>(line) {
        Ok(event) => read_object(&event.r#type, event.object.get().as_bytes()),
        // A plain `Status` in place of events.
        Err(error) => serde_json::from_slice(line).map(WatchEvent::Error).map_err(|_| Error::SerdeError(error)),
    }
}

fn read_object<K: Object>(word: &str, object: &[u8]) -> Result<WatchEvent<Seen<K>>, Error> {
    let event = match word {
        "ADDED" => K::read(object).map(WatchEvent::Added),
        "MODIFIED" => K::read(object).map(WatchEvent::Modified),
        "DELETED" => K::read(object).map(WatchEvent::Deleted),
        "BOOKMARK" => serde_json::from_slice(object).map(WatchEvent::Bookmark),
        "ERROR" => serde_json::from_slice(object).map(WatchEvent::Error),
        _ => Err(serde::de::Error::unknown_variant(word, &["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"])),
    };
    event.map_err(Error::SerdeError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::k8s::api::core::v1::ConfigMap;
    use futures::{TryStreamExt, stream};
    use kube::ResourceExt;

    #[test]
    fn an_event_is_read_whatever_its_object_is() {
        let event = |word: &str, data: &str| {
            let line = format!(r#"{{"type":"{word}","object":{{"metadata":{{"name":"a","resourceVersion":"5"}},"data":{data}}}}}"#);
            read::<ConfigMap>(line.as_bytes())
        };
        assert!(matches!(event("ADDED", r#"{"k":"v"}"#), Ok(WatchEvent::Added(seen)) if seen.fault.is_none()));
        assert!(matches!(event("MODIFIED", r#"{"k":null}"#), Ok(WatchEvent::Modified(seen)) if seen.fault.is_none()));
        let Ok(WatchEvent::Deleted(seen)) = event("DELETED", "7") else { panic!("it is told that it is gone") };
        assert_eq!((seen.object.resource_version().as_deref(), seen.fault.is_some()), (Some("5"), true));
        assert!(event("NONSENSE", "7").is_err());
        assert!(read::<ConfigMap>(br#"{"type":"ADDED","object":{"metadata":{"name":"a"}},"and":1}"#).is_ok(), "a field more");
        assert!(read::<ConfigMap>(br#"{"object":{"metadata":{"name":"a"}},"type":"ADDED"}"#).is_ok(), "in another order");
        assert!(read::<ConfigMap>(br#"{"type":"ADDED","object":{"metadata":{"name":"a"}}"#).is_err(), "cut off");
        let status = r#"{"kind":"Status","status":"Failure","code":410,"message":"gone","reason":"Expired"}"#;
        for line in [status.to_owned(), format!(r#"{{"type":"ERROR","object":{status}}}"#)] {
            assert!(matches!(read::<ConfigMap>(line.as_bytes()), Ok(WatchEvent::Error(status)) if status.code == 410), "{line}");
        }
        assert!(read::<ConfigMap>(b"<html>").is_err());
    }

    #[test]
    fn a_list_has_the_revision_of_its_end_and_nothing_that_was_deleted_meanwhile() {
        let (mut from, mut listing) = (None, Some(BTreeMap::new()));
        let mut say = |word: &str, name: &str, rev: &str, notes: &str| {
            let line = format!(
                r#"{{"type":"{word}","object":{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","resourceVersion":"{rev}","annotations":{notes}}}}}}}"#
            );
            let change = take(read::<ConfigMap>(line.as_bytes()).unwrap(), &mut from, &mut listing).unwrap();
            let told = change.map(|change| match change {
                Change::Listed(all, rev) => {
                    let all: Vec<String> = all.into_iter().map(|(key, seen)| key.name + &seen.object.resource_version().unwrap()).collect();
                    format!("all {all:?} at {rev}")
                }
                Change::Put(seen) => format!("put {}", seen.object.name_any()),
                Change::Gone(seen) => format!("gone {}", seen.object.name_any()),
                Change::Reached(rev) => format!("reached {rev}"),
                Change::Failed(error) => panic!("{error}"),
                Change::Kept(all, rev) => format!("kept {} at {rev}", all.len()),
            });
            (told.unwrap_or_default(), from.clone().unwrap_or_default())
        };
        let said = |told: &str, from: &str| (told.to_owned(), from.to_owned());
        for (word, name, rev) in
            [("ADDED", "a", "3"), ("ADDED", "b", "7"), ("MODIFIED", "a", "8"), ("DELETED", "b", "9"), ("BOOKMARK", "", "9")]
        {
            assert_eq!(say(word, name, rev, "{}"), said("", ""), "{word}: nothing is told, and nothing resumed from, before the end");
        }
        let end = say("BOOKMARK", "", "12", r#"{"k8s.io/initial-events-end":"true"}"#);
        assert_eq!(end, said("all [\"a8\"] at 12", "12"));
        assert_eq!(say("ADDED", "c", "13", "{}"), said("put c", "13"));
        assert_eq!(say("DELETED", "a", "14", "{}"), said("gone a", "14"));
        assert_eq!(say("BOOKMARK", "", "20", "{}"), said("reached 20", "20"));
        listing = Some(BTreeMap::new());
        let line = format!(
            r#"{{"type":"BOOKMARK","object":{{"apiVersion":"v1","kind":"Kept","metadata":{{"resourceVersion":"21","annotations":{{"k8s.io/initial-events-end":"true","{FROM_DISK}":"true"}}}}}}}}"#
        );
        let kept = take(read::<ConfigMap>(line.as_bytes()).unwrap(), &mut from, &mut listing).unwrap();
        assert!(matches!(kept, Some(Change::Kept(all, 21)) if all.is_empty()) && from.as_deref() == Some("21"));
    }

    #[tokio::test]
    async fn lines_come_in_any_pieces_and_have_a_bound() {
        let pieces = ["a\nb", "c", "\n", "\nd", "no end"];
        let body = stream::iter(pieces.map(|piece| Ok::<_, std::io::Error>(piece.as_bytes())));
        let (mut lines, mut line, mut all) = (body.into_async_read(), Vec::new(), Vec::new());
        while next_line(&mut lines, &mut line).await.unwrap() {
            all.push(String::from_utf8(line.clone()).unwrap());
        }
        assert_eq!(all, ["a\n", "bc\n", "\n"]);
        let piece = vec![b'x'; 1 << 20];
        let mut endless = stream::repeat_with(|| Ok::<_, std::io::Error>(piece.as_slice())).into_async_read();
        let error = next_line(&mut endless, &mut line).await.unwrap_err();
        assert!(matches!(error, Error::LinesCodecMaxLineLengthExceeded) && line.len() <= LINE_MAX + piece.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_nobody_ends_is_begun_again() {
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = asked.clone();
        let server = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            assert!(request.uri().query().unwrap().contains("timeoutSeconds=290"));
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let silent = stream::pending::<Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>>();
            std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::StreamBody::new(silent))))
        });
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let began = Instant::now();
        let following = follow::<ConfigMap>(crate::patient(server, "kubelet"), Query::default(), move |change| tell.send(change).unwrap());
        let failed = async { (told.recv().await, told.recv().await) };
        tokio::select! {
            () = following => unreachable!("it goes on for ever"),
            (first, second) = failed => assert!(matches!((first, second), (Some(Change::Failed(_)), Some(Change::Failed(_))))),
        }
        assert!(began.elapsed() >= WATCH_BOUND * 2 && asked.load(std::sync::atomic::Ordering::Relaxed) == 2);
    }

    #[test]
    fn names_are_escaped_in_selectors() {
        assert_eq!(Query::named("n", "a,b=c\\").field_selector, "metadata.name=a\\,b\\=c\\\\");
    }
}
