//! `skiff server`: the control plane, assembled. The one place that knows all of its rooms.

mod authority;
mod cluster_info;
mod cluster_keys;
mod compaction;
mod endpoint_leases;
mod ground;
mod identity;
mod leading;
pub mod manifests;
#[cfg(test)]
mod metrics_tests;
mod moved;
mod reached;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use api::{
    bootstrap::Token,
    seats::{Limits, Seats},
    task::Group,
};
use apiserver::{
    certs::{Certs, ServingNames},
    connect::Agents,
    delegation::Delegations,
    discovery::Discovery,
    engine::Engine,
    fairness,
    front::{Builder, Front},
    front_proxy::RequestHeader,
    health::{Health, Latch, slis},
    kind::Kind,
    metrics::Metrics,
    openapi::OpenApi,
    serve,
    tls::Tls,
    version,
    zpages::ZPages,
};
use client::leader::{Clock, Guard};
use kinds::{
    apiservice::aggregator::Aggregator,
    auth::{self, OpenId, Tokens},
    authentication_trust,
};
use parking_lot::Mutex;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};
use serde_json::Value;
use store::{Condition, Store};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};

use self::{
    authority::Ca,
    compaction::{History, compact},
    endpoint_leases::EndpointLeases,
    ground::Ground,
    leading::{Leading, Rooms, client_as},
    reached::{Reached, advertised_address},
};
use crate::{
    flags::{Addon, ServerFlags, ServersFlags, UNSAID},
    kubeconfig,
    machine::{
        address::host_name,
        dirs::Dirs,
        instance::Instance,
        open_files,
        process::{END_BOUND, end, hear, settle, signalled, unfaulted},
        progress::Progress,
    },
};

/// A silent TCP connection is asked whether it is still there (upstream: `defaultKeepAlivePeriod`, `server/secure_serving.go`).
const TCP_SILENCE: Duration = Duration::from_secs(180);

/// What is told of requests and is not yet written or sent, at an orderly end; whoever writes it has a bound of its own that is shorter.
const AUDIT_END_BOUND: Duration = Duration::from_secs(5);

/// What `/statusz` leads to.
const PAGES: [&str; 8] = ["/debug", "/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"];

/// A running control plane.
pub struct Control {
    pub group: Group,
    /// What writes and sends what is told of requests: it ends after them.
    audit: Group,
    pub dirs: Dirs,
    pub certs: Arc<Certs>,
    /// The administrator's kubeconfig, of this server alone.
    admin: Value,
    /// Where others reach this server.
    reached: Reached,
    engine: Arc<Engine>,
    front: Front,
    store: Arc<dyn Store>,
    /// Controllers and scheduler, until the end.
    leading: Mutex<Option<Leading>>,
    /// Where there may be several servers.
    endpoint_leases: Option<Arc<EndpointLeases>>,
    health: Arc<Health>,
    /// `--shutdown-delay-duration`
    delay: Duration,
    _lock: Instance,
}

pub async fn run(flags: ServerFlags) -> anyhow::Result<()> {
    let progress = Progress::default();
    // It is ready before it is all started: whoever ends it then finds somebody who listens.
    let signals = hear();
    let control = Box::pin(Control::start(&flags, &progress)).await?;
    progress.say(&format!("\nNow try:\n  kubectl --kubeconfig {} get namespaces", control.dirs.kubeconfig().display()));
    control.group.spawn(settle());
    signalled(signals, &control.group).await;
    control.end().await;
    unfaulted(&control.group)
}

impl Control {
    /// Resolves once `/readyz` says ok.
    pub async fn start(flags: &ServerFlags, progress: &Progress) -> anyhow::Result<Self> {
        let (config, dirs) = (kinds_config(flags)?, Dirs::new(flags.common.data_dir.as_deref()));
        some_seats(&flags.limits())?;
        dirs.claim()?;
        let lock = Instance::start(&dirs)?;
        let (group, audit, files) = (Group::new(), Group::new(), open_files::raise());
        let (has_etcd, servers) = (ServersFlags::has_etcd(&flags.etcd_servers)?, &flags.servers);
        let election = servers.election(has_etcd)?;
        let (token, agent_token) = tokens(flags, has_etcd)?;
        let advertised = advertised_address(flags, progress);
        let (auditor, at_rest) = (flags.audit.auditor(&audit).await?, flags.at_rest.open().await?);
        let plugins = flags.admission.options()?;

        let names = serving_names(flags, &config, advertised);
        let Ground { store, certs, tls, believed } = Ground::lay(flags, &dirs, &names, token.as_ref(), &group, progress).await?;

        let etcd = has_etcd.then(|| store.clone());
        if let Some(etcd) = &etcd {
            group.spawn_loop("older servers' writes", moved::keep(etcd.clone()));
        }
        let tokens = Arc::new(Tokens::of(flags.authentication.tokens(certs.service_account_key())?));
        let mut auth = Box::pin(identity::chain(&flags.authentication, &flags.authorization, &tokens, &group)).await?;
        auth.admission = plugins.arrange(auth.admission).map_err(anyhow::Error::msg)?;
        let agents = Arc::<Agents>::default();
        agents.follow(&certs, &group)?;
        let kinds = all_kinds(flags, &config, &tokens, &agents);
        let engine = Engine::with_rest(store.clone(), at_rest.clone(), kinds, auth, group.clone());
        let delegations = delegations(&believed);
        let front = builder(&engine, flags).agents(agents.clone()).auditor(auditor).delegations(delegations.clone());
        if let Some(condition) = store.condition() {
            group.spawn_vital("store", store_ends(condition));
        }
        let issuer = issuer(flags, &tokens, advertised)?;
        let health = Health::new(&group);
        flags.at_rest.keep(&at_rest, &group, &health);
        health.grants(flags.protection.livez_grace_period);
        let (front, started) = mount(front, issuer, &health, etcd, store.condition());
        let front = front.mount(kinds::node::tunnel::routes(&agents, &group)).build();
        engine.ready().await;
        Box::pin(kinds::service::bootstrap(&engine, &config)).await;
        Box::pin(apiextensions::start(&engine)).await;
        kinds::admission::policies::type_checks::start(&engine);
        aggregate(&engine, &delegations, &certs, flags)?;
        let address = serving(flags, Seats::new(Limits::for_files(serve::CONNECTIONS_MAX, files)), tls, &front, &group).await?;

        let (admin, reached) = (certs.admin_kubeconfig(&format!("https://{address}")), Reached::of(flags, advertised, address.port()));
        write_kubeconfig(&dirs, &kubeconfig::kept(admin.clone(), reached.named, &BTreeSet::new()))?;
        let (leading, endpoint_leases) = (Mutex::default(), None);
        let delay = flags.protection.shutdown_delay_duration;
        let mut control =
            Self { group, audit, dirs, certs, admin, reached, engine, front, store, leading, endpoint_leases, health, delay, _lock: lock };
        Box::pin(auth::bootstrap(&control.engine)).await?;
        Box::pin(control.publish(flags, &config, has_etcd)).await?;
        Box::pin(manifests::apply(&control.engine, cluster_dns(&config), !flags.disable.contains(&Addon::LocalStorage))).await?;
        Box::pin(control.welcome(agent_token.as_ref(), flags, &config)).await?;
        started.done();
        let rooms = control.rooms(flags, &config, advertised);
        control.spawn_keepers(config, tokens, believed);
        let history = if has_etcd { History::Shared } else { History::Own };
        control.group.spawn_loop("compaction", compact(control.engine.clone(), control.store.clone(), history));
        control.spawn_flows(flags.enable_priority_and_fairness);
        *control.leading.lock() = Some(Leading::start(rooms, election));
        progress.step(&format!("API ready (https://{address})"));
        Ok(control)
    }

    /// What the server makes of itself is kept as it must be.
    fn spawn_keepers(&self, config: kinds::Config, tokens: Arc<Tokens>, believed: Arc<RequestHeader>) {
        self.group.spawn_loop("claims of services", kinds::service::keep_claims(self.engine.clone(), config));
        self.group.spawn_loop("api services", kinds::apiservice::register::keep(self.engine.clone(), auth::system_user()));
        self.group.spawn_loop("authentication trust", self.keep_trust(believed));
        self.group.spawn_loop("system namespaces", auth::keep_namespaces(self.engine.clone()));
        let secrets = auth::keep_token_secrets(self.engine.clone(), tokens, self.certs.ca().to_owned());
        self.group.spawn_loop("secrets of tokens", secrets);
        self.group.spawn_loop("legacy token tracking", auth::legacy_tracking::keep(self.engine.clone(), auth::system_user()));
    }

    /// Levels and flow schemas drive the server, and are kept as they must be.
    fn spawn_flows(&self, tells: bool) {
        let driven = Arc::new(Notify::new());
        let drive = kinds::flow::drive(self.engine.clone(), self.front.fairness().clone(), driven.clone());
        self.group.spawn_loop("flow control", drive);
        self.group.spawn_loop("flow schemas", kinds::flow::keep::keep(self.engine.clone(), auth::system_user(), driven, tells));
    }

    /// A client in this process that passes the same authorization and admission as anybody; it acts as `name` in `groups`.
    pub fn client(&self, name: &str, groups: &[&str]) -> client::kube::Client {
        client_as(&self.front, &Guard::always(), name, groups)
    }

    /// The `kubernetes` Service and where it leads.
    async fn publish(&mut self, flags: &ServerFlags, config: &kinds::Config, has_etcd: bool) -> anyhow::Result<()> {
        kinds::bootstrap_service::kubernetes_service(&self.engine, config, self.reached.address).await?;
        if has_etcd {
            let own = serving_names(flags, config, self.reached.address.ip());
            let names = own.dns.into_iter().chain(own.addresses.iter().map(ToString::to_string)).collect();
            let endpoint_leases = EndpointLeases::start(&self.engine, &self.store, self.reached.address, names, &self.group).await?;
            let keeping = keep_kubeconfig(self.dirs.clone(), self.admin.clone(), self.reached, endpoint_leases.servers());
            self.group.spawn_loop("kubeconfig", keeping);
            self.endpoint_leases = Some(endpoint_leases);
        } else {
            kinds::bootstrap_service::kubernetes_endpoints(&self.engine, &[self.reached.address].into()).await?;
        }
        Ok(())
    }

    /// The administrator's kubeconfig for this machine, with the servers that there are now.
    pub fn admin(&self) -> Value {
        let mut servers =
            self.endpoint_leases.as_ref().map(|endpoint_leases| endpoint_leases.servers().borrow().clone()).unwrap_or_default();
        servers.remove(&self.reached.address);
        kubeconfig::for_here(kubeconfig::kept(self.admin.clone(), self.reached.named, &servers))
    }

    /// Ends in order: what other servers take over, loops, connections, audit, store.
    pub async fn end(&self) {
        tracing::info!("ending");
        // Whoever leads clients here has time to see it; requests are served meanwhile.
        if !self.delay.is_zero() {
            self.health.leaves();
            let _ = tokio::time::timeout(self.delay, self.group.stopping()).await;
        }
        let leading = self.leading.lock().take();
        let leading = async {
            if let Some(leading) = leading {
                leading.leave().await;
            }
        };
        let endpoint_leases = async {
            if let Some(endpoint_leases) = &self.endpoint_leases {
                endpoint_leases.leave().await;
            }
        };
        tokio::join!(leading, endpoint_leases);
        ends(&self.group, &self.audit).await;
        self.store.close().await;
    }

    /// What machines need that will join, in one commit of the store.
    async fn welcome(&self, token: Option<&Token>, flags: &ServerFlags, config: &kinds::Config) -> anyhow::Result<()> {
        let (engine, url, pods) = (&self.engine, format!("https://{}", self.reached.address), flags.cluster_cidr.to_string());
        let token = async {
            match token {
                Some(token) => cluster_info::make_token(engine, token).await,
                None => Ok(()),
            }
        };
        let info = cluster_info::publish(engine, &url, self.certs.ca());
        tokio::try_join!(token, info, cluster_info::publish_for_kubeadm(engine, config, &pods, cluster_dns(config)))?;
        Ok(())
    }

    /// Aggregated API servers are told whom this one believes.
    fn keep_trust(&self, believed: Arc<RequestHeader>) -> impl Future<Output = ()> + Send + use<> {
        let trust = authentication_trust::Trust { client_ca: self.certs.ca().to_owned(), request_header: believed };
        authentication_trust::keep(self.engine.clone(), auth::system_user(), trust)
    }

    fn rooms(&self, flags: &ServerFlags, kinds: &kinds::Config, advertised: IpAddr) -> Rooms {
        let config = controllers::Config {
            cluster_cidrs: flags.cluster_cidr.list().to_vec(),
            root_ca: self.certs.ca().to_owned(),
            authority: Arc::new(Ca(self.certs.clone())),
            signing_seconds: flags.cluster_signing_duration.as_secs(),
            reserved: reserved(flags, kinds, advertised),
            nodes: flags.nodes.config(),
            clock: Clock::default(),
            terminated_pods_max: flags.nodes.terminated_pod_gc_threshold,
            autoscalers: flags.autoscaling.config(),
        };
        Rooms {
            config,
            front: self.front.clone(),
            engine: self.engine.clone(),
            store: self.store.clone(),
            group: self.group.clone(),
            host_name: host_name(),
        }
    }
}

/// All that is told of, and then what tells it: a request that ends with the server is in its log.
async fn ends(requests: &Group, audit: &Group) {
    end(requests, END_BOUND).await;
    end(audit, AUDIT_END_BOUND).await;
}

fn issuer(flags: &ServerFlags, tokens: &Arc<Tokens>, advertised: IpAddr) -> anyhow::Result<Option<OpenId>> {
    let url = format!("https://{}", SocketAddr::new(advertised, flags.secure_port));
    Ok(OpenId::new(tokens, &url, flags.authentication.jwks_uri()?))
}

/// Listens and serves; where that is on this machine.
async fn serving(flags: &ServerFlags, seats: Arc<Seats>, tls: Arc<Tls>, front: &Front, group: &Group) -> anyhow::Result<SocketAddr> {
    let listener = listen(flags).await.with_context(|| format!("port {} of {}", flags.secure_port, flags.bind_address))?;
    let port = listener.local_addr()?.port();
    let local = if flags.bind_address.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { flags.bind_address };
    let serving = serve::serve(listener, seats, tls, front.clone(), group.clone(), flags.protection.goaway_chance);
    group.spawn_vital("api server", Box::pin(serving));
    Ok(SocketAddr::new(local, port))
}

fn delegations(believed: &Arc<RequestHeader>) -> Arc<Delegations> {
    let delegations = Arc::<Delegations>::default();
    delegations.believe(believed.clone());
    delegations
}

/// Aggregated API servers are known before anything is served.
fn aggregate(engine: &Arc<Engine>, delegations: &Arc<Delegations>, certs: &Arc<Certs>, flags: &ServerFlags) -> anyhow::Result<()> {
    let aggregator = Aggregator::new(engine, auth::system_user(), delegations);
    let given = flags.front_proxy.shown()?;
    let is_own = given.is_none();
    aggregator.show(given.unwrap_or_else(|| certs.leaves().front_proxy_client.clone()));
    aggregator.bring_about();
    if is_own {
        let (aggregator, certs, mut renewals) = (aggregator.clone(), certs.clone(), certs.renewals());
        engine.group().spawn(async move {
            while renewals.changed().await.is_ok() {
                aggregator.show(certs.leaves().front_proxy_client.clone());
            }
        });
    }
    engine.group().spawn_loop("aggregated API servers", aggregator.run());
    Ok(())
}

fn write_kubeconfig(dirs: &Dirs, config: &Value) -> anyhow::Result<()> {
    kubeconfig::write_private(&dirs.kubeconfig(), &kubeconfig::to_yaml(config)?)
}

/// The kept kubeconfig has the servers that there are, whenever one comes or goes.
async fn keep_kubeconfig(dirs: Dirs, admin: Value, own: Reached, mut servers: watch::Receiver<BTreeSet<SocketAddr>>) {
    loop {
        let mut others = servers.borrow_and_update().clone();
        others.remove(&own.address);
        if let Err(error) = write_kubeconfig(&dirs, &kubeconfig::kept(admin.clone(), own.named, &others)) {
            tracing::error!(error = format!("{error:#}"), "failed to write the cluster's servers to the kubeconfig");
        }
        if servers.changed().await.is_err() {
            // Nobody tells any more: we end.
            return std::future::pending().await;
        }
    }
}

/// Connections whose other end has vanished are found out: accepted sockets have what their listener has.
async fn listen(flags: &ServerFlags) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((flags.bind_address, flags.secure_port)).await?;
    set_socket_keepalive(&listener, true)?;
    set_tcp_keepidle(&listener, TCP_SILENCE)?;
    Ok(listener)
}

/// Waits until nothing will be written any more.
async fn store_ends(mut condition: watch::Receiver<Condition>) -> Result<(), String> {
    match condition.wait_for(|now| matches!(now, Condition::Ended(_))).await.as_deref() {
        Ok(Condition::Ended(why)) => Err(why.clone()),
        Ok(_) => Ok(()),
        // Closed in order, or its thread is gone.
        Err(_) => Err("its writer has ended".into()),
    }
}

/// That of the servers, which unseals the cluster's keys, and that of agents.
///
/// # Errors
/// One is none, or stands where it must not.
fn tokens(flags: &ServerFlags, has_etcd: bool) -> anyhow::Result<(Option<Token>, Option<Token>)> {
    let token = flags.servers.token()?;
    let agent_token = flags.agent_token.as_ref().map(|given| given.token("--agent-token")).transpose()?;
    if token.is_some() && token == agent_token {
        bail!("--token and --agent-token are the same: whoever may join would hold the cluster's keys");
    }
    if token.is_some() && !has_etcd {
        bail!(
            "--token is for several servers over one etcd (--etcd-servers): what lets machines in is --agent-token, or `skiff token create`"
        );
    }
    Ok((token, agent_token))
}

/// The front, as the flags have it.
fn builder(engine: &Arc<Engine>, flags: &ServerFlags) -> Builder {
    let front = Front::builder(engine.clone()).fairness(kinds::flow::config(flags.limits())).timeouts(flags.protection.timeouts());
    front.mount(ZPages::new(shown(flags), &PAGES).routes())
}

/// All flags and what holds of each.
fn shown(flags: &ServerFlags) -> BTreeMap<String, String> {
    let mut shown = flags.shown.clone();
    for (flag, value) in
        UNSAID.iter().filter(|(flag, _)| *flag != "authorization-mode" || flags.authorization.authorization_config.is_none())
    {
        match shown.get_mut(*flag) {
            Some(said) if said.is_empty() => (*value).clone_into(said),
            _ => {}
        }
    }
    shown
}

/// The paths that are about no resource. The latch is part of `/readyz`, and so is a store that may be away.
fn mount(
    front: Builder,
    issuer: Option<OpenId>,
    health: &Arc<Health>,
    etcd: Option<Arc<dyn Store>>,
    condition: Option<watch::Receiver<Condition>>,
) -> (Builder, Latch) {
    if let Some(condition) = condition {
        health.watch_store(condition);
    }
    if let Some(etcd) = etcd {
        health.probe(etcd);
    }
    let started = health.hook("rbac/bootstrap-roles");
    let (metrics, engine, delegations) = (Metrics::new(), front.engine().clone(), front.delegated().clone());
    let front = front
        .metrics(metrics.clone())
        .mount(health.routes())
        .mount(slis::routes())
        .mount(version::routes())
        .mount(metrics.routes())
        .mount(Discovery::new(delegations.clone()).routes(engine.clone()))
        .mount(OpenApi::new(delegations).routes(engine));
    let front = match issuer {
        Some(issuer) => front.mount(issuer.routes()),
        None => front,
    };
    (front, started)
}

/// All that is served: what is switched off is not.
fn all_kinds(flags: &ServerFlags, config: &kinds::Config, tokens: &Arc<Tokens>, agents: &Arc<Agents>) -> Vec<Arc<Kind>> {
    let mut all = kinds::all(config, tokens);
    all.push(Arc::new(apiextensions::kind()));
    if !flags.disable.contains(&Addon::MetricsServer) {
        all.extend(kinds::metrics::kinds(agents).map(Arc::new));
    }
    kinds::sort(&mut all);
    all
}

pub fn kinds_config(flags: &ServerFlags) -> anyhow::Result<kinds::Config> {
    let services = &flags.service_cluster_ip_range;
    if services.list().len() > 1 {
        bail!("--service-cluster-ip-range {services}: services of two families are not served yet; name one range");
    }
    Ok(kinds::Config {
        service_cidrs: services.list().to_vec(),
        node_ports: port_range(&flags.service_node_port_range)?,
        cluster_domain: flags.cluster_domain.clone(),
    })
}

/// Upstream's check of `--max-requests-inflight` and its like (`server/options/feature.go`).
fn some_seats(limits: &fairness::Limits) -> anyhow::Result<()> {
    let fairness::Limits { reading, mutating, fair } = limits;
    if *fair && reading + mutating == 0 {
        bail!("--max-requests-inflight={reading} and --max-mutating-requests-inflight={mutating}: they must add up to something positive");
    }
    Ok(())
}

fn port_range(text: &str) -> anyhow::Result<RangeInclusive<u16>> {
    let parsed = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match parsed {
        Some((from, to)) if from > 0 && from <= to => Ok(from..=to),
        _ => bail!("--service-node-port-range {text:?}: it must be FROM-TO, as in 30000-32767"),
    }
}

fn serving_names(flags: &ServerFlags, config: &kinds::Config, advertised: IpAddr) -> ServingNames {
    let mut addresses = vec![advertised];
    if !flags.bind_address.is_unspecified() {
        addresses.push(flags.bind_address);
    }
    let (more, names): (Vec<_>, Vec<_>) = flags.tls_san.iter().cloned().partition(|n| n.parse::<IpAddr>().is_ok());
    addresses.extend(more.iter().filter_map(|a| a.parse::<IpAddr>().ok()));
    let mut serving = ServingNames::standard(&host_name(), &addresses, Some(config.kubernetes_address()), &config.cluster_domain);
    serving.dns.extend(names);
    serving
}

/// What is the API server's, or of services and pods: no node is called so.
fn reserved(flags: &ServerFlags, config: &kinds::Config, advertised: IpAddr) -> controllers::Reserved {
    let own = serving_names(flags, config, advertised);
    let ranges = config.service_cidrs.iter().chain(flags.cluster_cidr.list()).copied().collect();
    controllers::Reserved { names: own.dns, addresses: own.addresses, ranges, domain: config.cluster_domain.clone() }
}

/// The cluster's DNS address: the tenth of the service range, as kubeadm has it.
pub fn cluster_dns(config: &kinds::Config) -> IpAddr {
    config.service_address(10)
}

#[cfg(test)]
mod tests {
    use apiserver::audit::{Log, LogConfig, LogMode, Sink};

    use super::*;

    #[test]
    fn there_are_some_seats() {
        let limits = |reading, fair| some_seats(&fairness::Limits { reading, mutating: 0, fair });
        assert!(limits(1, true).is_ok() && limits(0, false).is_ok() && limits(0, true).is_err());
    }

    #[tokio::test]
    async fn a_request_that_ends_with_the_server_is_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let (requests, audit, path) = (Group::new(), Group::new(), dir.path().join("audit.log"));
        let config = LogConfig { path: path.clone(), mode: LogMode::Batch, bytes_max: 1 << 20, days_max: 0, backups_max: 0 };
        let log = Log::open(config, &audit).unwrap();
        let stopping = requests.clone();
        // As a request does that is still served then: it tells of its end last.
        requests.spawn_careful(async move {
            stopping.stopping().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            log.take_now("its end\n".into()).unwrap();
        });
        ends(&requests, &audit).await;
        assert_eq!(std::fs::read_to_string(path).unwrap(), "its end\n");
    }

    #[test]
    fn port_ranges() {
        assert_eq!(port_range("30000-32767").unwrap(), 30000..=32767);
        for bad in ["", "1", "5-1", "0-9", "a-b", "1-70000"] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
    }
}
