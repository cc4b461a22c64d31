//! Pods of this node -> containers that run: the loop, its plan, and what makes its calls.

mod admit;
mod api_calls;
mod backoff;
mod conditions;
mod container_status;
mod entry;
mod execute;
mod grpc_health;
mod hooks;
mod http;
mod image_name;
mod images;
mod init;
mod memory;
mod mirror;
mod node_loop;
#[cfg(test)]
mod panics;
mod patch;
mod plan;
mod probe;
#[cfg(test)]
mod real;
mod registry_auth;
mod rehearse;
mod relist;
mod restart;
mod runtime;
mod start;
mod start_limiter;
mod status;
mod stop;
mod tell;
mod termination;
mod told;
mod written;

pub use admit::Room;
pub use execute::{Deps, gone, remove_sandbox};
pub use images::Images;
pub use node_loop::{Event, start};
pub use rehearse::rehearse;
pub use start_limiter::StartLimiter;
