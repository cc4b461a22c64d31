//! A server -> writers and a watcher at work on it, and what they know.

use std::time::Duration;

use e2e::{Server, eventually};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use crate::{
    ledger::{self, Ledger},
    watcher::Watcher,
    writers::Writers,
};

pub const HEALED_BOUND: Duration = Duration::from_secs(60);
const WRITERS: usize = 4;

pub struct Load {
    random: StdRng,
    ledgers: Vec<Ledger>,
    watcher: Watcher,
    acknowledged: usize,
}

impl Load {
    pub fn new(server: &Server) -> Self {
        let seed = std::env::var("SKIFF_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
        println!("SKIFF_SEED={seed}");
        let (ledgers, watcher) = ((0..WRITERS).map(Ledger::new).collect(), Watcher::start(server.kubeconfig()));
        Self { random: StdRng::seed_from_u64(seed), ledgers, watcher, acknowledged: 0 }
    }

    /// The writers write until they are stopped.
    pub fn begin(&mut self, server: &Server) -> Writers {
        Writers::start(&server.api(), std::mem::take(&mut self.ledgers), self.random.random())
    }

    pub async fn stop(&mut self, writers: Writers) {
        self.ledgers = writers.stop().await;
        self.acknowledged += self.ledgers.iter().map(Ledger::acknowledged).sum::<usize>();
    }

    /// The power does not say when it goes.
    pub async fn moment(&mut self, max_ms: u64) {
        sleep(Duration::from_millis(self.random.random_range(1..max_ms))).await;
    }

    /// All acknowledged writes are there, and the watcher has seen them or a list that holds them.
    pub async fn check(&mut self, server: &Server) {
        let api = server.api();
        let list = eventually("the list is answered", HEALED_BOUND, async || {
            let reply = api.send("GET", ledger::LIST, &[], Vec::new()).await.map_err(|e| format!("{e:#}"))?;
            if reply.status == 200 { Ok(reply.json()) } else { Err(reply.text()) }
        })
        .await;
        let (standing, rev) = ledger::standing(&list);
        let last = self.watcher.last();
        assert!(rev >= last, "a watcher saw revision {last} which is gone: the newest is {rev}");
        for ledger in &mut self.ledgers {
            ledger.check(&standing);
        }
        let acknowledged: Vec<u64> = self.ledgers.iter_mut().flat_map(Ledger::take_acknowledged).collect();
        let caught_up = async || self.watcher.caught_up(&standing, &acknowledged);
        eventually("the watcher has caught up", HEALED_BOUND, caught_up).await;
        server.assert_sound();
    }

    pub fn end(self, kills: u32) {
        println!("{kills} kills, {} acknowledged writes, {} lists by the watcher", self.acknowledged, self.watcher.lists());
        assert!(self.acknowledged > kills as usize, "the load was no load: {} writes", self.acknowledged);
    }
}
