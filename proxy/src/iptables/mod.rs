//! Service ports -> packet rules, by iptables.

mod base_chains;
pub mod exec;
pub mod jump;
mod names;
pub mod rules;
#[cfg(test)]
mod six_tests;
pub mod table;
pub mod unused;
pub mod watch;
