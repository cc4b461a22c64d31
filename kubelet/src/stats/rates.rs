//! CPU time of two samples -> processors that were busy between them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::sample::Sample;

/// Over less, what a clock tick adds to it would be seen.
const APART_MIN: Duration = Duration::from_secs(1);
/// What was long ago is no rate of now.
const APART_MAX: Duration = Duration::from_secs(300);

/// What was busy lately, by cgroup: a pod's uid, a container's id in the runtime, or [`NODE`] and [`PODS`].
#[derive(Debug, Default)]
pub struct Rates {
    /// The sample that the next rate begins with.
    since: Option<(Instant, HashMap<String, u64>)>,
    nano_cores: HashMap<String, u64>,
}

pub const NODE: &str = "";
pub const PODS: &str = "/";

impl Rates {
    /// In billionths of a processor; `None` before the second sample.
    pub fn nano_cores(&self, of: &str) -> Option<u64> {
        self.nano_cores.get(of).copied()
    }

    /// Takes note of one more sample, which was read just now.
    pub fn follow(&mut self, sample: &Sample) {
        self.at(Instant::now(), counters(sample));
    }

    fn at(&mut self, now: Instant, counters: HashMap<String, u64>) {
        let Some((since, old)) = &self.since else {
            self.since = Some((now, counters));
            return;
        };
        let apart = now.duration_since(*since);
        if apart < APART_MIN {
            return;
        }
        let rate = |(of, cpu_nano): (&String, &u64)| {
            // A cgroup that was made anew counts from the start.
            let used = cpu_nano.checked_sub(*old.get(of)?)?;
            let nano_cores = u128::from(used) * 1_000_000_000 / apart.as_nanos().max(1);
            Some((of.clone(), u64::try_from(nano_cores).unwrap_or(u64::MAX)))
        };
        self.nano_cores = if apart > APART_MAX { HashMap::new() } else { counters.iter().filter_map(rate).collect() };
        self.since = Some((now, counters));
    }
}

fn counters(sample: &Sample) -> HashMap<String, u64> {
    let pods = sample.pods.iter().filter_map(|pod| Some((pod.uid.clone(), pod.usage?.usage.cpu_nano)));
    let containers = sample.pods.iter().flat_map(|pod| &pod.containers).map(|c| (c.id.clone(), c.usage.usage.cpu_nano));
    let all_pods = sample.all_pods.map(|all| (PODS.to_owned(), all.usage.cpu_nano));
    pods.chain(containers).chain([(NODE.to_owned(), sample.node.usage.cpu_nano)]).chain(all_pods).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_two_samples_that_are_neither_near_nor_far() {
        let (mut rates, began) = (Rates::default(), Instant::now());
        let mut at = |seconds: f32, a: u64| {
            let counters = HashMap::from([("a".to_owned(), a), (format!("{seconds}"), 1)]);
            rates.at(began + Duration::from_millis((seconds * 1000.0) as u64), counters);
            rates.nano_cores("a")
        };
        assert_eq!(at(0.0, 1_000_000_000), None);
        assert_eq!(at(0.5, 2_000_000_000), None, "too near");
        assert_eq!(at(2.0, 2_000_000_000), Some(500_000_000), "since the first one");
        assert_eq!(at(2.5, 9_000_000_000), Some(500_000_000), "as before");
        assert_eq!(at(4.0, 1_000_000_000), None, "it began anew");
        assert_eq!(at(5.0, 1_000_000_000), Some(0));
        assert_eq!(at(500.0, 2_000_000_000), None, "too far");
        assert_eq!(at(501.0, 4_000_000_000), Some(2_000_000_000));
    }
}
