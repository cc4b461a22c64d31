//! Built-in kinds -> the engine's table: the law of each kind in one file, one line each in [`table`].

use std::sync::Arc;

use apiserver::kind::Kind;

pub mod binding;
pub mod common;
pub mod config;
pub mod configmap;
pub mod deployment;
pub mod eviction;
pub mod namespace;
pub mod net;
pub mod node;
pub mod pod;
pub mod podtemplate;
pub mod replicaset;
pub mod replicationcontroller;
pub mod schema;
pub mod secret;
pub mod service;
pub mod serviceaccount;

pub use config::Config;

/// One line per kind, in upstream's order of groups. A kind's file has `pub fn kind() -> Kind`, or takes the [`Config`].
const TABLE: &[fn(&Config) -> Kind] = &[
    // core
    |_| binding::kind(),
    |_| configmap::kind(),
    |_| namespace::kind(),
    |_| node::kind(),
    |_| pod::kind(),
    |_| replicationcontroller::kind(),
    |_| secret::kind(),
    |_| serviceaccount::kind(),
    service::kind,
    // apps
    |_| deployment::kind(),
    |_| replicaset::kind(),
];

/// All built-in kinds, for `Engine::new`.
pub fn table(config: &Config) -> Vec<Arc<Kind>> {
    TABLE.iter().map(|make| Arc::new(make(config))).collect()
}
