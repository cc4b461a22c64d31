//! The one way in, for our own rooms: a `kube::Client` over an in-process service or TLS, and caches that rooms share.
//!
//! Rooms never open the store and never call each other: they read [`Cache`]s and write through the client.

mod cache;
pub mod certificate;
mod events;
pub mod leader;
pub mod lenient;
pub mod node_cache;
mod objects;
pub mod pods;
mod retry;
mod told;
pub mod transport;
pub mod trust;
pub mod tunnel;
pub mod watch;

use std::time::Duration;

pub use cache::{Cache, Caches};
pub use events::Recorder;
pub use kube;
pub use objects::{Meta, Object};
pub use retry::{agent_of, is_open, may_pass, patient};

/// Until a server has answered one request of somebody who waits for it.
pub const ANSWER_BOUND: Duration = Duration::from_secs(30);
