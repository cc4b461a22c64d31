//! A Service about to be stored -> the same with its cluster IPs and node ports, and what is written with it so that nobody else has them.
//!
//! Source: `pkg/registry/core/service/storage/alloc.go`. Upstream claims first, stores then, and gives back what was claimed in vain; here the
//! IPAddress objects, the node ports' RangeAllocation and the Service are one transaction: there is nothing to give back, and any number of API
//! servers may share a store.

use std::{net::IpAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use api::{Key, Status, field_errors::FieldErrors};
use apiserver::{
    engine::{Claims, Engine},
    kind::Ctx,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{
    addresses::Addresses,
    allocation::{Allocation, KEY, spell},
    defaults::edit_spec,
    node_ports::{self, Ports, Write, owned},
    objects, shape,
};
use crate::{
    common::{edit, read},
    config::Config,
    net,
};

/// How long a write waits for its turn at the node ports: they are one key, which one write at a time can change.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);

pub struct Allocator {
    addresses: Arc<Addresses>,
    node_ports: RangeInclusive<u16>,
    /// Of the family that comes first.
    default_family: &'static str,
    /// First come, first served: writes of this process wait here for each other instead of losing against each other in the store.
    turns: Arc<Mutex<()>>,
}

/// The node ports as they are stored.
pub struct Stored {
    /// `None`: nobody has stored them yet.
    rev: Option<u64>,
    allocation: Allocation,
    pub ports: Ports,
}

impl Allocator {
    pub fn new(config: &Config, default_family: &'static str) -> Self {
        let addresses = Arc::new(Addresses::new(config));
        Self { addresses, node_ports: config.node_ports.clone(), default_family, turns: Arc::default() }
    }

    /// # Errors
    /// 422 where what is asked for is taken or out of range; 500 where nothing is left.
    pub async fn claim(&self, ctx: &Ctx<'_>, service: &mut Value, old: Option<&Value>) -> Result<Claims, Status> {
        let mut claims = Claims::default();
        let claimed = async {
            self.claim_addresses(ctx, service, old, &mut claims).await?;
            self.claim_node_ports(ctx, service, old, &mut claims).await
        };
        let result = claimed.await;
        // Who makes a Service that is there already asks for what that one has.
        if result.is_err() && old.is_none() && ctx.engine.cached(&objects::services(), &key(ctx, service)).is_some() {
            return Err(Status::already_exists(&objects::services(), read::name(service)));
        }
        result.map(|()| claims)
    }

    /// # Errors
    /// The store's; 500 where what is stored of the node ports cannot be read.
    pub async fn release(&self, ctx: &Ctx<'_>, service: &Value) -> Result<Claims, Status> {
        let mut claims = Claims::default();
        let key = key(ctx, service);
        for address in shape::addresses(service) {
            give_back(ctx, address, &key, &mut claims).await?;
        }
        let ports = owned(service);
        if !ports.is_empty() {
            claims.hold(self.turn().await?);
            if let Some(mut stored) = self.node_ports_to_free(ctx).await? {
                ports.into_iter().for_each(|port| stored.ports.give_back(port));
                stored.claim(&mut claims);
            }
        }
        Ok(claims)
    }

    /// The node ports as they are stored; where nobody has stored them yet, those of the Services.
    ///
    /// # Errors
    /// 500 where they cannot be read, or are of another range than ours.
    pub async fn node_ports(&self, engine: &Arc<Engine>) -> Result<Stored, Status> {
        let Some(stored) = Stored::read(engine, &self.node_ports).await? else {
            engine.fresh().await?;
            return Stored::of_services(engine, &self.node_ports);
        };
        if stored.allocation.range != spell(&self.node_ports) {
            // Another server has another range.
            return Err(Status::internal("the provided range does not match the current range"));
        }
        Ok(stored)
    }

    /// As [`Self::node_ports`], for who only gives some back: `None` where nobody could be given them anyway. The next start finds out what is free.
    async fn node_ports_to_free(&self, ctx: &Ctx<'_>) -> Result<Option<Stored>, Status> {
        match self.node_ports(ctx.engine).await {
            Err(status) if status.code == 500 => {
                tracing::warn!(ns = ctx.namespace, name = ctx.name, error = status.message, "node ports of a Service are not given back");
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    async fn claim_addresses(&self, ctx: &Ctx<'_>, service: &mut Value, old: Option<&Value>, claims: &mut Claims) -> Result<(), Status> {
        self.addresses.follow(ctx.engine);
        let key = key(ctx, service);
        let before = old.map(shape::addresses).unwrap_or_default();
        if shape::needs_cluster_ip(service) && !shape::is_headless(service) {
            let asked: Vec<String> = shape::texts(service, "clusterIPs").into_iter().map(str::to_owned).collect();
            let mut given = asked.clone();
            for ip in &asked {
                let address = net::parse(ip).ok_or_else(|| Status::internal(format!("failed to parse service IP {ip:?}")))?;
                if !before.contains(&address) {
                    self.asked(ctx, &key, (ip, address), &asked, claims).await?;
                }
            }
            let families = shape::texts(service, "ipFamilies");
            let families = if families.is_empty() { vec![self.default_family] } else { families };
            for family in families.into_iter().skip(asked.len()) {
                let full = || Status::internal(format!("failed to allocate a serviceIP for Service {:?}: range is full", key.name));
                if ctx.dry_run {
                    // As upstream: nothing is looked for.
                    given.push(self.addresses.ranges(family).first().ok_or_else(full)?.network().to_string());
                    continue;
                }
                let address = self.addresses.free(family, &mut rand::random).ok_or_else(full)?;
                claims.create(ctx, &objects::ip_addresses(), &objects::key(address), objects::ip_address(address, &key)).await?;
                given.push(address.to_string());
            }
            if given.len() > asked.len() {
                edit_spec(service, |spec| {
                    edit::set(spec, "clusterIP", given.first().map_or("", String::as_str));
                    edit::set(spec, "clusterIPs", json!(given));
                });
            }
        }
        for address in before.difference(&shape::addresses(service)) {
            give_back(ctx, *address, &key, claims).await?;
        }
        Ok(())
    }

    /// An address that the Service names itself: free, or left over from one of the same name.
    async fn asked(
        &self,
        ctx: &Ctx<'_>,
        service: &Key,
        (ip, address): (&str, IpAddr),
        all: &[String],
        claims: &mut Claims,
    ) -> Result<(), Status> {
        let refuse = |why: String| {
            let mut causes = FieldErrors::default();
            causes.invalid("spec.clusterIPs", json!(all), &format!("failed to allocate IP {ip}: {why}"));
            Status::invalid(&ctx.kind.gvk(), ctx.name, &causes)
        };
        let ranges = self.addresses.ranges(net::family(address));
        if !ranges.iter().any(|range| range.has(address)) {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            let ranges = ranges.join(", ");
            return Err(refuse(format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {ranges}")));
        }
        let (kind, at) = (objects::ip_addresses(), objects::key(address));
        match ctx.engine.cached(&kind, &at) {
            None => claims.create(ctx, &kind, &at, objects::ip_address(address, service)).await,
            Some(there) if !there.is_deleting() && objects::parent(&there).as_ref() == Some(service) => {
                claims.unchanged(ctx.engine, &kind, &there)
            }
            Some(_) => Err(refuse("provided IP is already allocated".into())),
        }
    }

    async fn claim_node_ports(&self, ctx: &Ctx<'_>, service: &mut Value, old: Option<&Value>, claims: &mut Claims) -> Result<(), Status> {
        if !node_ports::change(service, old) {
            return Ok(());
        }
        if !ctx.dry_run {
            claims.hold(self.turn().await?);
        }
        let stored = match node_ports::needs_more(service, old) {
            true => Some(self.node_ports(ctx.engine).await?),
            false => self.node_ports_to_free(ctx).await?,
        };
        let Some(mut stored) = stored else { return Ok(()) };
        stored.ports.assign(service, &mut Write { old, gvk: ctx.kind.gvk(), name: ctx.name, random: &mut rand::random })?;
        stored.claim(claims);
        Ok(())
    }

    async fn turn(&self) -> Result<tokio::sync::OwnedMutexGuard<()>, Status> {
        let turn = tokio::time::timeout(TURN_WAIT_MAX, self.turns.clone().lock_owned()).await;
        turn.map_err(|_| Status::timeout("too many Services with node ports are written at this time, please try again"))
    }
}

impl Stored {
    /// `None`: nobody has stored them yet.
    ///
    /// # Errors
    /// 500 where they cannot be read.
    pub async fn read(engine: &Engine, range: &RangeInclusive<u16>) -> Result<Option<Self>, Status> {
        let Some((rev, bytes)) = engine.kept(KEY).await? else { return Ok(None) };
        let unreadable =
            |why| Status::internal(format!("the node ports in use, stored at {KEY}, cannot be read and stay as they are: {why}"));
        let allocation = Allocation::read(&bytes).map_err(unreadable)?;
        let ports = Ports { range: range.clone(), taken: allocation.taken.clone() };
        Ok(Some(Self { rev: Some(rev), allocation, ports }))
    }

    /// As the Services in the cache have it.
    ///
    /// # Errors
    /// 500 where some Services cannot be decrypted: their ports would be free.
    pub fn of_services(engine: &Engine, range: &RangeInclusive<u16>) -> Result<Self, Status> {
        engine.whole(&objects::services())?;
        let mut ports = Ports::new(range.clone());
        for service in engine.cached_list(&objects::services(), None) {
            let value = service.value();
            for port in owned(&value) {
                if let Err(why) = ports.take(port) {
                    // Its owner keeps it, but nobody watches over it.
                    tracing::warn!(
                        ns = service.key.namespace,
                        name = service.key.name,
                        port,
                        why,
                        "node port of a Service cannot be claimed"
                    );
                }
            }
        }
        Ok(Self { rev: None, allocation: Allocation::new(range, super::bitmap::Bitmap::default()), ports })
    }

    /// What is stored under the same key, and the ports of another.
    pub fn with_ports(self, ports: Ports) -> Self {
        Self { ports, ..self }
    }

    /// Whether there is nothing to write.
    pub fn is_written(&self) -> bool {
        self.rev.is_some() && self.allocation.taken == self.ports.taken && self.allocation.range == spell(&self.ports.range)
    }

    pub fn claim(self, claims: &mut Claims) {
        if !self.is_written() {
            claims.put(KEY.into(), self.rev, self.allocation.write(&self.ports.range, &self.ports.taken));
        }
    }
}

/// With `generateName` the context has no name of its own; the object has.
fn key(ctx: &Ctx<'_>, service: &Value) -> Key {
    Key::new(ctx.namespace, read::name(service))
}

/// The Service's own address goes with it. What stands there for somebody else stays, and must be there still when the Service is written.
async fn give_back(ctx: &Ctx<'_>, address: IpAddr, service: &Key, claims: &mut Claims) -> Result<(), Status> {
    let (kind, at) = (objects::ip_addresses(), objects::key(address));
    match ctx.engine.get(&kind, &at).await {
        Ok(there) if objects::parent(&there).as_ref() == Some(service) => claims.delete(ctx, &kind, &there).await,
        Ok(there) => claims.unchanged(ctx.engine, &kind, &there),
        Err(status) if status.code == 404 => claims.absent(ctx.engine, &kind, &at).await,
        Err(status) => Err(status),
    }
}
