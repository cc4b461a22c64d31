//! Directories as older skiffs left them -> the newest format, whatever call is in the way: all is there, and the next start finds it.

use std::collections::BTreeMap;

use store::{
    Error, Store,
    faulty::disk::{self, Disk},
};

use super::{FAULTS, State, Told, all, random, write};

const LOG_MAGIC: &[u8] = b"skiff log 1\n\0\0\0\0";
const TAKE_OVER_BYTES: u64 = 1 << 20;
const REFUSE_BYTES: u64 = 2 << 20;

type Image = BTreeMap<String, Vec<u8>>;

/// What an older skiff left, and what was acknowledged of it.
struct Left {
    name: &'static str,
    format: u64,
    image: Image,
    whole: State,
    rev: u64,
    log_records: usize,
}

fn value(key: u64, rev: u64) -> String {
    format!("{key} at {rev} {}", "v".repeat(usize::try_from(key * 40).unwrap()))
}

/// `objects` and `meta` as formats 1 and 2 have them (they differ in the number alone): what `state` holds, of revision `rev`.
fn tree(format: u64, rev: u64, state: &State) -> Vec<u8> {
    let objects: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("objects");
    let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tree");
    let database = redb::Database::create(&path).unwrap();
    let txn = database.begin_write().unwrap();
    {
        let mut objects = txn.open_table(objects).unwrap();
        for (key, (rev, value)) in state {
            let row = [&rev.to_le_bytes(), &0u64.to_le_bytes(), value.as_bytes()].concat();
            objects.insert(key.as_str(), row.as_slice()).unwrap();
        }
        let mut meta = txn.open_table(meta).unwrap();
        meta.insert("format", format).unwrap();
        meta.insert("revision", rev).unwrap();
    }
    txn.commit().unwrap();
    drop(database);
    std::fs::read(path).unwrap()
}

/// A record of format 2's log: one put (`value`) or deletion at `rev`.
fn record(rev: u64, key: &str, value: Option<&str>) -> Vec<u8> {
    let text = |text: &str| [&u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat();
    let change = [vec![if value.is_some() { 1 } else { 2 }], rev.to_le_bytes().to_vec(), text(key)].concat();
    let put = value.map_or_else(Vec::new, |value| [0u64.to_le_bytes().to_vec(), text(value)].concat());
    let body = [(rev - 1).to_le_bytes().to_vec(), change, put].concat();
    let head = [u32::try_from(body.len()).unwrap(), crc32fast::hash(&body)].map(u32::to_le_bytes).concat();
    [head, body].concat()
}

/// Revisions 1 to 40 of a store of 12 keys: those up to `taken_over` in the tree, those from `log_from` on in the log.
fn left(name: &'static str, format: u64, taken_over: u64, log_from: u64, torn: &[u8]) -> Left {
    const NEWEST: u64 = 40;
    let (mut in_tree, mut whole, mut log) = (State::new(), State::new(), LOG_MAGIC.to_vec());
    let newest = if format == 1 { taken_over } else { NEWEST };
    for rev in 1..=newest {
        let number = rev * 7 % 12;
        let (key, value) = (format!("/k/{number}"), (rev % 5 != 0).then(|| value(number, rev)));
        if rev >= log_from {
            log.extend(record(rev, &key, value.as_deref()));
        }
        for state in [Some(&mut whole), (rev <= taken_over).then_some(&mut in_tree)].into_iter().flatten() {
            match &value {
                Some(value) => drop(state.insert(key.clone(), (rev, value.clone()))),
                None => drop(state.remove(&key)),
            }
        }
    }
    log.extend(torn);
    let mut image = Image::from([("skiff.redb".to_owned(), tree(format, taken_over, &in_tree))]);
    if format > 1 {
        image.insert("skiff.log".to_owned(), log);
    }
    let log_records = if format == 1 { 0 } else { usize::try_from((NEWEST + 1).saturating_sub(log_from)).unwrap() };
    Left { name, format, image, whole, rev: newest, log_records }
}

fn lefts() -> Vec<Left> {
    let half = record(41, "/k/never", Some("acknowledged"));
    // Behind a log that was cleared the sectors of what it had held may be found again.
    let stale = record(9, "/k/stale", Some("of an older log"));
    vec![
        left("format 1, which had no log", 1, 40, 99, b""),
        left("format 2, all in the log", 2, 0, 1, b""),
        left("format 2, half of it in the tree", 2, 20, 21, b""),
        left("format 2, taken over, the log not yet cleared", 2, 20, 11, b""),
        left("format 2, closed in order", 2, 40, 41, b""),
        left("format 2, cut off while it wrote", 2, 20, 21, &half[..half.len() - 3]),
        left("format 2, a cleared log's records behind its own", 2, 20, 21, &stale),
    ]
}

fn open(disk: &Disk) -> Result<impl Store, Error> {
    disk::open(disk, TAKE_OVER_BYTES, REFUSE_BYTES)
}

/// A start in which nothing fails: all is there; and so it is, with what is written now, after the power has gone.
async fn sound(disk: &Disk, left: &Left, what: &str) {
    let mut told = Told { acknowledged: left.whole.clone(), newest: left.rev, open: None };
    for (start, changes) in [("the first start", vec![("/k/new".to_owned(), Some("1".to_owned()))]), ("the second start", Vec::new())] {
        let what = format!("{}, {what}, {start}", left.name);
        let store = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((store.revision().await.unwrap(), all(&store).await), (told.newest, told.acknowledged.clone()), "{what}");
        if !changes.is_empty() {
            assert!(write(&store, &mut told, changes, &what).await, "{what}");
        }
        disk.kill();
        drop(store);
        disk.next_life(true);
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_of_an_upgrade_fails_in_turn() {
    let mut upgrades = 0;
    for left in lefts() {
        let calls = {
            let disk = Disk::of(&left.image, random(1));
            let store = open(&disk).unwrap_or_else(|error| panic!("{}: {error}", left.name));
            let calls = disk.calls();
            disk.kill();
            drop(store);
            calls
        };
        assert!(calls > 5, "{}: {calls}", left.name);
        for (call, fault, dark) in (0..calls).flat_map(|call| FAULTS.map(|fault| [(call, fault, false), (call, fault, true)])).flatten() {
            for seed in 0..3 {
                let disk = Disk::of(&left.image, random(seed * 10_000 + call));
                disk.meet(call, fault);
                let met = open(&disk).err();
                disk.kill();
                disk.next_life(dark);
                sound(&disk, &left, &format!("call {call} {fault:?}, dark {dark}, seed {seed} ({met:?})")).await;
                upgrades += 1;
            }
        }
    }
    println!("{upgrades} upgrades");
    assert!(upgrades > 1000, "{upgrades}");
}

/// The same in a real directory, as `skiff check` sees it before and after.
#[tokio::test]
async fn an_older_directory_is_told_and_brought_to_the_newest_format() {
    for left in lefts() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &left.image {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let before = store::redb::check(dir.path()).unwrap().expect("there is a store");
        let told = (before.format, before.rev, before.objects, before.log_records);
        assert_eq!(told, (left.format, left.rev, left.whole.len(), left.log_records), "{}", left.name);
        let store = store::redb::open(dir.path()).unwrap();
        assert_eq!(all(&store).await, left.whole, "{}", left.name);
        store.close().await;
        drop(store);
        let after = store::redb::check(dir.path()).unwrap().expect("there is a store");
        assert_eq!((after.format, after.rev, after.objects), (3, left.rev, left.whole.len()), "{}", left.name);
    }
}
