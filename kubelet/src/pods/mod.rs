//! Pods of this node -> containers that run: the loop, its plan, and what makes its calls.

#[cfg(test)]
mod containerd_tests;
mod desired;
mod event;
mod plan;
mod probes;
mod recorder;
mod rehearse;
mod runtime_state;
mod status;
mod storage_limits;
mod sync_loop;
mod workers;

pub use self::{
    desired::admit::NodeCapacity,
    event::Event,
    rehearse::rehearse,
    sync_loop::start,
    workers::{Deps, Images, StartLimiter, gone, remove_sandbox},
};
