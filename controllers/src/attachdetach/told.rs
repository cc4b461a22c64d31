//! What is wanted and attached -> the page of metrics. Source: `pkg/controller/volume/attachdetach/metrics/metrics.go`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::metrics::{self, Family};
use parking_lot::Mutex;
use podspec::csi;

use super::memory::{Memories, Memory};

static FORCED: Family = Family::counter(
    "attach_detach_controller_attachdetach_controller_forced_detaches",
    "[ALPHA] Number of times the A/D Controller performed a forced detach",
    &["reason"],
);
static TOTAL: Family =
    Family::gauge("attachdetach_controller_total_volumes", "[ALPHA] Number of volumes in A/D Controller", &["plugin_name", "state"]);

const STATES: [&str; 2] = ["desired_state_of_world", "actual_state_of_world"];

pub fn forced(reason: &str) {
    FORCED.count(&[reason]);
}

/// New ones, counted for each page until they are dropped.
pub fn memories() -> Memories {
    let memories = Memories::default();
    let followed = Arc::downgrade(&memories);
    let before = Mutex::new(BTreeMap::<String, (usize, usize)>::new());
    metrics::before_page(move || {
        let memories = followed.upgrade();
        let now = memories.as_ref().map(|memories| counted(&memories.lock().volumes)).unwrap_or_default();
        let mut before = before.lock();
        before
            .keys()
            .filter(|driver| !now.contains_key(*driver))
            .for_each(|driver| STATES.iter().for_each(|state| TOTAL.forget(&[&plugin(driver), state])));
        now.iter().for_each(|(driver, counts)| tell(driver, *counts));
        *before = now;
        memories.is_some()
    });
    memories
}

/// By driver: wanted, and attached.
fn counted(memories: &HashMap<String, Memory>) -> BTreeMap<String, (usize, usize)> {
    let mut all = BTreeMap::<String, (usize, usize)>::new();
    for (name, memory) in memories {
        let Some((driver, _)) = csi::split(name) else { continue };
        let counts = match all.get_mut(driver) {
            Some(counts) => counts,
            None => all.entry(driver.to_owned()).or_default(),
        };
        *counts = (counts.0 + memory.wanted, counts.1 + memory.attached);
    }
    all
}

fn tell(driver: &str, (wanted, attached): (usize, usize)) {
    for (state, count) in STATES.into_iter().zip([wanted, attached]) {
        TOTAL.set(&[&plugin(driver), state], i64::try_from(count).unwrap_or(i64::MAX));
    }
}

fn plugin(driver: &str) -> String {
    format!("kubernetes.io/csi:{driver}")
}
