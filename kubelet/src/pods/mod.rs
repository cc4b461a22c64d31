//! Pods of this node -> containers that run: the loop, its plan, and what makes its calls.

mod admit;
mod api_calls;
mod backoff;
mod conditions;
mod container_status;
#[cfg(test)]
mod containerd_tests;
mod entry;
mod execute;
mod grpc_health;
mod hooks;
mod http;
mod image_name;
mod images;
mod init;
mod mirror;
#[cfg(test)]
mod panics;
mod patch;
mod plan;
mod pleg_evented;
mod pleg_generic;
mod pod_state;
mod probe;
mod recorder;
mod registry_auth;
mod rehearse;
mod restart;
mod runtime;
mod start;
mod start_limiter;
mod status;
mod stop;
mod sync_loop;
mod termination;
mod written;

pub use admit::NodeCapacity;
pub use execute::{Deps, gone, remove_sandbox};
pub use images::Images;
pub use rehearse::rehearse;
pub use start_limiter::StartLimiter;
pub use sync_loop::{Event, start};
