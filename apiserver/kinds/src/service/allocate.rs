//! A Service about to be stored -> the same with its cluster IP and node ports, claimed. Source: `pkg/registry/core/service/storage/alloc.go`.
//!
//! Claims live in memory and follow the cache: what is stored is the truth, and a restart rebuilds them from it. There is no claim in the store,
//! so two servers over one etcd could give out the same address at the same moment; one server runs today (COMPAT.md).

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    ops::RangeInclusive,
    sync::{Arc, Once},
};

use api::{GroupResource, Key, Status, field_errors::FieldErrors};
use apiserver::{
    engine::{Change, Engine},
    kind::Ctx,
};
use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    defaults::edit_spec,
    pool::{Pool, Taken},
    shape,
};
use crate::{
    common::{Read, edit, read},
    config::Config,
    net,
};

pub struct Allocator {
    range: IpNet,
    ports: RangeInclusive<u16>,
    pools: Mutex<Pools>,
    followed: Once,
}

struct Pools {
    addresses: Pool,
    ports: Pool,
}

/// What one write has claimed so far, to be given back if the rest fails.
#[derive(Default)]
struct Claimed {
    addresses: Vec<u64>,
    ports: Vec<u64>,
}

/// The objects of one write, and whether it is for real.
struct Write<'a, 'b> {
    ctx: &'a Ctx<'b>,
    owner: String,
    old: Option<&'a Value>,
}

impl Allocator {
    pub fn new(config: &Config) -> Self {
        let addresses = usable(config.service_cidr);
        let ports =
            u64::from(*config.node_ports.end()) + 1 - u64::from(*config.node_ports.start()).min(u64::from(*config.node_ports.end()) + 1);
        let pools =
            Pools { addresses: Pool::new(addresses, reserved(addresses, 16, 256)), ports: Pool::new(ports, reserved(ports, 32, 128)) };
        Self { range: config.service_cidr, ports: config.node_ports.clone(), pools: Mutex::new(pools), followed: Once::new() }
    }

    /// Begins to follow the stored Services, at the first write.
    pub fn follow(self: &Arc<Self>, engine: &Arc<Engine>) {
        self.followed.call_once(|| {
            let services = GroupResource::new("", "services");
            let this = self.clone();
            engine.on_change(&services, Arc::new(move |change| this.changed(change)));
            // The first call of the above may still be on its way.
            for service in engine.cached_list(&services, None) {
                self.moved(None, Some(&service.value()));
            }
        });
    }

    /// # Errors
    /// 422 where what is asked for is taken or out of range; 500 where nothing is left.
    pub fn allocate(&self, ctx: &Ctx<'_>, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        let write = Write { ctx, owner: owner(ctx.namespace, ctx.name, service), old };
        let mut pools = self.pools.lock();
        let mut claimed = Claimed::default();
        let result = self
            .addresses(&mut pools, &write, service, &mut claimed)
            .and_then(|()| self.node_ports(&mut pools, &write, service, &mut claimed))
            .and_then(|()| self.health_check(&mut pools, &write, service, &mut claimed));
        if result.is_err() || ctx.dry_run {
            pools.give_back(&claimed.addresses, &claimed.ports, &write.owner);
        }
        result
    }

    /// After a deletion, or after the store refused the write.
    pub fn release(&self, engine: &Arc<Engine>, namespace: &str, name: &str, service: &Value) {
        let owner = owner(namespace, name, service);
        let key = Key::new(read::namespace(service), read::name(service));
        let gone = engine.cached(&GroupResource::new("", "services"), &key).is_none();
        let (addresses, ports) = self.claims_of(service);
        let mut pools = self.pools.lock();
        pools.give_back(&addresses, &ports, &owner);
        if gone {
            pools.drop_kept(&addresses, &ports, &owner);
        }
    }

    fn changed(&self, change: &Change) {
        let (old, new) = (change.old.as_ref().map(|o| o.value()), change.new.as_ref().map(|o| o.value()));
        self.moved(old.as_ref(), new.as_ref());
    }

    /// The stored object went from `old` to `new`.
    fn moved(&self, old: Option<&Value>, new: Option<&Value>) {
        let of = |service: Option<&Value>| service.map(|s| self.claims_of(s)).unwrap_or_default();
        let (before, after) = (of(old), of(new));
        let Some(any) = new.or(old) else { return };
        let owner = owner(read::namespace(any), read::name(any), any);
        let mut pools = self.pools.lock();
        after.0.iter().for_each(|i| pools.addresses.keep(*i, &owner));
        after.1.iter().for_each(|i| pools.ports.keep(*i, &owner));
        let without = |list: &[u64], other: &[u64]| {
            let other: HashSet<&u64> = other.iter().collect();
            list.iter().copied().filter(|i| !other.contains(i)).collect::<Vec<_>>()
        };
        pools.drop_kept(&without(&before.0, &after.0), &without(&before.1, &after.1), &owner);
    }

    /// Indexes of all addresses and ports that an object carries and that are of our ranges.
    fn claims_of(&self, service: &Value) -> (Vec<u64>, Vec<u64>) {
        if !shape::needs_cluster_ip(service) {
            return Default::default();
        }
        let addresses = shape::texts(service, "clusterIPs").into_iter().filter_map(net::parse).filter_map(|ip| self.address_index(ip));
        let health = shape::health_check_port(service);
        let ports = shape::node_ports(service).into_iter().chain([health]).filter_map(|n| self.port_index(n));
        (addresses.collect(), ports.collect())
    }

    fn addresses(&self, pools: &mut Pools, write: &Write<'_, '_>, service: &mut Value, claimed: &mut Claimed) -> Result<(), Status> {
        let had = write.old.is_some_and(|old| !shape::spec(old).list("clusterIPs").is_empty());
        if !shape::needs_cluster_ip(service) || shape::is_headless(service) || had {
            return Ok(());
        }
        let asked = shape::texts(service, "clusterIPs").first().map(|s| (*s).to_owned());
        let index = match asked.as_deref() {
            Some(ip) => self.asked_address(pools, write, ip)?,
            None => {
                let full = || Status::internal(format!("failed to allocate a serviceIP for Service {:?}: range is full", write.ctx.name));
                pools.addresses.next_free(rand::random()).ok_or_else(full)?
            }
        };
        // Free for this owner, as just found under the same lock.
        if pools.addresses.take(index, &write.owner).is_ok() {
            claimed.addresses.push(index);
        }
        let address = asked.unwrap_or_else(|| self.address_at(index).to_string());
        edit_spec(service, |spec| {
            edit::set(spec, "clusterIP", address.as_str());
            edit::set(spec, "clusterIPs", json!([address]));
        });
        Ok(())
    }

    fn asked_address(&self, pools: &Pools, write: &Write<'_, '_>, ip: &str) -> Result<u64, Status> {
        let refuse = |why: String| {
            let mut causes = FieldErrors::default();
            causes.invalid("spec.clusterIPs", json!([ip]), &format!("failed to allocate IP {ip}: {why}"));
            Status::invalid(&write.ctx.kind.gvk(), write.ctx.name, &causes)
        };
        let outside = || refuse(format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}", self.range));
        let index = net::parse(ip).and_then(|ip| self.address_index(ip)).ok_or_else(outside)?;
        if pools.addresses.is_free_for(index, &write.owner) { Ok(index) } else { Err(refuse("provided IP is already allocated".into())) }
    }

    /// Ports of one Service that share a port number (TCP and UDP) share the node port too.
    fn node_ports(&self, pools: &mut Pools, write: &Write<'_, '_>, service: &mut Value, claimed: &mut Claimed) -> Result<(), Status> {
        if !shape::needs_node_port(service) {
            return Ok(());
        }
        let hand_out = shape::kind(service) == "NodePort" || shape::spec(service).is_true("allocateLoadBalancerNodePorts");
        let before: HashSet<i64> = write.old.map(shape::node_ports).unwrap_or_default().into_iter().collect();
        let mut by_port: BTreeMap<i64, i64> = BTreeMap::new();
        for (port, node) in shape::ports(service).iter().map(|p| (p.int("port").unwrap_or(0), shape::node_port(p))) {
            if node != 0 {
                by_port.entry(port).or_insert(node);
            }
        }
        let wanted: Vec<(i64, i64)> = shape::ports(service).iter().map(|p| (p.int("port").unwrap_or(0), shape::node_port(p))).collect();
        let mut given: Vec<i64> = Vec::with_capacity(wanted.len());
        let mut known: HashSet<i64> = HashSet::new();
        for (i, (port, asked)) in wanted.into_iter().enumerate() {
            let shared = by_port.get(&port).copied().filter(|_| write.old.is_none()).unwrap_or(0);
            let node = match (asked, shared) {
                (0, _) if !hand_out => 0,
                (0, 0) => self.any_port(pools, write, claimed, "a nodePort")?,
                (0, shared) => shared,
                (asked, _) if before.contains(&asked) || known.contains(&asked) && write.old.is_some() => asked,
                (asked, shared) if known.contains(&asked) && asked == shared => asked,
                (asked, _) => {
                    let path = format!("spec.ports[{i}].nodePort");
                    self.asked_port(pools, write, asked, claimed).map_err(|why| {
                        let mut causes = FieldErrors::default();
                        causes.invalid(path, asked, &why);
                        Status::invalid(&write.ctx.kind.gvk(), write.ctx.name, &causes)
                    })?
                }
            };
            if node != 0 {
                by_port.entry(port).or_insert(node);
            }
            given.push(node);
            known.insert(node);
        }
        edit_spec(service, |spec| {
            edit::each(spec, "ports").zip(given).filter(|(_, node)| *node != 0).for_each(|(port, node)| edit::set(port, "nodePort", node));
        });
        Ok(())
    }

    fn health_check(&self, pools: &mut Pools, write: &Write<'_, '_>, service: &mut Value, claimed: &mut Claimed) -> Result<(), Status> {
        if !shape::needs_health_check(service) || write.old.is_some_and(shape::needs_health_check) {
            return Ok(());
        }
        let number = match shape::health_check_port(service) {
            0 => self.any_port(pools, write, claimed, "a HealthCheck NodePort 0")?,
            asked => {
                let refuse = |why| Status::internal(format!("failed to allocate requested HealthCheck NodePort {asked}: {why}"));
                self.asked_port(pools, write, asked, claimed).map_err(refuse)?
            }
        };
        edit_spec(service, |spec| edit::set(spec, "healthCheckNodePort", number));
        Ok(())
    }

    fn any_port(&self, pools: &mut Pools, write: &Write<'_, '_>, claimed: &mut Claimed, what: &str) -> Result<i64, Status> {
        let full = || Status::internal(format!("failed to allocate {what}: range is full"));
        let index = pools.ports.next_free(rand::random()).ok_or_else(full)?;
        if pools.ports.take(index, &write.owner).is_ok() {
            claimed.ports.push(index);
        }
        Ok(i64::from(*self.ports.start()) + i64::try_from(index).unwrap_or(0))
    }

    fn asked_port(&self, pools: &mut Pools, write: &Write<'_, '_>, number: i64, claimed: &mut Claimed) -> Result<i64, String> {
        let (first, last) = (self.ports.start(), self.ports.end());
        let outside = || format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
        let index = self.port_index(number).ok_or_else(outside)?;
        let taken = |_: Taken| "provided port is already allocated".to_owned();
        if claimed.ports.contains(&index) {
            return Err(taken(Taken));
        }
        pools.ports.take(index, &write.owner).map_err(taken)?;
        claimed.ports.push(index);
        Ok(number)
    }

    fn port_index(&self, number: i64) -> Option<u64> {
        let number = u16::try_from(number).ok().filter(|n| self.ports.contains(n))?;
        Some(u64::from(number - self.ports.start()))
    }

    /// The network address is none of ours, nor is the broadcast address.
    fn address_index(&self, address: IpAddr) -> Option<u64> {
        let offset = number(address).checked_sub(number(self.range.network()))?.checked_sub(1)?;
        let index = u64::try_from(offset).ok()?;
        (self.range.contains(&address) && index < usable(self.range)).then_some(index)
    }

    fn address_at(&self, index: u64) -> IpAddr {
        let number = number(self.range.network()) + u128::from(index) + 1;
        match self.range {
            IpNet::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
            IpNet::V6(_) => IpAddr::V6(number.into()),
        }
    }
}

impl Pools {
    fn give_back(&mut self, addresses: &[u64], ports: &[u64], owner: &str) {
        addresses.iter().for_each(|i| self.addresses.give_back(*i, owner));
        ports.iter().for_each(|i| self.ports.give_back(*i, owner));
    }

    fn drop_kept(&mut self, addresses: &[u64], ports: &[u64], owner: &str) {
        addresses.iter().for_each(|i| self.addresses.drop_kept(*i, owner));
        ports.iter().for_each(|i| self.ports.drop_kept(*i, owner));
    }
}

/// With `generateName` the context has no name yet; the object has.
fn owner(namespace: &str, name: &str, service: &Value) -> String {
    let name = if name.is_empty() { read::name(service) } else { name };
    format!("{namespace}/{name}")
}

/// How many addresses of a network can be given out: without the network's own, and the broadcast address of IPv4.
fn usable(network: IpNet) -> u64 {
    let bits = u32::from(network.max_prefix_len() - network.prefix_len());
    let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
    let special = if network.network().is_ipv4() { 2 } else { 1 };
    u64::try_from(all.saturating_sub(special)).unwrap_or(u64::MAX)
}

/// The band that is given out last: a `step`th of the range, at least 16 and at most `max`; none of a small range (KEP-3070, KEP-3668).
fn reserved(size: u64, step: u64, max: u64) -> u64 {
    if size <= 16 { 0 } else { (size / step).clamp(16, max) }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u128::from(u32::from(four)),
        IpAddr::V6(six) => u128::from(six),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> Allocator {
        Allocator::new(&Config { service_cidr: "10.96.0.0/28".parse().unwrap(), node_ports: 30000..=30009, ..Config::default() })
    }

    #[test]
    fn indexes_and_addresses_correspond() {
        let allocator = allocator();
        assert_eq!(allocator.address_index("10.96.0.1".parse().unwrap()), Some(0));
        assert_eq!(allocator.address_index("10.96.0.14".parse().unwrap()), Some(13));
        for outside in ["10.96.0.0", "10.96.0.15", "10.96.0.16", "10.95.255.255", "::1"] {
            assert_eq!(allocator.address_index(outside.parse().unwrap()), None, "{outside}");
        }
        assert_eq!(allocator.address_at(0).to_string(), "10.96.0.1");
        assert_eq!((allocator.port_index(30000), allocator.port_index(30009), allocator.port_index(30010)), (Some(0), Some(9), None));
        assert_eq!(usable("10.96.0.0/12".parse().unwrap()), (1 << 20) - 2);
        assert_eq!(usable("fd00::/112".parse().unwrap()), 65535);
        assert_eq!((reserved(14, 16, 256), reserved(1 << 20, 16, 256), reserved(2768, 32, 128)), (0, 256, 86));
    }

    #[test]
    fn claims_follow_what_is_stored() {
        let allocator = allocator();
        let service = |kind: &str| {
            json!({"metadata": {"namespace": "a", "name": "b"},
            "spec": {"type": kind, "clusterIPs": ["10.96.0.5"], "ports": [{"nodePort": 30001}], "healthCheckNodePort": 30002}})
        };
        allocator.moved(None, Some(&service("LoadBalancer")));
        let free = |address: u64, port: u64| {
            let pools = allocator.pools.lock();
            (pools.addresses.is_free_for(address, "x/y"), pools.ports.is_free_for(port, "x/y"))
        };
        assert_eq!(free(4, 1), (false, false));
        assert_eq!(free(3, 2), (true, false));
        allocator.moved(Some(&service("LoadBalancer")), Some(&service("ExternalName")));
        assert_eq!(free(4, 1), (true, true));
    }
}
