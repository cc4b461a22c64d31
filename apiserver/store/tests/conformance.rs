//! One contract, every back end: each test here runs on memory (with its thread and without), on redb and on a real etcd.

mod backends;
mod lost;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use backends::{Backend, each_backend};
use bytes::Bytes;
use futures::StreamExt;
use store::{Error, Event, Expect, Listener, Op, Outcome, Range, Rev, Store, Txn};

each_backend! {
    a_key_is_created_once,
    an_update_needs_the_revision_it_saw,
    a_refused_transaction_does_nothing,
    a_range_is_one_snapshot,
    a_range_of_many_keys_is_one_snapshot,
    a_watch_resumes_without_gap_or_duplicate,
    a_watch_sees_its_prefix_only,
    a_listener_hears_before_the_author,
    compacted_history_is_refused,
    a_future_revision_is_refused,
    a_key_with_a_ttl_goes,
    random_transactions_agree_with_a_model,
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Rev {
    done(store.txn(Txn { expect: vec![], ops: vec![op(key, value)] }).await)
}

async fn delete(store: &dyn Store, key: &str) -> Rev {
    done(store.txn(Txn { expect: vec![], ops: vec![Op::Delete { key: key.into() }] }).await)
}

fn op(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), ttl: None }
}

fn done(outcome: Result<Outcome, Error>) -> Rev {
    match outcome {
        Ok(Outcome::Done(rev)) => rev,
        other => panic!("not carried out: {other:?}"),
    }
}

async fn next(events: &mut store::Events) -> Vec<Event> {
    let item = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
    item.expect("an event within 10 s").expect("the watch goes on").expect("no error")
}

fn keys(page: &store::Page) -> Vec<&str> {
    page.entries.iter().map(|e| &*e.key).collect()
}

async fn a_key_is_created_once(backend: &Backend) {
    let s = backend.store();
    let create = |v| Txn { expect: vec![("/a".into(), Expect::Absent)], ops: vec![op("/a", v)] };
    let rev = done(s.txn(create("1")).await);
    let Ok(Outcome::Refused { found, .. }) = s.txn(create("2")).await else { panic!("created twice") };
    let entry = found[0].as_ref().expect("the entry that stands there");
    assert_eq!((entry.rev, &entry.value[..]), (rev, &b"1"[..]));
    assert!(s.revision().await.unwrap() >= rev);
}

async fn an_update_needs_the_revision_it_saw(backend: &Backend) {
    let s = backend.store();
    let first = put(s, "/a", "1").await;
    let update = |at, v| Txn { expect: vec![("/a".into(), Expect::At(at))], ops: vec![op("/a", v)] };
    let second = done(s.txn(update(first, "2")).await);
    assert!(second > first);
    assert!(matches!(s.txn(update(first, "3")).await, Ok(Outcome::Refused { .. })));
    assert_eq!(&s.get("/a").await.unwrap().unwrap().value[..], b"2");
}

async fn a_refused_transaction_does_nothing(backend: &Backend) {
    let s = backend.store();
    put(s, "/a", "1").await;
    let txn = Txn { expect: vec![("/a".into(), Expect::Absent)], ops: vec![op("/b", "1"), Op::Delete { key: "/a".into() }] };
    assert!(matches!(s.txn(txn).await, Ok(Outcome::Refused { .. })));
    assert!(s.get("/b").await.unwrap().is_none());
    assert!(s.get("/a").await.unwrap().is_some());
}

async fn a_range_is_one_snapshot(backend: &Backend) {
    let s = backend.store();
    for key in ["/p/a", "/p/b", "/p/c", "/q/a"] {
        put(s, key, "1").await;
    }
    let first = s.range(Range { prefix: "/p/".into(), limit: 2, ..Range::default() }).await.unwrap();
    assert_eq!((keys(&first), first.remaining), (vec!["/p/a", "/p/b"], 1));
    delete(s, "/p/c").await;
    put(s, "/p/a", "2").await;
    put(s, "/p/d", "1").await;
    let rest = Range { prefix: "/p/".into(), after: Some("/p/b".into()), limit: 0, at: Some(first.rev) };
    let second = s.range(rest).await.unwrap();
    assert_eq!((keys(&second), second.rev, second.remaining), (vec!["/p/c"], first.rev, 0));
    let old = s.range(Range { prefix: "/p/".into(), at: Some(first.rev), ..Range::default() }).await.unwrap();
    assert_eq!(&old.entries[0].value[..], b"1");
    let now = s.range(Range { prefix: "/p/".into(), ..Range::default() }).await.unwrap();
    assert_eq!(keys(&now), vec!["/p/a", "/p/b", "/p/d"]);
}

async fn a_range_of_many_keys_is_one_snapshot(backend: &Backend) {
    let s = backend.store();
    let mut last = 0;
    for hundred in 0..25 {
        let ops = (0..100).map(|n| op(&format!("/many/{:04}", hundred * 100 + n), "1")).collect();
        last = done(s.txn(Txn { expect: vec![], ops }).await);
    }
    let (whole, writing) = tokio::join!(s.range(Range { prefix: "/many/".into(), ..Range::default() }), async {
        for n in (0..2500).step_by(100) {
            put(s, &format!("/many/{n:04}"), "2").await;
        }
    });
    let (whole, ()) = (whole.unwrap(), writing);
    assert_eq!((whole.entries.len(), whole.remaining), (2500, 0));
    assert!(whole.entries.is_sorted_by(|a, b| a.key < b.key));
    assert!(whole.rev >= last && whole.entries.iter().all(|entry| entry.rev <= whole.rev));
    let some = s.range(Range { prefix: "/many/".into(), limit: 1200, at: Some(whole.rev), ..Range::default() }).await.unwrap();
    assert_eq!((some.entries.len(), some.remaining), (1200, 1300));
    assert_eq!(some.entries[..], whole.entries[..1200]);
}

async fn a_watch_resumes_without_gap_or_duplicate(backend: &Backend) {
    let s = backend.store();
    let start = put(s, "/w/0", "0").await;
    let mut live = s.watch("/w/", start).await.unwrap();
    let mut expected = vec![put(s, "/w/1", "1").await, put(s, "/w/2", "2").await];
    expected.push(delete(s, "/w/1").await);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(next(&mut live).await.iter().map(Event::rev));
    }
    assert_eq!(seen, expected);
    let mut resumed = s.watch("/w/", expected[0]).await.unwrap();
    expected.push(put(s, "/w/3", "3").await);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(next(&mut resumed).await);
    }
    assert_eq!(seen.iter().map(Event::rev).collect::<Vec<_>>(), expected[1..]);
    let Event::Delete { key, prev, .. } = &seen[1] else { panic!("{seen:?}") };
    // Who has it at hand tells what was there; etcd is not made to read it.
    let at_hand = backend.url().is_empty().then_some(&b"1"[..]);
    assert_eq!((&**key, prev.as_ref().map(|prev| &prev.value[..])), ("/w/1", at_hand));
}

async fn a_watch_sees_its_prefix_only(backend: &Backend) {
    let s = backend.store();
    let start = put(s, "/x/0", "0").await;
    let mut watch = s.watch("/x/", start).await.unwrap();
    put(s, "/y/1", "1").await;
    let rev = put(s, "/x/1", "1").await;
    let events = next(&mut watch).await;
    assert_eq!(events.iter().map(Event::rev).collect::<Vec<_>>(), vec![rev]);
}

async fn a_listener_hears_before_the_author(backend: &Backend) {
    let s = backend.store();
    let start = put(s, "/l/0", "0").await;
    let missed = put(s, "/l/1", "1").await;
    let heard: Arc<Mutex<Vec<Rev>>> = Arc::default();
    let told = heard.clone();
    let listener: Listener =
        Arc::new(move |commit| told.lock().unwrap().extend(commit.iter().flat_map(|events| events.iter()).map(Event::rev)));
    // A back end whose commits are made elsewhere has no listeners.
    let Some(listening) = s.listen(start, &listener) else { return };
    listening.unwrap();
    let mut expected = vec![missed];
    assert_eq!(*heard.lock().unwrap(), expected);
    for write in 0..20 {
        expected.push(put(s, "/l/2", &write.to_string()).await);
        assert_eq!(*heard.lock().unwrap(), expected);
    }
    // One transaction is one revision, whatever it writes; many at a time are heard in order.
    expected.push(done(s.txn(Txn { expect: vec![], ops: vec![op("/l/3", "3"), op("/l/4", "4")] }).await));
    expected.push(*expected.last().unwrap());
    let mut together = futures::future::join_all((0..20).map(|n| async move { put(s, &format!("/l/many{n}"), "1").await })).await;
    together.sort_unstable();
    expected.extend(together);
    assert_eq!(*heard.lock().unwrap(), expected);
    let count = expected.len();
    drop(listener);
    let last = put(s, "/l/0", "1").await;
    assert_eq!(heard.lock().unwrap().len(), count, "nobody listens any more");
    s.compact(last).await.unwrap();
    let late: Listener = Arc::new(|_| {});
    assert!(matches!(s.listen(start, &late), Some(Err(Error::Compacted { .. }))));
}

async fn compacted_history_is_refused(backend: &Backend) {
    let s = backend.store();
    let old = put(s, "/c/1", "1").await;
    put(s, "/c/1", "2").await;
    let new = put(s, "/c/1", "3").await;
    s.compact(new).await.unwrap();
    let range = Range { prefix: "/c/".into(), at: Some(old), ..Range::default() };
    assert!(matches!(s.range(range).await, Err(Error::Compacted { .. })));
    let refused = match s.watch("/c/", old).await {
        Err(error) => error,
        Ok(mut events) => events.next().await.expect("an end with a reason").expect_err("compacted"),
    };
    assert!(matches!(refused, Error::Compacted { .. }), "{refused:?}");
    assert_eq!(&s.get("/c/1").await.unwrap().unwrap().value[..], b"3");
}

async fn a_future_revision_is_refused(backend: &Backend) {
    let s = backend.store();
    let rev = put(s, "/f", "1").await;
    let range = Range { prefix: "/f".into(), at: Some(rev + 1000), ..Range::default() };
    assert!(matches!(s.range(range).await, Err(Error::Future { .. })));
}

async fn a_key_with_a_ttl_goes(backend: &Backend) {
    let s = backend.store();
    let brief = |key: &str| Op::Put { key: key.into(), value: Bytes::from_static(b"1"), ttl: Some(Duration::from_secs(1)) };
    let start = done(s.txn(Txn { expect: vec![], ops: vec![brief("/t/goes"), brief("/t/stays")] }).await);
    let mut watch = s.watch("/t/", start).await.unwrap();
    put(s, "/t/stays", "written again").await;
    loop {
        if next(&mut watch).await.iter().any(|e| matches!(e, Event::Delete { key, .. } if &**key == "/t/goes")) {
            break;
        }
    }
    assert!(s.get("/t/stays").await.unwrap().is_some());
}

/// Many transactions from a fixed seed: what the store says must be what a map says, and the watch must replay it.
async fn random_transactions_agree_with_a_model(backend: &Backend) {
    let s = backend.store();
    let start = s.revision().await.unwrap();
    let mut watch = s.watch("/m/", start).await.unwrap();
    let (mut model, mut seed, mut last) = (BTreeMap::<String, (Rev, u64)>::new(), 42u64, start);
    for step in 0..500u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = format!("/m/{}", (seed >> 33) % 17);
        let expect = match (seed >> 60, model.get(&key)) {
            (0..4, _) => vec![(key.clone(), Expect::Absent)],
            (4..8, Some((rev, _))) => vec![(key.clone(), Expect::At(*rev))],
            (4..8, None) => vec![(key.clone(), Expect::At(1))],
            _ => vec![],
        };
        let holds = expect.iter().all(|(_, e)| match e {
            Expect::Absent => !model.contains_key(&key),
            Expect::At(rev) => model.get(&key).is_some_and(|(r, _)| r == rev),
        });
        let delete = (seed >> 20) % 4 == 0;
        let op = if delete { Op::Delete { key: key.clone() } } else { op(&key, &step.to_string()) };
        match (holds, s.txn(Txn { expect, ops: vec![op] }).await.unwrap()) {
            (true, Outcome::Done(rev)) if delete => {
                let changed = model.remove(&key).is_some();
                assert!(rev > last || !changed);
                last = last.max(rev);
            }
            (true, Outcome::Done(rev)) => {
                assert!(rev > last);
                last = rev;
                model.insert(key, (rev, step));
            }
            (false, Outcome::Refused { .. }) => {}
            other => panic!("step {step}: {other:?}"),
        }
    }
    let page = s.range(Range { prefix: "/m/".into(), ..Range::default() }).await.unwrap();
    let stored: BTreeMap<String, (Rev, u64)> = page.entries.iter().map(|e| (e.key.to_string(), (e.rev, number(&e.value)))).collect();
    assert_eq!(stored, model);
    let (mut replayed, mut seen) = (BTreeMap::new(), start);
    while replayed != model || seen < last {
        for event in next(&mut watch).await {
            assert!(event.rev() > seen, "revisions rise");
            seen = event.rev();
            match event {
                Event::Put { entry, .. } => drop(replayed.insert(entry.key.to_string(), (entry.rev, number(&entry.value)))),
                Event::Delete { key, .. } => drop(replayed.remove(&*key)),
            }
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}
