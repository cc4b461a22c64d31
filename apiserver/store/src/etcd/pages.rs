//! A range -> as many requests as it takes, all at one revision: etcd answers in one message, however much is asked for.

use etcdpb::{RangeRequest, RangeResponse};

use super::{
    members::{CALL_BOUND, Members},
    newest,
    words::{end_of, entry, number},
};
use crate::{Entry, Error, Page, Range, Rev};

/// Keys asked for at first, and at most (upstream's watch cache: 10,000; but etcd 3.4 makes the whole message before it looks at its size).
const KEYS: (usize, usize) = (500, 2_000);
/// What a page should weigh.
const PAGE_BYTES_MAX: usize = 4 << 20;

pub(super) async fn range(members: &Members, range: Range) -> Result<Page, Error> {
    let wanted = if range.limit == 0 { usize::MAX } else { range.limit };
    let end = end_of(&range.prefix);
    let mut from = start(&range.prefix, range.after.as_deref());
    let (mut entries, mut at, mut keys): (Vec<Entry>, _, _) = (Vec::new(), range.at, KEYS.0);
    loop {
        let limit = keys.min(wanted - entries.len());
        let got = match page(members, &from, &end, limit, at).await {
            Ok(got) => got,
            Err(Error::TooLarge(_)) if limit > 1 => {
                keys = (limit / 8).max(1);
                continue;
            }
            // etcd's error does not say which revision is the newest.
            Err(Error::Future { .. }) => return Err(Error::Future { newest: newest(members).await.unwrap_or(0) }),
            Err(error) => return Err(error),
        };
        let read = members.note(got.header.as_ref());
        let rev: Rev = *at.get_or_insert(read);
        let total = usize::try_from(got.count).unwrap_or(0);
        let fresh: Vec<Entry> = got.kvs.into_iter().map(entry).collect();
        let remaining = total.saturating_sub(fresh.len());
        keys = fitting(&fresh);
        let last = fresh.last().map(|entry| entry.key.clone());
        entries.extend(fresh);
        match last {
            Some(last) if remaining > 0 && entries.len() < wanted => from = start("", Some(&last)),
            _ => return Ok(Page { entries, rev, remaining }),
        }
    }
}

/// The first key after `after` is `after` with a zero byte.
fn start(prefix: &str, after: Option<&str>) -> Vec<u8> {
    after.map_or_else(|| prefix.as_bytes().to_vec(), |after| [after.as_bytes(), &[0]].concat())
}

async fn page(members: &Members, from: &[u8], end: &[u8], limit: usize, at: Option<Rev>) -> Result<RangeResponse, Error> {
    let request = RangeRequest {
        key: from.to_vec(),
        range_end: end.to_vec(),
        limit: i64::try_from(limit).unwrap_or(0),
        revision: at.map_or(0, number),
        count_only: false,
    };
    let asked = members.call(CALL_BOUND, |member| {
        let (mut kv, request) = (member.kv.clone(), request.clone());
        async move { kv.range(request).await }
    });
    asked.await
}

/// How many keys like these make a page.
fn fitting(seen: &[Entry]) -> usize {
    let bytes: usize = seen.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
    (PAGE_BYTES_MAX * seen.len() / bytes.max(1)).clamp(1, KEYS.1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn pages_grow_and_shrink_with_what_is_in_them() {
        let of = |bytes: usize| Entry { key: Arc::from("k"), value: Bytes::from(vec![0; bytes - 1]), rev: 1 };
        assert_eq!(fitting(&[]), 1);
        assert_eq!(fitting(&vec![of(10); 500]), KEYS.1);
        assert_eq!(fitting(&vec![of(8 << 10); 500]), 512);
        assert_eq!(fitting(&[of(3 << 20), of(3 << 20)]), 1);
        assert_eq!(fitting(&[of(40 << 20)]), 1);
    }
}
