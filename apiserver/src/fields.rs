//! Who owns which field: sets of paths, what a write changes, and the merge of an applied configuration.
//!
//! Pure: values and schemas in, values and sets out. Sources: structured-merge-diff v6 (`fieldpath`, `typed`, `merge`), KEP-555.

mod atomics;
mod compare;
mod element;
mod items;
mod json;
mod merge;
mod reconcile;
mod remove;
mod set;
mod typ;
mod validate;

pub use atomics::atomics;
pub use compare::{Comparison, Side, compare};
pub use element::Element;
pub use items::{Mode, ensure_named, set_of};
pub use merge::merge;
pub use reconcile::{is_outdated, reconcile};
pub use remove::remove;
pub use set::{Path, Set};
pub use typ::Typ;
pub use validate::{GoValue, validate};

#[cfg(test)]
mod tests;
