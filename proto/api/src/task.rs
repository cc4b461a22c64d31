//! Task groups: every task belongs to one, and the group says what happens on error and on shutdown.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::faults::catch_all;

/// Tasks that stop together. Cloning shares the group; [`Group::child`] makes one that its parent stops.
///
/// There are three sorts of tasks. A *job* ([`Group::spawn`], [`Group::spawn_careful`]) ends by itself: one connection, one request; its panic
/// is its own. A *loop* ([`Group::spawn_loop`]) ends with the group: one that ends unasked ends the group. A *vital* task
/// ([`Group::spawn_vital`]) is a loop that may say why it ended.
#[derive(Clone, Debug, Default)]
pub struct Group {
    stop: CancellationToken,
    tracker: TaskTracker,
    /// One for a group and all its children.
    fault: Arc<OnceLock<String>>,
}

/// Boxed, so that what stands around a task is compiled once and not for each sort of task: the runtime's part alone is some kilobytes.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Group {
    pub fn new() -> Self {
        Self::default()
    }

    /// A group that stops when this one does; its tasks count as this one's, and so does its fault.
    pub fn child(&self) -> Self {
        Self { stop: self.stop.child_token(), tracker: self.tracker.clone(), fault: self.fault.clone() }
    }

    /// Runs `work` until it ends or the group stops, whichever is first: it is dropped at its next `await`. A panic is logged and counted.
    pub fn spawn<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_boxed(Box::pin(work));
    }

    fn spawn_boxed(&self, work: Work) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = job(work) => {}
            }
        });
    }

    /// Runs `work` to its own end, also while the group stops: for tasks that hear [`Group::stopping`] and clean up.
    pub fn spawn_careful<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(job(Box::pin(work)));
    }

    /// Runs `work`, which ends only with the group: if it panics or returns before, that is the group's fault and its end.
    pub fn spawn_loop<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_vital(name, async move {
            work.await;
            Ok::<(), String>(())
        });
    }

    /// Runs `work`; an error is logged once, and stops the whole group: the house cannot stand without this task. It may return without an
    /// error only once the group stops.
    pub fn spawn_vital<F, E>(&self, name: &'static str, work: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        self.spawn_vital_boxed(name, Box::pin(async move { work.await.map_err(|error| error.to_string()) }));
    }

    fn spawn_vital_boxed(&self, name: &'static str, work: Pin<Box<dyn Future<Output = Result<(), String>> + Send>>) {
        let group = self.clone();
        self.spawn_boxed(Box::pin(async move {
            match catch_all(name, work).await {
                Ok(Ok(())) => group.fail(name, "ended unasked"),
                Ok(Err(error)) => group.fail(name, error),
                Err(panic) => group.fail(name, panic),
            }
        }));
    }

    /// What cannot go on is told once, and the group stops; nothing where it was stopping anyway.
    pub fn fail(&self, name: &'static str, why: impl fmt::Display) {
        if self.is_stopping() {
            return;
        }
        tracing::error!(task = name, error = %why, "vital task ended");
        // The first fault is the one that matters.
        let _ = self.fault.set(format!("{name}: {why}"));
        self.stop();
    }

    /// Why the group, its parent or one of their children ended, where it was not asked to.
    pub fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// Asks all tasks to end.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Resolves once the group has been asked to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Stops, and waits until every task has ended or `bound` has passed. True if all ended.
    pub async fn drain(&self, bound: Duration) -> bool {
        self.stop();
        self.tracker.close();
        tokio::time::timeout(bound, self.tracker.wait()).await.is_ok()
    }
}

async fn job(work: Work) {
    if let Err(panic) = catch_all("job", work).await {
        tracing::error!(error = %panic, "a task ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    async fn ended(group: &Group) -> Option<&str> {
        tokio::time::timeout(BOUND, group.stopping()).await.expect("the group ends");
        group.fault()
    }

    #[tokio::test]
    async fn a_loop_that_ends_unasked_ends_its_group() {
        let (returns, panics, errs) = (Group::new(), Group::new(), Group::new());
        returns.spawn_loop("a", async {});
        panics.spawn_loop("b", async { panic!("no") });
        errs.spawn_vital("c", async { Err("gone") });
        assert_eq!(ended(&returns).await, Some("a: ended unasked"));
        assert_eq!(ended(&panics).await, Some("b: panic: no"));
        assert_eq!(ended(&errs).await, Some("c: gone"));
    }

    #[tokio::test]
    async fn a_fault_of_a_child_is_seen_above_and_ends_the_child_alone() {
        let parent = Group::new();
        let child = parent.child();
        child.spawn_loop("inner", async {});
        assert_eq!(ended(&child).await, Some("inner: ended unasked"));
        assert_eq!((parent.fault(), parent.is_stopping()), (Some("inner: ended unasked"), false));
    }

    #[tokio::test]
    async fn a_job_may_end_as_it_likes_and_who_is_asked_to_end_has_no_fault() {
        let group = Group::new();
        group.spawn(async { panic!("a job's own") });
        group.spawn_careful(async { panic!("a job's own") });
        let stopping = group.clone();
        group.spawn_loop("asked", async move { stopping.stopping().await });
        group.spawn_loop("ever", std::future::pending());
        tokio::task::yield_now().await;
        assert!(!group.is_stopping());
        assert!(group.drain(BOUND).await);
        assert_eq!(group.fault(), None);
    }
}
