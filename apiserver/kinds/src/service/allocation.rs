//! `/registry/ranges/servicenodeports` <-> which node ports are taken: a RangeAllocation of core/v1, that a stock API server shares with us.
//!
//! Source: `pkg/registry/core/service/allocator/storage`, `staging/src/k8s.io/api/core/v1/generated.proto`. Stock servers store it in protobuf by
//! default and read JSON; what cannot be read is never written over.

use std::ops::RangeInclusive;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Value, json};

use super::bitmap::Bitmap;
use crate::common::{Read, edit};

pub const KEY: &str = "/registry/ranges/servicenodeports";

/// What begins an object in protobuf.
const MAGIC: &[u8] = b"k8s\0";

/// The object as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// `30000-32767`; empty where nobody has set it.
    pub range: String,
    pub taken: Bitmap,
    /// What was read, for what it has besides.
    object: Value,
}

impl Allocation {
    pub fn new(range: &RangeInclusive<u16>, taken: Bitmap) -> Self {
        let object = json!({"kind": "RangeAllocation", "apiVersion": "v1", "metadata": {}});
        Self { range: spell(range), taken, object }
    }

    /// # Errors
    /// Why it cannot be read.
    pub fn read(stored: &[u8]) -> Result<Self, String> {
        match stored.strip_prefix(MAGIC) {
            Some(wrapped) => Self::from_protobuf(wrapped).ok_or_else(|| "it is no RangeAllocation in protobuf".into()),
            None => Self::from_json(stored),
        }
    }

    /// In JSON, with another set.
    pub fn write(mut self, range: &RangeInclusive<u16>, taken: &Bitmap) -> Bytes {
        edit::set(&mut self.object, "range", spell(range));
        edit::set(&mut self.object, "data", STANDARD.encode(taken.bytes()));
        self.object.to_string().into()
    }

    fn from_json(stored: &[u8]) -> Result<Self, String> {
        let object: Value = serde_json::from_slice(stored).map_err(|error| error.to_string())?;
        if object.text("kind") != "RangeAllocation" {
            return Err(format!("it is of kind {:?}", object.text("kind")));
        }
        let data = STANDARD.decode(object.text("data")).map_err(|error| format!("data: {error}"))?;
        Ok(Self { range: object.text("range").to_owned(), taken: Bitmap::from_bytes(&data), object })
    }

    /// A `runtime.Unknown`: the type is field 1 (its kind 2), the object field 2. Of a RangeAllocation: metadata 1, range 2, data 3.
    fn from_protobuf(wrapped: &[u8]) -> Option<Self> {
        let (mut kind, mut raw) = (&[][..], None);
        for (number, value) in fields(wrapped)? {
            match number {
                1 => kind = fields(value)?.into_iter().rfind(|(number, _)| *number == 2)?.1,
                2 => raw = Some(value),
                // An encoding or a content type that we do not know.
                _ if !value.is_empty() => return None,
                _ => {}
            }
        }
        if kind != b"RangeAllocation" {
            return None;
        }
        let mut allocation = Self::new(&(0..=0), Bitmap::default());
        allocation.range.clear();
        for (number, value) in fields(raw?)? {
            match number {
                2 => allocation.range = std::str::from_utf8(value).ok()?.to_owned(),
                3 => allocation.taken = Bitmap::from_bytes(value),
                _ => {}
            }
        }
        Some(allocation)
    }
}

/// As upstream's `PortRange` writes itself.
pub fn spell(range: &RangeInclusive<u16>) -> String {
    format!("{}-{}", range.start(), range.end())
}

/// The fields of a message, all of them byte strings: the only ones these objects have. `None` where it is something else.
fn fields(mut message: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        if tag & 7 != 2 {
            return None;
        }
        let length = usize::try_from(varint(&mut message)?).ok()?;
        let (value, rest) = message.split_at_checked(length)?;
        found.push((tag >> 3, value));
        message = rest;
    }
    Some(found)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: RangeInclusive<u16> = 30000..=32767;

    fn taken(ports: &[usize]) -> Bitmap {
        let mut bitmap = Bitmap::default();
        ports.iter().for_each(|port| bitmap.set(port - 30000));
        bitmap
    }

    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(value.len()).unwrap()], value].concat()
    }

    /// As a stock server stores it: empty encodings at the end, empty metadata.
    fn stock(kind: &[u8]) -> Vec<u8> {
        let typ = [field(1, b"v1"), field(2, kind)].concat();
        let object = [field(1, &field(1, b"")), field(2, b"30000-32767"), field(3, &taken(&[30000, 30009]).bytes())].concat();
        [MAGIC, &field(1, &typ), &field(2, &object), &field(3, b""), &field(4, b"")].concat()
    }

    #[test]
    fn what_is_written_reads_as_a_stock_server_writes_it() {
        let bytes = Allocation::new(&RANGE, Bitmap::default()).write(&RANGE, &taken(&[30000, 30009]));
        let text = r#"{"kind":"RangeAllocation","apiVersion":"v1","metadata":{},"range":"30000-32767","data":"AgE="}"#;
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), text);
        let read = Allocation::read(&bytes).unwrap();
        assert_eq!((read.range.as_str(), &read.taken), ("30000-32767", &taken(&[30000, 30009])));
        let more = Allocation::read(
            br#"{"kind":"RangeAllocation","apiVersion":"v1","metadata":{"creationTimestamp":null},"range":"","data":null}"#,
        );
        let more = more.unwrap().write(&RANGE, &Bitmap::default());
        assert!(more.starts_with(br#"{"kind":"RangeAllocation","apiVersion":"v1","metadata":{"creationTimestamp":null}"#));
    }

    #[test]
    fn protobuf_is_read_and_what_is_neither_is_refused() {
        let read = Allocation::read(&stock(b"RangeAllocation")).unwrap();
        assert_eq!((read.range.as_str(), &read.taken), ("30000-32767", &taken(&[30000, 30009])));
        assert!(Allocation::read(&stock(b"Service")).is_err());
        for bad in [&b""[..], b"{", b"k8s:enc:aescbc:v1:key1:x", br#"{"kind":"Service"}"#, br#"{"kind":"RangeAllocation","data":"%"}"#] {
            assert!(Allocation::read(bad).is_err(), "{bad:?}");
        }
        // Cut anywhere, it is either refused or lacks its data: never read as something else.
        let whole = stock(b"RangeAllocation");
        let object = whole.len() - 4;
        for end in 0..object {
            assert!(Allocation::read(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_range_is_spelt_as_upstream_does() {
        assert_eq!([spell(&RANGE), spell(&(30000..=30000))], ["30000-32767", "30000-30000"]);
    }
}
