//! Command line, environment, file -> flags. Every flag is also `SKIFF_<NAME>` and a key of the `--config` file, in that order.

mod admission;
mod at_rest;
mod audit;
mod front_proxy;
mod given;
mod identity;
mod join;
mod node;
mod nodes;
mod protection;
mod ranges;
mod servers;
mod tokens;

use std::{collections::BTreeMap, ffi::OsString, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use api::k8s::api::core::v1::Taint;
use clap::{Arg, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, builder::ArgPredicate};
use serde_json::{Map, Value, json};

pub use self::identity::{AuthenticationFlags, AuthorizationFlags, UNSAID};
pub use admission::AdmissionFlags;
pub use at_rest::AtRestFlags;
pub use audit::AuditFlags;
pub use front_proxy::FrontProxyFlags;
pub use given::Given;
pub use join::{CheckFlags, ClusterFlags, JoinFlags, LeaveFlags};
pub use node::own_labels;
pub use nodes::NodesFlags;
pub use protection::ProtectionFlags;
pub use ranges::{PODS as POD_RANGE, Ranges, of_pods as pod_ranges};
pub use servers::ServersFlags;
pub use tokens::{AccessFlags, CreateTokenFlags, DeleteTokenFlags, TokenFlags, TokenVerb};

/// Nodes of one machine: each has a containerd.
pub const NODES_MAX: u32 = 32;

/// Kubernetes in one binary: API server, store, scheduler, controllers, node agent, service proxy, cluster DNS.
#[derive(Debug, Parser)]
#[command(name = "skiff", version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring up a cluster on this machine: control plane and node in one process
    Up(Box<UpFlags>),
    /// Run the control plane alone, in the foreground (no root and no containerd needed)
    Server(Box<ServerFlags>),
    /// Make this machine a node of a cluster, in the foreground (--server, --token); or simulate nodes (--hollow N; no root and no containerd needed)
    Agent(Box<AgentVerbFlags>),
    /// Make, list and delete the tokens that machines join with
    Token(TokenFlags),
    /// Print a kubeconfig for the cluster administrator, or merge it into a file
    Kubeconfig(KubeconfigFlags),
    /// Tell what this machine lacks for `skiff up`; with --server: what stands between it and a cluster; with --data-dir: whether what is kept there is sound (nothing is changed)
    Check(CheckFlags),
    /// Take this machine out of the cluster that it joined: its pods go elsewhere, its images stay
    Leave(LeaveFlags),
    /// Stop skiff; pods keep running unless --pods is given
    Down(DownFlags),
    /// Stop skiff and remove what it made: pods, rules, links, mounts, cgroups, data
    Reset(ResetFlags),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Clone, Debug)]
pub struct CommonFlags {
    /// Directory for all that is kept [default: /var/lib/skiff, or ~/.local/share/skiff without root]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// YAML file whose keys are the names of flags
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or per module (`info,apiserver=debug`)
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = log_level)]
    pub log_level: String,
}

#[derive(Args, Clone, Debug)]
pub struct ServerFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Address the API is served on
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port the API is served on
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub secure_port: u16,
    /// Address that pods and nodes reach the API at [default: this machine's]
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// More names and addresses for the serving certificate
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = host)]
    pub tls_san: Vec<String>,
    /// etcd servers (https://host:2379, ...); without them the embedded store is used
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// CA that etcd's certificate is checked against
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_keyfile: Option<PathBuf>,
    /// Where the objects are kept without etcd: `redb` (a file) or `memory` (forgotten at the end)
    #[arg(long, value_name = "STORE", default_value = "redb", value_parser = ["redb", "memory"])]
    pub storage_backend: String,
    /// Addresses of pods: one range, or one of IPv4 and one of IPv6 (`skiff up` serves IPv4 alone so far)
    #[arg(long, value_name = "CIDR,...", default_value = ranges::PODS, value_parser = ranges::of_pods)]
    pub cluster_cidr: Ranges,
    /// Addresses of services: one range (two are not served yet; `skiff up` serves IPv4 alone so far)
    #[arg(long, value_name = "CIDR,...", default_value = "10.96.0.0/12", value_parser = ranges::of_services)]
    pub service_cluster_ip_range: Ranges,
    /// Ports of services of type NodePort
    #[arg(long, value_name = "FROM-TO", default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// The cluster's DNS domain
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = domain)]
    pub cluster_domain: String,
    /// With --max-mutating-requests-inflight, how many requests are served at a time (without priority and fairness: of those that only read; 0 is no limit)
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub max_requests_inflight: u32,
    /// With --max-requests-inflight, how many requests are served at a time (without priority and fairness: of those that change something; 0 is no limit)
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub max_mutating_requests_inflight: u32,
    /// Share what is served at a time between users, by upstream's priority levels; false: first come, first served
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_priority_and_fairness: bool,
    #[command(flatten)]
    pub protection: ProtectionFlags,
    /// A token that machines can join with for as long as it is not deleted: <id>.<secret>, six and sixteen of a-z and 0-9
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    pub agent_token: Option<Given>,
    /// How long the certificates of nodes and users last that the cluster signs (certificates.k8s.io), unless they ask for less
    #[arg(long, value_name = "TIME", default_value = "8760h", value_parser = nodes::time)]
    pub cluster_signing_duration: Duration,
    /// What is built in and is not wanted: metrics-server (the resource metrics of `kubectl top`, metrics.k8s.io), where another is installed by Helm, say
    #[arg(long, value_name = "WHAT,...", value_delimiter = ',')]
    pub disable: Vec<Addon>,
    #[command(flatten)]
    pub authentication: AuthenticationFlags,
    #[command(flatten)]
    pub authorization: AuthorizationFlags,
    #[command(flatten)]
    pub at_rest: AtRestFlags,
    #[command(flatten)]
    pub admission: AdmissionFlags,
    #[command(flatten)]
    pub audit: AuditFlags,
    #[command(flatten)]
    pub front_proxy: FrontProxyFlags,
    #[command(flatten)]
    pub nodes: NodesFlags,
    #[command(flatten)]
    pub servers: ServersFlags,
    /// All flags and their values, for `/flagz`: no secrets.
    #[arg(skip)]
    pub shown: BTreeMap<String, String>,
}

/// What `--disable` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Addon {
    MetricsServer,
}

#[derive(Args, Clone, Debug)]
pub struct AgentFlags {
    /// This node's name [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// This node's address [default: for `skiff agent` what it reaches the server from; else the address of the default route, or of an interface]
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// A container runtime that is already running (unix:///run/containerd/containerd.sock), instead of our own containerd
    #[arg(long, value_name = "SOCKET")]
    pub container_runtime_endpoint: Option<String>,
    /// Directory of static pod manifests [default: <data-dir>/manifests]
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Port of the node agent's own server
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
    /// How much must be free before the node says that it is under pressure, and takes no more pods
    #[arg(long, value_name = "SIGNAL<AMOUNT,...", default_value = kubelet::EvictionHard::DEFAULT)]
    pub eviction_hard: kubelet::EvictionHard,
    /// Labels of the node (key=value, ...)
    #[arg(long, value_name = "LABELS", value_delimiter = ',', value_parser = label)]
    pub node_labels: Vec<String>,
    /// Taints that the node registers with (key=value:effect, ...)
    #[arg(long, value_name = "TAINTS", value_delimiter = ',', value_parser = node::taint)]
    pub register_with_taints: Vec<Taint>,
    /// How services are led to their endpoints: iptables or nftables
    #[arg(long, value_name = "MODE", default_value_t = proxy::Mode::Iptables)]
    pub proxy_mode: proxy::Mode,
    /// How pods reach those of other nodes: auto (a route to nodes on our own subnet, VXLAN to others), route or vxlan
    #[arg(long, value_name = "WAY", default_value_t = proxy::overlay::PodNetwork::Auto)]
    pub pod_network: proxy::overlay::PodNetwork,
    /// Network identifier of VXLAN: the same on all nodes
    #[arg(long, value_name = "VNI", default_value_t = proxy::overlay::VNI, value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub vxlan_vni: u32,
    /// UDP port of VXLAN: the same on all nodes
    #[arg(long, value_name = "PORT", default_value_t = proxy::overlay::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: u16,
}

#[derive(Args, Clone, Debug)]
pub struct AgentVerbFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    #[command(flatten)]
    pub join: JoinFlags,
    #[command(flatten)]
    pub agent: AgentFlags,
    #[command(flatten)]
    pub cluster: ClusterFlags,
    #[command(flatten)]
    pub hollow: HollowFlags,
    /// For hollow nodes that do not join by --server and --token: the cluster, and who we are there [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// For hollow nodes: the kubeconfig's context [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// Simulated nodes: docs/hollow.md.
#[derive(Args, Clone, Debug)]
pub struct HollowFlags {
    /// Simulate that many nodes in this process
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub hollow: Option<u32>,
    /// YAML file that says what becomes of hollow pods and nodes, when, and how likely [default: they run, end and go within seconds]
    #[arg(long, value_name = "FILE")]
    pub stages: Option<PathBuf>,
    /// Hollow nodes are named <PREFIX>-0, <PREFIX>-1, ...
    #[arg(long, value_name = "PREFIX", default_value = "hollow", value_parser = domain)]
    pub hollow_prefix: String,
    /// CPU of each hollow node
    #[arg(long, value_name = "QUANTITY", default_value = "32", value_parser = quantity)]
    pub hollow_cpu: String,
    /// Memory of each hollow node
    #[arg(long, value_name = "QUANTITY", default_value = "256Gi", value_parser = quantity)]
    pub hollow_memory: String,
    /// Pods that fit on each hollow node
    #[arg(long, value_name = "N", default_value_t = 110, value_parser = clap::value_parser!(u32).range(0..=250))]
    pub hollow_pods: u32,
    /// Spread the hollow nodes over that many zones (topology.kubernetes.io/zone)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub zones: u32,
    /// The random numbers of hollow pods: equal seeds, equal numbers
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub hollow_seed: u64,
    /// How long a node's Lease holds; it is renewed each quarter of that
    #[arg(long, value_name = "SECONDS", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub node_lease_duration_seconds: u32,
}

#[derive(Args, Clone, Debug)]
pub struct UpFlags {
    #[command(flatten)]
    pub server: ServerFlags,
    #[command(flatten)]
    pub agent: AgentFlags,
    /// Nodes of the cluster, all on this machine: the others have a network, a disk and a containerd of their own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
    pub nodes: u32,
    /// Stay in the foreground, as a service manager wants it
    #[arg(long)]
    pub foreground: bool,
    /// The kubeconfig that the cluster's context is merged into [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct KubeconfigFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Merge into the default kubeconfig, as `skiff up` does, instead of printing
    #[arg(long)]
    pub merge: bool,
    /// Where the cluster is reached, if not at this server's own address: a URL with a name that servers have by --tls-san, say
    #[arg(long, value_name = "URL", value_parser = url)]
    pub server: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub struct DownFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Also stop all pods and our containerd
    #[arg(long)]
    pub pods: bool,
}

impl AgentFlags {
    /// Of the node: `key=value`, as was checked when they were read.
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.node_labels.iter().filter_map(|label| label.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// What holds for other nodes of the cluster as well, as keys of a `--config` file; not what is of this machine alone.
    pub fn of_all_nodes(&self) -> Map<String, Value> {
        // All of them by name: who adds a flag decides.
        let Self {
            node_name: _,
            node_ip: _,
            container_runtime_endpoint: _,
            pod_manifest_path: _,
            kubelet_port,
            eviction_hard,
            node_labels,
            register_with_taints,
            proxy_mode,
            pod_network,
            vxlan_vni,
            vxlan_port,
        } = self;
        let taints: Vec<String> = register_with_taints.iter().map(node::taint_text).collect();
        let own = [
            ("kubelet-port", json!(kubelet_port)),
            ("eviction-hard", json!(eviction_hard.to_string())),
            ("proxy-mode", json!(proxy_mode.to_string())),
            ("pod-network", json!(pod_network.to_string())),
            ("vxlan-vni", json!(vxlan_vni)),
            ("vxlan-port", json!(vxlan_port)),
        ];
        // Nothing is no label and no taint.
        let lists = [("node-labels", node_labels), ("register-with-taints", &taints)].into_iter().filter(|(_, list)| !list.is_empty());
        let lists = lists.map(|(key, list)| (key, json!(list)));
        own.into_iter().chain(lists).map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

#[derive(Args, Clone, Debug)]
pub struct ResetFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Keep the data: objects, certificates, images, volumes of pods
    #[arg(long)]
    pub keep_data: bool,
}

impl ServerFlags {
    /// Requests served at a time.
    pub fn limits(&self) -> apiserver::fairness::Limits {
        let (reading, mutating) = (self.max_requests_inflight as usize, self.max_mutating_requests_inflight as usize);
        apiserver::fairness::Limits { reading, mutating, fair: self.enable_priority_and_fairness }
    }
}

impl Cli {
    /// Reads the process's own arguments and environment; prints help or usage errors and exits as clap does.
    ///
    /// # Errors
    /// A config file that cannot be read, is no YAML map, or has a key that is no flag.
    pub fn read(args: impl IntoIterator<Item = OsString> + Clone) -> anyhow::Result<Self> {
        let command = with_environment(Cli::command());
        let first = command.clone().ignore_errors(true).get_matches_from(args.clone());
        let file = first.subcommand().and_then(|(_, m)| m.try_get_one::<PathBuf>("config").ok().flatten().cloned());
        let command = match file {
            Some(path) => with_file(command, &read_file(&path)?).with_context(|| format!("config file {}", path.display()))?,
            None => command,
        };
        let matches = command.clone().get_matches_from(args);
        let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
        let shown = matches.subcommand().and_then(|(verb, given)| Some(shown(command.find_subcommand(verb)?, given)));
        match &mut cli.verb {
            Verb::Server(server) => server.shown = shown.unwrap_or_default(),
            Verb::Up(up) => up.server.shown = shown.unwrap_or_default(),
            _ => {}
        }
        Ok(cli)
    }
}

/// Names and values of all flags of a verb; of a secret it is told that it is one, as upstream tells it.
fn shown(verb: &Command, given: &ArgMatches) -> BTreeMap<String, String> {
    let flags = verb.get_arguments().filter(|arg| !matches!(arg.get_long(), None | Some("help" | "version")));
    let value = |arg: &Arg| {
        let given = given.get_raw(arg.get_id().as_str()).into_iter().flatten();
        given.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(",")
    };
    let told = |arg: &Arg| match value(arg) {
        text if !text.is_empty() && arg.is_hide_env_values_set() => "CLASSIFIED".to_owned(),
        text => text,
    };
    flags.filter_map(|arg| Some((arg.get_long()?.to_owned(), told(arg)))).collect()
}

fn read_file(path: &PathBuf) -> anyhow::Result<Map<String, Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("config file {}", path.display()))?;
    let options = serde_yaml::options! { legacy_octal_numbers: true };
    match serde_yaml::from_str_with_options(&text, options).with_context(|| format!("config file {}", path.display()))? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => bail!("config file {}: not a map of flag names to values", path.display()),
    }
}

/// `--data-dir` can also be given as `SKIFF_DATA_DIR`, of whatever verb.
fn with_environment(command: Command) -> Command {
    command.mut_subcommands(|sub| {
        with_environment(sub).mut_args(|arg| match arg.get_long() {
            Some("help" | "version") | None => arg,
            Some(long) => {
                let name = format!("SKIFF_{}", long.to_uppercase().replace('-', "_"));
                arg.env(name).hide_env(true)
            }
        })
    })
}

/// The file's values become the flags' defaults, so that the environment and the command line win over them.
fn with_file(mut command: Command, file: &Map<String, Value>) -> anyhow::Result<Command> {
    for (key, value) in file {
        let known = |sub: &Command| sub.get_arguments().any(|a| a.get_long() == Some(key) && key != "config");
        if !command.get_subcommands().any(known) {
            bail!("unknown key {key:?}: keys are the names of flags, see `skiff up --help`");
        }
        let text = as_flag(value).with_context(|| format!("key {key:?}: a list or a map of maps is no value of a flag"))?;
        let id = key.replace('-', "_");
        command = command.mut_subcommands(|sub| {
            if !known(&sub) {
                return sub;
            }
            let others = excluding(&sub, &id).into_iter().map(|other| (other, ArgPredicate::IsPresent, None::<&str>));
            sub.mut_arg(&id, |arg| arg.default_value(text.clone()).default_value_ifs(others))
        });
    }
    Ok(command)
}

/// The flags that exclude that one: where one of them is given, what the file says of it does not count.
fn excluding(sub: &Command, id: &str) -> Vec<String> {
    let excludes = |one: &Arg, other: &str| sub.get_arg_conflicts_with(one).iter().any(|arg| arg.get_id() == other);
    let Some(own) = sub.get_arguments().find(|arg| arg.get_id() == id) else { return Vec::new() };
    let others = sub.get_arguments().filter(|other| excludes(own, other.get_id().as_str()) || excludes(other, id));
    others.map(|other| other.get_id().to_string()).collect()
}

/// Without `=`, each part is a level: the filter itself would take a misspelt level for a module's name.
fn log_level(text: &str) -> Result<String, String> {
    let known =
        |part: &str| part.contains('=') || ["off", "error", "warn", "info", "debug", "trace"].contains(&part.to_lowercase().as_str());
    if let Some(part) = text.split(',').map(str::trim).find(|part| !known(part)) {
        return Err(format!("{part:?} is no level: error, warn, info, debug or trace"));
    }
    tracing_subscriber::EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn domain(text: &str) -> Result<String, String> {
    let label = |l: &str| {
        let inside = l.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        inside && !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err("it must be a DNS name, as in cluster.local".to_owned())
    }
}

fn quantity(text: &str) -> Result<String, String> {
    let parsed = api::quantity::Quantity::parse(text)?;
    if parsed.is_negative() { Err("it must not be negative".to_owned()) } else { Ok(text.to_owned()) }
}

fn label(text: &str) -> Result<String, String> {
    let known = |(key, value): (&str, &str)| api::selector::is_label_key(key) && api::selector::is_label_value(value);
    if text.split_once('=').is_some_and(known) { Ok(text.to_owned()) } else { Err("it must be a label, as in disk=ssd".to_owned()) }
}

/// An address, or a DNS name whose first label may be `*`.
fn host(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text).to_lowercase();
    if text.parse::<IpAddr>().is_ok() || domain(&name).is_ok() {
        Ok(text.to_owned())
    } else {
        Err("it must be an IP address or a DNS name".to_owned())
    }
}

/// Of an API server.
fn url(text: &str) -> Result<String, String> {
    client::transport::Server::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn as_flag(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Array(items) => items.iter().map(as_flag).collect::<Option<Vec<_>>>().map(|v| v.join(",")),
        Value::Null | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &str, args: &[&str]) -> anyhow::Result<Cli> {
        let Value::Object(map) = serde_yaml::from_str(file)? else { bail!("no map") };
        let command = with_file(with_environment(Cli::command()), &map)?;
        Ok(Cli::from_arg_matches(&command.try_get_matches_from(args)?)?)
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = "secure-port: 7000\netcd-servers: [http://a:1, http://b:2]\nnode-name: n1\n";
        let Verb::Up(up) = parse(file, &["skiff", "up", "--node-name", "n2"]).unwrap().verb else { panic!() };
        assert_eq!(up.server.secure_port, 7000);
        assert_eq!(up.server.etcd_servers, ["http://a:1", "http://b:2"]);
        assert_eq!(up.agent.node_name.as_deref(), Some("n2"));
    }

    #[test]
    fn what_is_given_puts_aside_what_the_file_says_of_flags_that_it_excludes() {
        let join = |file: &str, args: &[&str]| {
            let all = ["skiff", "agent"].iter().chain(args).copied().collect::<Vec<_>>();
            let Verb::Agent(agent) = parse(file, &all).unwrap().verb else { panic!() };
            let token = agent.join.token.map(|token| token.reveal().to_owned());
            (token, agent.join.token_file.map(|file| file.display().to_string()))
        };
        let is = |token: Option<&str>, file: Option<&str>| (token.map(str::to_owned), file.map(str::to_owned));
        assert_eq!(join("token: old\n", &["--token-file=new"]), is(None, Some("new")));
        assert_eq!(join("token-file: old\n", &["--token=new"]), is(Some("new"), None));
        assert_eq!(join("token: old\n", &[]), is(Some("old"), None));
        assert_eq!(join("token-file: old\n", &[]), is(None, Some("old")));
    }

    #[test]
    fn what_holds_for_all_nodes_is_read_by_their_agents_as_it_was_given() {
        let given = [
            "--kubelet-port=10251",
            "--eviction-hard=memory.available<50Mi",
            "--node-labels=a=b,c=d",
            "--register-with-taints=x=y:NoSchedule,z:NoExecute",
            "--proxy-mode=nftables",
            "--pod-network=vxlan",
            "--vxlan-vni=7",
            "--vxlan-port=4789",
        ];
        for args in [&[][..], &given[..]] {
            let args: Vec<&str> = ["skiff", "up", "--node-name=n1", "--node-ip=10.0.0.5"].iter().chain(args).copied().collect();
            let Verb::Up(up) = parse("{}", &args).unwrap().verb else { panic!() };
            let file = serde_yaml::to_string(&Value::Object(up.agent.of_all_nodes())).unwrap();
            let Verb::Agent(agent) = parse(&file, &["skiff", "agent"]).unwrap().verb else { panic!() };
            let own = AgentFlags { node_name: None, node_ip: None, ..up.agent };
            assert_eq!(format!("{:?}", agent.agent), format!("{own:?}"), "{file}");
        }
    }

    #[test]
    fn certificates_are_signed_for_a_year_or_as_said() {
        let seconds = |args: &[&str]| {
            let args: Vec<&str> = ["skiff", "server"].iter().chain(args).copied().collect();
            let Verb::Server(server) = parse("{}", &args).unwrap().verb else { panic!() };
            server.cluster_signing_duration.as_secs()
        };
        assert_eq!(seconds(&[]), controllers::SIGNING_SECONDS);
        assert_eq!(seconds(&["--cluster-signing-duration=1h30m"]), 5400);
        assert_eq!(seconds(&["--cluster-signing-duration=87600h"]), 87_600 * 3600);
    }

    #[test]
    fn ranges_are_lists_on_the_command_line_and_in_the_file() {
        let server = |file: &str, args: &[&str]| {
            let args: Vec<&str> = ["skiff", "server"].iter().chain(args).copied().collect();
            parse(file, &args).map(|cli| if let Verb::Server(server) = cli.verb { server } else { panic!() })
        };
        let both = "10.1.0.0/16,fd00::/48";
        assert_eq!(server("{}", &["--cluster-cidr", both]).unwrap().cluster_cidr.to_string(), both);
        let file = "cluster-cidr: [10.1.0.0/16, 'fd00::/48']\nservice-cluster-ip-range: 10.2.0.0/16\n";
        let flags = server(file, &[]).unwrap();
        assert_eq!((flags.cluster_cidr.to_string().as_str(), flags.service_cluster_ip_range.to_string().as_str()), (both, "10.2.0.0/16"));
        let error = server("{}", &["--service-cluster-ip-range=10.1.0.0/16,10.2.0.0/16"]).unwrap_err().to_string();
        assert!(
            error.contains("--service-cluster-ip-range[0] and --service-cluster-ip-range[1] must be of different IP family"),
            "{error}"
        );
    }

    #[test]
    fn a_switch_can_be_set_in_the_file() {
        let Verb::Up(up) = parse("foreground: true\n", &["skiff", "up"]).unwrap().verb else { panic!() };
        assert!(up.foreground);
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let error = parse("secure-prot: 1\n", &["skiff", "up"]).unwrap_err();
        assert!(error.to_string().contains("unknown key \"secure-prot\""), "{error}");
    }

    #[test]
    fn values_that_nothing_could_use_are_usage_errors() {
        let accepted = |arg: &str| parse("{}", &["skiff", "server", arg]).is_ok();
        for good in [
            "--log-level=info,apiserver=debug",
            "--cluster-domain=a.b-c",
            "--tls-san=a.example,10.0.0.1,::1,*.b.example",
            "--log-level=WARN",
        ] {
            assert!(accepted(good), "{good}");
        }
        for bad in [
            "--log-level=blah",
            "--log-level=info,blah",
            "--cluster-domain=bad domain!",
            "--cluster-domain=",
            "--tls-san=bad name!!",
            "--tls-san=a,",
        ] {
            assert!(!accepted(bad), "{bad}");
        }
    }

    #[test]
    fn a_tunnel_is_held_unless_told_otherwise() {
        let held = |file: &str, args: &[&str]| {
            let all = ["skiff", "agent"].iter().chain(args).copied().collect::<Vec<_>>();
            let Verb::Agent(agent) = parse(file, &all).unwrap().verb else { panic!() };
            agent.join.tunnel
        };
        assert!(held("{}", &[]) && held("{}", &["--tunnel"]) && held("tunnel: false\n", &["--tunnel=true"]));
        assert!(!held("{}", &["--tunnel=false"]) && !held("tunnel: false\n", &[]));
        assert!(parse("{}", &["skiff", "agent", "--tunnel=perhaps"]).is_err());
    }

    #[test]
    fn hollow_nodes_have_flags_that_are_checked() {
        let accepted = |arg: &str| parse("{}", &["skiff", "agent", "--hollow=3", arg]).is_ok();
        for good in ["--hollow-cpu=500m", "--hollow-memory=1Gi", "--node-labels=a=b,c.d/e=f", "--zones=3", "--hollow-prefix=a-b"] {
            assert!(accepted(good), "{good}");
        }
        for bad in ["--hollow-cpu=-1", "--hollow-memory=much", "--node-labels=a", "--hollow-prefix=A_b", "--hollow-pods=251"] {
            assert!(!accepted(bad), "{bad}");
        }
        let Verb::Agent(agent) = parse("hollow: 7\nnode-labels: [a=b]\n", &["skiff", "agent"]).unwrap().verb else { panic!() };
        assert_eq!((agent.hollow.hollow, agent.agent.node_labels), (Some(7), vec!["a=b".to_owned()]));
    }

    #[test]
    fn the_limits_on_requests_are_flags() {
        let limits = |args: &[&str]| {
            let args: Vec<&str> = ["skiff", "server"].iter().chain(args).copied().collect();
            let Verb::Server(server) = parse("{}", &args).unwrap().verb else { panic!() };
            server.limits()
        };
        assert_eq!(limits(&[]), apiserver::fairness::Limits::default());
        let set = limits(&["--max-requests-inflight=3", "--max-mutating-requests-inflight=0", "--enable-priority-and-fairness=false"]);
        assert_eq!(set, apiserver::fairness::Limits { reading: 3, mutating: 0, fair: false });
        assert!(limits(&["--enable-priority-and-fairness"]).fair);
        assert!(parse("{}", &["skiff", "server", "--max-requests-inflight=-1"]).is_err());
        let Verb::Server(server) = parse("enable-priority-and-fairness: false\n", &["skiff", "server"]).unwrap().verb else { panic!() };
        assert!(!server.limits().fair);
    }

    #[test]
    fn what_is_shown_of_the_flags_is_no_secret() {
        let command = with_environment(Cli::command());
        let secret = "abcdef.0123456789abcdef";
        let args = ["skiff", "server", "--secure-port=7443", "--tls-san=a,b", "--tls-san=c", "--agent-token", secret];
        let matches = command.clone().try_get_matches_from(args).unwrap();
        let shown = shown(command.find_subcommand("server").unwrap(), matches.subcommand().unwrap().1);
        let of = |name: &str| shown.get(name).map(String::as_str);
        assert_eq!([of("secure-port"), of("tls-san"), of("request-timeout")], [Some("7443"), Some("a,b,c"), Some("60s")]);
        assert_eq!([of("agent-token"), of("token"), of("help")], [Some("CLASSIFIED"), Some(""), None]);
        assert!(shown.values().all(|value| !value.contains(secret)));
    }

    #[test]
    fn clap_finds_no_fault_with_the_table() {
        with_environment(Cli::command()).debug_assert();
    }
}
