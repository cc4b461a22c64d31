//! Work that never rests under load -> a thread of its own, so that what wakes it needs not be handed from thread to thread.

use std::{future::Future, io, thread};

use api::task::Group;
use tokio::{runtime::Builder, select, sync::oneshot};

/// Runs what `work` makes until the group stops; what that spawns runs on the same thread. The group waits for the thread as for a task, and ends
/// with it where it ends before.
///
/// # Errors
/// Where there is no thread to be had, or no descriptor to wait with.
pub fn run<F: Future<Output = ()>>(name: &str, group: &Group, work: impl FnOnce() -> F + Send + 'static) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (until, ended) = oneshot::channel::<()>();
    let stopping = group.clone();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _until = until;
        runtime.block_on(async {
            select! {
                biased;
                () = stopping.stopping() => {}
                () = work() => {}
            }
        });
    })?;
    let ends = group.clone();
    group.spawn_careful(async move {
        // Nothing is ever sent: it is dropped when the thread ends, however that is.
        let _ = ended.await;
        ends.fail("dns worker", "a thread ended unasked");
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_lane_ends_with_its_group_and_the_group_waits_for_it() {
        let (group, (began, begun)) = (Group::new(), oneshot::channel());
        let inner = group.clone();
        let work = move || async move {
            inner.spawn(async move { drop(began.send(thread::current().name().map(str::to_owned))) });
            std::future::pending().await
        };
        run("worker", &group, work).unwrap();
        assert_eq!(begun.await.unwrap().as_deref(), Some("worker"), "what is spawned there runs there");
        assert!(group.drain(Duration::from_secs(5)).await);
        assert_eq!(group.fault(), None);
    }

    #[tokio::test]
    async fn a_worker_that_panics_ends_its_group() {
        let group = Group::new();
        run("worker", &group, || async { panic!("in the worker") }).unwrap();
        tokio::time::timeout(Duration::from_secs(5), group.stopping()).await.unwrap();
        assert_eq!(group.fault(), Some("dns worker: a thread ended unasked"));
    }
}
