//! Built-in kinds -> the engine's table: the law of each kind in one file, one line each in [`table`].

use std::sync::Arc;

use apiserver::kind::Kind;

pub mod common;
pub mod schema;

/// One line per kind, in upstream's order of groups. A kind's file has `pub fn kind() -> Kind`.
const TABLE: &[fn() -> Kind] = &[];

/// All built-in kinds, for `Engine::new`.
pub fn table() -> Vec<Arc<Kind>> {
    TABLE.iter().map(|make| Arc::new(make())).collect()
}
