//! The real binary -> something a test can talk to: servers, kubectl, etcd, and waiting for what must come.
//!
//! Everything here panics with words when it fails: it is called by tests. Processes die with the value that started them.

mod api;
mod etcd;
mod eventually;
pub mod images;
mod kubectl;
pub mod node;
pub mod nodes;
mod process;
mod server;

pub use api::{Api, Patch, Reply, Watch, object, path_of};
pub use etcd::{Etcd, EtcdTls};
pub use eventually::{Verdict, eventually, eventually_every};
pub use kubectl::{Background, Done, Kubectl};
pub use process::{free_port, root, skiff, tools};
pub use server::{Backend, Options, Server, Usage};
