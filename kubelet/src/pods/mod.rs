//! Pods of this node -> containers that run: the loop, its plan, and what makes its calls.

mod backoff;
mod conditions;
mod container_status;
mod execute;
mod grpc_health;
mod hooks;
mod http;
mod image_name;
mod images;
mod init;
mod memory;
mod patch;
mod plan;
mod probe;
mod registry_auth;
mod restart;
mod runtime;
mod start;
mod status;
mod stop;
mod tell;
mod termination;

pub use execute::{Deps, gone, remove_sandbox};
pub use images::Images;
