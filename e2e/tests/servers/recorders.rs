//! A client on each server that watches, and moves to the next server when its own is gone -> all were told the same, in the same order, once.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::task::Group;
use e2e::{Api, Server, Watch, eventually};
use parking_lot::Mutex;
use serde_json::Value;

use crate::cluster::LONG;

/// Clients write all the while: where nothing comes for so long, the server is gone or knows nothing new.
const SILENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// What was told of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub name: String,
    pub kind: String,
    /// As the recorder was asked to look.
    pub what: Value,
}

/// Of all recorders together.
pub struct Record {
    /// By revision.
    pub events: BTreeMap<u64, Told>,
    /// How often a watch was resumed.
    pub moves: usize,
    /// How often a list was needed for it.
    pub lists: usize,
}

pub struct Recorders {
    group: Group,
    stop: Arc<AtomicBool>,
    all: Vec<Arc<Mutex<Recorder>>>,
}

struct Recorder {
    path: String,
    look: fn(&Value) -> Value,
    /// What it has seen: in the order in which it was told.
    events: Vec<(u64, Told)>,
    /// Above the first, up to the second: nobody told it of that.
    skipped: Vec<(u64, u64)>,
    last: u64,
    moves: usize,
}

enum Ended {
    Broken,
    TooOld,
}

impl Recorders {
    /// All from one revision on.
    pub async fn start(servers: &[Server], path: &str, look: fn(&Value) -> Value) -> Self {
        let list = servers[0].api().get(path).await.expect(200);
        let (group, stop, last) = (Group::new(), Arc::new(AtomicBool::default()), revision(&list));
        let mut all = Vec::new();
        for first in 0..servers.len() {
            let recorder = Recorder { path: path.to_owned(), look, events: Vec::new(), skipped: Vec::new(), last, moves: 0 };
            let recorder = Arc::new(Mutex::new(recorder));
            let apis: Vec<Api> = servers.iter().map(Server::api).collect();
            group.spawn_careful(keep_on(recorder.clone(), apis, first, stop.clone()));
            all.push(recorder);
        }
        Self { group, stop, all }
    }

    /// Once all have come up to `rev`. Panics where they disagree.
    pub async fn end(self, rev: u64) -> Record {
        for recorder in &self.all {
            eventually("all recorders are told of the last write", LONG, async || {
                let last = recorder.lock().last;
                if last >= rev { Ok(()) } else { Err(last) }
            })
            .await;
        }
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.group.drain(Duration::from_secs(30)).await, "recorders end");
        let all: Vec<_> = self.all.iter().map(|recorder| recorder.lock()).collect();
        let mut events: BTreeMap<u64, Told> = BTreeMap::new();
        for (rev, told) in all.iter().flat_map(|recorder| &recorder.events) {
            let known = events.entry(*rev).or_insert_with(|| told.clone());
            assert_eq!(known, told, "two stories of revision {rev}");
        }
        for (n, recorder) in all.iter().enumerate() {
            let revs: Vec<u64> = recorder.events.iter().map(|(rev, _)| *rev).collect();
            assert!(revs.is_sorted_by(|a, b| a < b), "recorder {n} was told twice, or in another order");
            let seen: HashSet<u64> = revs.into_iter().collect();
            let is_skipped = |rev: &u64| recorder.skipped.iter().any(|(above, to)| rev > above && rev <= to);
            let missed: Vec<&u64> = events.keys().filter(|rev| **rev <= recorder.last && !seen.contains(rev) && !is_skipped(rev)).collect();
            assert!(missed.is_empty(), "recorder {n} was not told of {missed:?}");
        }
        Record {
            events,
            moves: all.iter().map(|recorder| recorder.moves).sum(),
            lists: all.iter().map(|recorder| recorder.skipped.len()).sum(),
        }
    }
}

async fn keep_on(recorder: Arc<Mutex<Recorder>>, apis: Vec<Api>, first: usize, stop: Arc<AtomicBool>) {
    let mut at = first;
    let mut refused = 0;
    while !stop.load(Ordering::Relaxed) {
        let api = &apis[at % apis.len()];
        match follow(&recorder, api, &stop).await {
            Ended::TooOld => refused += 1,
            Ended::Broken => refused = 0,
        }
        if refused >= apis.len() && list(&recorder, api).await {
            refused = 0;
            continue;
        }
        recorder.lock().moves += 1;
        at += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until the server is of no use.
async fn follow(recorder: &Mutex<Recorder>, api: &Api, stop: &AtomicBool) -> Ended {
    let path = {
        let recorder = recorder.lock();
        format!("{}?watch=1&resourceVersion={}", recorder.path, recorder.last)
    };
    let mut watch: Watch = match tokio::time::timeout(SILENCE, api.watch(&path)).await {
        Ok(Ok(watch)) => watch,
        Ok(Err(error)) if error.to_string().starts_with("410 ") => return Ended::TooOld,
        _ => return Ended::Broken,
    };
    while !stop.load(Ordering::Relaxed) {
        let Ok(Some(event)) = watch.next(SILENCE).await else { return Ended::Broken };
        let (kind, object) = (event["type"].as_str().unwrap_or_default(), &event["object"]);
        if kind == "ERROR" {
            return if object["code"] == 410 { Ended::TooOld } else { Ended::Broken };
        }
        let mut recorder = recorder.lock();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let told = Told { name, kind: kind.to_owned(), what: (recorder.look)(object) };
        let rev = revision(object);
        recorder.events.push((rev, told));
        recorder.last = rev;
    }
    Ended::Broken
}

/// The past is gone everywhere: it goes on from now.
async fn list(recorder: &Mutex<Recorder>, api: &Api) -> bool {
    let path = recorder.lock().path.clone();
    let sent = tokio::time::timeout(SILENCE, api.send("GET", &path, &[], Vec::new())).await;
    let Ok(Ok(reply)) = sent else { return false };
    if reply.status != 200 {
        return false;
    }
    let mut recorder = recorder.lock();
    let (from, to) = (recorder.last, revision(&reply.json()));
    assert!(to >= from, "a list at {to} after revision {from} was seen");
    recorder.skipped.push((from, to));
    recorder.last = to;
    true
}

pub fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|rev| rev.parse().ok()).expect("a revision is a number")
}
