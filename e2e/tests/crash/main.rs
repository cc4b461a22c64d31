//! Power cuts under write load: what was acknowledged is there afterwards, and watchers go on without gap or duplicate.
//!
//! `SKIFF_SEED` repeats a run's random numbers, `SKIFF_CRASH_ROUNDS` sets how often skiff is killed (50), once as a server and once with a node.

mod ledger;
mod load;
mod pods;
mod resume;
mod visitor;
mod watcher;
mod writers;

use e2e::{Backend, Etcd, Options, Server, node};
use load::Load;
use visitor::Visitor;

const ETCD_ROUNDS: u32 = 10;

fn rounds() -> u32 {
    std::env::var("SKIFF_CRASH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(50)
}

/// Writers, a kill in the midst of it, and a new start; all that was acknowledged is there.
async fn kill_under_load(server: &mut Server, load: &mut Load, round: u32) {
    let writers = load.begin(server);
    load.moment(500).await;
    server.kill_9();
    load.stop(writers).await;
    if round.is_multiple_of(5) {
        // Another cut while it comes up again.
        server.respawn();
        load.moment(400).await;
        server.kill_9();
    }
    server.restart().await;
    load.check(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_skiff_loses_nothing() {
    let mut server = Server::start(Options::default()).await;
    let mut load = Load::new(&server);
    for round in 0..rounds() {
        kill_under_load(&mut server, &mut load, round).await;
    }
    load.end(rounds());
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_go_on_undisturbed_while_skiff_is_killed() {
    let claim = node::claim();
    let mut server = node::start(&claim).await;
    let address = pods::start(&server.api()).await;
    let before = pods::state(&server).await;
    let visitor = Visitor::start(address, "Hello from v1 on steady-");
    let mut load = Load::new(&server);
    for round in 0..rounds() {
        kill_under_load(&mut server, &mut load, round).await;
        assert_eq!(pods::state(&server).await, before, "round {round}: pods were touched");
        visitor.served();
    }
    pods::ready(&server.api(), before.len()).await;
    load.end(rounds());
    println!("{} visitors were served, {} numbers counted", visitor.served(), pods::counted(&server.api()).await);
    drop(visitor);
    pods::replaced(&server.api()).await;
    server.assert_sound();
    claim.end(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_killed_under_load_loses_nothing_and_heals() {
    let mut etcd = Etcd::start().await;
    let server = Server::start(Options { backend: Backend::Etcd(etcd.url()), ..Options::default() }).await;
    let mut load = Load::new(&server);
    for _ in 0..ETCD_ROUNDS {
        let writers = load.begin(&server);
        load.moment(500).await;
        etcd.kill_9();
        load.moment(1000).await;
        etcd.restart().await;
        load.stop(writers).await;
        writers::heals(&server.api(), load::HEALED_BOUND).await;
        load.check(&server).await;
    }
    load.end(ETCD_ROUNDS);
}
