//! Pods bound to this node -> containers that run, and a status that says so.
//!
//! One event loop ([`pods`]) turns each pod and what the runtime says of it into calls (`plan`, pure); one worker for each pod makes
//! them. The node itself ([`node`]) is registered and kept alive beside it. The container runtime is our own child ([`containerd`])
//! unless another is named.

pub mod cgroups;
pub mod config;
pub mod container_config;
pub mod containerd;
mod context;
mod csi;
mod dirs;
pub mod dns_config;
pub mod downward;
pub mod env;
mod eviction;
mod image_gc;
mod inotify;
pub mod labels;
mod machine;
pub mod meta;
mod metrics;
mod node;
mod pods;
mod rehearse;
mod run;
pub mod server;
mod serving;
mod static_pods;
mod stats;
pub mod tokens;
mod turns;
mod view;
pub mod volumes;

pub use config::{Config, OnPodCidr};
pub use context::{Attempt, NodeContext, PodContext};
pub use eviction::EvictionHard;
pub use machine::machine_id;
#[doc(hidden)]
pub use rehearse::{Beside, Rehearsed, rehearse};
pub use run::{Agent, Error, clean, run, stop_pods};
pub use serving::{Error as ServingError, Issuer};
pub use view::{ContainerView, PodView, Pods};
