//! CustomResourceDefinitions -> kinds that come, change and go while the server runs.
//!
//! Source: apiextensions-apiserver.

mod cel;
mod columns;
mod conversion;
pub mod definition;
mod json_path;
pub mod names;
mod naming;
mod published;
mod resource;
pub mod schema;
mod serving;

pub use definition::kind;
pub use serving::start;
