//! Two servers hand out addresses and ports at one time, and one is killed while it does.

use std::{collections::BTreeSet, sync::Arc};

use kinds::Config;
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    stores::Shared,
    world::{Server, check},
};

/// Requests that a server has in flight.
const FLIGHT: usize = 16;

fn config() -> Config {
    Config { service_cidrs: vec!["10.96.0.0/20".parse().unwrap()], ..Config::default() }
}

/// What each of the Services asks for: some with an address only, some with a port or two.
fn spec(number: usize) -> serde_json::Value {
    match number % 4 {
        0 => json!({}),
        1 => json!({"type": "NodePort"}),
        2 => json!({"type": "NodePort", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}),
        _ => json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
    }
}

/// Begins to make these Services.
fn begin(server: &Server, numbers: impl Iterator<Item = usize>) -> JoinSet<(u16, serde_json::Value)> {
    let (mut tasks, seats) = (JoinSet::new(), Arc::new(Semaphore::new(FLIGHT)));
    for number in numbers {
        let (server, seats) = (server.clone(), seats.clone());
        tasks.spawn(async move {
            let _seat = seats.acquire().await.unwrap();
            server.make(&format!("s{number}"), spec(number)).await
        });
    }
    tasks
}

async fn hand_out(shared: Shared, count: usize) {
    let one = Server::start(shared.open().await, &config()).await;
    let other = Server::start(shared.open().await, &config()).await;
    tokio::join!(one.bootstrap(), other.bootstrap());
    let store = shared.open().await;
    let (mut by_one, mut by_other) = (begin(&one, 0..count / 2), begin(&other, count / 2..count));
    for _ in 0..count / 4 {
        assert_eq!(by_other.join_next().await.unwrap().unwrap().0, 201);
    }
    // Killed: what it was about to do may have been done or not.
    by_other.abort_all();
    drop((by_other, other));
    while let Some(made) = by_one.join_next().await {
        let (code, made) = made.unwrap();
        assert_eq!(code, 201, "{made}");
    }
    check(&*store).await;
    let mut again = begin(&one, count / 2..count);
    let mut codes = BTreeSet::new();
    while let Some(made) = again.join_next().await {
        codes.insert(made.unwrap().0);
    }
    assert_eq!(codes, BTreeSet::from([201, 409]));
    let claimed = check(&*store).await;
    assert_eq!(claimed.addresses.len(), count);
    // Of four Services one has no port, one has one, two have two.
    assert_eq!(claimed.ports.len(), count / 4 * 5);
}

#[tokio::test]
async fn a_thousand_from_memory() {
    hand_out(Shared::memory(), 1000).await;
}

#[tokio::test]
async fn a_thousand_from_etcd() {
    hand_out(Shared::etcd(), 1000).await;
}
