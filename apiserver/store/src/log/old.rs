//! The log of store format 2 -> what it tells. It is read only: the store is brought to the newest format at once.
//!
//! A record there is its length and checksum (4 bytes each, LE), the revision before it, and its changes; it begins right behind the magic.

use super::{
    Damage, Told,
    record::{Change, changes, four, number},
};
use crate::Rev;

pub(super) const MAGIC: &[u8; 16] = b"skiff log 1\n\0\0\0\0";

/// What the log tells beyond `rev`, which the tree has come to.
pub(super) fn read(bytes: &[u8], rev: Rev) -> Result<Told, Damage> {
    let (mut at, mut last, mut told) = (MAGIC.len(), None, Told::none(rev));
    while let Some((body, len)) = next(&bytes[at..]) {
        let unreadable = || Damage::at(at, "a record of it cannot be read");
        let (before, body) = number(body).ok_or_else(unreadable)?;
        match last {
            // What an older log left behind: clearing one did not take its records off the disk at once.
            Some(last) if before < last => break,
            _ if before > last.unwrap_or(rev) => return Err(Damage::at(at, "what comes before it is missing")),
            _ => {}
        }
        let changes = changes(body).ok_or_else(unreadable)?;
        let newest = changes.last().map_or(before, |change| change.rev);
        last = Some(newest);
        told.rev = told.rev.max(newest);
        told.changes.extend(changes.into_iter().filter(|change| change.rev > rev));
        told.records += 1;
        at += len;
    }
    told.loose_bytes = bytes.len() - at;
    match behind(&bytes[at..], last.unwrap_or(rev)) {
        Some(found) => {
            Err(Damage::at(at, &format!("what stands there is no record, but good ones stand behind it, from byte {} on", at + found)))
        }
        None => Ok(told),
    }
}

fn next(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let len = usize::try_from(four(bytes, 0)).ok()?;
    let body = bytes.get(8..)?.get(..len)?;
    (!body.is_empty() && crc32fast::hash(body) == four(bytes, 4)).then_some((body, len + 8))
}

/// Where a record begins that goes on from later than `last`. One of an older log does not.
fn behind(rest: &[u8], last: Rev) -> Option<usize> {
    let later = |at: &usize| {
        let Some(first) = rest.get(at + 8..) else { return false };
        // Cheap before dear: a checksum at every byte of a long value would take hours.
        let plausible = number(first).is_some_and(|(before, _)| before > last && before < last + (1 << 40));
        plausible
            && next(&rest[*at..])
                .is_some_and(|(body, _)| number(body).and_then(|(_, body)| changes(body)).is_some_and(|c: Vec<Change>| !c.is_empty()))
    };
    (1..rest.len()).find(later)
}
