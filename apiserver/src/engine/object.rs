//! Stored bytes -> a cache entry: the bytes as served, and a small parsed head.

use std::fmt;

use api::Key;
use bytes::{BufMut, Bytes, BytesMut};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use crate::kind::Kind;

/// One object as the cache keeps it: the bytes that are served, and a small parsed head.
pub struct Object {
    /// JSON with `metadata.resourceVersion`.
    pub bytes: Bytes,
    pub rev: u64,
    pub key: Key,
    pub head: Head,
}

/// What of an object is asked for often enough to be kept parsed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub uid: Box<str>,
    /// Sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    pub owners: Box<[Owner]>,
    /// Values of the kind's selectable fields, in the order of [`Kind::fields`]; `None` where absent.
    pub fields: Box<[Option<Box<str>>]>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
}

/// One of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub controller: bool,
    pub block_owner_deletion: bool,
}

impl Object {
    /// Parsed afresh; for paths where the head is not enough.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("cached bytes were parsed when they entered the cache")
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = &self.head.labels;
        labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok().and_then(|at| labels.get(at)).map(|(_, value)| &**value)
    }

    /// From bytes as stored (without a resource version), written at `rev`.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub(crate) fn from_stored(kind: &Kind, key: Key, stored: &Bytes, rev: u64) -> Result<Self, serde_json::Error> {
        let head = head(kind, stored)?;
        let bytes = with_version(stored, rev).ok_or_else(|| serde_json::Error::custom("no metadata"))?;
        Ok(Self { bytes, rev, key, head })
    }

    /// The same state under another resource version, as deletions show it.
    pub(crate) fn bytes_at(&self, rev: u64) -> Bytes {
        let old = format!("\"resourceVersion\":\"{}\"", self.rev);
        let Some(at) = find(&self.bytes, old.as_bytes()) else { return self.bytes.clone() };
        let new = format!("\"resourceVersion\":\"{rev}\"");
        let mut out = BytesMut::with_capacity(self.bytes.len() + new.len());
        out.put_slice(&self.bytes[..at]);
        out.put_slice(new.as_bytes());
        out.put_slice(&self.bytes[at + old.len()..]);
        out.freeze()
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.rev)
    }
}

/// Puts `metadata.resourceVersion` in front of the other metadata. `None` where there is no metadata object.
pub(crate) fn with_version(stored: &[u8], rev: u64) -> Option<Bytes> {
    let at = metadata_start(stored)?;
    let (before, after) = stored.split_at(at);
    let empty = after.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'}');
    let version = format!("\"resourceVersion\":\"{rev}\"{}", if empty { "" } else { "," });
    let mut out = BytesMut::with_capacity(stored.len() + version.len());
    out.put_slice(before);
    out.put_slice(version.as_bytes());
    out.put_slice(after);
    Some(out.freeze())
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

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The parsed part of an object's metadata.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    uid: Option<Box<str>>,
    labels: Option<std::collections::BTreeMap<Box<str>, Option<Box<str>>>>,
    owner_references: Option<Vec<Option<OwnerIn>>>,
    deletion_timestamp: Option<IgnoredAny>,
}

/// [`Owner`] with what may be null.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OwnerIn {
    api_version: Option<Box<str>>,
    kind: Option<Box<str>>,
    name: Option<Box<str>>,
    uid: Option<Box<str>>,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

impl From<OwnerIn> for Owner {
    fn from(o: OwnerIn) -> Self {
        Self {
            api_version: o.api_version.unwrap_or_default(),
            kind: o.kind.unwrap_or_default(),
            name: o.name.unwrap_or_default(),
            uid: o.uid.unwrap_or_default(),
            controller: o.controller.unwrap_or_default(),
            block_owner_deletion: o.block_owner_deletion.unwrap_or_default(),
        }
    }
}

fn head(kind: &Kind, json: &[u8]) -> Result<Head, serde_json::Error> {
    let paths: Vec<Vec<&str>> = kind.fields.iter().map(|f| f.pointer.split('/').skip(1).collect()).collect();
    let mut out = Scanned { meta: Meta::default(), fields: vec![None; paths.len()] };
    let wanted: Vec<usize> = (0..paths.len()).collect();
    let mut parser = serde_json::Deserializer::from_slice(json);
    Scan { paths: &paths, wanted: &wanted, depth: 0, out: &mut out }.deserialize(&mut parser)?;
    parser.end()?;
    let labels = out.meta.labels.unwrap_or_default().into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect();
    Ok(Head {
        uid: out.meta.uid.unwrap_or_default(),
        labels,
        owners: out.meta.owner_references.unwrap_or_default().into_iter().flatten().map(Owner::from).collect(),
        fields: out.fields.into(),
        deleting: out.meta.deletion_timestamp.is_some(),
    })
}

struct Scanned {
    meta: Meta,
    fields: Vec<Option<Box<str>>>,
}

/// Walks the JSON along the wanted paths and skips all else.
struct Scan<'a> {
    paths: &'a [Vec<&'a str>],
    wanted: &'a [usize],
    depth: usize,
    out: &'a mut Scanned,
}

impl Scan<'_> {
    fn leaf(self, text: &str) {
        for at in self.wanted {
            if self.paths[*at].len() == self.depth {
                self.out.fields[*at] = Some(text.into());
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if self.depth == 0 && key == "metadata" {
                self.out.meta = map.next_value()?;
                continue;
            }
            let on_path = |at: &&usize| self.paths[**at].get(self.depth) == Some(&&*key);
            let wanted: Vec<usize> = self.wanted.iter().filter(on_path).copied().collect();
            if wanted.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Scan { paths: self.paths, wanted: &wanted, depth: self.depth + 1, out: self.out })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.leaf(text);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.leaf(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.leaf(&value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.leaf(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.leaf(&value.to_string());
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_goes_into_the_top_level_metadata() {
        let cases = [
            (r#"{"kind":"X","metadata":{"name":"a"}}"#, r#"{"kind":"X","metadata":{"resourceVersion":"7","name":"a"}}"#),
            (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
            (
                r#"{"a":{"metadata":{"b":1}},"c":"\"metadata","metadata" : {"d":[]}}"#,
                r#"{"a":{"metadata":{"b":1}},"c":"\"metadata","metadata" : {"resourceVersion":"7","d":[]}}"#,
            ),
        ];
        for (stored, served) in cases {
            assert_eq!(with_version(stored.as_bytes(), 7).unwrap(), served);
        }
        assert_eq!(with_version(br#"{"kind":"metadata"}"#, 7), None);
        assert_eq!(with_version(br#"["metadata",{"a":1}]"#, 7), None);
    }
}
