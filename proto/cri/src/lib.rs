//! Calls -> a container runtime: the Container Runtime Interface, version 1, over a unix socket; and what the runtime tells by itself.

mod call;
mod events;
mod runtime;

/// Messages and raw clients, generated from `runtime.v1.proto` (see `tests/generated.rs`).
#[allow(clippy::all, clippy::pedantic)]
mod generated {
    include!("generated/runtime.v1.rs");
}

/// The same from `events.proto`.
#[allow(clippy::all, clippy::pedantic)]
mod containerd {
    include!("generated/containerd.services.events.v1.rs");
}

pub use call::{Error, Result};
pub use events::{Events, TaskEvent};
pub use generated::*;
pub use runtime::{Observe, Runtime};
