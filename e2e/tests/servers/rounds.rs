//! Any of the six processes, as the seed has it: killed, frozen or cut off. Nothing is lost or doubled, and each time it heals.
//!
//! `SKIFF_SEED` repeats a run's choices, `SKIFF_CRASH_ROUNDS` sets how many there are (10).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use api::time::Timestamp;
use e2e::{Api, eventually, object};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    CONTROLLERS, SCHEDULER,
    cluster::{Cluster, HEALED, LONG, SERVERS},
    recorders::Record,
    work::Work,
};

const ROUNDS: u32 = 10;
const EVERYBODY: [usize; SERVERS] = [0, 1, 2];
/// Of so many rounds one is about the server that leads the controllers, and lasts until they have gone on elsewhere, and the node
/// is heard of.
const LONG_ROUND: u32 = 4;
pub const PROBE: &str = "/api/v1/namespaces/default/configmaps/probe";
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Server(usize),
    Etcd(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Kill,
    Freeze,
    Cut,
}

pub struct Rounds {
    random: StdRng,
    rounds: u32,
    value: u64,
}

impl Rounds {
    pub async fn new(api: &Api) -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seed = number("SKIFF_SEED").unwrap_or_else(rand::random::<u64>);
        println!("SKIFF_SEED={seed}");
        api.post("/api/v1/namespaces/default/configmaps", &object("v1", "ConfigMap", "probe", json!({}))).await.expect(201);
        let rounds = number("SKIFF_CRASH_ROUNDS").and_then(|rounds| u32::try_from(rounds).ok()).unwrap_or(ROUNDS);
        Self { random: StdRng::seed_from_u64(seed), rounds, value: 0 }
    }

    pub async fn run(&mut self, cluster: &mut Cluster<'_>, work: &mut Work) {
        let mut slowest = Duration::ZERO;
        for round in 0..self.rounds {
            let is_long = round % LONG_ROUND == LONG_ROUND - 1;
            let victim = match self.random.random_range(0..2 * SERVERS) {
                _ if is_long => Victim::Server(cluster.leader(CONTROLLERS, &EVERYBODY, LONG).await),
                n if n < SERVERS => Victim::Server(n),
                n => Victim::Etcd(n - SERVERS),
            };
            let deed = [Deed::Kill, Deed::Freeze, Deed::Cut][self.random.random_range(0..3)];
            let alive: Vec<usize> = (0..SERVERS).filter(|n| victim != Victim::Server(*n)).collect();
            cluster.befall(victim, deed);
            let mut healed = Duration::ZERO;
            for server in &alive {
                healed = healed.max(self.writes(cluster, *server).await);
            }
            let mut works = None;
            if is_long {
                let since = Instant::now();
                let api = cluster.servers[alive[0]].api();
                let grown = async {
                    work.grows(&api, LONG).await;
                    since.elapsed()
                };
                let (grown, ()) = tokio::join!(grown, cluster.node_is_heard_of(&api, LONG));
                works = Some(grown);
            } else {
                let pause = Duration::from_millis(self.random.random_range(0..2000));
                tokio::time::sleep(pause).await;
            }
            cluster.undo(victim, deed).await;
            let mut back = Duration::ZERO;
            for server in 0..SERVERS {
                back = back.max(self.writes(cluster, server).await);
            }
            println!(
                "round {round}: {deed} {victim}: writes go on after {healed:.1?}, controllers {works:.1?}; after its return {back:.1?}"
            );
            slowest = slowest.max(healed).max(works.unwrap_or_default()).max(back);
        }
        println!("healed in {slowest:.1?} at most (wanted: {HEALED:?})");
    }

    /// How long it took until a write was acknowledged by this server.
    async fn writes(&mut self, cluster: &Cluster<'_>, server: usize) -> Duration {
        self.value += 1;
        let (api, since, value) = (cluster.servers[server].api(), Instant::now(), self.value.to_string());
        let body = object("v1", "ConfigMap", "probe", json!({"data": {"value": value}})).to_string().into_bytes();
        eventually(&format!("server {server} takes a write"), HEALED, async || {
            let sent = api.send("PUT", PROBE, &[("content-type", "application/json")], body.clone());
            match tokio::time::timeout(PATIENCE, sent).await {
                Ok(Ok(reply)) if reply.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        since.elapsed()
    }
}

impl Cluster<'_> {
    fn befall(&mut self, victim: Victim, deed: Deed) {
        match (victim, deed) {
            (Victim::Server(n), Deed::Kill) => self.servers[n].kill_9(),
            (Victim::Etcd(n), Deed::Kill) => self.etcd[n].kill_9(),
            (Victim::Server(n), Deed::Freeze) => self.servers[n].pause(),
            (Victim::Etcd(n), Deed::Freeze) => self.etcd[n].pause(),
            (Victim::Server(n), Deed::Cut) => self.servers[n].net().expect("it has one").cut(),
            (Victim::Etcd(n), Deed::Cut) => self.etcd[n].net().expect("it has one").cut(),
        }
    }

    async fn undo(&mut self, victim: Victim, deed: Deed) {
        match (victim, deed) {
            (Victim::Server(n), Deed::Kill) => self.servers[n].restart().await,
            (Victim::Etcd(n), Deed::Kill) => self.etcd[n].restart().await,
            (Victim::Server(n), Deed::Freeze) => self.servers[n].resume(),
            (Victim::Etcd(n), Deed::Freeze) => self.etcd[n].resume(),
            (Victim::Server(n), Deed::Cut) => self.servers[n].net().expect("it has one").heal(),
            (Victim::Etcd(n), Deed::Cut) => self.etcd[n].net().expect("it has one").heal(),
        }
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(n) => write!(f, "server {n}"),
            Self::Etcd(n) => write!(f, "etcd {n}"),
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill -9 of",
            Self::Freeze => "freezing",
            Self::Cut => "cutting off",
        })
    }
}

/// Whoever takes a Lease from another takes it after that one's time was over, or from nobody. How often one was taken.
pub fn led_by_one_at_a_time(record: &Record) -> usize {
    let mut last: BTreeMap<&str, &Value> = BTreeMap::new();
    let (mut taken, mut holders) = (0, BTreeSet::new());
    for (rev, told) in record.events.iter().filter(|(_, told)| [CONTROLLERS, SCHEDULER].contains(&told.name.as_str())) {
        let now = &told.what;
        let Some(before) = last.insert(&told.name, now) else { continue };
        let (old, new) = (before["holderIdentity"].as_str().unwrap_or_default(), now["holderIdentity"].as_str().unwrap_or_default());
        if old == new || new.is_empty() {
            continue;
        }
        taken += 1;
        holders.insert(new.to_owned());
        let time = |of: &Value, field: &str| of[field].as_str().and_then(|at| at.parse::<Timestamp>().ok()).expect("a time");
        let over = time(before, "renewTime").as_microsecond() + before["leaseDurationSeconds"].as_i64().expect("a number") * 1_000_000;
        let begins = time(now, "acquireTime").as_microsecond();
        assert!(old.is_empty() || begins >= over, "at revision {rev} {new} takes {} from {old}, {} us too early", told.name, over - begins);
    }
    println!("Leases were taken {taken} times, by {} identities", holders.len());
    taken
}
