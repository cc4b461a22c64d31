//! Stored bytes -> a cache entry: the store's own bytes, where the resource version goes, and a small head of places in them.
//!
//! The version is no part of what is stored: it is put in while an object is written out, so that nothing is held twice.

use std::{
    borrow::Cow,
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use api::Key;
use arc_swap::{ArcSwapOption, Guard};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, de::Error as _};
use serde_json::Value;

use super::{head::Head, meta};
use crate::kind::Kind;

const VERSION: &[u8] = b"\"resourceVersion\":\"";
/// Kind and version stand in these, most often.
const HEAD_BYTES: usize = 256;
/// Digits of the largest revision.
const DIGITS_MAX: usize = 20;

/// One object as the cache keeps it. Its bytes are those of the store, shared with it.
pub struct Object {
    stored: Bytes,
    version: Version,
    pub rev: u64,
    pub key: Key,
    head: Head,
    /// Length of its protobuf message once it was written, else 0.
    message_len: AtomicU32,
    /// That message, where it is kept.
    message: ArcSwapOption<Message>,
    /// Length of the kind and version that the bytes begin with, 0 where they do not.
    typed_len: u16,
    /// The read step ([`ReadStep::number`]) that left it as it is; 0 for none.
    ///
    /// [`ReadStep::number`]: crate::kind::ReadStep::number
    unchanged_by: AtomicU32,
}

/// The protobuf message of what is stored, under the object's own revision.
pub(crate) struct Message {
    bytes: Box<[u8]>,
    was_read: AtomicBool,
}

/// Where `metadata.resourceVersion` goes when the object is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// The bytes are as shown.
    Within,
    /// At this offset, and a comma behind it.
    Before(u32),
    /// At this offset, with nothing behind it.
    Alone(u32),
}

impl Object {
    /// From bytes as stored (without a resource version), written at `rev`.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub(crate) fn from_stored(kind: &Kind, key: Key, stored: &Bytes, rev: u64) -> Result<Self, serde_json::Error> {
        let head = Head::scan(kind, stored)?;
        let version = Version::find(stored).ok_or_else(|| serde_json::Error::custom("no metadata"))?;
        Ok(Self {
            typed_len: typed_len(stored),
            stored: stored.clone(),
            version,
            rev,
            key,
            head,
            message_len: AtomicU32::default(),
            message: ArcSwapOption::default(),
            unchanged_by: AtomicU32::default(),
        })
    }

    /// From bytes as shown: an object that is in no cache.
    pub(crate) fn from_shown(kind: &Kind, key: Key, shown: Bytes, rev: u64) -> Self {
        let head = Head::scan(kind, &shown).unwrap_or_default();
        Self {
            typed_len: typed_len(&shown),
            stored: shown,
            version: Version::Within,
            rev,
            key,
            head,
            message_len: AtomicU32::default(),
            message: ArcSwapOption::default(),
            unchanged_by: AtomicU32::default(),
        }
    }

    /// As [`Object::from_shown`], of which only the bytes are asked for.
    pub(crate) fn loose(key: Key, shown: Bytes) -> Self {
        Self {
            stored: shown,
            version: Version::Within,
            rev: 0,
            key,
            head: Head::default(),
            message_len: AtomicU32::default(),
            message: ArcSwapOption::default(),
            typed_len: 0,
            unchanged_by: AtomicU32::default(),
        }
    }

    /// Parsed afresh; for paths where the head is not enough.
    pub fn value(&self) -> Value {
        self.value_at(self.rev)
    }

    /// As [`Object::value`] under another resource version.
    pub(crate) fn value_at(&self, rev: u64) -> Value {
        api::steps::took(1);
        let mut value: Value = serde_json::from_slice(&self.stored).expect("cached bytes were parsed when they entered the cache");
        if self.version != Version::Within {
            meta::of(&mut value).shift_insert(0, "resourceVersion".into(), rev.to_string().into());
        }
        value
    }

    /// What the type names of the object as it is stored; all else is skipped, and nothing is made of it.
    ///
    /// # Errors
    /// What is of another type than it should be.
    pub fn part<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        api::steps::took(1);
        serde_json::from_slice(&self.stored)
    }

    /// Whether its bytes are as they are shown: it has been converted, or is in no store.
    pub(crate) fn is_shown(&self) -> bool {
        self.version == Version::Within
    }

    /// Whether the read step of this number leaves it as it is: then its bytes can be shown.
    pub(crate) fn is_unchanged_by(&self, step: u32) -> bool {
        self.unchanged_by.load(Ordering::Relaxed) == step
    }

    pub(crate) fn note_unchanged_by(&self, step: u32) {
        self.unchanged_by.store(step, Ordering::Relaxed);
    }

    /// Whether the object is in this version (`apiVersion`), as it is stored.
    pub(crate) fn is_of(&self, api_version: &str) -> bool {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed<'a> {
            #[serde(borrow)]
            api_version: Cow<'a, str>,
        }
        // As it is written, kind and version come first.
        let start = self.stored.get(..HEAD_BYTES).unwrap_or(&self.stored);
        if let Some(rest) = start.strip_prefix(b"{\"kind\":\"").and_then(|rest| rest.splitn(2, |b| *b == b'"').nth(1))
            && let Some(rest) = rest.strip_prefix(b",\"apiVersion\":\"")
            && let Some(end) = rest.iter().position(|b| *b == b'"')
        {
            return &rest[..end] == api_version.as_bytes();
        }
        self.part::<Typed<'_>>().is_ok_and(|typed| typed.api_version == api_version)
    }

    pub fn uid(&self) -> &str {
        self.head.uid(&self.stored)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.head.label(&self.stored, key)
    }

    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.head.labels(&self.stored)
    }

    /// Whether `metadata.deletionTimestamp` is set.
    pub fn is_deleting(&self) -> bool {
        self.head.deleting
    }

    /// The value of the kind's selectable field at this index of [`Kind::fields`]; `None` where absent.
    pub(crate) fn field(&self, at: usize) -> Option<&str> {
        self.head.field(&self.stored, at)
    }

    /// Length of the protobuf message of what is stored, under its own revision, once somebody has written it.
    pub(crate) fn message_len(&self) -> Option<usize> {
        let length = self.message_len.load(Ordering::Relaxed);
        (length > 0).then_some(length as usize)
    }

    pub(crate) fn know_message_len(&self, length: usize) {
        self.message_len.store(u32::try_from(length).unwrap_or_default(), Ordering::Relaxed);
    }

    /// That message, if it is kept.
    pub(crate) fn message(&self) -> Guard<Option<Arc<Message>>> {
        self.message.load()
    }

    /// For who counts what is kept.
    pub(super) fn set_message(&self, message: Option<Message>) {
        self.message.store(message.map(Arc::new));
    }

    /// JSON as it is stored, without a resource version.
    pub fn stored(&self) -> &Bytes {
        &self.stored
    }

    /// JSON as it is shown, in a buffer of its own.
    pub fn bytes(&self) -> Bytes {
        if self.version == Version::Within {
            return self.stored.clone();
        }
        // And room for the end of the line.
        let mut out = BytesMut::with_capacity(self.shown_len() + 1);
        self.put(&mut out);
        out.freeze()
    }

    /// Length of what [`Object::put`] writes.
    pub(crate) fn shown_len(&self) -> usize {
        let extra = |comma: usize| VERSION.len() + Digits::of(self.rev).text().len() + 1 + comma;
        self.stored.len()
            + match self.version {
                Version::Within => 0,
                Version::Before(_) => extra(1),
                Version::Alone(_) => extra(0),
            }
    }

    /// Length of what [`Object::put_untyped`] writes.
    pub(crate) fn untyped_len(&self) -> usize {
        self.shown_len() - usize::from(self.typed_len.saturating_sub(1))
    }

    /// Appends the object as a list shows it that has said of which kind its items are.
    pub(crate) fn put_untyped(&self, out: &mut BytesMut) {
        if self.typed_len > 0 {
            out.put_u8(b'{');
        }
        self.put_part(usize::from(self.typed_len)..self.stored.len(), self.rev, out);
    }

    /// Appends the object as it is shown.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        self.put_at(self.rev, out);
    }

    /// Appends the same state under another resource version, as deletions show it.
    pub(crate) fn put_at(&self, rev: u64, out: &mut BytesMut) {
        self.put_part(0..self.stored.len(), rev, out);
    }

    /// Appends `metadata` alone, as an object, under the resource version `rev`. False: it could not be found, and nothing was written.
    pub(crate) fn put_metadata_at(&self, rev: u64, out: &mut BytesMut) -> bool {
        let (Version::Before(at) | Version::Alone(at)) = self.version else { return false };
        let Some(end) = object_end(&self.stored, at as usize) else { return false };
        out.put_u8(b'{');
        self.put_part(at as usize..end, rev, out);
        true
    }

    /// Appends a part of the bytes within which the version goes.
    fn put_part(&self, part: Range<usize>, rev: u64, out: &mut BytesMut) {
        let (at, comma) = match self.version {
            Version::Within => return out.put_slice(&self.stored[part]),
            Version::Before(at) => (at as usize, &b"\","[..]),
            Version::Alone(at) => (at as usize, &b"\""[..]),
        };
        out.reserve(part.len() + VERSION.len() + DIGITS_MAX + comma.len());
        out.put_slice(&self.stored[part.start..at]);
        out.put_slice(VERSION);
        out.put_slice(Digits::of(rev).text());
        out.put_slice(comma);
        out.put_slice(&self.stored[at..part.end]);
    }
}

impl Message {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into(), was_read: AtomicBool::default() }
    }

    pub fn read(&self) -> &[u8] {
        // Most are marked already, and what is only read stays in the caches of all cores.
        if !self.was_read.load(Ordering::Relaxed) {
            self.was_read.store(true, Ordering::Relaxed);
        }
        &self.bytes
    }

    /// Whether it was read since this was last asked.
    pub fn was_read(&self) -> bool {
        self.was_read.swap(false, Ordering::Relaxed)
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.rev)
    }
}

impl Version {
    /// In front of the other metadata. `None` where there is no metadata object.
    fn find(stored: &[u8]) -> Option<Self> {
        let at = metadata_start(stored)?;
        let empty = stored.get(at..)?.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'}');
        let at = u32::try_from(at).ok()?;
        Some(if empty { Self::Alone(at) } else { Self::Before(at) })
    }
}

/// `{"kind":"…","apiVersion":"…",`, as [`super::form`] writes it; 0 where the bytes begin otherwise.
fn typed_len(json: &[u8]) -> u16 {
    let text = |rest: &[u8], before: &[u8]| {
        let value = rest.strip_prefix(before)?;
        let end = value.iter().take(HEAD_BYTES).position(|b| matches!(b, b'"' | b'\\'))?;
        (value[end] == b'"').then_some(before.len() + end)
    };
    let length = (|| {
        let kind = text(json, b"{\"kind\":\"")?;
        let version = text(&json[kind..], b"\",\"apiVersion\":\"")?;
        json[kind + version..].starts_with(b"\",").then_some(kind + version + 2)
    })();
    length.and_then(|length| u16::try_from(length).ok()).unwrap_or_default()
}

/// A number in decimal, on the stack.
struct Digits {
    digits: [u8; DIGITS_MAX],
    used: Range<usize>,
}

impl Digits {
    fn of(mut number: u64) -> Self {
        let (mut digits, mut at) = ([b'0'; DIGITS_MAX], DIGITS_MAX);
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            at -= 1;
            if number == 0 {
                break;
            }
        }
        Self { digits, used: at..DIGITS_MAX }
    }

    fn text(&self) -> &[u8] {
        &self.digits[self.used.clone()]
    }
}

/// Where the content of the top-level `metadata` object begins, just after its brace. `json` is well-formed.
fn metadata_start(json: &[u8]) -> Option<usize> {
    let (mut at, mut depth, mut key_next) = (0, 0_usize, false);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => {
                let end = string_end(json, at)?;
                let is_key = std::mem::take(&mut key_next) && depth == 1;
                if is_key && json.get(at + 1..end) == Some(b"metadata") {
                    return object_start(json, end + 1);
                }
                at = end;
            }
            b'{' | b'[' => {
                depth += 1;
                key_next = byte == b'{' && depth == 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => key_next = depth == 1,
            _ => {}
        }
        at += 1;
    }
    None
}

fn object_start(json: &[u8], from: usize) -> Option<usize> {
    let skipped = json.get(from..)?.iter().position(|b| !b.is_ascii_whitespace() && *b != b':')?;
    (json.get(from + skipped) == Some(&b'{')).then_some(from + skipped + 1)
}

/// Behind the brace that closes the object whose content begins at `from`.
fn object_end(json: &[u8], from: usize) -> Option<usize> {
    let (mut at, mut depth) = (from, 1_usize);
    loop {
        match json.get(at)? {
            b'"' => at = string_end(json, at)?,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 1 => return Some(at + 1),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
}

/// The closing quote of the string that opens at `open`.
fn string_end(json: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        match json.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stored: &'static str, rev: u64) -> Option<String> {
        let stored = Bytes::from_static(stored.as_bytes());
        let version = Version::find(&stored)?;
        let object = Object {
            version,
            rev: 3,
            key: Key::default(),
            head: Head::default(),
            message_len: AtomicU32::default(),
            message: ArcSwapOption::default(),
            typed_len: typed_len(&stored),
            unchanged_by: AtomicU32::default(),
            stored,
        };
        assert_eq!(serde_json::from_slice::<Value>(&object.bytes()).unwrap(), object.value());
        assert_eq!(object.bytes().len(), object.shown_len());
        let mut out = BytesMut::new();
        object.put_at(rev, &mut out);
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), object.value_at(rev));
        let mut untyped = BytesMut::new();
        object.put_untyped(&mut untyped);
        assert_eq!(untyped.len(), object.untyped_len());
        let (mut typed, bare) = (object.value(), serde_json::from_slice::<Value>(&untyped).unwrap());
        if object.typed_len > 0 {
            typed.as_object_mut().unwrap().retain(|name, _| name != "kind" && name != "apiVersion");
        }
        assert_eq!(bare, typed);
        let mut metadata = BytesMut::new();
        assert!(object.put_metadata_at(rev, &mut metadata));
        assert_eq!(serde_json::from_slice::<Value>(&metadata).unwrap(), object.value_at(rev)["metadata"]);
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn the_version_goes_into_the_top_level_metadata() {
        let cases = [
            (r#"{"kind":"X","metadata":{"name":"a"}}"#, r#"{"kind":"X","metadata":{"resourceVersion":"7","name":"a"}}"#),
            (
                r#"{"kind":"X","apiVersion":"v1","metadata":{"name":"a"},"z":1}"#,
                r#"{"kind":"X","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"a"},"z":1}"#,
            ),
            (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
            (
                r#"{"a":{"metadata":{"b":1}},"c":"\"metadata","metadata" : {"d":[]}}"#,
                r#"{"a":{"metadata":{"b":1}},"c":"\"metadata","metadata" : {"resourceVersion":"7","d":[]}}"#,
            ),
        ];
        for (stored, served) in cases {
            assert_eq!(shown(stored, 7).unwrap(), served);
        }
        assert_eq!(shown(r#"{"kind":"metadata"}"#, 7), None);
        assert_eq!(shown(r#"["metadata",{"a":1}]"#, 7), None);
    }

    #[test]
    fn digits_are_those_of_the_number() {
        for number in [0, 7, 10, 4_294_967_296, u64::MAX] {
            assert_eq!(Digits::of(number).text(), number.to_string().as_bytes());
        }
    }
}
