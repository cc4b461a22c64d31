//! Three machines as Vagrant makes them, each with a NAT of its own as its first interface -> one cluster, and what a user does with it.

use std::time::Duration;

use e2e::{
    eventually_every,
    nodes::{Machine, World},
};

pub const NETWORK: &str = "192.168.56.0/24";
pub const TOKEN: &str = "abcdef.0123456789abcdef";
pub const SERVER_URL: &str = "https://192.168.56.10:6443";
pub const BOUND: Duration = Duration::from_secs(120);
/// Between two times that a line is run on a machine.
const AGAIN: Duration = Duration::from_millis(250);
/// Disks that builds have filled are no reason for a test to fail.
pub const ROOM: &str = "eviction-hard=memory.available<100Mi";

pub struct Cluster<'w> {
    pub server: Machine<'w>,
    pub agents: [Machine<'w>; 2],
}

impl<'w> Cluster<'w> {
    /// All three Ready, the tests' images on each.
    pub fn new(world: &'w World) -> Self {
        Self::with(world, &[])
    }

    /// The server is told this as well.
    pub fn with(world: &'w World, more: &[&str]) -> Self {
        world.switch("private", None);
        let server = machine(world, "server", 10);
        let options = options(world);
        let words: Vec<&str> = ["server"].into_iter().chain(options.iter().map(String::as_str)).chain(more.iter().copied()).collect();
        server.provision(&words);
        let agents = [machine(world, "agent1", 11), machine(world, "agent2", 12)];
        let cluster = Self { server, agents };
        for agent in &cluster.agents {
            cluster.join(world, agent);
        }
        cluster
    }

    pub fn join(&self, world: &World, agent: &Machine<'_>) {
        let options = options(world);
        let words: Vec<&str> = ["agent", "--server", SERVER_URL].into_iter().chain(options.iter().map(String::as_str)).collect();
        agent.provision(&words);
    }

    pub fn all(&self) -> [&Machine<'w>; 3] {
        [&self.server, &self.agents[0], &self.agents[1]]
    }

    /// Until a line of kubectl's says this.
    pub async fn until(&self, line: &str, wanted: &str) -> String {
        eventually_every(AGAIN, &format!("{line} says {wanted}"), BOUND, async || {
            let said = self.server.try_kubectl(line);
            if said.ok && said.out.contains(wanted) { Ok(said.out) } else { Err(format!("{}{}", said.out, said.err)) }
        })
        .await
    }

    /// A column of pods by node: `pod node ip`, a line each.
    pub fn pods(&self, selector: &str) -> Vec<[String; 3]> {
        let columns = "custom-columns=:.metadata.name,:.spec.nodeName,:.status.podIP";
        let said = self.server.kubectl(&format!("get pods -l {selector} --no-headers -o {columns}"));
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        said.lines().map(|line| words(line).try_into().unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    /// Tells how things stand when a test fails.
    pub fn tell(&self) {
        eprintln!("{}", self.server.try_kubectl("get nodes,pods,services,endpointslices -A -o wide").out);
        eprintln!("{}", self.server.try_kubectl("get events -A --sort-by=.lastTimestamp | tail -n 30").out);
        for machine in self.all() {
            eprintln!("{}", machine.log());
        }
    }
}

/// Vagrant's two interfaces: a NAT on which every machine has the same address and the default route, and the private network.
fn machine<'w>(world: &'w World, name: &str, last: u8) -> Machine<'w> {
    let nat = format!("nat-{name}");
    world.switch(&nat, Some("10.0.2.2/24"));
    world.machine(name, &[&format!("{nat}=10.0.2.15/24"), &format!("private=192.168.56.{last}/24"), "via=10.0.2.2", "dns=10.0.2.3"])
}

fn options(world: &World) -> Vec<String> {
    let images = world.images().display().to_string();
    ["--network", NETWORK, "--token", TOKEN, "--set", ROOM, "--images", &images].map(str::to_owned).to_vec()
}
