//! An object's JSON -> its protobuf message, in one pass: no tree is made of it. Source: gogo's generated `MarshalToSizedBuffer`.
//!
//! What JSON holds that is of another type than its field (another server may have stored it) is left out, as if it were not there.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
};

use api::time;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Form, MAGIC, SCHEMA, Table, Type, Wire,
    layout::{self, BYTES, Layout, Part, VARINT, put_varint, wrap},
};
// What was taken as JSON can be written.
use crate::parse::DEPTH_MAX;

/// `time.Time{}.Unix()`: no time at all.
const ZERO_SECONDS: i64 = -62_135_596_800;

/// Writes messages of the definitions of one table. A definition's layout is worked out when it is first written.
pub struct Writer {
    table: Arc<Table>,
    wire: Arc<Wire>,
    layouts: Vec<OnceLock<Layout>>,
}

impl Writer {
    pub(in crate::schema) fn new(table: Arc<Table>, wire: Arc<Wire>) -> Self {
        let layouts = table.definitions().iter().map(|_| OnceLock::new()).collect();
        Self { table, wire, layouts }
    }

    /// Appends the message of definition `at` that `json` stands for; without kind and version, which no message has.
    ///
    /// # Errors
    /// What is wrong with the JSON; what was appended is of no use then.
    pub fn write(&self, at: u32, json: &[u8], out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let mut pen = Pen { writer: self, out, spans: Vec::new(), entries: Vec::new(), spare: Vec::new(), depth: 0 };
        let mut reader = serde_json::Deserializer::from_slice(json);
        let put = Put { pen: &mut pen, typ: Type::Object(at), tag: None, form: Form::Plain };
        put.deserialize(&mut reader)?;
        reader.end()
    }

    /// The definition of a kind.
    pub fn definition(&self, api_version: &str, kind: &str) -> Option<u32> {
        super::definition(&self.table, api_version, kind)
    }

    fn layout(&self, at: u32) -> &Layout {
        let layout = self.layouts.get(at as usize).expect("a type names a definition of its table");
        layout.get_or_init(|| Layout::of(&self.wire, &self.table, at))
    }
}

/// What comes before a message of `length` bytes that is an object on its own (`runtime.Unknown`); [`ENVELOPE_END`] comes behind it.
pub(crate) fn put_envelope(out: &mut Vec<u8>, api_version: &str, kind: &str, length: usize) {
    out.extend_from_slice(MAGIC);
    let start = out.len();
    for (number, text) in [(1, api_version), (2, kind)] {
        put_bytes(out, number << 3 | BYTES, text.as_bytes());
    }
    wrap(out, start, 1 << 3 | BYTES);
    put_varint(out, (2 << 3 | BYTES).into());
    put_varint(out, length as u64);
}

/// No encoding, no type of content.
pub(crate) const ENVELOPE_END: &[u8] = &[0x1a, 0, 0x22, 0];

/// A message as an object on its own.
pub fn enveloped(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + api_version.len() + kind.len() + 32);
    put_envelope(&mut out, api_version, kind, message.len());
    out.extend_from_slice(message);
    out.extend_from_slice(ENVELOPE_END);
    out
}

/// A field of bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    put_head(out, tag, bytes.len());
    out.extend_from_slice(bytes);
}

/// What comes before so many bytes that are a field.
pub(crate) fn put_head(out: &mut Vec<u8>, tag: u32, length: usize) {
    put_varint(out, tag.into());
    put_varint(out, length as u64);
}

struct Pen<'w> {
    writer: &'w Writer,
    out: &'w mut Vec<u8>,
    /// Fields written of the messages that are open, in the order of the JSON.
    spans: Vec<Span>,
    /// The same of maps.
    entries: Vec<Entry>,
    /// Where a message is put in order.
    spare: Vec<u8>,
    depth: usize,
}

struct Span {
    slot: u16,
    start: usize,
    end: usize,
}

struct Entry {
    start: usize,
    end: usize,
    key: (usize, usize),
}

impl Pen<'_> {
    /// Puts the fields that were written since `base` in the order of their numbers, and what stands for the absent ones between them.
    fn close(&mut self, layout: &Layout, base: usize, mark: usize) {
        let spans = &mut self.spans[mark..];
        if !spans.is_sorted_by_key(|span| span.slot) {
            spans.sort_by_key(|span| span.slot);
        }
        self.spare.clear();
        put_parts(layout, &layout.parts, self.out, &mut self.spans[mark..].iter().peekable(), &mut self.spare);
        self.out.truncate(base);
        self.out.extend_from_slice(&self.spare);
        self.spans.truncate(mark);
    }

    /// Sorts the entries of a map that were written since `base` by their keys; of two with one key the later stays.
    fn close_map(&mut self, base: usize, mark: usize) {
        let Self { out, entries, spare, .. } = self;
        let key = |entry: &Entry| entry.key.0..entry.key.1;
        if !entries[mark..].is_sorted_by(|a, b| out[key(a)] < out[key(b)]) {
            entries[mark..].sort_by(|a, b| out[key(a)].cmp(&out[key(b)]));
            spare.clear();
            let mut sorted = entries[mark..].iter().peekable();
            while let Some(entry) = sorted.next() {
                if sorted.peek().is_none_or(|next| out[key(next)] != out[key(entry)]) {
                    spare.extend_from_slice(&out[entry.start..entry.end]);
                }
            }
            out.truncate(base);
            out.extend_from_slice(spare);
        }
        entries.truncate(mark);
    }

    fn number(&mut self, tag: Option<u32>, number: u64) {
        put_varint(self.out, tag.unwrap_or_default().into());
        put_varint(self.out, number);
    }

    fn zero(&mut self, tag: u32, typ: Type) {
        let zero = layout::zero(&self.writer.wire, &self.writer.table, tag, typ);
        self.out.extend_from_slice(&zero);
    }
}

fn put_parts<'s>(
    layout: &Layout,
    parts: &[Part],
    from: &[u8],
    spans: &mut std::iter::Peekable<impl Iterator<Item = &'s Span>>,
    out: &mut Vec<u8>,
) {
    for part in parts {
        match part {
            Part::Slot(slot) => {
                let mut found = None;
                while let Some(span) = spans.next_if(|span| span.slot == *slot) {
                    found = Some(span);
                }
                match found {
                    Some(span) => out.extend_from_slice(&from[span.start..span.end]),
                    None => out.extend_from_slice(&layout.slots[usize::from(*slot)].zero),
                }
            }
            Part::Inline { tag, parts } => {
                let start = out.len();
                put_parts(layout, parts, from, spans, out);
                wrap(out, start, *tag);
            }
        }
    }
}

/// Writes one value. It tells whether anything came of it: null, and what is of another type, stand for nothing.
struct Put<'p, 'w> {
    pen: &'p mut Pen<'w>,
    typ: Type,
    /// `None` for the message itself.
    tag: Option<u32>,
    form: Form,
}

impl<'de> DeserializeSeed<'de> for Put<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        if self.typ != Type::Any || self.form != Form::Plain {
            return deserializer.deserialize_any(self);
        }
        let text = <&RawValue>::deserialize(deserializer)?.get();
        if text == "null" {
            return Ok(false);
        }
        // The text is the only field of its message.
        let start = self.pen.out.len();
        put_bytes(self.pen.out, 1 << 3 | BYTES, text.as_bytes());
        Ok(self.wrapped(start))
    }
}

impl Put<'_, '_> {
    fn wrapped(self, start: usize) -> bool {
        if let Some(tag) = self.tag {
            wrap(self.pen.out, start, tag);
        }
        true
    }

    fn integer(self, number: i64) -> bool {
        match self.typ {
            Type::Int32 | Type::Int64 => self.pen.number(self.tag, number.cast_unsigned()),
            Type::IntOrString => {
                let start = self.pen.out.len();
                self.pen.out.extend_from_slice(&[1 << 3, 0]);
                self.pen.number(Some(2 << 3 | VARINT), number.cast_unsigned());
                put_bytes(self.pen.out, 3 << 3 | BYTES, b"");
                return self.wrapped(start);
            }
            Type::Quantity => return self.text(&number.to_string()),
            #[expect(clippy::cast_precision_loss, reason = "as Go's decoder reads it")]
            Type::Double => return self.double(number as f64),
            _ => return false,
        }
        true
    }

    fn double(self, number: f64) -> bool {
        if self.typ != Type::Double {
            return false;
        }
        put_varint(self.pen.out, self.tag.unwrap_or_default().into());
        self.pen.out.extend_from_slice(&number.to_bits().to_le_bytes());
        true
    }

    fn text(self, text: &str) -> bool {
        let start = self.pen.out.len();
        match self.typ {
            Type::String => self.pen.out.extend_from_slice(text.as_bytes()),
            Type::Bytes => {
                if STANDARD.decode_vec(text, self.pen.out).is_err() {
                    self.pen.out.truncate(start);
                    // As Go does, line breaks are skipped.
                    let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
                    let Ok(bytes) = STANDARD.decode(text) else { return false };
                    self.pen.out.extend_from_slice(&bytes);
                }
            }
            Type::Quantity => put_bytes(self.pen.out, 1 << 3 | BYTES, text.as_bytes()),
            Type::IntOrString => {
                self.pen.out.extend_from_slice(&[1 << 3, 1, 2 << 3, 0]);
                put_bytes(self.pen.out, 3 << 3 | BYTES, text.as_bytes());
            }
            Type::Time | Type::MicroTime => {
                let Some(at) = time::parse(text) else { return false };
                let (seconds, nanos) = (at.as_nanosecond().div_euclid(1_000_000_000), at.as_nanosecond().rem_euclid(1_000_000_000));
                let (seconds, nanos) = (i64::try_from(seconds).unwrap_or_default(), u64::try_from(nanos).unwrap_or_default());
                // As the JSON shows it: whole seconds or microseconds.
                let nanos = if self.typ == Type::Time { 0 } else { nanos / 1000 * 1000 };
                if seconds != ZERO_SECONDS || nanos != 0 {
                    self.pen.number(Some(1 << 3 | VARINT), seconds.cast_unsigned());
                    self.pen.number(Some(2 << 3 | VARINT), nanos);
                }
            }
            _ => return false,
        }
        self.wrapped(start)
    }

    fn message<'de, A: MapAccess<'de>>(&mut self, at: u32, map: &mut A) -> Result<(), A::Error> {
        let pen = &mut *self.pen;
        pen.depth += 1;
        if pen.depth > DEPTH_MAX {
            return Err(A::Error::custom("exceeded max depth"));
        }
        let (base, mark) = (pen.out.len(), pen.spans.len());
        let layout = pen.writer.layout(at);
        while let Some(slot) = map.next_key_seed(Name(layout))? {
            let Some(slot) = slot else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let (start, field) = (pen.out.len(), &layout.slots[usize::from(slot)]);
            let put = Put { pen: &mut *pen, typ: field.typ, tag: Some(field.tag), form: field.form };
            if map.next_value_seed(put)? {
                pen.spans.push(Span { slot, start, end: pen.out.len() });
            } else {
                pen.out.truncate(start);
            }
        }
        pen.close(layout, base, mark);
        pen.depth -= 1;
        Ok(())
    }

    fn map<'de, A: MapAccess<'de>>(&mut self, element: Type, map: &mut A) -> Result<(), A::Error> {
        let pen = &mut *self.pen;
        let (base, mark) = (pen.out.len(), pen.entries.len());
        let (tag, entry_tag) = (layout::tag(2, element), self.tag.unwrap_or_default());
        // A list in a map is a message of its own.
        let form = match (element, self.form) {
            (Type::List(_), _) => Form::Wrapped,
            (_, form) => form,
        };
        while let Some(key) = map.next_key_seed(Key(&mut *pen.out))? {
            let start = key.0;
            let value_at = pen.out.len();
            if !map.next_value_seed(Put { pen: &mut *pen, typ: element, tag: Some(tag), form })? {
                pen.out.truncate(value_at);
                pen.zero(tag, element);
            }
            let before = pen.out.len();
            wrap(pen.out, start, entry_tag);
            let moved = pen.out.len() - before;
            pen.entries.push(Entry { start, end: pen.out.len(), key: (key.1 + moved, value_at + moved) });
        }
        pen.close_map(base, mark);
        Ok(())
    }

    fn list<'de, A: SeqAccess<'de>>(&mut self, element: Type, tag: u32, list: &mut A) -> Result<(), A::Error> {
        loop {
            let start = self.pen.out.len();
            match list.next_element_seed(Put { pen: &mut *self.pen, typ: element, tag: Some(tag), form: Form::Plain })? {
                None => return Ok(()),
                Some(true) => {}
                Some(false) => {
                    self.pen.out.truncate(start);
                    self.pen.zero(tag, element);
                }
            }
        }
    }

    /// A schema where something else may stand in its place: allowed, and so.
    fn schema<'de, A: MapAccess<'de>>(mut self, map: &mut A) -> Result<bool, A::Error> {
        let base = self.pen.out.len();
        let number = if self.form == Form::SchemaOrBool { 2 } else { 1 };
        if self.form == Form::SchemaOrBool {
            self.pen.out.extend_from_slice(&[1 << 3, 1]);
        }
        let start = self.pen.out.len();
        if let Some(at) = self.pen.writer.table.index(SCHEMA) {
            self.message(at, map)?;
        }
        wrap(self.pen.out, start, number << 3 | BYTES);
        Ok(self.wrapped(base))
    }
}

impl<'de> Visitor<'de> for Put<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        Ok(match (self.typ, self.form) {
            (Type::Bool, _) => {
                self.pen.number(self.tag, value.into());
                true
            }
            (Type::Any, Form::SchemaOrBool) => {
                let start = self.pen.out.len();
                self.pen.out.extend_from_slice(&[1 << 3, value.into()]);
                self.wrapped(start)
            }
            _ => false,
        })
    }

    fn visit_i64<E>(self, number: i64) -> Result<bool, E> {
        Ok(self.integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<bool, E> {
        Ok(i64::try_from(number).is_ok_and(|number| self.integer(number)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<bool, E> {
        Ok(if self.typ == Type::Quantity { self.text(&number.to_string()) } else { self.double(number) })
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(self.text(text))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<bool, A::Error> {
        let start = self.pen.out.len();
        match (self.typ, self.form) {
            (Type::Any, Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings) => return self.schema(&mut map),
            (Type::Object(at), _) => self.message(at, &mut map)?,
            (Type::Map(at), _) => {
                let element = self.pen.writer.table.element(at);
                self.map(element, &mut map)?;
                return Ok(true);
            }
            _ => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(false);
            }
        }
        Ok(self.wrapped(start))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<bool, A::Error> {
        let start = self.pen.out.len();
        let tag = self.tag.unwrap_or_default();
        match (self.typ, self.form) {
            (Type::List(at), Form::Wrapped) => self.list(self.pen.writer.table.element(at), 1 << 3 | BYTES, &mut list)?,
            (Type::List(at), _) => {
                self.list(self.pen.writer.table.element(at), tag, &mut list)?;
                return Ok(true);
            }
            (Type::Any, Form::SchemaOrArray) => {
                let schema = self.pen.writer.table.index(SCHEMA).map_or(Type::Any, Type::Object);
                self.list(schema, 2 << 3 | BYTES, &mut list)?;
            }
            (Type::Any, Form::SchemaOrStrings) => self.list(Type::String, 2 << 3 | BYTES, &mut list)?,
            _ => {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(false);
            }
        }
        Ok(self.wrapped(start))
    }
}

/// A key of an object: its slot, if it is a field.
struct Name<'l>(&'l Layout);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<u16>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<u16>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.find(name))
    }
}

/// A key of a map, written as the first field of its entry: where that begins, and where the key itself does.
struct Key<'o>(&'o mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = (usize, usize);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let start = self.0.len();
        let key = deserializer.deserialize_str(KeyText)?;
        put_bytes(self.0, 1 << 3 | BYTES, key.as_bytes());
        Ok((start, self.0.len() - key.len()))
    }
}

struct KeyText;

impl<'de> Visitor<'de> for KeyText {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(text.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(text.to_owned().into())
    }
}
