//! What the runtime has -> pods in our words, and what it tells by itself.

pub mod pleg_evented;
pub mod pleg_generic;
pub mod pod;
mod termination;
