//! What is wanted of this node -> what it takes, and what the API shows of what only the node knows.

pub mod admit;
pub mod burstable;
pub mod mirror;
