//! An unscheduled pod in, a binding out.
//!
//! [`start`] keeps a node snapshot current by events ([`snapshot`]), takes the most important pod that waits ([`queue`]), decides ([`plan`]) and
//! writes ([`run`]). A plugin is one file in [`plugins`], and its extension points stand in [`framework`].

mod act;
mod affinity;
mod budgets;
mod column;
mod counters;
mod crowds;
mod cycle_state;
mod evictions;
pub mod framework;
mod node;
pub mod offline;
mod plan;
mod plugins;
mod pod;
mod preemption;
#[cfg(test)]
mod probe;
mod queue;
mod ranking;
mod refusal;
mod remembered;
mod resources;
mod run;
#[cfg(test)]
mod scale;
mod siblings;
mod snapshot;
mod state;
mod sums;
mod taints;
mod terms;
#[cfg(test)]
mod tests;
mod told;
mod topology;
mod volumes;

/// Binds pods with `schedulerName: default-scheduler` until the group stops.
///
/// `client` acts as `system:kube-scheduler`; `caches` may read nodes, pods, namespaces, services, replication controllers, replica sets and disruption budgets, claims, volumes and their classes, and what CSI drivers, their nodes, attachments and capacities are.
pub fn start(client: client::kube::Client, caches: &client::Caches, group: &api::task::Group) {
    run::start(client, caches, group);
}
