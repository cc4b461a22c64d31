//! Portals -> packet rules, by iptables.

mod base_chains;
pub mod exec;
mod names;
pub mod rules;
pub mod table;
pub mod unused;
pub mod watch;
