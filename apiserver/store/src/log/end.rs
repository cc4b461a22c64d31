//! What stands behind the last whole record -> nothing, a write that was cut off, or damage.
//!
//! A commit is one write behind all others, and synced before the next: only the last can be cut off, and what is missing of it then are whole
//! sectors, which read as zeros, or the end of the file. All else was whole once, and acknowledged.

use super::record::{HEAD_BYTES, claimed_len, whole};
use crate::Rev;

/// The smallest part that a disk writes whole.
const SECTOR: usize = 512;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing, or what can be cut off: it was never acknowledged.
    Loose,
    /// Why nothing may be cut off.
    Damaged(String),
}

/// Looks at `bytes` from `at` on, where no whole record begins that goes on from revision `last`.
pub(super) fn look(bytes: &[u8], at: usize, seed: u32, last: Rev) -> End {
    let rest = &bytes[at..];
    if let Some(found) = whole(rest, seed) {
        return End::Damaged(format!("what comes between revision {last} and {} is missing", found.before));
    }
    let (good, first) = behind(rest, seed);
    if let Some(first) = first {
        return End::Damaged(format!("what stands there is no record, but {good} good ones stand behind it, from byte {} on", at + first));
    }
    if rest.iter().all(|byte| *byte == 0) {
        return End::Loose;
    }
    match claimed_len(rest, seed) {
        Some(len) if rest.len() < len || gap(bytes, at, at + len) => match rest.get(len..) {
            Some(more) if more.iter().any(|byte| *byte != 0) => End::Damaged("something stands behind the last record".into()),
            _ => End::Loose,
        },
        Some(_) => End::Damaged("all of the last record is there, but its checksum does not hold".into()),
        None if rest.len() < HEAD_BYTES || gap_at_head(bytes, at) => End::Loose,
        None => End::Damaged("what stands there is no record, and no part of one either".into()),
    }
}

/// Whole records somewhere behind the first byte: how many, and where the first begins.
fn behind(rest: &[u8], seed: u32) -> (usize, Option<usize>) {
    let (mut at, mut good, mut first) = (1, 0, None);
    while at < rest.len() {
        let Some(found) = whole(&rest[at..], seed) else {
            at += 1;
            continue;
        };
        first = first.or(Some(at));
        good += 1;
        at += found.len;
    }
    (good, first)
}

/// Whether a sector's part of `from..to` is all zeros.
fn gap(bytes: &[u8], from: usize, to: usize) -> bool {
    let mut begin = from;
    while begin < to {
        let end = to.min(begin / SECTOR * SECTOR + SECTOR);
        if bytes[begin..end].iter().all(|byte| *byte == 0) {
            return true;
        }
        begin = end;
    }
    false
}

/// The same of the sectors that the head at `at` reaches into, each to its own end: where the record ends is not known.
fn gap_at_head(bytes: &[u8], at: usize) -> bool {
    let last = (at + HEAD_BYTES - 1) / SECTOR * SECTOR + SECTOR;
    gap(bytes, at, last.min(bytes.len()))
}
