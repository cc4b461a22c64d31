//! ServiceCIDR -> held by a finalizer while addresses are in it that are in no other; ready until it goes. Source: `pkg/controller/servicecidrs`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use api::{
    Key,
    k8s::{
        api::networking::v1::{IPAddress, ServiceCIDR},
        apimachinery::pkg::apis::meta::v1::Condition,
    },
    time::{Timestamp, rfc3339},
};
use client::{Cache, Caches, kube};
use ipnet::IpNet;
use kube::ResourceExt;
use parking_lot::Mutex;
use reconcile::{Action, Controller, Plan, Wake, own_key};
use serde_json::{Value, json};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Until then every API server has heard that nothing more is taken from a range.
const GRACE: Duration = Duration::from_secs(10);
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");

const READY: (&str, &str, &str) = ("True", "", "Kubernetes Service CIDR is ready");
const HELD: (&str, &str, &str) =
    ("False", "Terminating", "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR");

pub struct ServiceCidrs {
    ranges: Cache<ServiceCIDR>,
    addresses: Cache<IPAddress>,
    /// Those that are to go: who has an address wakes no others.
    going: Arc<Mutex<BTreeMap<Key, Vec<IpNet>>>>,
}

pub struct World {
    range: Arc<ServiceCIDR>,
    /// Of a range that is to go: whether an address would be left in none.
    is_held: bool,
    now: Timestamp,
}

impl ServiceCidrs {
    pub fn new(caches: &Caches) -> Self {
        Self { ranges: caches.of(), addresses: caches.of(), going: Arc::default() }
    }

    /// Whether the range is all that an address is in. All addresses are gone through, while a range goes and nowhere else.
    fn is_held(&self, range: &ServiceCIDR) -> bool {
        let (nets, name) = (nets(range), range.name_any());
        let others: Vec<IpNet> =
            self.ranges.list().iter().filter(|other| other.name_any() != name).flat_map(|other| self::nets(other)).collect();
        if nets.iter().all(|net| others.iter().any(|other| other.contains(net))) {
            return false;
        }
        let only_here = |address: &IpAddr| has(&nets, *address) && !has(&others, *address);
        self.addresses.list().iter().filter_map(|address| managed(address)).any(|address| only_here(&address))
    }
}

impl Controller for ServiceCidrs {
    type World = World;

    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }

    fn watches(&self, wake: &Wake) {
        let going = self.going.clone();
        self.ranges.on_change(move |old, new| {
            let Some(range) = new.or(old) else { return };
            let mut going = going.lock();
            match new.filter(|range| is_going(range)) {
                Some(range) => going.insert(own_key(&**range), nets(range)),
                None => going.remove(&own_key(&**range)),
            };
        });
        wake.on_own(&self.ranges);
        // One that comes may let another go.
        let going = self.going.clone();
        wake.on(&self.ranges, move |_, wake| going.lock().keys().cloned().for_each(wake));
        let going = self.going.clone();
        wake.on(&self.addresses, move |address, wake| {
            let Some(address) = managed(address) else { return };
            going.lock().iter().filter(|(_, nets)| has(nets, address)).for_each(|(key, _)| wake(key.clone()));
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let range = self.ranges.get(key)?;
        let is_held = is_going(&range) && self.is_held(&range);
        Some(World { range, is_held, now: Timestamp::now() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

fn plan(world: &World) -> Plan {
    let range = &*world.range;
    let has_finalizer = range.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let Some(since) = &range.metadata.deletion_timestamp else {
        let all = range.finalizers().iter().cloned().chain([FINALIZER.to_owned()]).collect();
        let held = (!has_finalizer).then(|| finalizers(range, all));
        return Plan::act(held.into_iter().chain(told(world, READY)).collect());
    };
    if world.is_held {
        return Plan::act(told(world, HELD).into_iter().collect());
    }
    if !has_finalizer {
        return Plan::rest();
    }
    let passed = Duration::from_secs(world.now.as_second().saturating_sub(since.0.as_second()).try_into().unwrap_or_default());
    match GRACE.checked_sub(passed).filter(|left| !left.is_zero()) {
        Some(left) => Plan::rest().again_in(left),
        None => Plan::act(vec![finalizers(range, range.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect())]),
    }
}

/// As it was seen: others have finalizers here, too.
fn finalizers(range: &ServiceCIDR, all: Vec<String>) -> Action {
    Action::patch(range, json!({"metadata": {"resourceVersion": range.resource_version(), "finalizers": all}}))
}

/// The condition, where it is not so already.
fn told(world: &World, (status, reason, message): (&str, &str, &str)) -> Option<Action> {
    let conditions = world.range.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let there: Option<&Condition> = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    if there.is_some_and(|c| (c.status.as_str(), c.reason.as_str(), c.message.as_str()) == (status, reason, message)) {
        return None;
    }
    let condition: Value =
        json!({"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": rfc3339(world.now)});
    Some(Action::patch_status(&*world.range, json!({"status": {"conditions": [condition]}})))
}

fn is_going(range: &ServiceCIDR) -> bool {
    range.metadata.deletion_timestamp.is_some()
}

fn nets(range: &ServiceCIDR) -> Vec<IpNet> {
    let cidrs = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| cidr.parse::<IpNet>().ok()).map(|net| net.trunc()).collect()
}

/// `PrefixContainsIP`: what could be given out of it.
fn has(nets: &[IpNet], address: IpAddr) -> bool {
    let is_special = |net: &IpNet| address == net.network() || address.is_ipv4() && address == net.broadcast();
    nets.iter().any(|net| net.contains(&address) && !is_special(net))
}

/// The address, where it is a Service's.
fn managed(address: &IPAddress) -> Option<IpAddr> {
    let is_managed = address.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1);
    if is_managed { address.metadata.name.as_deref()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use client::Caches;

    use super::*;

    fn range(name: &str, cidrs: &[&str], more: Value) -> ServiceCIDR {
        let mut object = json!({"metadata": {"name": name, "uid": "u", "resourceVersion": "7"}, "spec": {"cidrs": cidrs}});
        for (key, value) in more.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn going(name: &str, cidrs: &[&str]) -> ServiceCIDR {
        range(name, cidrs, json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["other/x", FINALIZER]}))
    }

    fn planned(range: ServiceCIDR, is_held: bool, now: &str) -> Plan {
        plan(&World { range: Arc::new(range), is_held, now: api::time::parse(now).unwrap() })
    }

    #[test]
    fn a_new_one_is_held_and_ready() {
        let new = range("a", &["10.0.0.0/24"], json!({}));
        let condition = json!({"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let wanted = vec![
            Action::patch(&new, json!({"metadata": {"resourceVersion": "7", "finalizers": [FINALIZER]}})),
            Action::patch_status(&new, json!({"status": {"conditions": [condition]}})),
        ];
        assert_eq!(planned(new.clone(), false, "2026-01-01T00:00:00Z"), Plan::act(wanted));
        let mut done = range("a", &["10.0.0.0/24"], json!({"finalizers": [FINALIZER]}));
        done.status = serde_json::from_value(json!({"conditions": [condition]})).unwrap();
        assert_eq!(planned(done, false, "2026-01-02T00:00:00Z"), Plan::rest());
    }

    #[test]
    fn one_that_goes_is_held_by_addresses_and_for_a_while() {
        let at = "2026-01-01T00:00:04Z";
        let held = planned(going("a", &["10.0.0.0/24"]), true, at);
        assert!(
            matches!(held.actions.as_slice(), [Action::Patch { path, patch, .. }]
            if path.ends_with("/status") && patch["status"]["conditions"][0]["reason"] == "Terminating"),
            "{held:?}"
        );
        assert_eq!(planned(going("a", &["10.0.0.0/24"]), false, at), Plan::rest().again_in(Duration::from_secs(6)));
        let let_go = planned(going("a", &["10.0.0.0/24"]), false, "2026-01-01T00:00:10Z");
        let patch = json!({"metadata": {"resourceVersion": "7", "finalizers": ["other/x"]}});
        assert_eq!(let_go, Plan::act(vec![Action::patch(&going("a", &["10.0.0.0/24"]), patch)]));
    }

    #[tokio::test]
    async fn an_address_holds_the_range_that_alone_has_it() {
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
        });
        let caches = Caches::unfollowed(kube::Client::new(nobody, "default"), api::task::Group::new());
        let this = ServiceCidrs::new(&caches);
        let feed = |name: &str, labels: Value| {
            let object = json!({"metadata": {"name": name, "labels": labels, "resourceVersion": "1"},
                "spec": {"parentRef": {"resource": "services", "namespace": "a", "name": "b"}}});
            this.addresses.feed(serde_json::from_value(object).unwrap(), false);
        };
        let a = going("a", &["10.0.0.0/24", "fd00::/112"]);
        this.ranges.feed(a.clone(), false);
        feed("10.0.0.7", json!({MANAGED_BY.0: "somebody"}));
        for outside in ["10.0.1.7", "10.0.0.0", "10.0.0.255", "fd01::1"] {
            feed(outside, json!({MANAGED_BY.0: MANAGED_BY.1}));
        }
        assert!(!this.is_held(&a));
        feed("fd00::7", json!({MANAGED_BY.0: MANAGED_BY.1}));
        assert!(this.is_held(&a));
        this.ranges.feed(range("four", &["10.0.0.0/16"], json!({})), false);
        assert!(this.is_held(&a), "the other family is in no other");
        this.ranges.feed(range("six", &["fd00::/64"], json!({})), false);
        assert!(!this.is_held(&a));
    }
}
