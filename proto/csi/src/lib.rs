//! Calls -> a storage driver on this node: the Container Storage Interface, version 1, and how drivers make themselves known, over unix sockets.
//!
//! The servers' side stands here too, for drivers: the tests' own, and the one of e2e.

mod call;
mod driver;
mod registration;
mod serve;

/// Messages, clients and servers, generated from `csi.proto` (see `tests/generated.rs`).
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod v1 {
    include!("generated/csi.v1.rs");
}

/// The same from `registration.proto`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod pluginregistration {
    include!("generated/pluginregistration.rs");
}

pub use call::{Error, Result};
pub use driver::{Driver, Supports};
pub use registration::{Info, Plugin};
pub use serve::{Services, serve};
pub use tonic;
