//! Messages to netfilter -> bytes, as nfnetlink wants them: native headers, attributes in network order.
//!
//! Source: the kernel's `linux/netlink.h`, `nfnetlink.h`, `nf_tables.h`, `nfnetlink_conntrack.h`.

use crate::family::Family;

/// What can be asked for: the subsystem (nf_tables, conntrack), and what it calls the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Verb {
    NewTable = NF_TABLES,
    DelTable = NF_TABLES + 2,
    NewChain = NF_TABLES + 3,
    DelChain = NF_TABLES + 5,
    NewRule = NF_TABLES + 6,
    GetRule = NF_TABLES + 7,
    DelRule = NF_TABLES + 8,
    NewSet = NF_TABLES + 9,
    DelSet = NF_TABLES + 11,
    NewElement = NF_TABLES + 12,
    #[cfg(test)]
    GetElement = NF_TABLES + 13,
    DelElement = NF_TABLES + 14,
    GetFlow = CONNTRACK + 1,
    DelFlow = CONNTRACK + 2,
}

const NF_TABLES: u16 = 10 << 8;
const CONNTRACK: u16 = 1 << 8;
/// As the header of a batch names it.
const BATCH_OF: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
/// Lists have elements of this type.
pub const LIST_ELEMENT: u16 = 1;

/// Messages, one after another, about one family.
pub struct Writer {
    family: Family,
    bytes: Vec<u8>,
    messages: u32,
    /// Where the flags of the last message stand.
    last_flags: usize,
}

impl Writer {
    fn new(family: Family) -> Self {
        Self { family, bytes: Vec::new(), messages: 0, last_flags: 0 }
    }

    /// A transaction: closed by [`Writer::finish`].
    pub fn batch(family: Family) -> Self {
        let mut writer = Self::new(family);
        writer.message(BATCH_BEGIN, REQUEST, 0, BATCH_OF, |_| {});
        writer
    }

    /// A question for all objects that fit.
    pub fn dump(family: Family, verb: Verb, body: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut writer = Self::new(family);
        writer.message(verb as u16, REQUEST | DUMP, family.number(), 0, body);
        writer.bytes
    }

    /// One change that is no transaction; it is acknowledged.
    pub fn single(family: Family, verb: Verb, body: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut writer = Self::new(family);
        writer.message(verb as u16, REQUEST | ACK, family.number(), 0, body);
        writer.bytes
    }

    /// The transaction's bytes; its last change is acknowledged, which tells that all of it was taken. `None` if nothing was written.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        if self.messages < 2 {
            return None;
        }
        let flags = self.bytes.get(self.last_flags..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_ne_bytes(*b));
        self.patch(self.last_flags, (flags | ACK).to_ne_bytes());
        self.message(BATCH_END, REQUEST, 0, BATCH_OF, |_| {});
        Some(self.bytes)
    }

    /// One change of a transaction.
    pub fn change(&mut self, verb: Verb, body: impl FnOnce(&mut Self)) {
        let flags = match verb {
            Verb::NewRule => CREATE | APPEND,
            Verb::NewTable | Verb::NewChain | Verb::NewSet | Verb::NewElement => CREATE,
            _ => 0,
        };
        self.message(verb as u16, REQUEST | flags, self.family.number(), 0, body);
    }

    /// The number of the message that comes next: no other one of the transaction has it.
    pub fn place(&self) -> u32 {
        self.messages + 1
    }

    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        let size = u16::try_from(value.len() + 4).expect("attributes are cut to fit: elements come in messages of bounded size");
        self.bytes.extend(size.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
    }

    pub fn text(&mut self, kind: u16, value: &str) {
        let terminated: Vec<u8> = value.bytes().chain([0]).collect();
        self.attr(kind, &terminated);
    }

    /// A number in network order, as nf_tables wants all but data.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub fn number64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        body(self);
        let size = u16::try_from(self.bytes.len() - start).expect("attributes are cut to fit: elements come in messages of bounded size");
        self.patch(start, size.to_ne_bytes());
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.messages += 1;
        self.last_flags = start + 6;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.messages.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        body(self);
        let size = u32::try_from(self.bytes.len() - start).expect("a message is far smaller than 4 GiB");
        self.patch(start, size.to_ne_bytes());
    }

    fn patch<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        if let Some(place) = self.bytes.get_mut(at..at + N) {
            place.copy_from_slice(&value);
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_framed_and_its_last_change_acknowledged() {
        assert_eq!(Writer::batch(Family::V4).finish(), None);
        let mut writer = Writer::batch(Family::V4);
        writer.change(Verb::NewTable, |w| w.text(1, "abc"));
        writer.change(Verb::DelTable, |w| w.nested(2, |w| w.number(1, 7)));
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len(), 20 + (20 + 8) + (20 + 12) + 20);
        assert_eq!(&bytes[20..48], [28, 0, 0, 0, 0, 10, 1, 4, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 8, 0, 1, 0, b'a', b'b', b'c', 0]);
        assert_eq!(bytes[48 + 6], 5);
        assert_eq!(&bytes[68..80], [12, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 7]);
        assert_eq!(bytes[84..86], [0x11, 0]);
    }
}
