//! `x-kubernetes-validations` -> compiled rules, and what they say of a value.
//!
//! The Common Expression Language with the libraries that Kubernetes has, of our own: the crates there are have neither types nor bounds. Every
//! expression is checked against the schema's types when its definition is written, and counts what it does when it runs.
//! Sources: cel-spec, cel-go `checker`, `interpreter`, `ext`; apiserver `pkg/cel/library`; apiextensions-apiserver `pkg/apiserver/schema/cel`.

mod check;
mod compare;
mod eval;
mod functions;
mod lexer;
mod parser;
mod rules;
mod strings;
mod syntax;
#[cfg(test)]
mod tests;
mod types;
mod value;
mod weight;
mod words;

pub use rules::{Kept, compile, has_rules, run};
pub use types::Resource;
