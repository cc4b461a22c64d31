//! Several servers over one etcd -> the endpoints of `kubernetes`: each keeps a lease on its address, and all write the union of those that stand.
//!
//! Source: `pkg/controlplane/reconcilers/lease.go`, with its keys and values, so that stock API servers on the same etcd see ours and we theirs. Upstream's
//! leases last 15 s and are renewed each 10, and it looks when it renews; ours are shorter and the keys are watched, so that a server that was killed is no
//! endpoint any more within 15 s.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use api::task::Group;
use apiserver::engine::Engine;
use futures::StreamExt;
use serde_json::{Value, json};
use store::{Error, Events, Op, Range, Rev, Store, Txn};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

/// Upstream's (`storage_factory`: `StorageBackend.Prefix` and `masterleases`).
const PREFIX: &str = "/registry/masterleases/";
const LEASE: Duration = Duration::from_secs(12);
const RENEW_EACH: Duration = Duration::from_secs(4);
/// After a round that failed.
const RETRY_EACH: Duration = Duration::from_secs(1);
/// Between rounds, whatever others write: several servers that answer each other's writes do so at this pace.
const ROUNDS_APART: Duration = Duration::from_secs(1);
/// For taking our own address out, when we end.
const REMOVE_BOUND: Duration = Duration::from_secs(2);

/// This server's lease, and what follows from all of them.
pub struct EndpointLeases {
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    advertised: SocketAddr,
    /// Of this server's certificate.
    names: BTreeSet<String>,
    /// Whether we are leaving. Held while anything is written.
    leaving: Mutex<bool>,
    /// Whose leases stand.
    told: watch::Sender<BTreeSet<SocketAddr>>,
}

impl EndpointLeases {
    /// Resolves once our own address is among the endpoints, and keeps it there until the group stops.
    ///
    /// # Errors
    /// Another server has our address, or the first write failed.
    pub async fn start(
        engine: &Arc<Engine>,
        store: &Arc<dyn Store>,
        advertised: SocketAddr,
        names: BTreeSet<String>,
        group: &Group,
    ) -> anyhow::Result<Arc<Self>> {
        let this = Self::new(engine, store, advertised, names);
        this.alone_at_its_address().await?;
        let (known, rev) = this.round().await?;
        let keeping = this.clone();
        group.spawn_loop("endpoints of kubernetes", Box::pin(async move { keeping.keep(known, rev).await }));
        Ok(this)
    }

    fn new(engine: &Arc<Engine>, store: &Arc<dyn Store>, advertised: SocketAddr, names: BTreeSet<String>) -> Arc<Self> {
        let (engine, store) = (engine.clone(), store.clone());
        Arc::new(Self { engine, store, advertised, names, leaving: Mutex::default(), told: watch::Sender::default() })
    }

    /// Each address has one key: two servers at one would take it from each other without end. One of ours that was killed, and has another port now, is
    /// waited for: its lease ends.
    async fn alone_at_its_address(&self) -> anyhow::Result<()> {
        let (key, own) = (self.key(), self.advertised);
        let at_another_port = |value: &[u8]| address(&key, value, own.port()).filter(|there| *there != own);
        let page = self.store.range(Range { prefix: PREFIX.into(), ..Range::default() }).await?;
        let Some(there) = page.entries.iter().find(|entry| *entry.key == *key).and_then(|entry| at_another_port(&entry.value)) else {
            return Ok(());
        };
        tracing::info!(%there, "waiting whether a server that advertises our address with another port lives, or its lease ends");
        let is_renewed = |event: &store::Event| matches!(event, store::Event::Put { entry, .. } if *entry.key == *key && at_another_port(&entry.value).is_some());
        let is_gone = |event: &store::Event| matches!(event, store::Event::Delete { key: gone, .. } if **gone == *key);
        let lives = async {
            let mut events = self.store.watch(PREFIX, page.rev).await?;
            while let Some(batch) = events.next().await {
                for event in batch?.iter() {
                    if is_renewed(event) || is_gone(event) {
                        return Ok::<_, Error>(is_renewed(event));
                    }
                }
            }
            Ok(false)
        };
        // Nothing is heard of a lease that ended before the watch began.
        if timeout(LEASE, lives).await.unwrap_or(Ok(false))? {
            anyhow::bail!(
                "a running API server advertises {there} on the same etcd, and this one would advertise {own}: one address is one server. Give this server an \
                 address of its own (--advertise-address), or end the other"
            );
        }
        Ok(())
    }

    /// The servers whose leases stand, now and whenever that changes.
    pub fn servers(&self) -> watch::Receiver<BTreeSet<SocketAddr>> {
        self.told.subscribe()
    }

    /// Takes our address out: connections are led to the others before ours are ended.
    pub async fn leave(&self) {
        let removing = async {
            let mut leaving = self.leaving.lock().await;
            *leaving = true;
            let delete = Op::Delete { key: self.key() };
            self.store.txn(Txn { expect: Vec::new(), ops: vec![delete] }).await?;
            self.write(&self.list().await?.0).await
        };
        if let Err(error) = timeout(REMOVE_BOUND, removing).await.map_err(anyhow::Error::from).flatten() {
            tracing::warn!(error = format!("{error:#}"), "our address is left among the endpoints of kubernetes until its lease ends");
        }
    }

    async fn keep(&self, mut known: BTreeSet<SocketAddr>, mut rev: Rev) {
        let mut events = None;
        let mut pause = RENEW_EACH;
        loop {
            let last = Instant::now();
            tokio::select! {
                () = sleep(pause) => {}
                () = self.changed(&mut events, rev, &known) => sleep_until(last + ROUNDS_APART).await,
            }
            pause = match self.round().await {
                Ok(now) => {
                    (known, rev) = now;
                    RENEW_EACH
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "endpoints of kubernetes not written; trying again");
                    RETRY_EACH
                }
            };
        }
    }

    /// Resolves when a server comes or goes; renewals are none of that. Where the keys cannot be watched, the next renewal looks.
    async fn changed(&self, events: &mut Option<Events>, after: Rev, known: &BTreeSet<SocketAddr>) {
        if events.is_none() {
            *events = self.store.watch(PREFIX, after).await.ok();
        }
        while let Some(watch) = events {
            match watch.next().await {
                Some(Ok(batch)) if batch.iter().all(|event| is_renewal(event, known)) => {}
                Some(Ok(_)) => return,
                _ => *events = None,
            }
        }
        std::future::pending().await
    }

    /// Renews our lease, and writes what follows from all: the addresses, and the revision they were read at.
    async fn round(&self) -> anyhow::Result<(BTreeSet<SocketAddr>, Rev)> {
        let leaving = self.leaving.lock().await;
        if *leaving {
            return Ok((BTreeSet::new(), 0));
        }
        let put = Op::Put { key: self.key(), value: value(self.advertised).into(), ttl: Some(LEASE) };
        self.store.txn(Txn { expect: Vec::new(), ops: vec![put] }).await?;
        let (all, rev) = self.list().await?;
        if all.is_empty() {
            anyhow::bail!("no API server IP addresses were listed in storage, refusing to erase all endpoints for the kubernetes Service");
        }
        self.write(&all).await?;
        kinds::bootstrap_service::kubernetes_names(&self.engine, &self.names).await?;
        self.told.send_if_modified(|told| {
            let is_new = *told != all;
            told.clone_from(&all);
            is_new
        });
        Ok((all, rev))
    }

    async fn list(&self) -> Result<(BTreeSet<SocketAddr>, Rev), Error> {
        let page = self.store.range(Range { prefix: PREFIX.into(), ..Range::default() }).await?;
        let port = self.advertised.port();
        Ok((page.entries.iter().filter_map(|entry| address(&entry.key, &entry.value, port)).collect(), page.rev))
    }

    async fn write(&self, all: &BTreeSet<SocketAddr>) -> anyhow::Result<()> {
        Ok(kinds::bootstrap_service::kubernetes_endpoints(&self.engine, all).await?)
    }

    fn key(&self) -> String {
        format!("{PREFIX}{}", self.advertised.ip())
    }
}

fn is_renewal(event: &store::Event, known: &BTreeSet<SocketAddr>) -> bool {
    match event {
        // A stock server's value says no port: its address is enough.
        store::Event::Put { entry, .. } => {
            let of_key = |known: &SocketAddr| address(&entry.key, &entry.value, known.port()).as_ref() == Some(known);
            known.iter().any(of_key)
        }
        store::Event::Delete { .. } => false,
    }
}

/// As upstream stores it, with our port beside the address.
fn value(at: SocketAddr) -> Vec<u8> {
    let subset = json!({"addresses": [{"ip": at.ip()}], "ports": [{"name": "https", "port": at.port(), "protocol": "TCP"}]});
    json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {}, "subsets": [subset]}).to_string().into_bytes()
}

/// The key says the address. A value of a stock server's, which may be protobuf, says no port: then it is ours.
fn address(key: &str, value: &[u8], port: u16) -> Option<SocketAddr> {
    let ip: IpAddr = key.strip_prefix(PREFIX)?.parse().ok()?;
    let value: Value = serde_json::from_slice(value).unwrap_or_default();
    let told = value.pointer("/subsets/0/ports/0/port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    Some(SocketAddr::new(ip, told.unwrap_or(port)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use api::{GroupResource, Key};
    use door::Door;
    use store::memory::Memory;

    use super::*;

    const BOUND: Duration = Duration::from_secs(60);

    async fn endpoints(engine: &Arc<Engine>) -> Vec<String> {
        let found = engine.get(&GroupResource::new("", "endpoints"), &Key::new("default", "kubernetes")).await.expect("they are there");
        let found = found.value();
        let subsets = found["subsets"].as_array().cloned().unwrap_or_default();
        subsets
            .iter()
            .flat_map(|subset| subset["addresses"].as_array().cloned().unwrap_or_default())
            .map(|a| a["ip"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn become_(engine: &Arc<Engine>, wanted: &[&str]) {
        let looking = async {
            while endpoints(engine).await != wanted {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(BOUND, looking).await.is_err() {
            panic!("{:?} are not {wanted:?}", endpoints(engine).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn servers_come_go_and_are_killed() {
        let (memory, group) = (Arc::new(Memory::without_thread()), Group::new());
        let store: Arc<dyn Store> = memory.clone();
        group.spawn(async move { memory.tend().await });
        let door = Door::over(store.clone(), &group).await;
        let start = async |address: &str, group: &Group| {
            let advertised = format!("{address}:6443").parse().unwrap();
            let names = [address, "vip.example"].map(str::to_owned).into();
            EndpointLeases::start(&door.engine, &store, advertised, names, group).await.expect("it is written")
        };
        let (doomed, rest) = (group.child(), group.child());
        let first = start("10.0.0.1", &rest).await;
        assert_eq!(endpoints(&door.engine).await, ["10.0.0.1"]);
        start("10.0.0.2", &doomed).await;
        start("10.0.0.3", &rest).await;
        become_(&door.engine, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]).await;
        let mut servers = first.servers();
        let are = async |servers: &mut watch::Receiver<BTreeSet<SocketAddr>>, count: usize| {
            timeout(BOUND, servers.wait_for(|all| all.len() == count)).await.expect("it is told").expect("it goes on");
        };
        are(&mut servers, 3).await;
        // Killed: nobody says goodbye.
        doomed.stop();
        become_(&door.engine, &["10.0.0.1", "10.0.0.3"]).await;
        are(&mut servers, 2).await;
        first.leave().await;
        assert_eq!(endpoints(&door.engine).await, ["10.0.0.3"], "at once");
        let key = Key::new("kube-system", api::csr::SERVING_NAMES);
        let found = door.engine.get(&GroupResource::new("", "configmaps"), &key).await.unwrap().value();
        let told = &found["data"][api::csr::SERVING_NAMES_KEY];
        assert_eq!(told, "10.0.0.1,10.0.0.2,10.0.0.3,vip.example", "those that are gone as well: no node takes their names");
        let slices = door.engine.cached_list(&GroupResource::new("discovery.k8s.io", "endpointslices"), Some("default"));
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0].value()["endpoints"][0]["addresses"], json!(["10.0.0.3"]));
        group.stop();
    }

    #[tokio::test(start_paused = true)]
    async fn two_servers_at_one_address_are_refused_and_do_not_write_without_end() {
        let (memory, group) = (Arc::new(Memory::without_thread()), Group::new());
        let store: Arc<dyn Store> = memory.clone();
        group.spawn(async move { memory.tend().await });
        let door = Door::over(store.clone(), &group).await;
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let start =
            async |address: &str, group: &Group| EndpointLeases::start(&door.engine, &store, at(address), BTreeSet::new(), group).await;
        let first = group.child();
        start("10.0.0.1:6443", &first).await.unwrap();
        let refused = timeout(BOUND, start("10.0.0.1:7443", &group)).await.unwrap().err().expect("the other lives").to_string();
        assert!(refused.contains("10.0.0.1:6443") && refused.contains("--advertise-address"), "{refused}");
        assert_eq!(endpoints(&door.engine).await, ["10.0.0.1"]);
        // Two that started at the same moment.
        let second = EndpointLeases::new(&door.engine, &store, at("10.0.0.1:7443"), BTreeSet::new());
        let (known, rev) = second.round().await.unwrap();
        first.spawn(async move { second.keep(known, rev).await });
        let before = revision(&store).await;
        sleep(Duration::from_secs(20)).await;
        let writes = revision(&store).await - before;
        assert!((5..=200).contains(&writes), "{writes}");
        // Killed, and started anew at another port: its lease ends.
        first.stop();
        timeout(BOUND, start("10.0.0.1:8443", &group)).await.unwrap().unwrap();
        group.stop();
    }

    async fn revision(store: &Arc<dyn Store>) -> Rev {
        store.range(Range { prefix: PREFIX.into(), ..Range::default() }).await.unwrap().rev
    }

    #[test]
    fn a_lease_says_where_a_server_is() {
        let at: SocketAddr = "10.0.0.1:7443".parse().unwrap();
        let key = format!("{PREFIX}10.0.0.1");
        assert_eq!(address(&key, &value(at), 6443), Some(at));
        assert_eq!(address(&key, b"k8s\0protobuf", 6443), Some("10.0.0.1:6443".parse().unwrap()));
        assert_eq!(address(&format!("{PREFIX}x"), &value(at), 6443), None);
    }
}
