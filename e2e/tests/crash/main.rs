//! Power cuts under write load: what was acknowledged is there afterwards, and watchers go on without gap or duplicate.
//!
//! `SKIFF_SEED` repeats a run's dice, `SKIFF_CRASH_ROUNDS` sets how often skiff is killed (50), once as a server and once with a node.

mod ledger;
mod pods;
mod resume;
mod visitor;
mod watcher;
mod writers;

use std::time::Duration;

use e2e::{Backend, Etcd, Options, Server, eventually, node};
use ledger::Ledger;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::sleep;
use visitor::Visitor;
use watcher::Watcher;
use writers::Writers;

const HEALED_BOUND: Duration = Duration::from_secs(60);
const WRITERS: usize = 4;
const ETCD_ROUNDS: u32 = 10;

fn dice() -> StdRng {
    let seed = std::env::var("SKIFF_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("SKIFF_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn rounds() -> u32 {
    std::env::var("SKIFF_CRASH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(50)
}

fn moment(dice: &mut StdRng, max_ms: u64) -> Duration {
    Duration::from_millis(dice.random_range(1..max_ms))
}

/// All acknowledged writes are there, and the watcher has seen them or a list that holds them.
async fn check(server: &Server, ledgers: &mut [Ledger], watcher: &Watcher) {
    let api = server.api();
    let list = eventually("the list is answered", HEALED_BOUND, async || {
        let reply = api.send("GET", ledger::LIST, &[], Vec::new()).await.map_err(|e| format!("{e:#}"))?;
        if reply.status == 200 { Ok(reply.json()) } else { Err(reply.text()) }
    })
    .await;
    let (standing, rev) = ledger::standing(&list);
    assert!(rev >= watcher.last(), "a watcher saw revision {} which is gone: the newest is {rev}", watcher.last());
    for ledger in &mut *ledgers {
        ledger.check(&standing);
    }
    let acknowledged: Vec<u64> = ledgers.iter_mut().flat_map(Ledger::take_acknowledged).collect();
    eventually("the watcher has caught up", HEALED_BOUND, async || watcher.caught_up(&standing, &acknowledged)).await;
}

/// Writers, a kill in the midst of it, and a new start; how many writes were acknowledged.
async fn kill_under_load(server: &mut Server, ledgers: &mut Vec<Ledger>, dice: &mut StdRng, round: u32) -> usize {
    let writers = Writers::start(&server.api(), std::mem::take(ledgers), dice.random());
    sleep(moment(dice, 500)).await;
    server.kill_9();
    *ledgers = writers.stop().await;
    if round.is_multiple_of(5) {
        // Another cut while it comes up again.
        server.respawn();
        sleep(moment(dice, 400)).await;
        server.kill_9();
    }
    server.restart().await;
    ledgers.iter().map(Ledger::acknowledged).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_skiff_loses_nothing() {
    let mut dice = dice();
    let rounds = rounds();
    let mut server = Server::start(Options::default()).await;
    let watcher = Watcher::start(server.kubeconfig());
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(Ledger::new).collect();
    let mut acknowledged = 0;
    for round in 0..rounds {
        acknowledged += kill_under_load(&mut server, &mut ledgers, &mut dice, round).await;
        check(&server, &mut ledgers, &watcher).await;
        server.assert_sound();
    }
    println!("{rounds} kills, {acknowledged} acknowledged writes, {} lists by the watcher", watcher.lists());
    assert!(acknowledged > rounds as usize, "the load was no load: {acknowledged} writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_go_on_undisturbed_while_skiff_is_killed() {
    let mut dice = dice();
    let rounds = rounds();
    let claim = node::claim();
    let mut server = node::start(&claim).await;
    let address = pods::start(&server.api()).await;
    let before = pods::state(&server).await;
    let visitor = Visitor::start(address, "Hello from v1 on steady-");
    let watcher = Watcher::start(server.kubeconfig());
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(Ledger::new).collect();
    let mut acknowledged = 0;
    for round in 0..rounds {
        acknowledged += kill_under_load(&mut server, &mut ledgers, &mut dice, round).await;
        check(&server, &mut ledgers, &watcher).await;
        assert_eq!(pods::state(&server).await, before, "round {round}: pods were touched");
        visitor.served();
        server.assert_sound();
    }
    pods::ready(&server.api(), before.len()).await;
    println!("{rounds} kills, {acknowledged} acknowledged writes, {} lists by the watcher", watcher.lists());
    println!("{} visitors were served, {} numbers counted", visitor.served(), pods::counted(&server.api()).await);
    drop((visitor, watcher));
    pods::replaced(&server.api()).await;
    server.assert_sound();
    claim.end(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_killed_under_load_loses_nothing_and_heals() {
    let mut dice = dice();
    let mut etcd = Etcd::start().await;
    let server = Server::start(Options { backend: Backend::Etcd(etcd.url()), ..Options::default() }).await;
    let watcher = Watcher::start(server.kubeconfig());
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(Ledger::new).collect();
    let mut acknowledged = 0;
    for _ in 0..ETCD_ROUNDS {
        let writers = Writers::start(&server.api(), ledgers, dice.random());
        sleep(moment(&mut dice, 500)).await;
        etcd.kill_9();
        sleep(moment(&mut dice, 1000)).await;
        etcd.restart().await;
        ledgers = writers.stop().await;
        acknowledged += ledgers.iter().map(Ledger::acknowledged).sum::<usize>();
        writers::heals(&server.api(), HEALED_BOUND).await;
        check(&server, &mut ledgers, &watcher).await;
        server.assert_sound();
    }
    println!("{ETCD_ROUNDS} kills of etcd, {acknowledged} acknowledged writes, {} lists by the watcher", watcher.lists());
    assert!(acknowledged > ETCD_ROUNDS as usize, "the load was no load: {acknowledged} writes");
}
