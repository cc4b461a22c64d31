//! Work that may take long holds no thread that others need, and only so much of it goes on at a time.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use api::{Status, task::Group};
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;
use http_body::Body as _;
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use crate::kit::{Room, THINGS, thing};

/// As in `apiserver/src/lane.rs`.
const AT_A_TIME: usize = 4;
const BOUND: Duration = Duration::from_secs(60);

/// Keeps the thread of each request about a long thing until the gate is open: so does the dearest body, for as long as it takes.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    inside: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Admission for Gate {
    fn name(&self) -> &'static str {
        "Gate"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.object.as_deref().is_some_and(|object| object["spec"]["long"].is_string()) {
            let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(inside, Ordering::SeqCst);
            let mut open = self.open.lock();
            let shut = |open: &mut bool| !*open;
            assert!(!self.opened.wait_while_for(&mut open, shut, BOUND).timed_out(), "the gate was not opened in time");
            drop(open);
            self.inside.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Gate {
    fn set_open(&self, open: bool) {
        *self.open.lock() = open;
        self.opened.notify_all();
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn long(name: &str, bytes: usize) -> String {
    let mut long = thing(name, &json!({}));
    long["spec"]["long"] = "x".repeat(bytes).into();
    long.to_string()
}

/// Short requests are answered. They are not asked on the test's own thread: on the one that all requests share.
async fn answers_meanwhile(room: &Arc<Room>, group: &Group) {
    let (asker, answered) = (room.clone(), Arc::new(AtomicUsize::new(0)));
    let told = answered.clone();
    group.spawn(async move {
        asker.post(THINGS, &thing("short", &json!({}))).await.ok(201);
        asker.get(&format!("{THINGS}/short")).await.ok(200);
        told.store(1, Ordering::SeqCst);
    });
    eventually("a short request is answered meanwhile", || answered.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_short_patch_of_a_large_object_is_long_work() {
    let gate = Arc::new(Gate::default());
    gate.set_open(true);
    let room = Arc::new(Room::with(store::memory::Memory::new(), vec![gate.clone()]).await);
    room.raw("POST", THINGS, long("large", 40 << 10), &[]).await.ok(201);
    gate.set_open(false);
    let (patcher, done, group) = (room.clone(), Arc::new(AtomicUsize::new(0)), Group::new());
    let told = done.clone();
    group.spawn(async move {
        patcher.patch(&format!("{THINGS}/large"), "merge-patch", &json!({"spec": {"size": 2}})).await.ok(200);
        told.store(1, Ordering::SeqCst);
    });
    eventually("the patch is at work", || gate.inside.load(Ordering::SeqCst) == 1).await;
    answers_meanwhile(&room, &group).await;
    gate.set_open(true);
    eventually("the patch is done", || done.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn long_work_leaves_the_shared_threads_to_others() {
    let gate = Arc::new(Gate::default());
    let room = Arc::new(Room::with(store::memory::Memory::new(), vec![gate.clone()]).await);
    let (done, group) = (Arc::new(AtomicUsize::new(0)), Group::new());
    for number in 0..AT_A_TIME + 3 {
        let (room, done) = (room.clone(), done.clone());
        group.spawn(async move {
            let name = format!("long-{number}");
            // A YAML need not be large.
            let (bytes, syntax) = if number == 0 { (1, "application/yaml") } else { (40 << 10, "application/json") };
            room.raw("POST", THINGS, long(&name, bytes), &[("content-type", syntax)]).await.ok(201);
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    eventually("as many are at work as may be", || gate.inside.load(Ordering::SeqCst) == AT_A_TIME).await;
    answers_meanwhile(&room, &group).await;
    assert_eq!(gate.inside.load(Ordering::SeqCst), AT_A_TIME, "and they are at work still");
    gate.set_open(true);
    eventually("all are done", || done.load(Ordering::SeqCst) == AT_A_TIME + 3).await;
    assert_eq!(gate.most.load(Ordering::SeqCst), AT_A_TIME, "never more at a time");
}

const TABLE: (&str, &str) = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");

/// Short and long ones, by turns.
async fn some_things(room: &Room, count: usize) {
    for number in 0..count {
        let mut one = thing(&format!("t{number:03}"), &json!({}));
        one["spec"]["pad"] = "x".repeat(if number % 3 == 0 { 50 << 10 } else { 25 << 10 }).into();
        room.post(THINGS, &one).await.ok(201);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_objects_are_shown_whole_in_each_form() {
    let room = Room::new().await;
    some_things(&room, 30).await;
    let list = room.get(THINGS).await.ok(200);
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 30);
    let table = room.raw("GET", &format!("{THINGS}?includeObject=Object"), "", &[TABLE]).await.ok(200);
    let rows: Vec<Value> = table["rows"].as_array().unwrap().iter().map(|row| row["object"].clone()).collect();
    assert_eq!(&rows, items);
    // YAML is a superset of JSON's values: read back by the way in.
    let yaml = room.raw("GET", &format!("{THINGS}/t000"), "", &[("accept", "application/yaml")]).await;
    let read = apiserver::parse::yaml(&yaml.body).unwrap().value;
    assert_eq!(read["spec"], items[0]["spec"]);
    let pretty = room.get(&format!("{THINGS}?pretty=1")).await.ok(200);
    assert_eq!(pretty["items"], list["items"]);
}

#[tokio::test]
async fn a_list_of_short_rows_of_large_objects_lets_others_have_their_turn() {
    let room = Room::new().await;
    some_things(&room, 60).await;
    let mut turns = 0;
    let mut sent = pin!(room.send("GET", THINGS, "", &[TABLE]));
    let counted = poll_fn(|cx| {
        let polled = sent.as_mut().poll(cx);
        turns += usize::from(polled.is_pending());
        polled
    });
    let (mut body, mut text) = (counted.await.into_body(), Vec::new());
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Pending => turns += 1,
            Poll::Ready(None) => break,
            Poll::Ready(Some(frame)) => text.extend_from_slice(frame.unwrap().data_ref().unwrap()),
        }
    }
    let table: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(table["rows"].as_array().map(Vec::len), Some(60));
    // 2 MiB are parsed for some 30 KiB of rows: others come in at least each 256 KiB and an object.
    assert!(turns >= 6, "{turns}");
}
