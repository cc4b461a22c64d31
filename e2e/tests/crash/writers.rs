//! Several writers, each on names of its own, until the server is gone or they are told to stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use e2e::{Api, eventually, object};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::task::JoinSet;

use crate::ledger::{Ledger, OBJECTS, rev};

pub struct Writers {
    tasks: JoinSet<Ledger>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    pub fn start(api: &Api, ledgers: Vec<Ledger>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for ledger in ledgers {
            let random = StdRng::seed_from_u64(seed ^ ledger.writer as u64);
            tasks.spawn(write(api.clone(), ledger, random, stop.clone()));
        }
        Self { tasks, stop }
    }

    pub async fn stop(self) -> Vec<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await
    }
}

async fn write(api: Api, mut ledger: Ledger, mut random: StdRng, stop: Arc<AtomicBool>) -> Ledger {
    while !stop.load(Ordering::Relaxed) {
        if !once(&api, &mut ledger, &mut random).await {
            break;
        }
    }
    ledger
}

/// One write; false if nothing is known of its outcome, or no name is left whose state is known.
async fn once(api: &Api, ledger: &mut Ledger, random: &mut StdRng) -> bool {
    let Some((name, standing)) = ledger.pick(random.random_range(0..1000)) else { return false };
    ledger.turn += 1;
    let path = format!("{OBJECTS}/{name}");
    if standing.is_some() && random.random_bool(0.2) {
        return match api.send("DELETE", &path, &[], Vec::new()).await {
            Ok(reply) if reply.status == 200 => {
                ledger.deleted(&name);
                true
            }
            _ => {
                ledger.in_doubt(&name, None);
                false
            }
        };
    }
    let value = format!("{}-{}", ledger.writer, ledger.turn);
    let body = object("v1", "ConfigMap", &name, json!({"metadata": {"labels": {"crash": ""}}, "data": {"value": value}}));
    let (method, path) = if standing.is_some() { ("PUT", path.as_str()) } else { ("POST", OBJECTS) };
    let sent = api.send(method, path, &[("content-type", "application/json")], body.to_string().into_bytes()).await;
    match sent {
        Ok(reply) if reply.status == 200 || reply.status == 201 => {
            ledger.written(&name, value, rev(&reply.json()));
            true
        }
        Ok(reply) if reply.status < 500 => panic!("{method} {path}: {} {}", reply.status, reply.text()),
        _ => {
            ledger.in_doubt(&name, Some(value));
            false
        }
    }
}

/// Waits until a write is carried out again; nobody helps.
pub async fn heals(api: &Api, bound: Duration) {
    let body = object("v1", "ConfigMap", "healed", json!({})).to_string().into_bytes();
    eventually("writes are carried out again", bound, async || {
        let made = api.send("POST", OBJECTS, &[], body.clone()).await.map_err(|e| format!("{e:#}"))?;
        // An earlier try may have come through without being answered.
        if made.status != 201 && made.status != 409 {
            return Err(made.text());
        }
        let gone = api.send("DELETE", &format!("{OBJECTS}/healed"), &[], Vec::new()).await.map_err(|e| format!("{e:#}"))?;
        if gone.status == 200 { Ok(()) } else { Err(gone.text()) }
    })
    .await;
}
