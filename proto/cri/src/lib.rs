//! Calls -> a container runtime: the Container Runtime Interface, version 1, over a unix socket.

mod call;
mod runtime;

/// Messages and raw clients, generated from `runtime.v1.proto`.
#[allow(clippy::all, clippy::pedantic)]
mod generated {
    tonic::include_proto!("runtime.v1");
}

pub use call::{Error, Result};
pub use generated::*;
pub use runtime::{Events, Runtime};
