//! etcd behind a network that fails: what was carried out is told, what was not never is, and nothing is told that did not happen.

mod proxy;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use store::{
    Error, Event, Expect, Op, Outcome, Range, Rev, Store, Txn,
    etcd::{Etcd, Tls},
};
use tokio::task::JoinSet;

use self::proxy::Proxy;
use crate::{backends::Backend, done, next, op, put};

const BOUND: Duration = Duration::from_secs(30);

/// A transaction that is on its way.
struct Sent(JoinSet<Result<Outcome, Error>>);

impl Sent {
    async fn outcome(mut self) -> Outcome {
        self.0.join_next().await.unwrap().unwrap().expect("its outcome is known")
    }
}

/// One etcd, reached directly and through a proxy.
struct House {
    backend: Backend,
    proxy: Proxy,
    far: Arc<Etcd>,
}

impl House {
    async fn new() -> Self {
        let backend = Backend::etcd().await;
        let proxy = Proxy::before(backend.url()).await;
        let far = Arc::new(open(&[proxy.url()]).await);
        Self { backend, proxy, far }
    }

    fn near(&self) -> &dyn Store {
        self.backend.store()
    }

    fn send(&self, txn: Txn) -> Sent {
        let (far, mut sent) = (self.far.clone(), JoinSet::new());
        sent.spawn(async move { far.txn(txn).await });
        Sent(sent)
    }

    /// Sends `txn` and loses the answer; returns what it came to, and the revision it was seen at.
    async fn unanswered(&self, txn: Txn, meanwhile: impl AsyncFn(&dyn Store)) -> (Outcome, Rev) {
        let before = self.near().revision().await.unwrap();
        self.proxy.hold_replies();
        let sent = self.send(txn);
        eventually("it is carried out", async || self.near().revision().await.unwrap() > before).await;
        let at = before + 1;
        meanwhile(self.near()).await;
        self.proxy.cut();
        (sent.outcome().await, at)
    }

    /// Sends `txn`, which does not arrive.
    async fn lost(&self, txn: Txn, meanwhile: impl AsyncFn(&dyn Store)) -> Outcome {
        self.proxy.hold_requests();
        let sent = self.send(txn);
        eventually("it is on its way", async || self.proxy.holds()).await;
        meanwhile(self.near()).await;
        self.proxy.cut();
        sent.outcome().await
    }
}

async fn open(servers: &[String]) -> Etcd {
    store::etcd::open(servers, &Tls::default()).await.expect("etcd answers")
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let looking = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BOUND, looking).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

async fn nothing(_: &dyn Store) {}

async fn theirs(near: &dyn Store) {
    put(near, "/k/a", "theirs").await;
}

fn create(key: &str, value: &str) -> Txn {
    Txn { expect: vec![(key.into(), Expect::Absent)], ops: vec![op(key, value)] }
}

fn erase(key: &str, at: Rev) -> Txn {
    Txn { expect: vec![(key.into(), Expect::At(at))], ops: vec![Op::Delete { key: key.into() }] }
}

/// All that has happened under `/k` since `since`, up to now.
async fn history(store: &dyn Store, since: Rev) -> Vec<(String, Rev)> {
    let mut watch = store.watch("/k", since).await.unwrap();
    let end = put(store, "/k/end", "").await;
    let mut all = Vec::new();
    loop {
        for event in next(&mut watch).await {
            if event.rev() == end {
                return all;
            }
            all.push((event.key().to_string(), event.rev()));
        }
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_known() {
    let house = House::new().await;
    let (outcome, created) = house.unanswered(create("/k/a", "1"), nothing).await;
    assert_eq!(outcome, Outcome::Done(created));
    let update = Txn { expect: vec![("/k/a".into(), Expect::At(created))], ops: vec![op("/k/a", "2")] };
    let (outcome, updated) = house.unanswered(update, nothing).await;
    assert_eq!(outcome, Outcome::Done(updated));
    let both = Txn { expect: vec![("/k/a".into(), Expect::At(updated))], ops: vec![op("/k/a", "3"), op("/k/b", "1")] };
    let (outcome, both) = house.unanswered(both, nothing).await;
    assert_eq!(outcome, Outcome::Done(both));
    let (outcome, erased) = house.unanswered(erase("/k/a", both), nothing).await;
    assert_eq!(outcome, Outcome::Done(erased));
    // The lease is asked for before, and shared.
    let leased = |key: &str| Op::Put { key: key.into(), value: Bytes::from_static(b"1"), ttl: Some(Duration::from_secs(1200)) };
    let first = done(house.far.txn(Txn { expect: vec![], ops: vec![leased("/k/t0")] }).await);
    let (outcome, at) = house.unanswered(Txn { expect: vec![], ops: vec![leased("/k/t1")] }, nothing).await;
    assert_eq!(outcome, Outcome::Done(at));
    // Nothing was written twice.
    let revs: Vec<Rev> = history(house.near(), created - 1).await.into_iter().map(|(_, rev)| rev).collect();
    assert_eq!(revs, [created, updated, both, both, erased, first, at]);
}

#[tokio::test]
async fn what_others_did_meanwhile_stands() {
    let house = House::new().await;
    let remove =
        async |near: &dyn Store| drop(near.txn(Txn { expect: vec![], ops: vec![Op::Delete { key: "/k/a".into() }] }).await.unwrap());
    let (outcome, at) = house.unanswered(create("/k/a", "1"), remove).await;
    assert_eq!(outcome, Outcome::Done(at), "it was created, if only for a while");
    assert!(house.near().get("/k/a").await.unwrap().is_none(), "and is not made again");
    let (outcome, at) = house.unanswered(create("/k/a", "1"), theirs).await;
    assert_eq!(outcome, Outcome::Done(at));
    assert_eq!(&house.near().get("/k/a").await.unwrap().unwrap().value[..], b"theirs");
}

#[tokio::test]
async fn a_write_that_did_not_arrive_is_made_again_and_never_later() {
    let house = House::new().await;
    let since = house.near().revision().await.unwrap();
    let Outcome::Done(at) = house.lost(create("/k/a", "1"), nothing).await else { panic!("nothing stood in its way") };
    house.near().txn(erase("/k/a", at)).await.unwrap();
    // What is deleted now must stay so, though the first request arrives at last: what it expects is true again.
    house.proxy.release();
    eventually("the late request is answered", async || house.proxy.answered_late()).await;
    let seen = history(house.near(), since).await;
    assert_eq!(seen.iter().filter(|(key, _)| key == "/k/a").count(), 2, "created once, deleted once: {seen:?}");
    assert!(house.near().get("/k/a").await.unwrap().is_none());
}

#[tokio::test]
async fn what_was_sent_before_a_seal_is_not_carried_out_after_it() {
    for is_sealed in [false, true] {
        let house = House::new().await;
        house.proxy.hold_requests();
        // Its author stands still from here on: nobody settles what became of it.
        let mut sent = Box::pin(house.far.txn(create("/k/a", "1")));
        tokio::select! {
            biased;
            done = &mut sent => panic!("{done:?}"),
            () = eventually("it is on its way", async || house.proxy.holds()) => {}
        }
        house.proxy.cut();
        if is_sealed {
            house.near().seal().await.unwrap();
        }
        house.proxy.release();
        eventually("the late request is answered", async || house.proxy.answered_late()).await;
        assert_eq!(house.near().get("/k/a").await.unwrap().is_none(), is_sealed);
        put(house.near(), "/k/b", "who writes later is not concerned").await;
        let Outcome::Done(_) = house.send(create("/k/c", "1")).outcome().await else { panic!("it is tried again with the new fence") };
    }
}

#[tokio::test]
async fn a_write_that_came_too_late_is_refused() {
    let house = House::new().await;
    let outcome = house.lost(create("/k/a", "1"), theirs).await;
    let Outcome::Refused { found, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(found.len(), 1);
    assert_eq!(&found[0].as_ref().unwrap().value[..], b"theirs");
}

#[tokio::test]
async fn many_writes_over_a_line_that_breaks_are_each_made_once() {
    let house = House::new().await;
    let since = house.near().revision().await.unwrap();
    let mut revs = Vec::new();
    for round in 0..4 {
        let sent: Vec<_> = (0..40).map(|n| house.send(create(&format!("/k/{round}/{n}"), "1"))).collect();
        let prefix = format!("/k/{round}/");
        let some = async || {
            let page = house.near().range(Range { prefix: prefix.clone(), ..Range::default() }).await.unwrap();
            page.entries.len() > usize::try_from(round).unwrap() * 5
        };
        eventually("some are carried out", some).await;
        house.proxy.cut();
        for one in sent {
            revs.push(done(Ok(one.outcome().await)));
        }
    }
    let mut told: Vec<Rev> = history(house.near(), since).await.into_iter().map(|(_, rev)| rev).collect();
    told.sort_unstable();
    revs.sort_unstable();
    assert_eq!(revs, told);
}

#[tokio::test]
async fn a_watch_goes_on_after_a_cut() {
    let house = House::new().await;
    let start = put(house.near(), "/k/0", "").await;
    let mut watch = house.far.watch("/k", start).await.unwrap();
    let mut expected = Vec::new();
    for n in 1..6 {
        expected.push(put(house.near(), "/k/n", &n.to_string()).await);
        if n % 2 == 0 {
            house.proxy.cut();
        }
    }
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        seen.extend(next(&mut watch).await.iter().map(Event::rev));
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_watch_that_missed_what_is_forgotten_says_so() {
    let house = House::new().await;
    let start = put(house.near(), "/k/0", "").await;
    let mut watch = house.far.watch("/k", start).await.unwrap();
    house.proxy.lead_to(None);
    house.proxy.cut();
    put(house.near(), "/k/1", "").await;
    let last = put(house.near(), "/k/1", "").await;
    house.near().compact(last).await.unwrap();
    house.proxy.lead_to(Some(house.backend.url()));
    let end = tokio::time::timeout(BOUND, watch.next()).await.unwrap().unwrap();
    assert!(matches!(end, Err(Error::Compacted { .. })), "{end:?}");
}

#[tokio::test]
async fn a_cluster_that_was_put_back_is_noticed() {
    let (house, other) = (House::new().await, Backend::etcd().await);
    for _ in 0..20 {
        put(house.near(), "/k/0", "").await;
    }
    let start = house.near().revision().await.unwrap();
    let mut watch = house.far.watch("/k", start).await.unwrap();
    house.proxy.lead_to(Some(other.url()));
    house.proxy.cut();
    let end = tokio::time::timeout(BOUND, watch.next()).await.unwrap().unwrap();
    assert!(matches!(end, Err(Error::Future { newest }) if newest < start), "{end:?}");
}

#[tokio::test]
async fn another_server_answers_for_one_that_is_gone() {
    let house = House::new().await;
    let gone = "http://127.0.0.1:1".to_owned();
    let store = open(&[gone, house.proxy.url(), house.backend.url().to_owned()]).await;
    let start = put(&store, "/k/a", "1").await;
    let mut watch = store.watch("/k", start).await.unwrap();
    house.proxy.lead_to(None);
    house.proxy.cut();
    let rev = put(&store, "/k/a", "2").await;
    assert_eq!(next(&mut watch).await.iter().map(Event::rev).collect::<Vec<_>>(), [rev]);
    assert_eq!(store.get("/k/a").await.unwrap().unwrap().rev, rev);
}

#[tokio::test]
async fn reads_and_watches_are_of_any_size() {
    let house = House::new().await;
    let start = house.near().revision().await.unwrap();
    let value = "x".repeat(1 << 20);
    let mut revs = Vec::new();
    for n in 0..12 {
        revs.push(put(house.near(), &format!("/k/{n:02}"), &value).await);
    }
    let page = house.far.range(Range { prefix: "/k/".into(), ..Range::default() }).await.unwrap();
    assert_eq!((page.entries.len(), page.remaining, page.rev), (12, 0, *revs.last().unwrap()));
    let mut watch = house.far.watch("/k", start).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 12 {
        seen.extend(next(&mut watch).await.iter().map(Event::rev));
    }
    assert_eq!(seen, revs);
}
