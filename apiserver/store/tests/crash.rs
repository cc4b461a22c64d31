//! A disk that fails at some sync -> what was acknowledged is there after reopening, and watchers saw nothing else.

use std::{collections::BTreeMap, path::Path, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use store::{
    Entry, Error, Event, Events, Expect, Op, Outcome, Range, Rev, Store, Txn,
    faulty::{self, Dice, Faults, Faulty},
    memory::Memory,
};

/// Each fails at another sync, with another fate for what was not synced.
const SEEDS: u64 = 60;
const WRITES_MAX: u64 = 64;

/// What was acknowledged, and the one write that got no answer.
#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<String, (Rev, String)>,
    newest: Rev,
    open: Option<(String, Option<String>)>,
}

fn dice(seed: u64) -> Dice {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    Box::new(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    })
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), ttl: None }
}

/// Writes until the disk fails.
async fn write_on(store: &dyn Store, mut dice: Dice) -> Told {
    let mut told = Told::default();
    for step in 0..WRITES_MAX {
        let key = format!("/k/{}", dice() % 7);
        let value = (!dice().is_multiple_of(4)).then(|| format!("{step}-{}", "x".repeat((dice() % 9000) as usize)));
        let op = value.as_ref().map_or_else(|| Op::Delete { key: key.clone() }, |v| put(&key, v));
        match store.txn(Txn { expect: vec![], ops: vec![op] }).await {
            Ok(Outcome::Done(rev)) => {
                told.newest = rev;
                match value {
                    Some(value) => drop(told.acknowledged.insert(key, (rev, value))),
                    None => drop(told.acknowledged.remove(&key)),
                }
            }
            Err(Error::Unavailable(_)) => {
                told.open = Some((key, value));
                return told;
            }
            other => panic!("step {step}: {other:?}"),
        }
    }
    panic!("the disk did not fail in {WRITES_MAX} writes");
}

async fn all(store: &dyn Store) -> BTreeMap<String, (Rev, String)> {
    let page = store.range(Range { prefix: "/k/".into(), ..Range::default() }).await.unwrap();
    page.entries.iter().map(by_key).collect()
}

fn by_key(entry: &Entry) -> (String, (Rev, String)) {
    (entry.key.to_string(), (entry.rev, String::from_utf8(entry.value.to_vec()).unwrap()))
}

/// All that the watch has to tell, until the store closes.
async fn replay(events: Events) -> (BTreeMap<String, (Rev, String)>, Rev) {
    let (mut state, mut newest) = (BTreeMap::new(), 0);
    let items: Vec<_> = tokio::time::timeout(Duration::from_secs(10), events.collect()).await.expect("the watch ends with its store");
    for event in items.into_iter().flatten().flatten() {
        newest = event.rev();
        match event {
            Event::Put { entry, .. } => {
                let (key, value) = by_key(&entry);
                state.insert(key, value);
            }
            Event::Delete { key, .. } => drop(state.remove(&*key)),
        }
    }
    (state, newest)
}

/// The acknowledged state, or that and the one write without an answer.
fn as_told(told: &Told, found: &BTreeMap<String, (Rev, String)>) -> bool {
    let Some((key, value)) = &told.open else { return *found == told.acknowledged };
    let mut with_open = told.acknowledged.clone();
    match value {
        Some(value) => drop(with_open.insert(key.clone(), (told.newest + 1, value.clone()))),
        None => drop(with_open.remove(key)),
    }
    *found == told.acknowledged || *found == with_open
}

async fn crash(dir: &Path, seed: u64) {
    let store = match faulty::disk::open(dir, 1 + seed / 2, dice(seed)) {
        Ok(store) => store,
        // The power went while the store was being made: what there is must be refused or usable, and never block for ever.
        Err(Error::Unusable(_)) => return,
        Err(other) => panic!("seed {seed}: {other:?}"),
    };
    let start = store.revision().await.unwrap();
    let watch = store.watch("/k/", start).await.unwrap();
    let told = write_on(&store, dice(seed + 1000)).await;
    assert_eq!(all(&store).await, told.acknowledged, "seed {seed}: what is read is what was acknowledged");
    assert!(matches!(store.txn(Txn { expect: vec![], ops: vec![put("/k/late", "1")] }).await, Err(Error::Unavailable(_))), "seed {seed}");
    store.close().await;
    drop(store);
    let (seen, newest) = replay(watch).await;
    assert_eq!((&seen, newest), (&told.acknowledged, told.newest), "seed {seed}: watchers saw what was acknowledged");

    let again = store::redb::open(dir).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let found = all(&again).await;
    assert!(as_told(&told, &found), "seed {seed}: {:?} acknowledged, {:?} found", keys(&told.acknowledged), keys(&found));
    let revision = again.revision().await.unwrap();
    assert!((told.newest..=told.newest + 1).contains(&revision), "seed {seed}: {} acknowledged, {revision} found", told.newest);
    let next = again.txn(Txn { expect: vec![], ops: vec![put("/k/after", "1")] }).await.unwrap();
    assert_eq!(next, Outcome::Done(revision + 1), "seed {seed}: revisions go on");
    again.close().await;
}

fn keys(state: &BTreeMap<String, (Rev, String)>) -> Vec<(&str, Rev)> {
    state.iter().map(|(key, (rev, _))| (key.as_str(), *rev)).collect()
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_failing_disk() {
    for seed in 0..SEEDS {
        let dir = tempfile::tempdir().unwrap();
        crash(dir.path(), seed).await;
    }
}

#[tokio::test]
async fn a_write_without_an_answer_was_carried_out_or_not() {
    let store = Faulty::new(std::sync::Arc::new(Memory::without_thread()), dice(7));
    store.set(Faults { done_unanswered: 300, lost: 300, ..Faults::default() });
    let (mut done, mut lost, mut answered) = (0, 0, 0);
    for step in 0..200 {
        let key = format!("/k/{step}");
        let txn = Txn { expect: vec![(key.clone(), Expect::Absent)], ops: vec![put(&key, "1")] };
        let (answer, there) = (store.txn(txn).await, store.get(&key).await.unwrap().is_some());
        match (answer, there) {
            (Ok(Outcome::Done(_)), true) => answered += 1,
            (Err(Error::Unavailable(_)), true) => done += 1,
            (Err(Error::Unavailable(_)), false) => lost += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(done > 20 && lost > 20 && answered > 20, "{done} {lost} {answered}");
}

#[tokio::test]
async fn a_watch_that_is_cut_skipped_nothing_before() {
    let store = Faulty::new(std::sync::Arc::new(Memory::without_thread()), dice(11));
    store.set(Faults { cut: 200, forgotten: 200, ..Faults::default() });
    let (mut seen, mut refused, mut cuts, mut open) = (0, 0, 0, None);
    for rev in 1..=200 {
        store.txn(Txn { expect: vec![], ops: vec![put("/k/a", "1")] }).await.unwrap();
        while seen < rev {
            let Some(events) = &mut open else {
                match store.watch("/k/", seen).await {
                    Ok(events) => open = Some(events),
                    Err(Error::Compacted { .. }) => refused += 1,
                    Err(other) => panic!("{other:?}"),
                }
                continue;
            };
            match events.next().await {
                Some(Ok(batch)) => batch.iter().for_each(|event| {
                    assert_eq!(event.rev(), seen + 1, "no gap, no repetition");
                    seen = event.rev();
                }),
                Some(Err(Error::Slow)) => {
                    open = None;
                    cuts += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(cuts > 5 && refused > 5, "{cuts} {refused}");
}
