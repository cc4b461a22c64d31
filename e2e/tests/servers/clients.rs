//! Readers and writers of a few keys, each request to a server at random: what they did, and when.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use api::task::Group;
use e2e::{Api, Server, object};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{
    recorders::revision,
    register::{Event, OPEN, Op, check},
};

const KEYS: usize = 3;
const CLIENTS_OF_KEY: usize = 3;
pub const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Who is not answered by then goes on, and does not know.
const PATIENCE: Duration = Duration::from_secs(4);

pub struct Clients {
    group: Group,
    keys: Vec<Arc<Key>>,
}

struct Key {
    path: String,
    name: String,
    history: Mutex<Vec<Event>>,
    /// Revisions of writes that were acknowledged.
    acknowledged: Mutex<Vec<u64>>,
    next: AtomicU64,
    began: Instant,
    stop: AtomicBool,
}

impl Clients {
    pub async fn start(servers: &[Server], seed: u64) -> Self {
        let (group, began) = (Group::new(), Instant::now());
        let apis: Vec<Api> = servers.iter().map(Server::api).collect();
        let mut keys = Vec::new();
        for n in 0..KEYS {
            let name = format!("register-{n}");
            apis[0].post(CONFIGMAPS, &object("v1", "ConfigMap", &name, json!({"data": {"value": "0"}}))).await.expect(201);
            let first = Event { op: Op::Write(0), begun: 0, ended: 0 };
            let key = Arc::new(Key {
                path: format!("{CONFIGMAPS}/{name}"),
                name,
                history: Mutex::new(vec![first]),
                acknowledged: Mutex::default(),
                next: AtomicU64::new(1),
                began,
                stop: AtomicBool::default(),
            });
            for client in 0..CLIENTS_OF_KEY {
                // Each has connections of its own.
                let apis: Vec<Api> = servers.iter().map(Server::api).collect();
                let random = StdRng::seed_from_u64(seed ^ (n * CLIENTS_OF_KEY + client) as u64);
                let key = key.clone();
                group.spawn_careful(async move { key.use_it(apis, random).await });
            }
            keys.push(key);
        }
        Self { group, keys }
    }

    /// Panics where what was answered cannot have happened in any order. How many requests were answered, and the revisions of the writes among them.
    pub async fn end(self) -> (usize, Vec<u64>) {
        self.keys.iter().for_each(|key| key.stop.store(true, Ordering::Relaxed));
        assert!(self.group.drain(Duration::from_secs(30)).await, "clients end");
        let (mut answered, mut acknowledged) = (0, Vec::new());
        for key in &self.keys {
            let history = key.history.lock();
            answered += history.iter().filter(|event| event.ended != OPEN).count();
            if let Err(why) = check(&history) {
                panic!("{}: {why}", key.name);
            }
            acknowledged.append(&mut key.acknowledged.lock());
        }
        (answered, acknowledged)
    }
}

impl Key {
    async fn use_it(&self, apis: Vec<Api>, mut random: StdRng) {
        while !self.stop.load(Ordering::Relaxed) {
            let api = &apis[random.random_range(0..apis.len())];
            if random.random_bool(0.4) {
                self.write(api).await
            } else {
                self.read(api).await
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(1..40))).await;
        }
    }

    fn now(&self) -> u64 {
        // After the first write, which is at 0.
        u64::try_from(self.began.elapsed().as_micros()).unwrap() + 1
    }

    async fn write(&self, api: &Api) {
        let value = self.next.fetch_add(1, Ordering::Relaxed);
        let body = object("v1", "ConfigMap", &self.name, json!({"data": {"value": value.to_string()}})).to_string().into_bytes();
        let begun = self.now();
        let sent = api.send("PUT", &self.path, &[("content-type", "application/json")], body);
        let ended = match tokio::time::timeout(PATIENCE, sent).await {
            Ok(Ok(reply)) if reply.status == 200 => {
                self.acknowledged.lock().push(revision(&reply.json()));
                self.now()
            }
            // Refused: it was not, and will not be, carried out.
            Ok(Ok(reply)) if reply.status < 500 => return,
            _ => OPEN,
        };
        self.history.lock().push(Event { op: Op::Write(value), begun, ended });
    }

    async fn read(&self, api: &Api) {
        let begun = self.now();
        let sent = api.send("GET", &self.path, &[], Vec::new());
        let Ok(Ok(reply)) = tokio::time::timeout(PATIENCE, sent).await else { return };
        if reply.status == 200 {
            let value = reply.json()["data"]["value"].as_str().and_then(|value| value.parse().ok()).expect("a number was written");
            self.history.lock().push(Event { op: Op::Read(value), begun, ended: self.now() });
        }
    }
}
