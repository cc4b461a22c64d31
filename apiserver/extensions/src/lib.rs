//! CustomResourceDefinitions -> kinds that come, change and go while the server runs.
//!
//! Source: apiextensions-apiserver.

mod columns;
pub mod conversion;
pub mod definition;
pub mod json_path;
pub mod names;
mod naming;
mod published;
mod resource;
mod rules;
pub mod schema;
mod serving;

pub use definition::kind;
pub use serving::start;
