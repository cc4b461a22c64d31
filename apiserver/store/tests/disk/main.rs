//! Histories on a disk that fails, one call each -> nothing acknowledged is lost, nothing else is told, and damage is never read as less.

mod old;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use store::{
    Condition, Entry, Error, Event, Listener, Op, Outcome, Range, Rev, Store, Txn,
    faulty::{
        Random,
        disk::{self, Disk, Fault},
    },
};

const LIVES: u64 = 3;
const WRITES: u64 = 9;

/// What a history is like; each has a seed, and each call of it meets each fault once.
#[derive(Clone, Copy, Debug)]
struct Shape {
    keys: u64,
    value_bytes_max: u64,
    ops_max: u64,
    take_over_bytes: u64,
    refuse_bytes: u64,
}

const SHAPES: [Shape; 4] = [
    // The log is taken over at almost every write, ...
    Shape { keys: 6, value_bytes_max: 1500, ops_max: 3, take_over_bytes: 3 << 10, refuse_bytes: 12 << 10 },
    // ... now and then, ...
    Shape { keys: 6, value_bytes_max: 1500, ops_max: 3, take_over_bytes: 8 << 10, refuse_bytes: 40 << 10 },
    // ... and at the end of a life that ends well. A log that outlives several is what is read at each start.
    Shape { keys: 6, value_bytes_max: 600, ops_max: 3, take_over_bytes: 1 << 20, refuse_bytes: 2 << 20 },
    // Many keys: a commit leaves most pages of the tree as they are.
    Shape { keys: 150, value_bytes_max: 700, ops_max: 14, take_over_bytes: 6 << 10, refuse_bytes: 60 << 10 },
];
const FAULTS: [Fault; 5] = [Fault::Refused, Fault::Partly, Fault::Done, Fault::Killed, Fault::Dark];

type State = BTreeMap<String, (Rev, String)>;
type Change = (String, Option<String>);

/// What the store told its users.
#[derive(Clone, Default)]
struct Told {
    acknowledged: State,
    newest: Rev,
    /// The last write, if it got no answer that says whether it was carried out.
    open: Option<Vec<Change>>,
}

fn random(seed: u64) -> Random {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    Box::new(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    })
}

impl Told {
    fn with(&self, changes: &[Change]) -> State {
        let mut state = self.acknowledged.clone();
        for (key, value) in changes {
            match value {
                Some(value) => drop(state.insert(key.clone(), (self.newest + 1, value.clone()))),
                None => drop(state.remove(key)),
            }
        }
        state
    }

    /// What was found at a start is what is so from here on.
    fn settle(&mut self, found: State, rev: Rev, what: &str) {
        let with_open = self.open.take().map(|changes| self.with(&changes));
        let as_told = rev == self.newest && found == self.acknowledged;
        let as_open = rev == self.newest + 1 && with_open.as_ref() == Some(&found);
        assert!(
            as_told || as_open,
            "{what}: {:?} at {} acknowledged, {:?} at {rev} found",
            keys(&self.acknowledged),
            self.newest,
            keys(&found)
        );
        (self.acknowledged, self.newest) = (found, rev);
    }
}

fn keys(state: &State) -> Vec<(&str, Rev)> {
    state.iter().map(|(key, (rev, _))| (key.as_str(), *rev)).collect()
}

fn by_key(entry: &Entry) -> (String, (Rev, String)) {
    (entry.key.to_string(), (entry.rev, String::from_utf8(entry.value.to_vec()).unwrap()))
}

async fn all(store: &dyn Store) -> State {
    let page = store.range(Range { prefix: "/k/".into(), ..Range::default() }).await.unwrap();
    page.entries.iter().map(by_key).collect()
}

fn some_txn(shape: Shape, random: &mut Random) -> Vec<Change> {
    let keys: BTreeSet<u64> = (0..=random() % shape.ops_max).map(|_| random() % shape.keys).collect();
    let text = |random: &mut Random| format!("{}{}", random(), "x".repeat((random() % shape.value_bytes_max) as usize));
    let value = |random: &mut Random| (!random().is_multiple_of(4)).then(|| text(random));
    keys.into_iter().map(|key| (format!("/k/{key}"), value(random))).collect()
}

fn txn(changes: &[Change]) -> Txn {
    let op = |(key, value): &Change| match value {
        Some(value) => Op::Put { key: key.clone(), value: Bytes::copy_from_slice(value.as_bytes()), ttl: None },
        None => Op::Delete { key: key.clone() },
    };
    Txn { expect: vec![], ops: changes.iter().map(op).collect() }
}

fn condition(store: &dyn Store) -> Condition {
    store.condition().expect("a store of this process knows").borrow().clone()
}

/// Keeps what it hears.
fn ear() -> (Listener, Arc<Mutex<Vec<Event>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = heard.clone();
    (Arc::new(move |commit: &[Arc<Vec<Event>>]| into.lock().extend(commit.iter().flat_map(|batch| batch.iter().cloned()))), heard)
}

fn replayed(mut state: State, events: &[Event]) -> State {
    for event in events {
        match event {
            Event::Put { entry, .. } => state.extend([by_key(entry)]),
            Event::Delete { key, .. } => drop(state.remove(&**key)),
        }
    }
    state
}

/// One write, and whether the next may be tried.
async fn write(store: &dyn Store, told: &mut Told, changes: Vec<Change>, what: &str) -> bool {
    match store.txn(txn(&changes)).await {
        Ok(Outcome::Done(rev)) => {
            if rev > told.newest {
                told.acknowledged = told.with(&changes);
                told.newest = rev;
                told.open = None;
                assert_eq!(told.acknowledged, all(store).await, "{what}");
                assert!(!matches!(condition(store), Condition::Failing(_)), "{what}: a write that was carried out heals");
            }
            true
        }
        Err(Error::Unwritten(_)) => {
            assert!(matches!(condition(store), Condition::Failing(_)), "{what}");
            true
        }
        Err(Error::Undecided(_)) => {
            told.open = Some(changes);
            !matches!(condition(store), Condition::Ended(_))
        }
        Err(Error::Unavailable(_)) => {
            assert!(matches!(condition(store), Condition::Ended(_)), "{what}");
            false
        }
        other => panic!("{what}: {other:?}"),
    }
}

/// From a start to an end. The error is why it did not start.
async fn live(disk: &Disk, shape: Shape, told: &mut Told, random: &mut Random, what: &str) -> Result<(), Error> {
    let store = disk::open(disk, shape.take_over_bytes, shape.refuse_bytes).inspect_err(|_| disk.kill())?;
    told.settle(all(&store).await, store.revision().await.unwrap(), what);
    let (before, (listener, heard)) = (told.acknowledged.clone(), ear());
    store.listen(told.newest, &listener).unwrap().unwrap();
    // Full for a while, every other life.
    let full = random().is_multiple_of(2).then(|| random() % WRITES);
    for step in 0..WRITES {
        disk.set_full(full.is_some_and(|from| (from..from + 3).contains(&step)));
        if !write(&store, told, some_txn(shape, random), &format!("{what}, write {step}")).await {
            break;
        }
    }
    disk.set_full(false);
    assert_eq!(all(&store).await, told.acknowledged, "{what}: reads go on");
    assert_eq!(replayed(before, &heard.lock()), told.acknowledged, "{what}: watchers hear what was acknowledged, and nothing else");
    if matches!(condition(&store), Condition::Ended(_)) {
        let late = store.txn(txn(&[("/k/late".into(), Some("1".into()))])).await;
        assert!(matches!(late, Err(Error::Unavailable(_))), "{what}: {late:?}");
    }
    if random().is_multiple_of(3) {
        store.close().await;
    } else {
        disk.kill();
    }
    Ok(())
}

/// A whole history, in which one call meets a fault. How many calls there were.
async fn history(shape: Shape, seed: u64, fault: Option<(u64, Fault)>) -> u64 {
    let what = format!("seed {seed}, {fault:?}, {shape:?}");
    let (at, met) = fault.unzip();
    let disk = Disk::new(random(seed * 1000 + at.unwrap_or(0) * 5 + met.map_or(0, |fault| fault as u64)));
    if at.is_some_and(|at| at.is_multiple_of(2)) {
        // That a kernel forgets what it is asked to forget is not certain.
        disk.keep("skiff.log");
    }
    let (mut told, mut workload) = (Told::default(), random(seed));
    for life in 0..LIVES {
        if let (Some(at), Some(fault)) = (at, met) {
            disk.meet(at, fault);
        }
        let before = disk.calls();
        let lived = live(&disk, shape, &mut told, &mut workload, &format!("{what}, life {life}")).await;
        if let Err(error) = lived {
            assert!(at.is_some_and(|at| (before..disk.calls()).contains(&at)), "{what}, life {life} does not start: {error}");
        }
        disk.next_life(workload().is_multiple_of(2));
    }
    let calls = disk.calls();
    settled(&disk, shape, &mut told, &what).await;
    calls
}

/// The disk works again: all is there, and what can be seen is durable.
async fn settled(disk: &Disk, shape: Shape, told: &mut Told, what: &str) {
    for (end, dark) in [("the first start after it", true), ("the start after the power went", false), ("the last start", true)] {
        let store = disk::open(disk, shape.take_over_bytes, shape.refuse_bytes).unwrap_or_else(|error| panic!("{what}, {end}: {error}"));
        told.settle(all(&store).await, store.revision().await.unwrap(), &format!("{what}, {end}"));
        if !dark {
            assert!(write(&store, told, vec![("/k/after".into(), Some("1".into()))], what).await, "{what}: revisions go on");
        }
        disk.kill();
        drop(store);
        disk.next_life(dark);
    }
}

/// Each call of a history in turn, with each fault.
async fn histories(shape: Shape, seed: u64) {
    let mut histories = 0;
    for call in 0..history(shape, seed, None).await {
        for fault in FAULTS {
            history(shape, seed, Some((call, fault))).await;
            histories += 1;
        }
    }
    println!("{histories} histories");
    assert!(histories > 500, "{histories}");
}

#[tokio::test(start_paused = true)]
async fn each_call_fails_in_turn_while_the_log_is_always_taken_over() {
    histories(SHAPES[0], 0).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_fails_in_turn_while_the_log_is_taken_over_now_and_then() {
    histories(SHAPES[1], 1).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_fails_in_turn_while_the_log_grows() {
    histories(SHAPES[2], 2).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_fails_in_turn_while_the_tree_is_large() {
    histories(SHAPES[3], 3).await;
}

#[tokio::test]
async fn a_store_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    for life in ["the first", "the second"] {
        let first = store::redb::open(dir.path()).unwrap();
        let second = store::redb::open(dir.path()).err().unwrap_or_else(|| panic!("{life}: opened twice")).to_string();
        assert!(second.contains("open in another process"), "{life}: {second}");
        assert!(store::redb::check(dir.path()).is_err(), "{life}: what is being written cannot be checked");
        first.close().await;
        assert!(store::redb::check(dir.path()).unwrap().is_some(), "{life}: it is closed");
    }
}

/// What an older skiff left where its first start was killed: it made its files in place, the tree first.
#[tokio::test(start_paused = true)]
async fn what_an_older_first_start_left_when_it_was_killed_is_begun_again() {
    let empty_log = b"skiff log 1\n\0\0\0\0".to_vec();
    let blank = vec![0; 8192];
    // A tree with no table in it: redb makes one on any file.
    let untold = {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        drop(redb::Database::create(&path).unwrap());
        std::fs::read(path).unwrap()
    };
    let lefts: [&[(&str, &Vec<u8>)]; 4] = [
        &[("skiff.redb", &Vec::new())],
        &[("skiff.redb", &blank)],
        &[("skiff.redb", &untold)],
        &[("skiff.redb", &untold), ("skiff.log", &empty_log)],
    ];
    for (n, left) in lefts.iter().enumerate() {
        let image = left.iter().map(|(name, bytes)| ((*name).to_owned(), (*bytes).clone())).collect();
        let disk = Disk::of(&image, random(1));
        let store = disk::open(&disk, 1 << 20, 2 << 20).unwrap_or_else(|error| panic!("{n}: {error}"));
        assert!(write(&store, &mut Told::default(), vec![("/k/a".into(), Some("1".into()))], &format!("left {n}")).await);
    }
    // But one of the two without the other is no beginning.
    let (image, _) = cut_off(SHAPES[3]).await;
    for gone in ["skiff.redb", "skiff.log"] {
        let mut image = image.clone();
        image.remove(gone);
        let disk = Disk::of(&image, random(1));
        assert!(matches!(disk::open(&disk, 1 << 20, 2 << 20), Err(Error::Unusable(why)) if why.contains("it is missing")), "{gone}");
        assert!(disk.image() == image, "{gone}: touched");
    }
}

/// A store in whose tree and log there is something, as a power cut leaves it.
async fn cut_off(shape: Shape) -> (BTreeMap<String, Vec<u8>>, State) {
    let (disk, mut told, mut workload) = (Disk::new(random(1)), Told::default(), random(4));
    let store = disk::open(&disk, shape.take_over_bytes, shape.refuse_bytes).unwrap();
    for step in 0..40 {
        assert!(write(&store, &mut told, some_txn(shape, &mut workload), &format!("write {step}")).await);
    }
    disk.kill();
    drop(store);
    disk.next_life(true);
    (disk.image(), told.acknowledged)
}

/// What becomes of a start on `image`, which was damaged: it is refused and left as it is, or all is there.
async fn started_damaged(image: &BTreeMap<String, Vec<u8>>, whole: &State, shape: Shape) -> Result<(), String> {
    let disk = Disk::of(image, random(1));
    match disk::open(&disk, shape.take_over_bytes, shape.refuse_bytes) {
        Err(Error::Unusable(why)) if why.contains("left untouched") => {
            let untouched = disk.image() == *image && disk.seen() == *image;
            untouched.then_some(()).ok_or_else(|| format!("refused ({why}), but touched"))
        }
        Err(other) => Err(format!("{other:?}")),
        Ok(store) => (all(&store).await == *whole).then_some(()).ok_or_else(|| "taken for a shorter good one".to_owned()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_is_refused_and_left_as_it_is_or_holds_all_there_was() {
    const FLIPS: usize = 700;
    let shape = Shape { take_over_bytes: 20 << 10, ..SHAPES[3] };
    let (image, whole) = cut_off(shape).await;
    started_damaged(&image, &whole, shape).await.unwrap();
    let (mut random, mut found) = (random(5), Vec::new());
    let quiet = std::panic::take_hook();
    // redb panics on some damage; that is told as any other, and would fill the output here.
    std::panic::set_hook(Box::new(|_| {}));
    for (name, good) in &image {
        // Where there is something; a file of pages is mostly empty.
        let places: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
        assert!(places.len() > 2000, "{name}: {} bytes", places.len());
        for flip in 0..FLIPS {
            let mut image = image.clone();
            let bytes = image.get_mut(name).unwrap();
            let at = if flip < 320 { flip } else { places[random() as usize % places.len()] };
            match flip % 8 {
                // A sector that was lost.
                7 => bytes[at / 512 * 512..].iter_mut().take(512).for_each(|byte| *byte = 0),
                _ => bytes[at] ^= 1 << (random() % 8),
            }
            if image[name] == *good {
                continue;
            }
            let torn = name == "skiff.log" && flip % 8 == 7 && is_in_last_record(good, at);
            if let Err(why) = started_damaged(&image, &whole, shape).await
                && !torn
            {
                found.push(format!("{name}, byte {at}, kind {}: {why}", flip % 8));
            }
        }
    }
    std::panic::set_hook(quiet);
    assert!(found.is_empty(), "{} times:\n{}", found.len(), found.join("\n"));
}

/// A sector of the last record that is missing is what a power cut leaves of a write that was not acknowledged: nobody can tell.
fn is_in_last_record(log: &[u8], at: usize) -> bool {
    // Marks of records: see `log/record.rs`.
    let begins = (0..log.len() - 1).rev().find(|at| log[*at] == 0x7C && log[*at + 1] == 0xC7).unwrap();
    at / 512 * 512 + 512 > begins
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_taken_over_is_bounded_and_heals_by_itself() {
    let (disk, mut told, mut workload) = (Disk::new(random(1)), Told::default(), random(6));
    let shape = SHAPES[0];
    let store = disk::open(&disk, shape.take_over_bytes, shape.refuse_bytes).unwrap();
    disk.set_full_for("skiff.redb");
    let mut refused = 0;
    for step in 0..200 {
        let before = told.newest;
        assert!(write(&store, &mut told, some_txn(shape, &mut workload), &format!("write {step}")).await);
        refused += u64::from(told.newest == before && condition(&store) != Condition::Sound);
    }
    assert!(refused > 100, "{refused}");
    let log = disk.image()["skiff.log"].len() as u64;
    assert!(log < shape.refuse_bytes + 8 * shape.value_bytes_max, "{log} bytes");
    assert_eq!(all(&store).await, told.acknowledged, "reads go on");
    let Condition::Failing(why) = condition(&store) else { panic!("{:?}", condition(&store)) };
    assert!(why.contains("could not be taken over"), "{why}");

    disk.set_full(false);
    let mut condition = store.condition().unwrap();
    let healed = condition.wait_for(|now| *now == Condition::Sound);
    tokio::select! {
        () = store.tend() => panic!("it is closed"),
        healed = tokio::time::timeout(std::time::Duration::from_secs(10), healed) => drop(healed.expect("nobody writes, and it heals").unwrap()),
    }
    assert!(disk.image()["skiff.log"].len() < 100, "the log began anew");
    assert!(write(&store, &mut told, some_txn(shape, &mut workload), "after").await);
}

#[tokio::test]
async fn what_is_refused_heals_though_writes_never_rest() {
    let (disk, shape) = (Disk::new(random(1)), SHAPES[0]);
    let store = disk::start(&disk, shape.take_over_bytes, shape.refuse_bytes).unwrap();
    disk.set_full_for("skiff.redb");
    let mut condition = store.condition().unwrap();
    let writes = async {
        loop {
            // Refused for a while; each comes long before a second is over.
            let _ = store.txn(txn(&[("/k/a".into(), Some("x".repeat(500)))])).await;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let story = async {
        condition.wait_for(|now| matches!(now, Condition::Failing(why) if why.contains("could not be taken over"))).await.unwrap();
        disk.set_full(false);
        condition.wait_for(|now| *now == Condition::Sound).await.unwrap();
    };
    tokio::select! {
        () = writes => panic!("they never rest"),
        told = tokio::time::timeout(std::time::Duration::from_secs(60), story) => told.expect("it heals"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_with_a_log_that_is_too_long_takes_it_over() {
    let (disk, mut told, mut workload) = (Disk::new(random(1)), Told::default(), random(6));
    let shape = SHAPES[0];
    let store = disk::open(&disk, shape.take_over_bytes, shape.refuse_bytes).unwrap();
    disk.set_full_for("skiff.redb");
    for step in 0..200 {
        assert!(write(&store, &mut told, some_txn(shape, &mut workload), &format!("write {step}")).await);
    }
    assert!(disk.image()["skiff.log"].len() as u64 > shape.refuse_bytes);
    disk.kill();
    drop(store);
    disk.next_life(true);
    disk.set_full(false);
    let store = disk::open(&disk, shape.take_over_bytes, shape.refuse_bytes).unwrap();
    let before = told.newest;
    assert!(write(&store, &mut told, vec![("/k/first".into(), Some("1".into()))], "the first write").await);
    assert_eq!((told.newest, condition(&store)), (before + 1, Condition::Sound), "it is taken");
}
