//! A runtime -> what happens to its containers, as it happens: by CRI where the runtime has that, else by containerd's own events.
//!
//! Source: KEP-3386 (`GetContainerEvents`); containerd's `api/services/events/v1`, which 1.6 serves on the same socket.

use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use prost::Message;
use tonic::{Response, Status, Streaming, transport::Channel};

use crate::{
    call::{Error, Result},
    containerd::{Envelope, SubscribeRequest, TaskDelete, TaskOom, events_client::EventsClient},
    generated::{ContainerEventResponse, GetEventsRequest, runtime_service_client::RuntimeServiceClient},
};

/// The namespace in which containerd keeps what CRI makes.
const NAMESPACE: &str = "k8s.io";
const DELETED: &str = "/tasks/delete";
const OUT_OF_MEMORY: &str = "/tasks/oom";

/// Ends with an error, and never by itself: [`Error::Unimplemented`] at once where the runtime has no such stream,
/// [`Error::Unavailable`] when the runtime goes. Runtimes answer with the first event only: until then nothing comes.
pub type Events<T> = BoxStream<'static, Result<T>>;

/// What happened to a container or a sandbox, by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// Its process has ended and was reaped. CRI's own status says so a moment later.
    Ended { id: String },
    /// The kernel killed a process of it for want of memory.
    OutOfMemory { id: String },
}

/// CRI's events.
pub(crate) fn container_events(mut service: RuntimeServiceClient<Channel>) -> Events<ContainerEventResponse> {
    opened("GetContainerEvents", async move { service.get_container_events(GetEventsRequest {}).await })
}

/// containerd's events of tasks in CRI's namespace.
pub(crate) fn task_events(mut service: EventsClient<Channel>) -> Events<TaskEvent> {
    let filters = [DELETED, OUT_OF_MEMORY].map(|topic| format!("namespace=={NAMESPACE},topic==\"{topic}\""));
    let request = SubscribeRequest { filters: filters.into() };
    let envelopes = opened("Subscribe", async move { service.subscribe(request).await });
    envelopes.try_filter_map(|envelope| std::future::ready(Ok(task_event(&envelope)))).boxed()
}

fn opened<T, F>(call: &'static str, open: F) -> Events<T>
where
    T: Send + 'static,
    F: Future<Output = std::result::Result<Response<Streaming<T>>, Status>> + Send + 'static,
{
    let events = stream::once(open).map_ok(Response::into_inner).try_flatten();
    let ended = stream::once(async move { Err(Status::unavailable("the stream ended")) });
    erred(call, events.chain(ended)).boxed()
}

fn erred<T>(call: &'static str, events: impl Stream<Item = std::result::Result<T, Status>>) -> impl Stream<Item = Result<T>> {
    events.map_err(move |status| Error::from_stream(call, &status))
}

/// `None` for an exec's end, and for what is not understood.
fn task_event(envelope: &Envelope) -> Option<TaskEvent> {
    let payload = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        DELETED => TaskDelete::decode(payload).ok().filter(|e| e.id.is_empty()).map(|e| TaskEvent::Ended { id: e.container_id }),
        OUT_OF_MEMORY => TaskOom::decode(payload).ok().map(|e| TaskEvent::OutOfMemory { id: e.container_id }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Any;

    use super::*;

    fn envelope(topic: &str, event: &impl Message) -> Envelope {
        let event = Any { type_url: "containerd.events.X".into(), value: event.encode_to_vec() };
        Envelope { namespace: NAMESPACE.into(), topic: topic.into(), event: Some(event) }
    }

    #[test]
    fn envelopes_become_what_happened_to_containers() {
        let end = |id: &str| TaskDelete { container_id: "c".into(), exit_status: 137, id: id.into() };
        assert_eq!(task_event(&envelope(DELETED, &end(""))), Some(TaskEvent::Ended { id: "c".into() }));
        assert_eq!(task_event(&envelope(DELETED, &end("exec"))), None, "an exec's end");
        let oom = TaskOom { container_id: "c".into() };
        assert_eq!(task_event(&envelope(OUT_OF_MEMORY, &oom)), Some(TaskEvent::OutOfMemory { id: "c".into() }));
        assert_eq!(task_event(&envelope("/tasks/paused", &oom)), None);
        assert_eq!(task_event(&Envelope { topic: DELETED.into(), ..Envelope::default() }), None, "nothing in it");
    }

    #[tokio::test]
    async fn a_stream_that_ends_is_an_error() {
        let one = stream::iter([Ok(1)]).chain(stream::once(async { Err(Status::unimplemented("x")) }));
        let all: Vec<_> = erred("Subscribe", one).collect().await;
        assert!(matches!(all.as_slice(), [Ok(1), Err(Error::Unimplemented("Subscribe"))]));
    }
}
