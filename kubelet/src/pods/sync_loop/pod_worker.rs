//! One pod's calls -> made by one worker at a time, and less and less often where they fail or nothing comes of them.

use std::time::Duration;

use api::{task::Group, time::Timestamp};

use crate::pods::plan::{Call, outcome::Outcome, pod_state::Stop};

/// Calls that failed at the end of a pod's life: the first wait, doubled up to the second.
const FAILED_MIN_SECONDS: u64 = 1;
const FAILED_MAX_SECONDS: u64 = 16;
/// The same calls once more, after they succeeded this often and nothing came of it: then the waits above hold for them, too.
const IN_VAIN_MAX: u32 = 3;

#[derive(Default)]
pub struct PodWorker {
    running: Option<Running>,
    /// No calls before this: some failed.
    retry_at: Option<Timestamp>,
    failures: u32,
    in_vain: InVain,
}

struct Running {
    group: Group,
    serial: u64,
    state: WorkerState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkerState {
    /// Sync the pod up, or keeping it up.
    Sync,
    Terminating {
        grace_seconds: u32,
    },
    /// Taking away what it leaves.
    Terminated,
}

/// Calls that were begun, of which nothing has come so far: how often in a row, and from when on they may be made again.
#[derive(Default)]
struct InVain {
    calls: Vec<Call>,
    times: u32,
    not_before: Timestamp,
}

impl PodWorker {
    /// A worker makes these; its tasks run in `group`.
    pub fn begin(&mut self, calls: &[Call], group: Group, serial: u64) {
        self.running = Some(Running { group, serial, state: WorkerState::of(calls) });
        if self.in_vain.calls != calls {
            self.in_vain = InVain { calls: calls.to_vec(), ..InVain::default() };
        }
    }

    /// The worker of that number is done; false where it is not this pod's any more.
    pub fn end(&mut self, serial: u64) -> bool {
        self.running.take_if(|running| running.serial == serial).is_some()
    }

    pub fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Stops the worker where the pod is to stop, or to stop faster, than it knows; whether that was so.
    pub fn stop_overtaken(&mut self, stop: Option<&Stop>) -> bool {
        let Some(stop) = stop else { return false };
        let overtaken = self.running.take_if(|running| match running.state {
            WorkerState::Sync => true,
            WorkerState::Terminating { grace_seconds } => stop.grace_seconds < grace_seconds,
            WorkerState::Terminated => false,
        });
        overtaken.is_some_and(|running| {
            running.group.stop();
            true
        })
    }

    /// Takes in what came of calls. A runtime that answers well and changes nothing gets calls less and less often.
    pub fn worker_done(&mut self, outcomes: &[Outcome], now: Timestamp) {
        let failed = outcomes.iter().filter(|o| matches!(o, Outcome::Failed { .. })).count();
        if failed == 0 {
            (self.failures, self.retry_at) = (0, None);
        }
        self.in_vain.after(outcomes, now);
        for _ in 0..failed {
            self.retry_at = Some(now + delay(self.failures));
            self.failures += 1;
        }
    }

    /// When these calls may be made, where that is not now.
    pub fn hold(&self, calls: &[Call], now: Timestamp) -> Option<Timestamp> {
        let in_vain = (calls == self.in_vain.calls).then_some(self.in_vain.not_before);
        self.retry_at.max(in_vain).filter(|at| *at > now)
    }
}

impl WorkerState {
    fn of(calls: &[Call]) -> Self {
        match calls.first() {
            Some(Call::StopPod { grace_seconds }) => Self::Terminating { grace_seconds: *grace_seconds },
            Some(Call::CleanUp | Call::RemovePod) => Self::Terminated,
            _ => Self::Sync,
        }
    }
}

impl InVain {
    /// Where anything came of them they begin anew, and failures have waits of their own.
    fn after(&mut self, outcomes: &[Outcome], now: Timestamp) {
        if outcomes.iter().any(|outcome| *outcome != Outcome::Done) {
            return *self = Self::default();
        }
        self.times += 1;
        self.not_before = now + self.times.checked_sub(IN_VAIN_MAX).map(delay).unwrap_or_default();
    }
}

/// After so many that failed.
fn delay(failures: u32) -> Duration {
    Duration::from_secs((FAILED_MIN_SECONDS << failures.min(8)).min(FAILED_MAX_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::plan::pod_state::StopCause;

    #[test]
    fn only_what_is_slower_than_the_end_is_overtaken() {
        let stop = |grace_seconds| Stop { cause: StopCause::Deleted, grace_seconds };
        let of = |calls: &[Call]| {
            let (mut worker, group) = (PodWorker::default(), Group::new());
            worker.begin(calls, group.clone(), 1);
            (worker, group)
        };
        let (mut bringing, group) = of(&[Call::CreateSandbox { attempt: 0 }]);
        assert!(!bringing.stop_overtaken(None) && bringing.is_busy());
        assert!(bringing.stop_overtaken(Some(&stop(30))) && group.is_stopping() && !bringing.is_busy());
        let (mut stopping, _) = of(&[Call::StopPod { grace_seconds: 10 }]);
        assert!(!stopping.stop_overtaken(Some(&stop(10))) && stopping.stop_overtaken(Some(&stop(9))));
        let (mut ending, _) = of(&[Call::CleanUp]);
        assert!(!ending.stop_overtaken(Some(&stop(0))) && !ending.end(2) && ending.end(1));
    }
}
