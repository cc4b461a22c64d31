//! A store that does not answer, cuts and forgets -> what was carried out is there, and watchers skip nothing.

use bytes::Bytes;
use futures::StreamExt;
use store::{
    Error, Expect, Op, Outcome, Store, Txn,
    faulty::{Faults, Faulty, Random},
    memory::Memory,
};

fn random(seed: u64) -> Random {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    Box::new(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    })
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), ttl: None }
}

#[tokio::test]
async fn a_write_without_an_answer_was_carried_out_or_not() {
    let store = Faulty::new(std::sync::Arc::new(Memory::without_thread()), random(7));
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
    let store = Faulty::new(std::sync::Arc::new(Memory::without_thread()), random(11));
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
