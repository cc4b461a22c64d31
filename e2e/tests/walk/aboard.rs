//! A place to walk (a server, or a whole node) and a kubectl -> the topics walked in order, and everything cleaned up.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::Command,
};

pub use e2e::free_port;
use e2e::{Options, Server, images::debian, node, tools};

use crate::terminal::Terminal;

/// A name, which is also that of its namespace, and the steps.
pub type Topic = (&'static str, fn(&Terminal));

/// Which kubectl is typed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubectl {
    /// 1.20, Debian 12's.
    Old,
    /// 1.32 or what else is on the path.
    Newer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The control plane alone.
    Server,
    /// Control plane and node, with the images imported.
    Node,
    /// The same with the service proxy's other mode.
    NftablesNode,
}

/// Starts, walks, and cleans up, also after a failure. Panics at the end if a topic failed.
pub fn walk(place: Place, kubectl: Kubectl, parts: &[&[Topic]]) {
    let program = program(kubectl);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    // Given back after the server was reset: it is dropped last.
    let claim = (place != Place::Server).then(node::claim);
    let flags: &[&str] = if place == Place::NftablesNode { &["--proxy-mode=nftables"] } else { &[] };
    let server = match &claim {
        None => runtime.block_on(Server::start(Options::default())),
        Some(claim) => runtime.block_on(node::start_with(claim, flags)),
    };
    let terminal = Terminal::new(server, runtime, kubectl, &program);
    let wanted = std::env::var("WALK").unwrap_or_default();
    let chosen = |name: &str| wanted.is_empty() || wanted.split(',').any(|w| w == name);
    let topics = parts.iter().copied().flatten().filter(|(name, _)| chosen(name));
    let failed: Vec<&str> = topics.filter(|topic| !walk_topic(&terminal, topic)).map(|(name, _)| *name).collect();
    let server = terminal.server.into_inner();
    server.assert_sound();
    if let Some(claim) = claim {
        claim.end(server);
    }
    assert!(failed.is_empty(), "with {kubectl:?} kubectl these topics failed: {}", failed.join(", "));
}

/// False if a step failed; it has been told then, with the state of the cluster.
fn walk_topic(terminal: &Terminal, (name, steps): &Topic) -> bool {
    eprintln!("--- {name}");
    let walked = catch_unwind(AssertUnwindSafe(|| {
        terminal.run(&format!("kubectl create namespace {name}"));
        terminal.until(&format!("kubectl get serviceaccount default --namespace {name}"), "default");
        terminal.run(&format!("kubectl config set-context --current --namespace={name}"));
        steps(terminal);
    }));
    if walked.is_err() {
        eprintln!("=== topic {name} failed; the cluster:");
        eprintln!("{}", terminal.once("kubectl get nodes,pods,services,endpoints -o wide --all-namespaces"));
        eprintln!("{}", terminal.once("kubectl get events --sort-by=.lastTimestamp | tail -n 30"));
        let log = terminal.server.borrow().log();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("--- the end of skiff's log\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
    }
    // A topic that failed half way leaves nothing in the way of the next.
    terminal.once("kubectl uncordon walk-node; kubectl taint node walk-node go- only-");
    terminal.once(&format!("kubectl config set-context --current --namespace=default; kubectl delete namespace {name} --wait=false"));
    walked.is_ok()
}

/// The program, fetched if need be.
fn program(kubectl: Kubectl) -> PathBuf {
    let unpacked = match kubectl {
        Kubectl::Old => tools().join("kubectl-1.20"),
        Kubectl::Newer => tools().join("kubectl-1.32"),
    };
    if unpacked.is_file() {
        return fs::canonicalize(unpacked).expect("it is there");
    }
    let found = match kubectl {
        Kubectl::Old => debian::unpack(&tools(), "kubernetes-client").map(|root| root.join("usr/bin/kubectl")),
        Kubectl::Newer => debian::said("sh", &["-c", "command -v kubectl"]).map(|path| PathBuf::from(path.trim())),
    };
    let found = found.unwrap_or_else(|error| panic!("no {kubectl:?} kubectl; `deploy/setup.sh tools` fetches it: {error:#}"));
    let version = Command::new(&found).args(["version", "--client"]).output().expect("kubectl runs");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let is_old = version.contains("v1.20");
    assert!(is_old == (kubectl == Kubectl::Old), "{} is not the {kubectl:?} kubectl: {version}", found.display());
    found
}
