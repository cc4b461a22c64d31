//! Three etcd members and three servers, each in a network of its own, with a folder of its own; and a machine that joins. Needs root.

use std::{fs, time::Duration};

use e2e::{
    Api, Backend, Etcd, Options, Server, eventually,
    nodes::{Machine, World},
};
use serde_json::Value;

pub const TOKEN: &str = "abcdef.0123456789abcdef";
/// What the machine joins with: it knows the first server alone.
const AGENT_TOKEN: &str = "fedcba.fedcba9876543210";
pub const SERVERS: usize = 3;
/// Kill whatever you like: this is how long anybody notices.
pub const HEALED: Duration = Duration::from_secs(15);
/// For what is no question of time.
pub const LONG: Duration = Duration::from_secs(60);
pub const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";

const SWITCH: &str = "lan";
const NODE_LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/agent";

pub struct Cluster<'w> {
    pub etcd: Vec<Etcd>,
    pub servers: Vec<Server>,
    agent: Machine<'w>,
}

impl<'w> Cluster<'w> {
    /// All at once, as by a tool that brings up three machines.
    pub async fn start(world: &'w World) -> Self {
        world.switch_here(SWITCH, "10.89.0.1/24");
        let etcd =
            Etcd::cluster_in((0..SERVERS).map(|n| world.net(&format!("e{n}"), SWITCH, &format!("10.89.0.{}", 21 + n))).collect()).await;
        let urls: Vec<String> = etcd.iter().map(Etcd::url).collect();
        let start = |n: usize| {
            let net = world.net(&format!("s{n}"), SWITCH, &address(n));
            let mut options = Options { net: Some(net), ..options(&urls.join(","), n, Some(TOKEN)) };
            options.args.extend(["--agent-token".to_owned(), AGENT_TOKEN.to_owned()]);
            Server::spawn("server", options)
        };
        let servers: Vec<Server> = (0..SERVERS).map(start).collect();
        for server in &servers {
            server.ready().await;
        }
        let agent = world.machine("agent", &[&format!("{SWITCH}=10.89.0.31/24"), "via=10.89.0.1"]);
        let url = format!("https://{}:{}", address(0), servers[0].port());
        // Pods have no place there: the tests' own are looked at, and stay where they are.
        let (room, taint) = ("eviction-hard=memory.available<100Mi", "register-with-taints=apart=yes:NoSchedule");
        let words =
            ["agent", "--server", &url, "--network", "10.89.0.0/24", "--token", AGENT_TOKEN, "--set", room, "--set", taint, "--no-wait"];
        agent.provision(&words);
        Self { etcd, servers, agent }
    }

    /// The machine that joined is heard of from now on, whoever is gone.
    pub async fn node_is_heard_of(&self, api: &Api, bound: Duration) {
        let renewed = async || get(api, NODE_LEASE).await.and_then(|lease| lease["spec"]["renewTime"].as_str().map(str::to_owned));
        let before = renewed().await;
        eventually("the node is heard of", bound, async || match renewed().await {
            Some(now) if Some(&now) != before.as_ref() => Ok(()),
            now => Err(format!("{now:?}\n{}", self.agent.log())),
        })
        .await;
    }

    /// The server that holds the Lease, once it is one of `among`.
    pub async fn leader(&self, lease: &str, among: &[usize], bound: Duration) -> usize {
        let api = self.servers[among[0]].api();
        eventually(&format!("{lease} is led"), bound, async || {
            let holder = holder(&api, lease).await?;
            among.iter().copied().find(|n| self.has_led(*n, &holder))
        })
        .await
    }

    /// The identity says the host alone, which is the same for all here; the log of each says what it was elected as.
    fn has_led(&self, server: usize, identity: &str) -> bool {
        let log = self.servers[server].log();
        log.lines().any(|line| line.contains("attempting to acquire leader lease") && line.contains(identity))
    }

    /// The addresses of `kubernetes`, as `among` sees them, become those of `among`.
    pub async fn endpoints_are(&self, among: &[usize], bound: Duration) {
        let api = self.servers[among[0]].api();
        let wanted: Vec<String> = among.iter().map(|n| address(*n)).collect();
        eventually(&format!("endpoints of {among:?}"), bound, async || {
            let found = get(&api, ENDPOINTS).await.ok_or("no answer".to_owned())?;
            let subsets = found["subsets"].as_array().cloned().unwrap_or_default();
            let mut all: Vec<String> = subsets
                .iter()
                .flat_map(|subset| subset["addresses"].as_array().cloned().unwrap_or_default())
                .filter_map(|address| address["ip"].as_str().map(str::to_owned))
                .collect();
            all.sort();
            if all == wanted { Ok(()) } else { Err(format!("{all:?}")) }
        })
        .await;
    }

    pub fn assert_sound(&self) {
        self.servers.iter().for_each(Server::assert_sound);
    }

    /// No log and no file but the keys' own tells the token.
    pub fn assert_silent(&self) {
        for server in &self.servers {
            assert!(!server.log().contains("0123456789abcdef"), "the token stands in the log");
            let kept = fs::read_to_string(server.kubeconfig()).unwrap();
            assert!(!kept.contains("0123456789abcdef"));
        }
    }
}

/// Where other machines would reach the server.
pub fn address(server: usize) -> String {
    format!("10.89.0.{}", server + 11)
}

pub fn options(urls: &str, server: usize, token: Option<&str>) -> Options {
    let mut args = vec!["--advertise-address".to_owned(), address(server)];
    // The defaults take 15 s; issue 11 wants all of it healed by then.
    args.extend(["--leader-elect-lease-duration=12s".to_owned(), "--leader-elect-renew-deadline=8s".to_owned()]);
    let env = token.map(|token| ("SKIFF_TOKEN".to_owned(), token.to_owned())).into_iter().collect();
    Options { backend: Backend::Etcd(urls.to_owned()), args, env, ..Options::default() }
}

/// A read that may fail.
pub async fn get(api: &Api, path: &str) -> Option<Value> {
    let sent = tokio::time::timeout(Duration::from_secs(5), api.send("GET", path, &[], Vec::new())).await;
    sent.ok()?.ok().filter(|reply| reply.status == 200).map(|reply| reply.json())
}

pub async fn holder(api: &Api, lease: &str) -> Option<String> {
    let lease = get(api, &format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{lease}")).await?;
    lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}
