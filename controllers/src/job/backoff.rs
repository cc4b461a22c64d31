//! Failures in a row -> how long no pod is made. Source: `pkg/controller/job/backoff_utils.go`.

use std::{sync::Arc, time::Duration};

use api::time::Timestamp;
use client::pods::Pod;

use super::pods::{failures, finished_at, ignored};
use crate::lasted::Lasted;

/// After the first failure; twice as long after each other.
const FIRST: Duration = Duration::from_secs(10);
/// After any number of failures.
const DELAY_MAX: Duration = Duration::from_secs(600);

/// How many pods failed since the last that succeeded, and when the last of them did. Kept in memory: after a restart it begins anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub failures: i32,
    pub last: Option<Timestamp>,
}

impl Record {
    /// With those that came to their end since.
    pub fn after(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Self {
        let last_success = succeeded.iter().map(|pod| finished_at(pod)).max();
        let before = if last_success.is_some() { Self::default() } else { self };
        let later = failed.iter().map(|pod| finished_at(pod)).filter(|at| last_success.is_none_or(|success| *at > success));
        let (mut count, mut last) = (0, None);
        for at in later {
            count += 1;
            last = last.max(Some(at));
        }
        Self { failures: before.failures.saturating_add(count), last: last.or(before.last) }
    }

    pub fn left(self, lasted: &Lasted) -> Duration {
        self.last.map_or(Duration::ZERO, |last| left(self.failures, last, lasted))
    }
}

/// Of one index, whose last pod this is.
pub fn left_of_index(last: Option<&Arc<Pod>>, lasted: &Lasted) -> Duration {
    last.map_or(Duration::ZERO, |pod| left(failures(pod).saturating_add(ignored(pod)).saturating_add(1), finished_at(pod), lasted))
}

fn left(failures: i32, last: Timestamp, lasted: &Lasted) -> Duration {
    let Ok(doublings) = u32::try_from(failures - 1) else { return Duration::ZERO };
    lasted.left(last, FIRST.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(DELAY_MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pods(ends: &[i64]) -> Vec<Arc<Pod>> {
        let pod = |end: &i64| json!({"metadata": {"creationTimestamp": api::time::rfc3339(at(*end))}});
        ends.iter().map(|end| Arc::new(serde_json::from_value(pod(end)).unwrap())).collect()
    }

    /// `TestNewBackoffRecord`.
    #[test]
    fn failures_are_counted_since_the_last_success() {
        let record = |failures, last: Option<i64>| Record { failures, last: last.map(at) };
        let cases: [(Record, &[i64], &[i64], Record); 8] = [
            (record(0, None), &[], &[], record(0, None)),
            (record(0, None), &[], &[5, 9, 7], record(3, Some(9))),
            (record(2, Some(3)), &[], &[5, 9], record(4, Some(9))),
            (record(2, Some(3)), &[], &[], record(2, Some(3))),
            (record(2, Some(3)), &[4], &[], record(0, None)),
            (record(2, Some(3)), &[4], &[2, 4], record(0, None)),
            (record(2, Some(3)), &[4, 6], &[5, 7, 8], record(2, Some(8))),
            (record(i32::MAX, Some(3)), &[], &[9], record(i32::MAX, Some(9))),
        ];
        for (before, succeeded, failed, wanted) in cases {
            assert_eq!(before.after(&pods(succeeded), &pods(failed)), wanted, "{succeeded:?} {failed:?}");
        }
    }

    /// `TestGetRemainingBackoffTime`.
    #[test]
    fn waits_double_up_to_ten_minutes() {
        let left = |failures, ago: i64| Record { failures, last: Some(at(NOW - ago)) }.left(&Lasted::at(at(NOW))).as_secs();
        for (failures, ago, wanted) in [
            (0, 0, 0),
            (1, 0, 10),
            (1, 4, 6),
            (1, 60, 0),
            (2, 0, 20),
            (5, 0, 160),
            (6, 0, 320),
            (7, 0, 600),
            (60, 0, 600),
            (i32::MAX, 1, 599),
        ] {
            assert_eq!(left(failures, ago), wanted, "{failures} failures, {ago} s ago");
        }
        assert_eq!(Record { failures: 3, last: None }.left(&Lasted::at(at(NOW))), Duration::ZERO);
    }

    /// `TestGetRemainingBackoffTimePerIndex`.
    #[test]
    fn an_index_waits_for_its_own_failures() {
        let left = |failures: &str, ignored: &str| {
            let annotations = json!({super::super::pods::FAILURES: failures, super::super::pods::IGNORED: ignored});
            let metadata = json!({"creationTimestamp": api::time::rfc3339(at(NOW - 1)), "annotations": annotations});
            let pod = Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap());
            left_of_index(Some(&pod), &Lasted::at(at(NOW))).as_secs()
        };
        assert_eq!([left("0", "0"), left("1", "0"), left("1", "2"), left("100", "0")], [9, 19, 79, 599]);
        assert_eq!(left_of_index(None, &Lasted::at(at(NOW))), Duration::ZERO);
    }
}
