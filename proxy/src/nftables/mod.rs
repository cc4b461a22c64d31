//! Service ports -> elements of nf_tables' sets and maps, written over netlink.
//!
//! A packet's destination is looked up in a set per *class* (how many endpoints, of which list). The class' rule draws a number, and
//! (destination, number) is looked up for the endpoint. Services and endpoints are plain data, so that a change is a few
//! elements: a verdict for each service instead, as upstream has it, would have the kernel check all of them at every change of one.
//! What a lookup finds is never looked up again, which `nft` could not show. Source of what packets get: upstream
//! `pkg/proxy/nftables/proxier.go`; the sets and maps are our own.

mod base_chains;
mod chain_rules;
mod elements;
mod expr;
mod guard;
mod objects;
mod registers;
mod service_chain;
mod sets;
mod slots;
mod sticky;
mod table;

pub use guard::Guard;
pub use table::Table;
