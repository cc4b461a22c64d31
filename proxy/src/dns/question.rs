//! A datagram -> what tells its question from all others, without reading more of it than that.

use std::ops::Range;

/// The header; the question's name follows it.
pub const HEADER: usize = 12;
/// RFC 1035, 2.3.4: a name on the wire, its last empty label included.
const NAME_MAX: usize = 255;
/// Type and class.
const KIND: usize = 4;
/// An OPT record that carries nothing (RFC 6891, 6.1.2).
const OPT: usize = 11;
const FLAGS: Range<usize> = 2..4;
const KEY_MAX: usize = 2 + NAME_MAX + KIND + OPT;

/// All of a plain question but its number, the letters of its name small. Two questions of one key get one answer: the flags and what EDNS says of
/// sizes and signatures are part of it.
pub struct Key {
    bytes: [u8; KEY_MAX],
    length: usize,
    question: Range<usize>,
}

impl Key {
    /// `None` for what is not one question with at most an empty OPT record: that is looked at in full, and its answer is not kept.
    pub fn of(query: &[u8]) -> Option<Self> {
        let extra = match *query.first_chunk::<HEADER>()? {
            [_, _, flags, _, 0, 1, 0, 0, 0, 0, 0, extra @ (0 | 1)] if is_plain(flags) => extra,
            _ => return None,
        };
        let name = HEADER..end_of_name(query)?;
        let question = HEADER..name.end + KIND;
        match (extra, query.get(question.end..)?) {
            (0, []) => {}
            (1, [0, 0, 41, rest @ ..]) if rest.len() == OPT - 3 && rest.ends_with(&[0, 0]) => {}
            _ => return None,
        }
        let (mut bytes, flags) = ([0; KEY_MAX], query.get(FLAGS)?);
        let length = flags.len() + query.len() - HEADER;
        let (head, tail) = bytes.get_mut(..length)?.split_at_mut(flags.len());
        head.copy_from_slice(flags);
        tail.copy_from_slice(query.get(HEADER..)?);
        // Lengths of labels are no letters: they end at 63.
        tail.get_mut(..name.len())?.make_ascii_lowercase();
        Some(Self { bytes, length, question })
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Where the question lies in the query, and in each answer to it.
    pub fn question(&self) -> Range<usize> {
        self.question.clone()
    }
}

/// Neither an answer nor anything but a standard query, and whole.
fn is_plain(flags: u8) -> bool {
    const RESPONSE_OPCODE_TRUNCATED: u8 = 0b1111_1010;
    flags & RESPONSE_OPCODE_TRUNCATED == 0
}

fn end_of_name(query: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1 + length;
        match length {
            _ if at - HEADER > NAME_MAX => return None,
            0 => return Some(at),
            1..64 => {}
            // A pointer: there is nothing before a question's name to point to.
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::tests::query;
    use hickory_proto::{
        op::{Edns, Message, MessageType, OpCode},
        rr::{RecordType, rdata::opt::EdnsOption},
    };
    use proptest::prelude::*;

    fn key(message: &Message) -> Option<Vec<u8>> {
        Key::of(&message.to_vec().unwrap()).map(|k| k.bytes().to_vec())
    }

    #[test]
    fn questions_share_a_key_by_name_and_kind_and_flags() {
        let plain = key(&query("web.d.svc.cluster.local.", RecordType::A)).unwrap();
        assert_eq!(key(&query("WEB.d.svc.CLUSTER.local.", RecordType::A)).unwrap(), plain);
        assert_ne!(key(&query("web.d.svc.cluster.local.", RecordType::AAAA)).unwrap(), plain);
        assert_ne!(key(&query("wec.d.svc.cluster.local.", RecordType::A)).unwrap(), plain);
        let mut desired = query("web.d.svc.cluster.local.", RecordType::A);
        desired.metadata.recursion_desired = true;
        assert_ne!(key(&desired).unwrap(), plain);
        assert!(key(&query(".", RecordType::NS)).is_some());
        let longest = format!("{0}.{0}.{0}.{1}.", "x".repeat(63), "y".repeat(61));
        assert!(key(&query(&longest, RecordType::NS)).is_some());
    }

    #[test]
    fn what_is_not_plain_has_no_key() {
        let mut edns = query("a.b.", RecordType::A);
        edns.set_edns(Edns::new());
        let small = key(&edns).unwrap();
        edns.edns.as_mut().unwrap().set_max_payload(1400);
        assert_ne!(key(&edns).unwrap(), small);
        edns.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
        assert!(key(&edns).is_none());
        let changed = |change: fn(&mut Message)| {
            let mut message = query("a.b.", RecordType::A);
            change(&mut message);
            key(&message)
        };
        assert!(changed(|m| m.metadata.op_code = OpCode::Notify).is_none());
        assert!(changed(|m| m.metadata.message_type = MessageType::Response).is_none());
        assert!(changed(|m| m.queries.clear()).is_none());
        assert!(changed(|m| m.queries.push(m.queries[0].clone())).is_none());
        let whole = query("a.b.", RecordType::A).to_vec().unwrap();
        assert!((0..whole.len()).all(|end| Key::of(&whole[..end]).is_none()));
        assert!(Key::of(&[whole.as_slice(), &[0]].concat()).is_none());
        let mut points = whole;
        points[HEADER] = 0xc0;
        assert!(Key::of(&points).is_none());
    }

    proptest! {
        /// What has a key is a question to the full reader, too, and the same one.
        #[test]
        fn a_key_promises_no_more_than_the_full_reader_finds(tail in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..64), 0..6), flags in 0_u8..6, edns: bool) {
            let mut query = vec![7, 7, flags, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
            for label in &tail {
                query.push(label.len() as u8);
                query.extend(label);
            }
            query.extend([0, 0, 1, 0, 1]);
            if edns {
                query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
            }
            let (key, read) = (Key::of(&query), Message::from_vec(&query));
            if let Some(key) = key {
                let read = read.unwrap();
                prop_assert_eq!(read.queries.len(), 1);
                let labels: Vec<Vec<u8>> = read.queries[0].name.iter().map(<[u8]>::to_vec).collect();
                prop_assert_eq!(labels, tail);
                prop_assert_eq!(key.question().end, query.len() - if edns { OPT } else { 0 });
            }
        }
    }
}
