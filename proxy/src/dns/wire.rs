//! A message's bytes -> where its records lie, by length alone.

use std::ops::Range;

use super::question::HEADER;

pub const A: u16 = 1;
pub const SOA: u16 = 6;
pub const AAAA: u16 = 28;
pub const OPT: u16 = 41;

/// Codes of answers.
pub const NO_ERROR: u8 = 0;
pub const NO_NAME: u8 = 3;

const AUTHORITATIVE: u8 = 0b100;
const TRUNCATED: u8 = 0b10;
/// Both high bits: the rest of the name is elsewhere.
pub const POINTER: u8 = 0b1100_0000;
/// Of a record that follows its name: type, class, TTL, length of the data.
const FIXED: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    Answer,
    Authority,
    Additional,
}

/// A record's place in its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub section: Section,
    /// From its name to the end of its data.
    pub whole: Range<usize>,
    pub kind: u16,
    /// Seconds; of an OPT record, something else.
    pub ttl: u32,
    pub ttl_at: usize,
}

/// All records after the question, which ends at `at`; `None` where the message is not well formed, or longer than that.
pub fn records(message: &[u8], mut at: usize) -> Option<Vec<Piece>> {
    let mut all = Vec::new();
    for (section, count_at) in [(Section::Answer, 6), (Section::Authority, 8), (Section::Additional, 10)] {
        for _ in 0..u16_at(message, count_at)? {
            let fixed = end_of_name(message, at)?;
            let end = fixed + FIXED + usize::from(u16_at(message, fixed + 8)?);
            let (kind, ttl_at) = (u16_at(message, fixed)?, fixed + 4);
            all.push(Piece { section, whole: at..end, kind, ttl: u32_at(message, ttl_at)?, ttl_at });
            at = end;
        }
    }
    (at == message.len()).then_some(all)
}

pub fn code(message: &[u8]) -> Option<u8> {
    message.get(3).map(|b| b & 0x0f)
}

pub fn is_authoritative(message: &[u8]) -> bool {
    message.get(2).is_some_and(|b| b & AUTHORITATIVE != 0)
}

pub fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|b| b & TRUNCATED != 0)
}

pub fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

fn end_of_name(message: &[u8], mut at: usize) -> Option<usize> {
    debug_assert!(at >= HEADER);
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..64 => at += 1 + usize::from(length),
            POINTER.. => return Some(at + 2),
            _ => return None,
        }
    }
}
