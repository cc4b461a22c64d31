//! The engine: a request in, law applied, stored. Names no kind.

pub mod engine;
pub mod identity;
pub mod kind;
pub mod names;
