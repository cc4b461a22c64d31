//! The engine and its front door over the memory store, as one room.

mod delete;
mod fair;
mod gates;
mod input;
mod inside;
mod kit;
mod lane;
mod list;
mod turns;
mod watch;
mod write;
