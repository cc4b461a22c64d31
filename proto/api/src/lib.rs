//! The words of the house: what crosses a wire, and nothing that decides.
//!
//! Kubernetes' own types come from `k8s-openapi` and are re-exported as [`k8s`]; this crate adds the few that are not generated:
//! status errors, field causes, selectors, quantities, names, bootstrap tokens, what a certificate signing request asks for, the task group that every
//! room runs its tasks in, questions that many wait for, and the seats that every server gives its connections.

pub mod annotations;
pub mod bootstrap;
pub mod certificate;
pub mod cron;
pub mod csr;
pub mod faults;
pub mod field_errors;
pub mod flight;
mod hex;
pub mod human;
pub mod metrics;
pub mod name_rules;
pub mod names;
pub mod preflight;
pub mod programs;
pub mod quantity;
mod quote;
pub mod read;
pub mod runs;
pub mod seats;
pub mod seldom;
pub mod selector;
pub mod status;
pub mod steps;
pub mod task;
pub mod time;
pub mod tunnel;
pub mod zone;

pub use hex::hex;
pub use k8s_openapi as k8s;
pub use names::{GroupResource, Gvk, Gvr, Key};
pub use quote::quoted;
pub use status::{Status, StatusResult};
