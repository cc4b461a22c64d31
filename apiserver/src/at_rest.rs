//! Objects as the engine has them (JSON) <-> the bytes that stand in the store: protobuf where that is written, and encryption at rest.
//!
//! The store knows only bytes, and the caches keep plain JSON: the engine seals what it writes and opens what it reads, here. Where nothing is
//! configured, JSON passes as it is, shared with the store; what is sealed stands in an embedded store's memory a second time.
//! Sources: apiserver `pkg/storage/value`, `pkg/server/options/encryptionconfig`.

mod ciphers;
pub mod config;
mod envelope;
mod kms;
mod providers;
pub mod reload;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use serde_json::Value;

use kms::Patience;
pub use providers::Encryption;

use crate::{
    kind::Kind,
    schema::{MAGIC, enveloped},
};

/// What all encrypted values begin with.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// In which form built-in kinds are written. Custom ones are JSON always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Media {
    #[default]
    Json,
    /// But for kinds of these groups, which are JSON.
    Protobuf { but: &'static [&'static str] },
}

impl Media {
    fn is_protobuf_of(self, kind: &Kind) -> bool {
        matches!(self, Self::Protobuf { but } if !but.contains(&&*kind.group)) && kind.schema.has_protobuf()
    }
}

/// How objects stand in the store: one for the engine. JSON, in the clear, by default.
#[derive(Default)]
pub struct AtRest {
    encryption: ArcSwapOption<Encryption>,
    media: Media,
    /// Something stood there otherwise than as JSON in the clear.
    has_met_other: AtomicBool,
    older: &'static [Older],
}

/// Versions of a kind whose messages are read as those of the version that is stored.
pub struct Older {
    pub group: &'static str,
    pub kind: &'static str,
    pub versions: &'static [&'static str],
}

impl Older {
    fn is(&self, kind: &Kind, api_version: &str) -> bool {
        let is_of = |version: &&str| api_version.strip_suffix(*version).and_then(|rest| rest.strip_suffix('/')) == Some(self.group);
        self.group == kind.group && self.kind == kind.kind && self.versions.iter().any(is_of)
    }
}

impl AtRest {
    pub fn new(encryption: Option<Encryption>, media: Media) -> Arc<Self> {
        Arc::new(Self { encryption: ArcSwapOption::from(encryption.map(Arc::new)), media, ..Self::default() })
    }

    /// As [`AtRest::new`], where these are read, too.
    pub fn reading(encryption: Option<Encryption>, media: Media, older: &'static [Older]) -> Arc<Self> {
        Arc::new(Self { encryption: ArcSwapOption::from(encryption.map(Arc::new)), media, older, ..Self::default() })
    }

    /// From now on written and read so. A KMS that stays where it was is not asked again for the keys that are known.
    pub fn change(&self, encryption: Arc<Encryption>) {
        if let Some(before) = self.encryption.load_full() {
            encryption.inherit(&before);
        }
        self.encryption.store(Some(encryption));
    }

    /// As it is now. `None`: nothing is encrypted.
    pub fn encryption(&self) -> Option<Arc<Encryption>> {
        self.encryption.load_full()
    }

    /// What is written under `key` for an object of `kind`, whose JSON this is.
    ///
    /// # Errors
    /// The key to write with is not to be had.
    pub(crate) fn seal(&self, kind: &Kind, key: &str, json: &Bytes) -> Result<Bytes, String> {
        let written = if self.media.is_protobuf_of(kind) { protobuf(kind, json)? } else { json.clone() };
        match &*self.encryption.load() {
            None => Ok(written),
            Some(encryption) => encryption.seal(&kind.group, &kind.plural, key, &written),
        }
    }

    /// The JSON of what stands under `key` for an object of `kind`; the same bytes where they are that.
    ///
    /// # Errors
    /// It cannot be decrypted, or is of no form that is known.
    pub(crate) fn open(&self, kind: &Kind, key: &str, stored: &Bytes) -> Result<Bytes, String> {
        let plain = match &*self.encryption.load() {
            None if stored.first() == Some(&b'{') => return Ok(self.upgraded(kind, stored.clone())),
            None => providers::unencrypted(stored)?,
            Some(encryption) => encryption.open(&kind.group, &kind.plural, key, stored)?.plain,
        };
        if !plain.starts_with(MAGIC) {
            return Ok(self.upgraded(kind, plain));
        }
        self.has_met_other.store(true, Ordering::Relaxed);
        self.json(kind, &plain)
    }

    /// An older version's JSON in the version that is stored. Of most kinds nothing is looked at.
    fn upgraded(&self, kind: &Kind, json: Bytes) -> Bytes {
        let Some(upgrade) = kind.strategy.upgrade() else { return json };
        // As it is written, kind and version come first.
        if json.starts_with(format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\"", kind.kind, kind.api_version()).as_bytes()) {
            return json;
        }
        match serde_json::from_slice::<Value>(&json) {
            Ok(value) if value.get("apiVersion").and_then(Value::as_str) != Some(&*kind.api_version()) => {
                self.has_met_other.store(true, Ordering::Relaxed);
                bytes_of(&upgrade(value))
            }
            _ => json,
        }
    }

    fn json(&self, kind: &Kind, protobuf: &[u8]) -> Result<Bytes, String> {
        let Some(tables) = kind.schema.tables() else { return Err(format!("{} has no protobuf form", kind.kind)) };
        let is_same = |api_version: &str| self.older.iter().any(|older| older.is(kind, api_version));
        let mut value = tables.stored(&kind.api_version(), &kind.kind, protobuf, is_same).map_err(|why| why.to_string())?;
        kind.schema.complete(&mut value);
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("resourceVersion");
        }
        Ok(bytes_of(&value))
    }

    /// Asks for the keys that these values were encrypted with, where somebody has to be asked: [`AtRest::open`] never waits. What cannot be
    /// learnt is told there.
    pub(crate) async fn learn(&self, values: impl Iterator<Item = &Bytes>) {
        let Some(encryption) = self.encryption.load_full() else { return };
        encryption.learn(values, Patience::Waits).await;
    }

    /// The same for whoever follows the store: nothing is seen of any kind while it waits, so that a KMS that did not answer last is not asked. What
    /// cannot be opened then is tried again beside it.
    pub(crate) async fn learn_in_passing(&self, values: impl Iterator<Item = &Bytes>) {
        let Some(encryption) = self.encryption.load_full() else { return };
        encryption.learn(values, Patience::Passes).await;
    }

    /// Whether what stands there may be other than what would be written.
    pub(crate) fn may_differ(&self) -> bool {
        self.encryption.load().is_some() || self.media != Media::Json || self.has_met_other.load(Ordering::Relaxed)
    }

    /// Whether it is: then an update writes it anew although it changes nothing (`stale` in `storage/etcd3/store.go`).
    pub(crate) fn is_stale(&self, kind: &Kind, key: &str, stored: &Bytes) -> bool {
        let (plain, is_stale) = match &*self.encryption.load() {
            None => (stored.clone(), false),
            Some(encryption) => match encryption.open(&kind.group, &kind.plural, key, stored) {
                Ok(opened) => (opened.plain, opened.is_stale),
                // Whoever updates it has read it.
                Err(_) => return true,
            },
        };
        let is_upgraded = kind.strategy.upgrade().is_some() && self.upgraded(kind, plain.clone()) != plain;
        is_stale || is_upgraded || plain.starts_with(MAGIC) != self.media.is_protobuf_of(kind)
    }
}

fn protobuf(kind: &Kind, json: &[u8]) -> Result<Bytes, String> {
    let mut message = Vec::with_capacity(json.len());
    if !kind.schema.put_message(json, &mut message) {
        return Err(format!("{} cannot be written as protobuf", kind.kind));
    }
    Ok(enveloped(&kind.api_version(), &kind.kind, &message).into_boxed_slice().into())
}

/// In a buffer of exactly its size: it stays in memory.
fn bytes_of(value: &Value) -> Bytes {
    value.to_string().into_bytes().into_boxed_slice().into()
}

#[cfg(test)]
mod tests;
