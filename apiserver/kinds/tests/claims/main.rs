//! Cluster IPs and node ports, through real engines that share a store: what is claimed is what the stored Services have, whatever happens.

mod interleaved;
mod ranges;
mod stores;
mod two;
mod upgrade;
mod world;
