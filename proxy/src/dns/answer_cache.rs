//! An answer's bytes -> the same answer for the next asker: number, letters of the name, seconds left and order are that asker's own.

use std::ops::Range;

use rand::seq::SliceRandom;

use super::{
    question::Key,
    wire::{self, POINTER, Piece, Section},
};

/// The number that ties an answer to its question.
const ID: Range<usize> = 0..2;
/// A record whose name is a pointer, with an IPv4 or an IPv6 address.
const A_SIZE: usize = 16;
const AAAA_SIZE: usize = 28;

/// An answer that may be sent again.
pub struct CachedAnswer {
    bytes: Box<[u8]>,
    /// Addresses that follow one another, each a record of one size: the order means nothing.
    turns: Range<usize>,
    /// Where the seconds of each record lie, and how many they were.
    ttls: Box<[(usize, u32)]>,
    /// What the shortest-lived record allows, or the SOA record of a refusal (RFC 2308, 5).
    seconds: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There are records.
    Answer,
    /// There is no such name or no such record, and an SOA record that says how long that holds.
    Refusal,
    /// A failure, or a refusal of which nobody knows how long it holds.
    Other,
}

/// Whether the records grow older while they are kept.
#[derive(Clone, Copy)]
pub enum Age {
    /// They are our own.
    Never,
    Seconds(u32),
}

impl CachedAnswer {
    /// `None` for what is cut, not about this question, or not well formed.
    pub fn new(key: &Key, query: &[u8], reply: &[u8]) -> Option<Self> {
        let echoed = reply.get(key.question())?.eq_ignore_ascii_case(query.get(key.question())?);
        if !echoed || wire::is_truncated(reply) {
            return None;
        }
        let pieces: Vec<Piece> = wire::records(reply, key.question().end)?.into_iter().filter(|p| p.kind != wire::OPT).collect();
        let minimum = |piece: &Piece| wire::u32_at(reply, piece.whole.end - 4).filter(|_| is_refusal(piece)).unwrap_or(u32::MAX);
        Some(Self {
            bytes: reply.into(),
            turns: turns(reply, &pieces),
            ttls: pieces.iter().map(|p| (p.ttl_at, p.ttl)).collect(),
            seconds: pieces.iter().map(|p| p.ttl.min(minimum(p))).min().unwrap_or(0),
            kind: kind(reply, &pieces),
        })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// For how long the answer holds, from when it was given.
    pub fn seconds(&self) -> u32 {
        self.seconds
    }

    /// The answer to `query`, which has the key under which this was kept.
    pub fn tell(&mut self, key: &Key, query: &[u8], age: Age) -> &[u8] {
        for part in [ID, key.question()] {
            if let (Some(old), Some(new)) = (self.bytes.get_mut(part.clone()), query.get(part)) {
                old.copy_from_slice(new);
            }
        }
        if let Age::Seconds(age) = age {
            for (at, ttl) in &self.ttls {
                let left = ttl.saturating_sub(age).to_be_bytes();
                self.bytes.iter_mut().skip(*at).zip(left).for_each(|(byte, new)| *byte = new);
            }
        }
        self.shuffle();
        &self.bytes
    }

    /// Source: CoreDNS' plugin `loadbalance`.
    fn shuffle(&mut self) {
        let Some(addresses) = self.bytes.get_mut(self.turns.clone()).filter(|a| !a.is_empty()) else { return };
        match addresses.get(3) {
            Some(28) => addresses.as_chunks_mut::<AAAA_SIZE>().0.shuffle(&mut rand::rng()),
            _ => addresses.as_chunks_mut::<A_SIZE>().0.shuffle(&mut rand::rng()),
        }
    }
}

fn is_refusal(piece: &Piece) -> bool {
    piece.section == Section::Authority && piece.kind == wire::SOA
}

fn kind(reply: &[u8], pieces: &[Piece]) -> Kind {
    let answered = pieces.iter().any(|p| p.section == Section::Answer);
    match wire::code(reply) {
        Some(wire::NO_ERROR) if answered => Kind::Answer,
        Some(wire::NO_ERROR | wire::NO_NAME) if pieces.iter().any(is_refusal) => Kind::Refusal,
        _ => Kind::Other,
    }
}

/// Two or more addresses of one kind and one name in a row, to the end of the answers. The name is a pointer: nothing points into these records.
fn turns(reply: &[u8], pieces: &[Piece]) -> Range<usize> {
    let answers: Vec<&Piece> = pieces.iter().filter(|p| p.section == Section::Answer).collect();
    let Some(last) = answers.last() else { return 0..0 };
    let size = if last.kind == wire::A { A_SIZE } else { AAAA_SIZE };
    // Name, and kind.
    let head = |p: &Piece| reply.get(p.whole.start..p.whole.start + 4);
    let pointed = reply.get(last.whole.start).is_some_and(|b| *b >= POINTER);
    if !pointed || !matches!(last.kind, wire::A | wire::AAAA) {
        return 0..0;
    }
    let alike = answers.iter().rev().take_while(|p| p.whole.len() == size && head(p) == head(last));
    let start = alike.map(|p| p.whole.start).last().unwrap_or(last.whole.end);
    if start == last.whole.start { 0..0 } else { start..last.whole.end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::tests::query;
    use hickory_proto::{
        op::Message,
        rr::{Name, RData, Record, RecordType, rdata},
    };
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn reply(asked: &Message, answers: Vec<Record>, authorities: Vec<Record>) -> Vec<u8> {
        let mut reply = asked.clone().into_response();
        reply.add_answers(answers);
        reply.add_authorities(authorities);
        reply.to_vec().unwrap()
    }

    fn kept(asked: &Message, reply: &[u8]) -> Option<CachedAnswer> {
        let bytes = asked.to_vec().unwrap();
        CachedAnswer::new(&Key::of(&bytes).unwrap(), &bytes, reply)
    }

    fn told(kept: &mut CachedAnswer, asked: &Message, age: Age) -> Message {
        let bytes = asked.to_vec().unwrap();
        Message::from_vec(kept.tell(&Key::of(&bytes).unwrap(), &bytes, age)).unwrap()
    }

    fn address(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(rdata::A::new(192, 0, 2, last)))
    }

    #[test]
    fn addresses_are_told_in_turns_behind_the_name_they_belong_to() {
        let asked = query("a.example.", RecordType::A);
        let alias = Record::from_rdata(name("a.example."), 90, RData::CNAME(rdata::CNAME(name("b.example."))));
        let mut answers = vec![alias.clone()];
        answers.extend((1..=3).map(|i| address("b.example.", 60, i)));
        let mut kept = kept(&asked, &reply(&asked, answers.clone(), Vec::new())).unwrap();
        assert_eq!(kept.seconds(), 60);
        let mut orders = BTreeSet::new();
        for _ in 0..200 {
            let again = query("A.exAMPle.", RecordType::A);
            let reply = told(&mut kept, &again, Age::Never);
            assert_eq!((reply.metadata.id, &reply.queries), (again.metadata.id, &again.queries));
            assert_eq!(reply.queries[0].name.to_ascii(), "A.exAMPle.");
            assert_eq!(reply.answers[0], alias);
            orders.insert(reply.answers[1..].iter().map(|r| r.data.to_string()).collect::<Vec<_>>());
            assert!(answers.iter().all(|a| reply.answers.contains(a)) && reply.answers.len() == 4);
        }
        assert_eq!(orders.len(), 6, "all orders come");
    }

    #[test]
    fn six_byte_wide_addresses_are_told_in_turns_too() {
        let asked = query("a.example.", RecordType::AAAA);
        let answers: Vec<Record> =
            (1..=2).map(|i| Record::from_rdata(name("a.example."), 9, RData::AAAA(rdata::AAAA::new(1, 0, 0, 0, 0, 0, 0, i)))).collect();
        let mut kept = kept(&asked, &reply(&asked, answers.clone(), Vec::new())).unwrap();
        let firsts: BTreeSet<String> = (0..200).map(|_| told(&mut kept, &asked, Age::Never).answers[0].data.to_string()).collect();
        assert_eq!(firsts.len(), 2);
    }

    #[test]
    fn what_is_no_run_of_addresses_keeps_its_order() {
        let asked = query("a.example.", RecordType::ANY);
        let text = Record::from_rdata(name("a.example."), 60, RData::TXT(rdata::TXT::new(vec!["x".into()])));
        for answers in [vec![address("a.example.", 60, 1), address("a.example.", 60, 2), text], vec![address("a.example.", 60, 1)], vec![]]
        {
            let made = kept(&asked, &reply(&asked, answers, Vec::new())).unwrap();
            assert_eq!(made.turns, 0..0);
        }
    }

    #[test]
    fn seconds_are_counted_down_and_a_refusal_holds_as_its_soa_says() {
        let asked = query("a.example.", RecordType::A);
        let mut kept_answer = kept(&asked, &reply(&asked, vec![address("a.example.", 60, 1)], Vec::new())).unwrap();
        for (age, left) in [(0, 60), (7, 53), (3, 57), (99, 0)] {
            assert_eq!(told(&mut kept_answer, &asked, Age::Seconds(age)).answers[0].ttl, left);
        }
        let soa = RData::SOA(rdata::SOA::new(name("ns.example."), name("h.example."), 1, 7200, 1800, 86400, 11));
        let refusal = reply(&asked, Vec::new(), vec![Record::from_rdata(name("example."), 900, soa)]);
        let mut kept_refusal = kept(&asked, &refusal).unwrap();
        assert_eq!((kept_answer.kind(), kept_refusal.kind(), kept_refusal.seconds()), (Kind::Answer, Kind::Refusal, 11));
        assert_eq!(kept(&asked, &reply(&asked, Vec::new(), Vec::new())).unwrap().kind(), Kind::Other);
        assert_eq!(told(&mut kept_refusal, &asked, Age::Seconds(4)).authorities[0].ttl, 896);
    }

    #[test]
    fn what_is_cut_or_broken_or_about_something_else_is_not_kept() {
        let asked = query("a.example.", RecordType::A);
        let whole = reply(&asked, vec![address("a.example.", 60, 1)], Vec::new());
        assert!(kept(&asked, &whole).is_some());
        assert!(kept(&query("b.example.", RecordType::A), &whole).is_none());
        assert!(kept(&query("a.example.", RecordType::AAAA), &whole).is_none());
        assert!((0..whole.len()).all(|end| kept(&asked, &whole[..end]).is_none()));
        let mut cut = whole;
        cut[2] |= 0b10;
        assert!(kept(&asked, &cut).is_none());
    }

    proptest! {
        /// Whatever another server sends: it is cached and sent at its length, or not kept.
        #[test]
        fn a_reply_of_any_bytes_breaks_nothing(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), age: u32) {
            let asked = query("a.example.", RecordType::A);
            let soa = RData::SOA(rdata::SOA::new(name("ns.example."), name("h.example."), 1, 7200, 1800, 86400, 11));
            let answers = (1..=3).map(|i| address("a.example.", 60, i)).collect();
            let mut bytes = reply(&asked, answers, vec![Record::from_rdata(name("example."), 900, soa)]);
            for (at, byte) in &changes {
                *at.get_mut(&mut bytes) = *byte;
            }
            if let Some(mut kept) = kept(&asked, &bytes) {
                let question = asked.to_vec().unwrap();
                let told = kept.tell(&Key::of(&question).unwrap(), &question, Age::Seconds(age)).to_vec();
                prop_assert_eq!(told.len(), bytes.len());
                prop_assert_eq!(&told[..2], &question[..2]);
            }
        }
    }
}
