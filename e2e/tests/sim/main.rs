//! The whole control plane in one thread, paused time, seeded random numbers, hollow nodes, faults (floor 3 of the tests).
//!
//! Each seed is one process of its own: [`steady`] gives it its random numbers and its clock, so that a seed replays to the letter. A failure prints
//! the seed; `SKIFF_SIM_SEED=n cargo test -p e2e --test sim -- --nocapture` replays it. `SKIFF_SIM_SEEDS=a..b` looks at others.
//! `SKIFF_SIM_TRAIL=/pods/red/web` prints each write to keys with that part.

mod families;
mod house;
mod invariants;
mod jobs;
mod losses;
mod nodes;
mod odd;
mod servers;
mod sets;
mod settle;
mod steady;
mod storage;
mod story;
mod user;

/// What CI looks at: about a minute of two cores.
const SEEDS: std::ops::Range<u64> = 0..10;

#[test]
fn the_invariants_hold_under_every_seed() {
    if std::env::var_os(steady::CLOCK).is_some() {
        // This is the process of one seed: `one_seed` is what runs in it.
        return;
    }
    let failed = steady::run_all(&seeds());
    assert!(failed.is_empty(), "failed under seeds {failed:?}; replay one: SKIFF_SIM_SEED={} cargo test -p e2e --test sim", failed[0]);
}

/// What the process of one seed does.
#[test]
#[ignore = "run by the_invariants_hold_under_every_seed, in a process of its own"]
fn one_seed() {
    let seed = std::env::var(steady::SEED).ok().and_then(|s| s.parse().ok()).expect("a seed");
    story::tell(seed);
}

fn seeds() -> Vec<u64> {
    if let Some(seed) = std::env::var(steady::SEED).ok().and_then(|s| s.parse().ok()) {
        return vec![seed];
    }
    let range = std::env::var("SKIFF_SIM_SEEDS").ok();
    let range = range.as_deref().and_then(|r| r.split_once("..")).and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    range.unwrap_or(SEEDS).collect()
}
