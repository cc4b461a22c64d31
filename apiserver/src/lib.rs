//! The engine: a request in, strategy applied, stored. Names no kind.

pub mod at_rest;
pub mod audit;
pub mod body;
pub mod certs;
pub mod connect;
pub mod delegation;
pub mod discovery;
mod drain_body;
pub mod engine;
pub mod fairness;
pub mod fields;
pub mod front;
pub mod front_proxy;
pub mod health;
pub mod jws;
mod lane;
pub mod metrics;
pub mod names;
pub mod non_resource;
mod notify;
pub mod openapi;
pub mod outbound;
pub mod pace;
pub mod parse;
pub mod schema;
pub mod serve;
pub mod smp;
mod stall;
pub mod strict;
pub mod tls;
pub mod version;
pub mod wire;
pub mod zpages;

pub use engine::{identity, kind, union};
pub use front::{Front, service};
