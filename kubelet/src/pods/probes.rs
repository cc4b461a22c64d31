//! Running containers -> what their probes say.

mod grpc_health;
pub mod http;
mod probe;

pub use probe::{Finding, Kind, Prober, Probes};
