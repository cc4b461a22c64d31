//! Three etcd members and three servers on ports and folders of their own.

use std::{fs, time::Duration};

use e2e::{Api, Backend, Etcd, Options, Server, eventually};
use serde_json::Value;

pub const TOKEN: &str = "abcdef.0123456789abcdef";
pub const SERVERS: usize = 3;
/// Kill whatever you like: this is how long anybody notices.
pub const HEALED: Duration = Duration::from_secs(15);
/// For what is no question of time.
pub const LONG: Duration = Duration::from_secs(60);
pub const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";

pub struct Cluster {
    pub etcd: Vec<Etcd>,
    pub servers: Vec<Server>,
}

impl Cluster {
    /// All at once, as by a tool that brings up three machines.
    pub async fn start() -> Self {
        let etcd = Etcd::cluster(3).await;
        let urls: Vec<String> = etcd.iter().map(Etcd::url).collect();
        let servers: Vec<Server> = (0..SERVERS).map(|n| Server::spawn("server", options(&urls.join(","), n, Some(TOKEN)))).collect();
        for server in &servers {
            server.ready().await;
        }
        Self { etcd, servers }
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
    format!("192.0.2.{}", server + 1)
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
