//! A signal, or a task that failed -> this process ends in order, within a bound, and says so.

use std::time::Duration;

use anyhow::bail;
use api::task::Group;
use tokio::signal::unix::{SignalKind, signal};

/// How long an orderly end may take before we go anyway.
pub const END_BOUND: Duration = Duration::from_secs(8);
/// After the start, until what a fresh process does once is done: joining, its first pods, the first renewals of Leases.
const SETTLED: Duration = Duration::from_secs(20);

/// Resolves on SIGTERM, SIGINT, or when the group was stopped from within.
pub async fn shutdown_signal(group: &Group) {
    signalled(hear(), group).await;
}

/// Who hears SIGTERM, SIGINT and SIGHUP from now on: a process that nobody listens for dies of them.
pub type Signals = Option<[tokio::signal::unix::Signal; 3]>;

pub fn hear() -> Signals {
    let heard = |kind| signal(kind).ok();
    Some([heard(SignalKind::terminate())?, heard(SignalKind::interrupt())?, heard(SignalKind::hangup())?])
}

/// As [`shutdown_signal`], of signals that are listened for already.
pub async fn signalled(signals: Signals, group: &Group) {
    let Some([mut term, mut int, mut hangup]) = signals else { return group.stopping().await };
    loop {
        tokio::select! {
            _ = term.recv() => return,
            _ = int.recv() => return,
            () = group.stopping() => return,
            // The terminal that started us was closed: that does not concern us.
            _ = hangup.recv() => {}
        }
    }
}

/// # Errors
/// What ended the group unasked: the process tells whoever started it.
pub fn unfaulted(group: &Group) -> anyhow::Result<()> {
    group.fault().map_or(Ok(()), |fault| bail!("{fault}"))
}

/// Stops the group and waits for its tasks, for `bound` at most.
pub async fn end(group: &Group, bound: Duration) {
    if !group.drain(bound).await {
        tracing::warn!(seconds = bound.as_secs(), "some tasks did not end in time");
    }
}

/// What only the start needed is not kept mapped, once the process has come to rest.
pub async fn settle() {
    tokio::time::sleep(SETTLED).await;
    match pages::unmap_code() {
        Ok(bytes) => tracing::debug!(bytes, "code that only the start needed is unmapped"),
        Err(error) => tracing::debug!(%error, "code stays mapped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_does_not_wait_for_ever() {
        let group = Group::new();
        group.spawn_careful(std::future::pending::<()>());
        let began = std::time::Instant::now();
        end(&group, Duration::from_millis(50)).await;
        assert!(began.elapsed() < END_BOUND);
        // Stopped from within, which is no signal.
        shutdown_signal(&group).await;
        assert!(unfaulted(&group).is_ok());
    }
}
