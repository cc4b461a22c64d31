//! Calls -> a container runtime: the Container Runtime Interface, version 1, over a unix socket; and what the runtime tells by itself.

mod call;
mod events;
mod runtime;

/// Messages and raw clients, generated from `runtime.v1.proto`.
#[allow(clippy::all, clippy::pedantic)]
mod generated {
    tonic::include_proto!("runtime.v1");
}

/// The same from `events.proto`.
#[allow(clippy::all, clippy::pedantic)]
mod containerd {
    tonic::include_proto!("containerd.services.events.v1");
}

pub use call::{Error, Result};
pub use events::{Events, TaskEvent};
pub use generated::*;
pub use runtime::{Observe, Runtime};
