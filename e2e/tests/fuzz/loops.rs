//! Objects that nobody writes and the API server takes -> all loops: none panics, none stops, nothing stays unread.
//!
//! The real server over the memory store with every controller and the scheduler, in this process; the proxy's model, DNS and the node
//! agent's plans, configs and volumes over the same caches. Odd objects are written for a while, then a *canary*: a small, ordinary application, of which every
//! loop has a part to do. For hours by hand: `SKIFF_FUZZ_SECONDS=14400 SKIFF_SEED=n cargo test -p e2e --test fuzz -- --ignored --exact loops::loops`.

mod canary;
#[path = "../sim/house.rs"]
#[allow(dead_code, reason = "the simulator's house; faults and random numbers of its store are not used here")]
mod house;
mod objects;
mod watchers;

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::run::Run;
use canary::Canary;
use house::{Asker, House};
use objects::Maker;
use watchers::Watchers;

/// Requests between two canaries.
const REQUESTS: u32 = 60;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by every_target_for_a_while, beside the others"]
async fn loops() {
    let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).with_test_writer().try_init();
    let mut run = Run::new("loops::loops");
    let mut random = StdRng::seed_from_u64(run.seed);
    let house = House::build(StdRng::seed_from_u64(run.seed)).await;
    let admin = house.asker("admin", &["system:masters"]);
    let (mut maker, mut watchers) = (Maker::new(random.random()), Watchers::new(&house));
    let (mut taken, mut round) = (0, 0);
    while run.next() {
        round += 1;
        let namespace = format!("round-{round}");
        let made = admin.ask("POST", "/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await;
        made.unwrap_or_else(|why| panic!("{namespace} is not made: {why:?}"));
        for _ in 0..REQUESTS {
            run.count();
            taken += u32::from(one(&admin, &mut maker, &mut random, &namespace).await);
            watchers.look();
        }
        let canary = Canary::fly(&admin, &namespace, &mut watchers).await;
        sound(&house, &canary);
        maker.forget(&admin, &namespace).await;
        let canary = canary.and(canary::gone(&admin, &namespace).await);
        sound(&house, &canary);
    }
    let (manifests, files) = watchers.tally();
    println!("{round} rounds, {taken} odd objects taken; {manifests} pods could stand in a manifest, {files} have volumes with files");
    assert!(taken > 0, "the server takes none: nothing was tried");
    run.end();
}

/// Writes one odd object, and sometimes its status; true where it was taken.
async fn one(admin: &Asker, maker: &mut Maker, random: &mut StdRng, namespace: &str) -> bool {
    let made = maker.next(namespace);
    let answer = admin.ask("POST", &made.collection, &made.object).await;
    maker.judged(&made, answer.is_ok());
    let Ok(answer) = answer else {
        refused(&answer);
        return false;
    };
    if random.random_ratio(2, 3)
        && let Some(status) = maker.status(&made, &answer)
    {
        let path = format!("{}/{}/status", made.collection, made.name);
        refused(&admin.ask("PUT", &path, &status).await);
    }
    if random.random_ratio(1, 8) {
        refused(&admin.ask("DELETE", &format!("{}/{}", made.collection, made.name), &Value::Null).await);
    }
    true
}

/// Odd objects are refused as a user's fault, never with ours.
fn refused(answer: &Result<Value, (u16, String)>) {
    if let Err((code, message)) = answer {
        assert!((400..500).contains(code), "refused with {code}: {message}");
    }
}

fn sound(house: &House, canary: &Result<(), String>) {
    let faults = api::faults::metrics();
    assert_eq!(api::faults::panics(), 0, "a loop panicked:\n{faults}");
    assert_eq!(house.group.fault(), None, "a loop ended");
    let unread: Vec<&str> = faults.lines().filter(|l| l.starts_with("skiff_unreadable_objects{") && !l.ends_with(" 0")).collect();
    assert!(unread.is_empty(), "what the server took cannot be read: {unread:?}");
    if let Err(why) = canary {
        panic!("a loop does nothing any more: {why}");
    }
}
