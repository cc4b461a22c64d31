//! What the kernel's netfilter shall do -> messages, and its word on them.

mod socket;
mod wire;

pub use socket::{Error, Socket, parts};
pub use wire::{LIST_ELEMENT, Verb, Writer};
