//! Pods that have a node and wait for it, in Permit or in PreBind -> allowed, rejected, too late, or preempted.
//!
//! Source: scheduler `framework/runtime/waiting_pods_map.go` and `pods_in_prebind_map.go`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::binding::{Failure, Waits};
use crate::{pod::PodInfo, refusal::Refusal};

/// Nobody waits longer in Permit, whatever a plugin says.
pub const PERMIT_MAX: Duration = Duration::from_secs(15 * 60);

/// By uid. As many as bindings are prepared at the same time.
#[derive(Debug, Default)]
pub struct WaitingPods(Mutex<HashMap<String, Arc<WaitingPod>>>);

#[derive(Debug)]
pub struct WaitingPod {
    pub pod: Arc<PodInfo>,
    state: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug)]
struct Waiting {
    pending: Vec<Pending>,
    stage: Stage,
    /// Why it is not bound.
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Pending {
    plugin: &'static str,
    time: Duration,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Permit,
    PreBind,
    /// What was begun is finished.
    Bind,
}

impl WaitingPods {
    pub fn add(&self, pod: Arc<PodInfo>, waits: Waits, now: Instant) -> Arc<WaitingPod> {
        let pending = waits.into_iter().map(|(plugin, time)| {
            let time = time.min(PERMIT_MAX);
            Pending { plugin, time, until: now + time }
        });
        let pending: Vec<Pending> = pending.collect();
        let stage = if pending.is_empty() { Stage::PreBind } else { Stage::Permit };
        let state = Mutex::new(Waiting { pending, stage, failure: None });
        let waiting = Arc::new(WaitingPod { pod: pod.clone(), state, changed: Notify::new() });
        self.0.lock().insert(pod.uid.clone(), waiting.clone());
        waiting
    }

    pub fn get(&self, uid: &str) -> Option<Arc<WaitingPod>> {
        self.0.lock().get(uid).cloned()
    }

    /// Those that wait now.
    pub fn all(&self) -> Vec<Arc<WaitingPod>> {
        self.0.lock().values().cloned().collect()
    }

    pub fn remove(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

impl WaitingPod {
    /// The plugins that have not allowed it yet.
    pub fn pending(&self) -> Vec<&'static str> {
        self.state.lock().pending.iter().map(|p| p.plugin).collect()
    }

    /// The plugin wants it to wait no longer. It goes on when nobody does.
    pub fn allow(&self, plugin: &str) {
        let state = &mut *self.state.lock();
        state.pending.retain(|p| p.plugin != plugin);
        if state.stage == Stage::Permit && state.pending.is_empty() {
            state.stage = Stage::PreBind;
            self.changed.notify_waiters();
        }
    }

    /// It is not bound; false if that is decided otherwise already.
    pub fn reject(&self, plugin: &'static str, reason: &str) -> bool {
        self.end(Stage::Permit, || Failure::Refused(Refusal::resolvable(plugin, reason)))
    }

    /// As [`WaitingPod::reject`], also where it waits for PreBind: it has done nothing wrong, and is tried again.
    pub fn preempt(&self, plugin: &str) -> bool {
        self.end(Stage::Permit, || Failure::error("waiting on permit for pod: preempted".into()))
            || self.end(Stage::PreBind, || Failure::error(format!("preempted by {plugin}")))
    }

    /// There is no such pod any more: nothing is waited for, in Permit or in PreBind.
    pub fn gone(&self) -> bool {
        self.reject("", "removed") || self.end(Stage::PreBind, || Failure::error("pod is removed".into()))
    }

    /// Waits until all have allowed it.
    ///
    /// # Errors
    /// It was rejected or preempted, or somebody's time is over.
    pub async fn permitted(&self) -> Result<(), Failure> {
        loop {
            let told = self.changed.notified();
            let Some(until) = self.permit(Instant::now())? else { return Ok(()) };
            tokio::select! {
                () = told => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Waits until it is preempted, or gone.
    pub async fn preempted(&self) -> Failure {
        loop {
            let told = self.changed.notified();
            if let Some(failure) = self.state.lock().failure.clone() {
                return failure;
            }
            told.await;
        }
    }

    /// From now on it is bound, even if another pod wants its place.
    ///
    /// # Errors
    /// It was preempted.
    pub fn pre_bound(&self) -> Result<(), Failure> {
        let state = &mut *self.state.lock();
        state.stage = Stage::Bind;
        state.failure.clone().map_or(Ok(()), Err)
    }

    /// When the next one's time is over; `None` if it need not wait.
    fn permit(&self, now: Instant) -> Result<Option<Instant>, Failure> {
        let state = &mut *self.state.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let first = state.pending.iter().min_by_key(|p| p.until);
        if let Some(late) = first.filter(|p| p.until <= now) {
            let reason = format!("rejected due to timeout after waiting {} at plugin {}", in_words(late.time), late.plugin);
            let failure = Failure::Refused(Refusal::resolvable(late.plugin, &reason));
            state.failure = Some(failure.clone());
            return Err(failure);
        }
        Ok(first.map(|p| p.until))
    }

    fn end(&self, stage: Stage, why: impl FnOnce() -> Failure) -> bool {
        let state = &mut *self.state.lock();
        let open = state.stage == stage && state.failure.is_none();
        if open {
            state.failure = Some(why());
            self.changed.notify_waiters();
        }
        open
    }
}

/// As Go writes it: `15m0s`, `1.5s`, `50ms`.
fn in_words(time: Duration) -> String {
    let (minutes, seconds) =
        (time.as_secs() / 60, Duration::from_secs(time.as_secs() % 60) + Duration::from_nanos(time.subsec_nanos().into()));
    match (minutes / 60, minutes % 60) {
        (0, 0) if time.is_zero() => "0s".into(),
        (0, 0) => format!("{seconds:?}"),
        (0, minutes) => format!("{minutes}m{}s", seconds.as_secs_f64()),
        (hours, minutes) => format!("{hours}h{minutes}m{}s", seconds.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::pod;
    use serde_json::json;

    fn waiting(pods: &WaitingPods, waits: &[(&'static str, u64)]) -> Arc<WaitingPod> {
        let waits = waits.iter().map(|(plugin, seconds)| (*plugin, Duration::from_secs(*seconds))).collect();
        pods.add(Arc::new(pod(&json!({}))), waits, Instant::now())
    }

    fn rejected(plugin: &'static str, reason: &str) -> Result<(), Failure> {
        Err(Failure::Refused(Refusal::resolvable(plugin, reason)))
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        let rows = [(0, "0s"), (50, "50ms"), (1500, "1.5s"), (60_000, "1m0s"), (900_000, "15m0s"), (3_661_500, "1h1m1.5s")];
        rows.iter().for_each(|(millis, want)| assert_eq!(in_words(Duration::from_millis(*millis)), *want));
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_when_all_have_allowed_it() {
        let pods = WaitingPods::default();
        let one = waiting(&pods, &[("A", 10), ("B", 10)]);
        assert_eq!(pods.get("u").map(|w| w.pending()), Some(vec!["A", "B"]));
        one.allow("A");
        one.allow("A");
        let (done, ()) = tokio::join!(one.permitted(), async { one.allow("B") });
        assert_eq!(done, Ok(()));
        assert!(!one.reject("A", "too late"), "it is allowed");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_rejected_by_the_first_who_does_or_whose_time_is_over() {
        let (pods, began) = (WaitingPods::default(), Instant::now());
        let late = waiting(&pods, &[("A", 90), ("B", 7200)]);
        assert_eq!(late.permitted().await, rejected("A", "rejected due to timeout after waiting 1m30s at plugin A"));
        assert_eq!(began.elapsed(), Duration::from_secs(90));
        let long = waiting(&pods, &[("B", 7200)]);
        assert_eq!(long.permitted().await, rejected("B", "rejected due to timeout after waiting 15m0s at plugin B"), "nobody waits longer");
        let one = waiting(&pods, &[("A", 10), ("B", 10)]);
        assert!(one.reject("B", "no") && !one.reject("A", "no, too"));
        assert_eq!(one.permitted().await, rejected("B", "no"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_preempted_until_it_is_being_bound() {
        let pods = WaitingPods::default();
        let permit = waiting(&pods, &[("A", 10)]);
        assert!(permit.preempt("P"));
        assert_eq!(permit.permitted().await, Err(Failure::error("waiting on permit for pod: preempted".into())));
        let pre_bind = waiting(&pods, &[]);
        assert_eq!(pre_bind.permitted().await, Ok(()));
        let (why, done) = tokio::join!(pre_bind.preempted(), async { pre_bind.preempt("P") });
        assert!(done && why == Failure::error("preempted by P".into()) && pre_bind.pre_bound() == Err(why));
        let bound = waiting(&pods, &[]);
        assert_eq!(bound.pre_bound(), Ok(()));
        assert!(!bound.preempt("P"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_gone_waits_for_nothing() {
        let pods = WaitingPods::default();
        let permit = waiting(&pods, &[("A", 10)]);
        assert!(permit.gone());
        assert_eq!(permit.permitted().await, rejected("", "removed"));
        let pre_bind = waiting(&pods, &[]);
        let (why, done) = tokio::join!(pre_bind.preempted(), async { pre_bind.gone() });
        assert!(done && why == Failure::error("pod is removed".into()) && pre_bind.pre_bound() == Err(why));
        let bound = waiting(&pods, &[]);
        assert_eq!(bound.pre_bound(), Ok(()));
        assert!(!bound.gone(), "what was begun is finished");
    }
}
