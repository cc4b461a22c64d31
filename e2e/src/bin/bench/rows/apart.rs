//! The parts of a cluster, each in a process of its own -> memory and CPU time of one that has nothing to do: an agent alone, a server beside etcd.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use e2e::{
    Backend, Etcd, Options, Server,
    nodes::{Machine, World},
};
use serde_json::Value;

use super::{Ctx, Found, Skip, idle};
use crate::{
    args::Scale,
    report::{Figure, less},
    subject::{Subject, options, ready},
    usage::Spent,
};

const READY_BOUND: Duration = Duration::from_secs(120);
const SERVER_URL: &str = "https://10.8.0.10:6443";
const TOKEN: &str = "abcdef.0123456789abcdef";
const AGENT_GOAL_MIB: f64 = 25.0;
const AGENT_GOAL_PERCENT: f64 = 0.1;
const SERVER_GOAL_MIB: f64 = 60.0;
const MIB: f64 = 1024.0;

/// `skiff agent` on a machine of its own, with a containerd that runs no pod; the server is on another one.
pub async fn agent(ctx: &Ctx<'_>) -> Found {
    let bin = ctx.binary()?;
    if !ctx.args.up {
        bail!(Skip("needs machines: --up as root".into()));
    }
    ensure!(rustix::process::geteuid().is_root(), "--up needs root");
    let (world, bin) = (World::new(), bin.display());
    world.switch("lan", None);
    let link = |last: u8| [format!("lan=10.8.0.{last}/24"), "via=10.8.0.1".to_owned()];
    let boot = |name: &str, last: u8| world.machine(name, &link(last).each_ref().map(String::as_str));
    let (server, machine) = (boot("server", 10), boot("agent", 11));
    // Each its own copy of the binary, as on two machines: what is resident is nobody else's. (A debug build's is too large for that.)
    let copy =
        if ctx.scale == Scale::Full { format!("cp {bin} /usr/local/bin/skiff; exec /usr/local/bin/skiff") } else { format!("exec {bin}") };
    let run = |on: &Machine<'_>, words: &str| on.background(&format!("{copy} {words}"));
    let control = run(&server, &format!("server --agent-token {TOKEN}"));
    let node = run(&machine, &format!("agent --server {SERVER_URL} --token {TOKEN} --eviction-hard 'memory.available<100Mi'"));
    let end = Instant::now() + READY_BOUND;
    while !node.said().contains("node agent is Ready") {
        ensure!(Instant::now() < end, "no node within {} s:\n{}\n{}", READY_BOUND.as_secs(), control.said(), node.said());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pid = process(&["agent", "--server", SERVER_URL]).context("the agent ended")?;
    let spent = idle::left_alone(ctx, &[pid]).await;
    let mut figures = figures(&spent, pid, AGENT_GOAL_MIB);
    figures.iter_mut().filter(|figure| figure.name == "CPU").for_each(|cpu| cpu.goal = Some(AGENT_GOAL_PERCENT));
    ensure!(process(&["agent", "--server", SERVER_URL]) == Some(pid), "the agent ended: {}", node.said());
    drop((control, node));
    world.end();
    Ok(figures)
}

/// `skiff server` whose objects are in etcd, a process beside it.
pub async fn beside_etcd(ctx: &Ctx<'_>) -> Found {
    let bin = ctx.binary()?;
    let etcd = Etcd::start().await;
    let options = Options { backend: Backend::Etcd(etcd.url()), ..options(&bin) };
    let server = Server::spawn("server", options);
    let (door, _) = ready(&server, Instant::now()).await?;
    let pid = server.pid();
    let subject = Subject::of(server, door);
    let spent = idle::left_alone(ctx, &subject.pids).await;
    subject.pool(1).await?.must("GET", "/api/v1/namespaces/default", &Value::Null).await?;
    Ok(figures(&spent, pid, SERVER_GOAL_MIB))
}

fn figures(spent: &Spent, pid: u32, memory_goal: f64) -> Vec<Figure> {
    vec![
        less("resident", "MiB", spent.after.rss_kib as f64 / MIB).goal(memory_goal),
        less("proportional", "MiB", proportional_kib(pid) as f64 / MIB),
        less("of it anonymous", "MiB", spent.after.anonymous_kib as f64 / MIB),
        less("CPU", "% of a core", spent.cpu_ms / 10.0 / spent.elapsed.as_secs_f64()),
    ]
}

/// proc(5), `smaps_rollup`: what is shared counts by the number of those who share it.
fn proportional_kib(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find(|line| line.starts_with("Pss:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The skiff that was started with these words first.
fn process(words: &[&str]) -> Option<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is = |pid: &u32| {
        let line = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
        let mut said = line.split(|byte| *byte == 0);
        said.next().is_some_and(|name| name.ends_with(b"skiff")) && words.iter().all(|word| said.next() == Some(word.as_bytes()))
    };
    pids.into_iter().find(is)
}
