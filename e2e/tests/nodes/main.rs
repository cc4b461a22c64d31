//! Several machines -> one cluster, brought up by the very script that Vagrant runs in its machines. Needs root.

mod apart;
mod cluster;
mod faults;
mod machines;
mod packages;
mod page;
mod restarts;
mod traffic;
mod up;
mod vagrant;
mod words;
