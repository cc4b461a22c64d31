//! A place to walk (a server, or a whole node) and a kubectl -> the topics walked, and everything cleaned up.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread,
};

pub use e2e::free_port;
use e2e::{Options, Server, images::debian, node, tools};
use parking_lot::Mutex;

use crate::terminal::Terminal;

/// As many walk side by side: most of a walk is waiting.
const WALKERS: usize = 2;

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

/// Starts, walks, and cleans up, also after a failure: topics that may have others beside them first, then those that are alone with the place, in
/// order. Panics at the end if a topic failed.
pub fn walk(place: Place, kubectl: Kubectl, beside: &[&[Topic]], alone: &[&[Topic]]) {
    let program = program(kubectl);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    // Given back after the server was reset: it is dropped last.
    let claim = (place != Place::Server).then(node::claim);
    let flags: &[&str] = if place == Place::NftablesNode { &["--proxy-mode=nftables"] } else { &[] };
    let server = Arc::new(Mutex::new(match &claim {
        None => runtime.block_on(Server::start(Options::default())),
        Some(claim) => runtime.block_on(node::start_with(claim, flags)),
    }));
    let terminals: Vec<Terminal> = (0..WALKERS).map(|n| Terminal::new(&server, n, kubectl, &program)).collect();
    let failed = walk_all(&terminals, beside, alone);
    drop(terminals);
    let server = Arc::into_inner(server).expect("nobody sits at a terminal any more").into_inner();
    server.assert_sound();
    if let Some(claim) = claim {
        claim.end(server);
    }
    assert!(failed.is_empty(), "with {kubectl:?} kubectl these topics failed: {}", failed.join(", "));
}

/// Names of the topics that failed.
fn walk_all(terminals: &[Terminal], beside: &[&[Topic]], alone: &[&[Topic]]) -> Vec<&'static str> {
    let wanted = std::env::var("WALK").unwrap_or_default();
    let chosen = |(name, _): &&Topic| wanted.is_empty() || wanted.split(',').any(|w| w == *name);
    let topics = Mutex::new(beside.iter().copied().flatten().filter(chosen));
    let next = || topics.lock().next();
    let walker = |terminal: &Terminal| -> Vec<&str> {
        std::iter::from_fn(next).filter(|topic| !walk_topic(terminal, topic)).map(|(name, _)| *name).collect()
    };
    let mut failed: Vec<&str> = thread::scope(|scope| {
        let walkers: Vec<_> = terminals.iter().map(|terminal| scope.spawn(|| walker(terminal))).collect();
        walkers.into_iter().flat_map(|walker| walker.join().expect("a topic's panic is caught")).collect()
    });
    let last = alone.iter().copied().flatten().filter(chosen);
    failed.extend(last.filter(|topic| !walk_topic(&terminals[0], topic)).map(|(name, _)| *name));
    failed
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
        let log = terminal.server.lock().log();
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
