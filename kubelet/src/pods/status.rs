//! A pod's input -> the status that the API shows, and that written.

pub mod api_calls;
pub mod api_pod;
mod conditions;
mod container_status;
mod generate;
mod patch;

pub use generate::{Facts, generate, is_terminal};
