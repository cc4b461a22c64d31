//! The Common Expression Language with the libraries that Kubernetes has: an expression -> its type, and its value.
//!
//! Of our own: the crates there are have neither types nor bounds. Every expression is checked against the types of its variables when it is written,
//! and counts what it does when it runs. Sources: cel-spec, cel-go `checker`, `interpreter`, `ext`; apiserver `pkg/cel/library`.

mod authorization;
mod check;
mod compare;
mod composed;
pub mod estimate;
mod eval;
mod functions;
mod json;
mod judge;
mod lexer;
mod parser;
pub mod schema;
mod strings;
mod syntax;
#[cfg(test)]
mod tests;
mod types;
mod value;
mod weight;
mod words;

pub use check::Checker;
pub use composed::{Composed, Named};
pub use eval::Run;
pub use json::{check_names, to_json};
pub use judge::{Authority, Check, Judge, Verdict};
pub use lexer::is_reserved;
pub use parser::{depth, parse, selected_from};
pub use syntax::{Expr, Issue};
pub use types::{Record, Resource, T};
pub use value::{Evaluated, Failure, Meter, Patterns, Text, V, Variables};
