//! A definition's shape and its field numbers -> the order its fields are written in, and what is written where JSON has nothing.
//!
//! Source: the `Marshal` of gogo's generated code: what is no pointer is written whatever it is, lists and maps by what they hold.

use super::{super::Text, Form, Marks, Table, Target, Type, Wire};

/// Wire types.
pub(super) const VARINT: u32 = 0;
pub(super) const FIXED64: u32 = 1;
pub(super) const BYTES: u32 = 2;

/// How one message is written.
#[derive(Default)]
pub(super) struct Layout {
    /// By JSON name, sorted: the place in `slots`.
    names: Vec<(Text, u16)>,
    /// In the order they are written in.
    pub slots: Vec<Slot>,
    pub parts: Vec<Part>,
}

pub(super) struct Slot {
    /// Number and wire type.
    pub tag: u32,
    pub typ: Type,
    pub form: Form,
    /// What stands for an absent field, with its tag.
    pub zero: Vec<u8>,
}

pub(super) enum Part {
    Slot(u16),
    /// A message whose fields stand in the JSON object itself.
    Inline {
        tag: u32,
        parts: Vec<Part>,
    },
}

impl Layout {
    pub fn of(wire: &Wire, table: &Table, definition: u32) -> Self {
        let mut layout = Self::default();
        layout.parts = layout.add(wire, table, definition, &table.definition(definition).name);
        layout.names.sort();
        layout
    }

    pub fn find(&self, name: &str) -> Option<u16> {
        let at = self.names.binary_search_by(|(one, _)| one.as_ref().cmp(name)).ok()?;
        self.names.get(at).map(|(_, slot)| *slot)
    }

    /// Every field is absent.
    fn zero(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put_zero(&self.parts, &mut out);
        out
    }

    fn put_zero(&self, parts: &[Part], out: &mut Vec<u8>) {
        for part in parts {
            match part {
                Part::Slot(slot) => out.extend_from_slice(&self.slots[usize::from(*slot)].zero),
                Part::Inline { tag, parts } => {
                    let start = out.len();
                    self.put_zero(parts, out);
                    wrap(out, start, *tag);
                }
            }
        }
    }

    fn add(&mut self, wire: &Wire, table: &Table, owner: u32, message: &str) -> Vec<Part> {
        let mut fields: Vec<(u64, Target)> = wire.messages.get(message).into_iter().flatten().map(|(n, target)| (*n, *target)).collect();
        fields.sort_by_key(|(number, _)| *number);
        let mut parts = Vec::new();
        for (number, target) in fields {
            let number = u32::try_from(number).expect("field numbers are small");
            match target {
                Target::Inline(inner) => {
                    let inner = self.add(wire, table, owner, inner);
                    parts.push(Part::Inline { tag: number << 3 | BYTES, parts: inner });
                }
                Target::Field { name, marks } => {
                    let Some(field) = table.definition(owner).field(name) else { continue };
                    let place = u16::try_from(self.slots.len()).expect("a message has fewer than 2^16 fields");
                    self.slots.push(Slot::new(wire, table, number, field.typ, marks));
                    self.names.push((field.name.clone(), place));
                    parts.push(Part::Slot(place));
                }
            }
        }
        parts
    }
}

impl Slot {
    fn new(wire: &Wire, table: &Table, number: u32, typ: Type, marks: Marks) -> Self {
        let element = match typ {
            Type::List(at) if marks.form != Form::Wrapped => table.element(at),
            typ => typ,
        };
        let tag = tag(number, element);
        let is_many = matches!(typ, Type::List(_) | Type::Map(_));
        let zero = if marks.is_pointer || is_many { Vec::new() } else { zero(wire, table, tag, typ) };
        Self { tag, typ, form: marks.form, zero }
    }
}

pub(super) fn tag(number: u32, typ: Type) -> u32 {
    let wire_type = match typ {
        Type::Bool | Type::Int32 | Type::Int64 => VARINT,
        Type::Double => FIXED64,
        _ => BYTES,
    };
    number << 3 | wire_type
}

/// A zero value of the type, with its tag; nothing for bytes (nil).
pub(super) fn zero(wire: &Wire, table: &Table, tag: u32, typ: Type) -> Vec<u8> {
    let mut out = Vec::new();
    match typ {
        Type::Bytes => return out,
        Type::Bool | Type::Int32 | Type::Int64 => {
            put_varint(&mut out, tag.into());
            out.push(0);
            return out;
        }
        Type::Double => {
            put_varint(&mut out, tag.into());
            out.extend_from_slice(&[0; 8]);
            return out;
        }
        Type::Quantity => out.extend_from_slice(b"\x0a\x010"),
        Type::IntOrString => out.extend_from_slice(&[0x08, 0, 0x10, 0, 0x1a, 0]),
        Type::Object(at) => out = Layout::of(wire, table, at).zero(),
        Type::String | Type::Time | Type::MicroTime | Type::Any | Type::List(_) | Type::Map(_) => {}
    }
    wrap(&mut out, 0, tag);
    out
}

/// What was written since `start` becomes a field of bytes.
pub(super) fn wrap(out: &mut Vec<u8>, start: usize, tag: u32) {
    let length = out.len() - start;
    let (mut head, mut used) = ([0; 15], 0);
    for mut number in [u64::from(tag), length as u64] {
        while number > 0x7f {
            head[used] = (number & 0x7f) as u8 | 0x80;
            number >>= 7;
            used += 1;
        }
        head[used] = (number & 0x7f) as u8;
        used += 1;
    }
    out.resize(start + length + used, 0);
    out.copy_within(start..start + length, start + used);
    out[start..start + used].copy_from_slice(&head[..used]);
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}
