//! Flags of nodes that run nothing.

use std::path::PathBuf;

use clap::Args;

use super::{domain, quantity};

/// Simulated nodes: docs/hollow.md.
#[derive(Args, Clone, Debug)]
pub struct HollowFlags {
    /// Simulate that many nodes in this process
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub hollow: Option<u32>,
    /// YAML file that says what becomes of hollow pods and nodes, when, and how likely [default: they run, end and go within seconds]
    #[arg(long, value_name = "FILE")]
    pub stages: Option<PathBuf>,
    /// Hollow nodes are named <PREFIX>-0, <PREFIX>-1, ...
    #[arg(long, value_name = "PREFIX", default_value = "hollow", value_parser = domain)]
    pub hollow_prefix: String,
    /// CPU of each hollow node
    #[arg(long, value_name = "QUANTITY", default_value = "32", value_parser = quantity)]
    pub hollow_cpu: String,
    /// Memory of each hollow node
    #[arg(long, value_name = "QUANTITY", default_value = "256Gi", value_parser = quantity)]
    pub hollow_memory: String,
    /// Pods that fit on each hollow node
    #[arg(long, value_name = "N", default_value_t = 110, value_parser = clap::value_parser!(u32).range(0..=250))]
    pub hollow_pods: u32,
    /// Spread the hollow nodes over that many zones (topology.kubernetes.io/zone)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub zones: u32,
    /// The random numbers of hollow pods: equal seeds, equal numbers
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub hollow_seed: u64,
    /// How long a node's Lease holds; it is renewed each quarter of that
    #[arg(long, value_name = "SECONDS", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub node_lease_duration_seconds: u32,
}
