//! Portals -> packet rules, by iptables.

pub mod exec;
mod frame;
mod names;
pub mod rules;
pub mod table;
pub mod unused;
pub mod watch;
