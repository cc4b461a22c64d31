//! The words of the house: what crosses a wire, and nothing that decides.
//!
//! Kubernetes' own types come from `k8s-openapi` and are re-exported as [`k8s`]; this crate adds the few that are not generated:
//! status errors, field causes, selectors, quantities, names, bootstrap tokens, what a certificate signing request asks for, the task group that every
//! room runs its tasks in, and the seats that every server gives its connections.

pub mod annotations;
pub mod bootstrap;
pub mod certificate;
pub mod csr;
pub mod faults;
pub mod field_errors;
mod hex;
pub mod human;
pub mod metrics;
pub mod name_rules;
pub mod names;
pub mod preflight;
pub mod programs;
pub mod quantity;
pub mod read;
pub mod runs;
pub mod seats;
pub mod selector;
pub mod status;
pub mod steps;
pub mod task;
pub mod time;
pub mod tunnel;

pub use hex::hex;
pub use k8s_openapi as k8s;
pub use names::{GroupResource, Gvk, Gvr, Key};
pub use status::{Status, StatusResult};
