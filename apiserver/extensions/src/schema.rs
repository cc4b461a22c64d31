//! An `openAPIV3Schema` -> a tree that prunes, completes and judges values of a custom resource.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/structural.go`, `convert.go`. The tree itself is the CEL engine's (`cel::schema`).

pub mod complete;
mod embedded;
mod judge;
pub mod lists;
pub mod prune;

pub use cel::schema::{Additional, ListType, Node, Type, formats, pattern};
pub use embedded::embedded;
pub use judge::{Before, Judged, judge, shown};
