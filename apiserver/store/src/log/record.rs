//! A commit <-> its record in the log.
//!
//! A record: mark, length of the body, the revision before it, checksum of these, checksum of the body (numbers LE), body, end mark. The
//! checksums go on from one that each log has of its own, so that no record of another log, and no value that looks like one, is taken for
//! one of this. Neither mark is zero: a sector of a record that never reached the disk, and so reads as zeros, is never a part of a whole one
//! by chance at its ends.

use std::{collections::HashMap, io, sync::Arc};

use bytes::Bytes;

use crate::{Entry, Event, Rev};

const MARK: u8 = 0xC7;
const END: u8 = 0x7C;
/// From the mark to the body.
pub(super) const HEAD_BYTES: usize = 1 + 4 + 8 + 4 + 4;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// What a commit did to one key. `None`: it is gone.
#[derive(Debug)]
pub(crate) struct Change {
    pub rev: Rev,
    pub key: Arc<str>,
    /// With its deadline, 0 lasts.
    pub put: Option<(Entry, u64)>,
}

/// A record that is whole.
pub(super) struct Whole<'a> {
    pub before: Rev,
    pub body: &'a [u8],
    /// Of all of it, marks included.
    pub len: usize,
}

/// Writes the record of `batches` into `out`, and says the newest revision in it.
pub(super) fn encode(
    out: &mut Vec<u8>,
    seed: u32,
    batches: &[Arc<Vec<Event>>],
    deadlines: &HashMap<Arc<str>, u64>,
) -> io::Result<Option<Rev>> {
    out.clear();
    let Some(first) = batches.iter().find_map(|batch| batch.first()) else { return Ok(None) };
    out.resize(HEAD_BYTES, 0);
    let mut newest = first.rev();
    for event in batches.iter().flat_map(|batch| batch.iter()) {
        put_event(out, event, deadlines)?;
        newest = event.rev();
    }
    let (head, body) = out.split_at_mut(HEAD_BYTES);
    head[0] = MARK;
    head[1..5].copy_from_slice(&length(body)?);
    head[5..13].copy_from_slice(&(first.rev().saturating_sub(1)).to_le_bytes());
    let sum = crc(seed, &head[..13]);
    head[13..17].copy_from_slice(&sum.to_le_bytes());
    head[17..].copy_from_slice(&crc(sum, body).to_le_bytes());
    out.push(END);
    Ok(Some(newest))
}

/// The record that begins `bytes`, if it is whole.
pub(super) fn whole(bytes: &[u8], seed: u32) -> Option<Whole<'_>> {
    let len = claimed_len(bytes, seed)?;
    let record = bytes.get(..len)?;
    let (body, end) = record[HEAD_BYTES..].split_at_checked(len - HEAD_BYTES - 1)?;
    (*end == [END] && crc(four(record, 13), body) == four(record, 17)).then(|| Whole { before: eight(record, 5), body, len })
}

/// How long the record that begins `bytes` is, if its head is sound.
pub(super) fn claimed_len(bytes: &[u8], seed: u32) -> Option<usize> {
    let head = bytes.get(..HEAD_BYTES)?;
    if head[0] != MARK || crc(seed, &head[..13]) != four(head, 13) {
        return None;
    }
    usize::try_from(four(head, 1)).ok()?.checked_add(HEAD_BYTES + 1)
}

pub(super) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// `PUT rev key deadline value` or `DELETE rev key`, texts with their length before them.
fn put_event(out: &mut Vec<u8>, event: &Event, deadlines: &HashMap<Arc<str>, u64>) -> io::Result<()> {
    out.push(if matches!(event, Event::Put { .. }) { PUT } else { DELETE });
    out.extend_from_slice(&event.rev().to_le_bytes());
    put_text(out, event.key().as_bytes())?;
    if let Event::Put { entry, .. } = event {
        out.extend_from_slice(&deadlines.get(&entry.key).copied().unwrap_or(0).to_le_bytes());
        put_text(out, &entry.value)?;
    }
    Ok(())
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) -> io::Result<()> {
    out.extend_from_slice(&length(text)?);
    out.extend_from_slice(text);
    Ok(())
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    u32::try_from(bytes.len()).map(u32::to_le_bytes).map_err(io::Error::other)
}

/// The changes that a body tells.
pub(super) fn changes(mut rest: &[u8]) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    while let Some((kind, behind)) = rest.split_first() {
        let (rev, behind) = number(behind)?;
        let (key, behind) = text(behind)?;
        let key: Arc<str> = Arc::from(std::str::from_utf8(key).ok()?);
        rest = behind;
        let put = match *kind {
            PUT => {
                let (deadline, behind) = number(behind)?;
                let (value, behind) = text(behind)?;
                rest = behind;
                Some((Entry { key: key.clone(), value: Bytes::copy_from_slice(value), rev }, deadline))
            }
            DELETE => None,
            _ => return None,
        };
        changes.push(Change { rev, key, put });
    }
    Some(changes)
}

pub(super) fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// The number at `at`; 0 behind the end.
pub(super) fn four(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_le_bytes(*four))
}

pub(super) fn eight(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |eight| u64::from_le_bytes(*eight))
}
