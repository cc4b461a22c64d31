//! Objects that changed -> observe, plan, act: what all controllers share.
//!
//! A controller says which changes wake which keys ([`Wake`]), what it looks at and what it would do ([`Controller`]); the [`runner`] owns the rest:
//! a key is queued once and never runs twice at a time; after acting it rests until the caches have seen what it wrote (this replaces
//! upstream's expectations); failures back off per key, with jitter.

mod act;
mod action;
mod ownership;
mod queue;
mod runner;
pub mod selectors;
mod still;
mod told;

pub use action::{Action, PatchType, Plan, Propagation, reference};
pub use ownership::{Claimed, Owner, claim, claim_if, controller_of};
pub use runner::{Controller, Done, Matters, Wake, own_key, run};
pub use still::Still;
