//! What the runtime tells by itself -> the loop. Lists are the net under it: rare where there are events, once a second where not.
//!
//! Upstream: `pkg/kubelet/pleg/evented.go` (KEP-3386), which knows CRI's events only; containerd has these since 1.7, and has had
//! events of its own before.

use std::{sync::Arc, time::Duration};

use cri::{ContainerEventResponse, ContainerEventType, Error, Events, Runtime, TaskEvent};
use futures::StreamExt;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until},
};

use super::pleg_generic;
use crate::{
    metrics::{Metrics, RELIST},
    pods::event::Event,
};

/// Upstream's `eventedPlegRelistPeriod`.
const NET_PERIOD: Duration = Duration::from_secs(300);
/// Upstream's `genericPlegRelistPeriod`.
const PERIOD: Duration = Duration::from_secs(1);
/// After events were asked for: what happened before the runtime heard us shows in a list by then.
const SETTLED: Duration = Duration::from_secs(1);
/// Between tries where the runtime does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Streams that break in a row while lists work. Upstream's `eventedPlegMaxStreamRetries`.
const BROKEN_MAX: u32 = 5;
/// A stream that lasted longer is not one of a row.
const LASTED: Duration = Duration::from_secs(60);

/// What is followed, and for whom.
pub struct EventedPleg {
    pub runtime: Runtime,
    /// There is something to watch.
    pub active: watch::Receiver<bool>,
    /// Asks for a list soon: a call was given up whose end no event tells.
    pub nudge: Arc<Notify>,
    pub out: mpsc::Sender<Event>,
    pub metrics: Metrics,
}

/// The streams of one connection; each is `None` once the runtime said that it has none.
struct Streams {
    by_cri: Option<Events<ContainerEventResponse>>,
    by_containerd: Option<Events<TaskEvent>>,
}

/// Why [`EventedPleg::run`] came back.
enum End {
    /// The runtime has no events of either kind.
    Unserved,
    /// The runtime went, or does not answer; `listed`: its lists were there.
    Broken { error: Error, listed: bool },
    /// Nobody listens any more.
    Closed,
}

/// Tells the loop of what ends, until the loop ends. Lists once at the start, whatever `active` says.
pub async fn follow(mut pleg: EventedPleg) {
    let (mut events, mut broken) = (true, 0);
    loop {
        let began = Instant::now();
        match pleg.run(events).await {
            End::Closed => return,
            End::Unserved => {
                tracing::info!("runtime does not support container events; relisting periodically");
                events = false;
            }
            End::Broken { error, listed } => {
                tracing::warn!(%error, "failed to follow runtime events; retrying");
                broken = if listed && began.elapsed() < LASTED { broken + 1 } else { 0 };
                // Without lists the runtime was away, and another one may come.
                events = broken < BROKEN_MAX && (events || !listed);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

impl EventedPleg {
    async fn run(&mut self, events: bool) -> End {
        let mut streams =
            Streams { by_cri: events.then(|| self.runtime.container_events()), by_containerd: events.then(|| self.runtime.task_events()) };
        let (mut at, mut lists, mut nudged) = (Instant::now(), 0_u64, false);
        loop {
            let due = async {
                sleep_until(at).await;
                lists == 0 || nudged || self.active.wait_for(|active| *active).await.is_ok()
            };
            let told = tokio::select! {
                is_open = due => {
                    if !is_open {
                        return End::Closed;
                    }
                    let period = if !events { PERIOD } else if lists == 0 { SETTLED } else { NET_PERIOD };
                    (at, nudged) = (Instant::now() + period, false);
                    let listing = self.metrics.timed(RELIST, "", pleg_generic::list(&self.runtime)).await;
                    listing.inspect(|_| lists += 1).map(|listing| Some(Event::Listed(listing)))
                }
                event = streams.next() => event,
                () = self.nudge.notified() => {
                    (at, nudged) = (at.min(Instant::now() + SETTLED), true);
                    continue;
                }
            };
            match told {
                Err(error) => return End::Broken { error, listed: lists > 0 },
                Ok(None) if events && streams.are_none() => return End::Unserved,
                Ok(None) => {}
                Ok(Some(event)) => {
                    if self.out.send(event).await.is_err() {
                        return End::Closed;
                    }
                }
            }
        }
    }
}

impl Streams {
    /// The next thing to tell, if what came is one.
    async fn next(&mut self) -> cri::Result<Option<Event>> {
        let event = tokio::select! {
            event = next(&mut self.by_cri) => event?.as_ref().and_then(stopped),
            event = next(&mut self.by_containerd) => event?.filter(|e| self.is_news(e)),
        };
        Ok(event.map(Event::Task))
    }

    /// CRI's events come after its status has changed, and so are better; but they do not report OOM kills.
    fn is_news(&self, event: &TaskEvent) -> bool {
        self.by_cri.is_none() || matches!(event, TaskEvent::OutOfMemory { .. })
    }

    fn are_none(&self) -> bool {
        self.by_cri.is_none() && self.by_containerd.is_none()
    }
}

/// The next event. `Ok(None)`, once, where the runtime has none of this kind: `events` is gone then.
async fn next<T>(events: &mut Option<Events<T>>) -> cri::Result<Option<T>> {
    let Some(stream) = events else { return std::future::pending().await };
    match stream.next().await {
        Some(Ok(event)) => Ok(Some(event)),
        Some(Err(error)) if !error.is_unimplemented() => Err(error),
        _ => {
            *events = None;
            Ok(None)
        }
    }
}

fn stopped(event: &ContainerEventResponse) -> Option<TaskEvent> {
    let stopped = event.container_event_type() == ContainerEventType::ContainerStoppedEvent;
    stopped.then(|| TaskEvent::Ended { id: event.container_id.clone() })
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn events<T: Send + 'static>(all: Vec<cri::Result<T>>) -> Option<Events<T>> {
        Some(stream::iter(all).chain(stream::pending()).boxed())
    }

    fn end(id: &str) -> TaskEvent {
        TaskEvent::Ended { id: id.into() }
    }

    #[tokio::test]
    async fn containerds_events_are_heard_where_cri_has_none() {
        let by_cri = events(vec![Err(Error::Unimplemented("GetContainerEvents"))]);
        let mut streams = Streams { by_cri, by_containerd: None };
        assert!(matches!(streams.next().await, Ok(None)));
        assert!(streams.are_none(), "neither is served: lists are read");
        streams.by_containerd = events(vec![Ok(end("c"))]);
        assert!(matches!(streams.next().await, Ok(Some(Event::Task(told))) if told == end("c")));
    }

    #[tokio::test]
    async fn cris_events_go_first_but_for_memory() {
        let oom = TaskEvent::OutOfMemory { id: "c".into() };
        let by_containerd = events(vec![Ok(end("c")), Ok(oom.clone())]);
        let mut streams = Streams { by_cri: events(vec![]), by_containerd };
        assert!(matches!(streams.next().await, Ok(None)), "CRI will tell of it");
        assert!(matches!(streams.next().await, Ok(Some(Event::Task(told))) if told == oom));
        let stopped = ContainerEventType::ContainerStoppedEvent.into();
        let event = ContainerEventResponse { container_id: "c".into(), container_event_type: stopped, ..ContainerEventResponse::default() };
        streams.by_cri = events(vec![Ok(event), Err(Error::Unavailable("gone".into()))]);
        assert!(matches!(streams.next().await, Ok(Some(Event::Task(told))) if told == end("c")));
        assert!(matches!(streams.next().await, Err(Error::Unavailable(_))));
    }
}
