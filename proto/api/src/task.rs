//! Task groups: every task belongs to one, and the group says what happens on error and on shutdown.

use std::{fmt, future::Future, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Tasks that stop together. Cloning shares the group; [`Group::child`] makes one that its parent stops.
#[derive(Clone, Debug, Default)]
pub struct Group {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Group {
    pub fn new() -> Self {
        Self::default()
    }

    /// A group that stops when this one does; its tasks count as this one's.
    pub fn child(&self) -> Self {
        Self { stop: self.stop.child_token(), tracker: self.tracker.clone() }
    }

    /// Runs `work` until it ends or the group stops, whichever is first: it is dropped at its next `await`.
    pub fn spawn<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Runs `work` to its own end, also while the group stops: for tasks that hear [`Group::stopping`] and clean up.
    pub fn spawn_careful<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(work);
    }

    /// Runs `work`; an error is logged once, and stops the whole group: the house cannot stand without this task.
    pub fn spawn_vital<F, E>(&self, name: &'static str, work: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let group = self.clone();
        self.spawn(async move {
            if let Err(error) = work.await {
                tracing::error!(task = name, %error, "vital task failed");
                group.stop();
            }
        });
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
