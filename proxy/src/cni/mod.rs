//! Pod sandbox -> interface with an address: our own CNI plugin. The agent answers its calls, or the whole binary called under another name.
//!
//! Source: CNI specification 1.1.0. One plugin does what upstream splits into `bridge`, `host-local`, `portmap` and `loopback`.

use std::{io::Write, path::Path, process::ExitCode, time::Duration};

mod attach;
mod check;
mod conflist;
pub(crate) mod hostport;
mod install;
mod ipam;
mod leases;
pub(crate) mod link;
mod server;
mod spec;

pub use conflist::{NetworkConfig, write_conflist};
pub use install::install;
pub use server::serve;
#[cfg(test)]
pub(crate) use spec::Command as Verb;
use spec::{Command, Fault, Request};

/// The name under which the binary is our plugin.
pub const PLUGIN: &str = "skiff-cni";
/// containerd asks for a plugin of this name for every sandbox, before any network.
pub const LOOPBACK: &str = "loopback";
/// The bridge that pods hang on where the configuration names none.
pub const BRIDGE: &str = "skiff0";

/// More than any command takes: rules may have to wait for other writers.
const BOUND: Duration = Duration::from_secs(90);

/// Whether a program called as `argv0` is to be [`main_cni`].
pub fn is_plugin_name(argv0: &str) -> bool {
    Path::new(argv0).file_name().and_then(|n| n.to_str()).is_some_and(|n| n == PLUGIN || n == LOOPBACK)
}

/// The plugin's whole life: reads the environment and stdin, does the command, prints the result or the error to stdout.
pub fn main_cni() -> ExitCode {
    let Answer { text, code } = answer(Request::read());
    // Nobody is left to tell when the caller has closed the pipe.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(code)
}

/// What a plugin's program leaves: a text for stdout, and its exit status.
struct Answer {
    text: String,
    code: u8,
}

/// Carries out the command. Visits network namespaces: on a thread that is nobody else's.
fn answer(request: Result<Request, Fault>) -> Answer {
    let (version, outcome) = match request {
        Ok(request) => (request.conf.cni_version.clone(), run(&request)),
        Err(fault) => (spec::NEWEST.to_owned(), Err(fault)),
    };
    match outcome {
        Ok(None) => Answer { text: String::new(), code: 0 },
        Ok(Some(result)) => Answer { text: format!("{result}\n"), code: 0 },
        Err(fault) => Answer { text: format!("{}\n", fault.body(&version)), code: 1 },
    }
}

/// Reads a network configuration as ADD does, and does nothing: for the fuzz target. The code of the refusal, if it is one.
#[doc(hidden)]
pub fn read_config(text: &str) -> Result<(), u32> {
    let owner = spec::Owner { container: "c".into(), ifname: "eth0".into() };
    Request::from_parts(Command::Add, owner, Some("/proc/self/ns/net".into()), text).map(drop).map_err(|fault| fault.code)
}

fn run(request: &Request) -> Result<Option<serde_json::Value>, Fault> {
    if request.command == Command::Version {
        return Ok(Some(spec::versions()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| Fault::io("start the plugin", &e))?;
    let group = api::task::Group::new();
    runtime.block_on(async {
        let done = tokio::time::timeout(BOUND, dispatch(request, &group)).await;
        group.stop();
        done.unwrap_or_else(|_| Err(Fault::new(11, format!("not done after {} s", BOUND.as_secs()), "")))
    })
}

async fn dispatch(request: &Request, group: &api::task::Group) -> Result<Option<serde_json::Value>, Fault> {
    if request.conf.kind == LOOPBACK {
        return attach::loopback(request, group).await;
    }
    match request.command {
        Command::Add => attach::add(request, group).await.map(Some),
        Command::Del => attach::del(request, group).await.map(|()| None),
        Command::Check => check::check(request, group).await.map(|()| None),
        Command::Gc => attach::collect(request, group).await.map(|()| None),
        Command::Status => check::status(request).map(|()| None),
        Command::Version => Ok(Some(spec::versions())),
    }
}

/// ADD or DEL in the namespace of the calling thread; `ports` are mappings as a runtime gives them.
#[cfg(test)]
pub(crate) fn run_for_test(command: Command, id: &str, netns: std::path::PathBuf, leases: &Path, ports: &serde_json::Value) {
    run_in_for_test(command, id, netns, leases, "10.77.0.0/24", 0, ports);
}

/// The same in that range, for pods of that MTU.
#[cfg(test)]
pub(crate) fn run_in_for_test(
    command: Command,
    id: &str,
    netns: std::path::PathBuf,
    leases: &Path,
    subnet: &str,
    mtu: u32,
    ports: &serde_json::Value,
) {
    let conf = serde_json::json!({
        "cniVersion": "1.0.0", "name": "skiff", "type": PLUGIN, "mtu": mtu, "ipam": {"subnet": subnet, "dataDir": leases},
        "runtimeConfig": {"portMappings": ports},
    });
    let owner = spec::Owner { container: id.into(), ifname: "eth0".into() };
    let request = Request::from_parts(command, owner, Some(netns), &conf.to_string()).unwrap();
    run(&request).unwrap();
}
