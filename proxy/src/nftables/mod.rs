//! Portals -> elements of nf_tables' maps, written over netlink.
//!
//! A packet's way is the same for one service and for many: its destination is looked up once for its *class* (how many endpoints,
//! what to masquerade, ...), the class' chain draws a number, and (service, number) is looked up for the endpoint. Services and
//! endpoints are plain data, no chains, so that a change is a few elements and the kernel need not check the whole table again.
//! Source of what packets get: upstream `pkg/proxy/nftables/proxier.go`; the maps are our own.

mod class;
mod elements;
mod expr;
mod frame;
mod socket;
mod table;
mod wire;

pub use socket::Error;
pub use table::Table;
