//! A store as it is found -> every address and node port that a Service has is claimed, and nothing else is. Source:
//! `pkg/registry/core/service/ipallocator/controller/repairip.go`, `portallocator/controller/repair.go`, `pkg/controlplane/controller/defaultservicecidr`.
//!
//! What this server writes needs no repair: claims are written with their Services. It is for stores of older or other servers, and for IPAddress
//! objects that somebody deleted by hand. Whoever starts at the same time does the same; the conditions of the writes decide.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use api::{
    Key, Status,
    time::{self, Timestamp},
};
use apiserver::{
    engine::{Change, Claims, Engine, Object},
    identity::{Operation, User},
};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{addresses::DEFAULT, allocate::Stored, objects, range::Range, shape};
use crate::{
    auth::system_user,
    common::{Read, conditions, edit, read},
    config::Config,
    ipaddress::{ALLOCATOR, FAMILY_LABEL, MANAGED_BY_LABEL},
    net, servicecidr,
};

/// Services that are looked at at one time: the store puts their writes into one commit.
const PARALLEL: usize = 64;
/// How often one write is tried against others.
const REPAIRS_MAX: usize = 16;
/// Another server claims first and stores its Service then: what is younger may still become somebody's.
const ORPHAN_GRACE: Duration = Duration::from_secs(60);
/// Addresses that are waited for to be looked at; beyond that all Services are.
const LOST_MAX: usize = 1024;
/// Pause before what failed is tried again; doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Makes the default ServiceCIDR, and mends all claims. Runs at each start, before anybody is served. What cannot be mended is logged, and stops
/// no start: it is tried again ([`keep_claims`]), and writes that need it are refused.
pub async fn bootstrap(engine: &Arc<Engine>, config: &Config) {
    let repair = Repair::new(engine, config);
    if let Err(status) = repair.default_range().await {
        tracing::error!(error = status.message, "default ServiceCIDR not written");
    }
    repair.services().await;
    repair.orphans().await;
    if let Err(status) = repair.node_ports().await {
        tracing::error!(error = status.message, "node ports cannot be watched over; Services that need one are refused");
    }
}

/// Puts back what is deleted by hand: the IPAddress of a living Service, the default ServiceCIDR. And looks at all claims again when objects can be
/// decrypted that could not be. For as long as the server runs.
pub async fn keep_claims(engine: Arc<Engine>, config: Config) {
    let repair = Repair::new(&engine, &config);
    let lost = Arc::new(Lost::default());
    lost.follow(&engine);
    // Whatever happened since the start.
    lost.add(Found { all_services: true, default_range: true, ..Found::default() });
    let mut young = Box::pin(tokio::time::sleep(ORPHAN_GRACE));
    let (mut is_young, mut pause) = (true, RETRY.0);
    let mut unlocked = engine.unlocked();
    if *unlocked.borrow() > 0 {
        // Before anybody listened.
        unlocked.mark_changed();
    }
    loop {
        tokio::select! {
            () = lost.some.notified() => {}
            // The engine has the sender.
            Ok(()) = unlocked.changed() => lost.add(Found { all_services: true, leaks: true, ..Found::default() }),
            () = &mut young, if is_young => {
                is_young = false;
                repair.orphans().await;
            }
        }
        let again = repair.lost(lost.take()).await;
        if again == Found::default() {
            pause = RETRY.0;
            continue;
        }
        lost.add(again);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

struct Repair<'a> {
    engine: &'a Arc<Engine>,
    config: &'a Config,
    user: User,
}

/// What was deleted and may have been somebody's.
#[derive(Default)]
struct Lost {
    found: Mutex<Found>,
    some: Notify,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    services: BTreeSet<(String, String)>,
    all_services: bool,
    default_range: bool,
    /// Addresses and node ports that nobody has may be claimed.
    leaks: bool,
}

impl<'a> Repair<'a> {
    fn new(engine: &'a Arc<Engine>, config: &'a Config) -> Self {
        Self { engine, config, user: system_user() }
    }

    /// What is to be tried again.
    async fn lost(&self, found: Found) -> Found {
        let mut again = Found::default();
        if found.all_services {
            self.services().await;
        }
        for (namespace, name) in found.services {
            if let Err(status) = self.service(&Key::new(&namespace, &name), &self.ranges()).await {
                tracing::warn!(ns = namespace, name, error = status.message, "cluster IPs of a Service are not claimed; trying again");
                again.services.insert((namespace, name));
            }
        }
        if found.default_range
            && let Err(status) = self.default_range().await
        {
            tracing::warn!(error = status.message, "default ServiceCIDR not written; trying again");
            again.default_range = true;
        }
        // Where some cannot be decrypted yet, it is told when they can be.
        if found.leaks && self.engine.whole(&objects::services()).is_ok() {
            self.orphans().await;
            if let Err(status) = self.node_ports().await {
                tracing::warn!(error = status.message, "node ports of Services are not claimed; trying again");
                again.leaks = true;
            }
        }
        again
    }

    /// Makes it from the flags where it is not there; does not change it where they differ, but for a second family.
    async fn default_range(&self) -> Result<(), Status> {
        let (gr, key) = (objects::service_cidrs(), Key::new("", DEFAULT));
        let wanted: Vec<String> = Range::configured(self.config).iter().map(ToString::to_string).collect();
        let found = match self.engine.get(&gr, &key).await {
            Ok(found) => found.value(),
            Err(status) if status.code == 404 => {
                let object = json!({"metadata": {"name": DEFAULT}, "spec": {"cidrs": wanted}});
                match self.engine.create(&gr, "", object, &self.user).await {
                    Ok(created) => created.value(),
                    Err(status) if status.reason == "AlreadyExists" => self.engine.get(&gr, &key).await?.value(),
                    Err(status) => return Err(status),
                }
            }
            Err(status) => return Err(status),
        };
        let mut there = servicecidr::cidrs(&found);
        if let ([first, _], [only]) = (wanted.as_slice(), there.as_slice())
            && first == only
        {
            let change = |object: &mut Value| {
                edit::child(object, "spec").into_iter().for_each(|spec| edit::set(spec, "cidrs", wanted.clone()));
                Ok(())
            };
            self.engine.update(&gr, &key, "", &self.user, &change).await?;
            there = wanted.iter().map(String::as_str).collect();
        }
        if there != wanted {
            tracing::warn!(?there, ?wanted, "the default ServiceCIDR is not that of --service-cluster-ip-range");
            return Ok(());
        }
        self.default_status(&found).await
    }

    /// Ready, where nobody has said otherwise.
    async fn default_status(&self, found: &Value) -> Result<(), Status> {
        let status = servicecidr::ready_condition(found).map_or("Unknown", |condition| condition.text("status"));
        if status != "Unknown" || found.pointer("/metadata/deletionTimestamp").is_some() {
            return Ok(());
        }
        let condition = json!({"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready"});
        let change = |object: &mut Value| {
            let status = edit::make_child(object, "status");
            status.into_iter().for_each(|status| conditions::set(status, condition.clone(), Timestamp::now()));
            Ok(())
        };
        let updated = self.engine.update(&objects::service_cidrs(), &Key::new("", DEFAULT), "status", &self.user, &change).await;
        updated.map(drop)
    }

    async fn services(&self) {
        let ranges = self.ranges();
        let all = self.engine.cached_list(&objects::services(), None);
        let mend = async |service: Arc<Object>| {
            if let Err(status) = self.service(&service.key, &ranges).await {
                let Key { namespace, name } = &service.key;
                tracing::error!(ns = namespace, name, error = status.message, "cluster IPs of a Service are not claimed");
            }
        };
        stream::iter(all).map(mend).buffer_unordered(PARALLEL).collect::<()>().await;
    }

    /// All ranges that there are, whether anything is given out of them or not.
    fn ranges(&self) -> Vec<Range> {
        let objects = self.engine.cached_list(&objects::service_cidrs(), None);
        let values: Vec<Value> = objects.iter().map(|object| object.value()).collect();
        let stored = values.iter().flat_map(servicecidr::cidrs).filter_map(Range::parse);
        Range::configured(self.config).into_iter().chain(stored).collect()
    }

    /// Each cluster IP of a Service has an IPAddress that belongs to it, unless it is another living Service's.
    async fn service(&self, key: &Key, ranges: &[Range]) -> Result<(), Status> {
        let own = self.engine.own_request(&objects::services())?;
        for _ in 0..REPAIRS_MAX {
            let Some(service) = self.engine.cached(&objects::services(), key) else { return Ok(()) };
            let ctx = own.ctx(self.engine, &self.user, Operation::Update, (&key.namespace, &key.name, ""));
            let (mut claims, mut is_whole) = (Claims::default(), true);
            for address in shape::addresses(&service.value()) {
                if !ranges.iter().any(|range| range.has(address)) {
                    // Claimed all the same, unlike upstream: the range may come yet.
                    tracing::warn!(ns = key.namespace, name = key.name, %address, "cluster IP is in no ServiceCIDR; please recreate the Service");
                }
                if self.is_missing(key, address).await? {
                    claims.create(&ctx, &objects::ip_addresses(), &objects::key(address), objects::ip_address(address, key)).await?;
                    is_whole = false;
                }
            }
            if is_whole {
                return Ok(());
            }
            // It may be gone by now, and its addresses with it.
            claims.unchanged(self.engine, &objects::services(), &service)?;
            if claims.settle(self.engine).await? {
                tracing::info!(ns = key.namespace, name = key.name, "cluster IPs of a Service claimed");
                return Ok(());
            }
        }
        Err(Status::conflict(&objects::services(), &key.name, "others change it all the time"))
    }

    /// Whether an address of this Service has no IPAddress; one that belongs to nobody who has the address is removed.
    async fn is_missing(&self, service: &Key, address: IpAddr) -> Result<bool, Status> {
        let Some(there) = self.engine.cached(&objects::ip_addresses(), &objects::key(address)) else { return Ok(true) };
        match objects::parent(&there) {
            Some(parent) if parent == *service => {
                self.label(&there, address).await?;
                return Ok(false);
            }
            Some(parent) if self.has(&parent, address) => {
                tracing::error!(ns = service.namespace, name = service.name, %address, "cluster IP is another Service's, too; please recreate one");
                return Ok(false);
            }
            _ => {}
        }
        // It may belong to one that cannot be decrypted now.
        self.engine.whole(&objects::services())?;
        tracing::warn!(ns = service.namespace, name = service.name, %address, "IPAddress of a cluster IP belongs to something else; repairing");
        self.remove(&there).await?;
        Ok(self.engine.cached(&objects::ip_addresses(), &there.key).is_none())
    }

    fn has(&self, service: &Key, address: IpAddr) -> bool {
        let found = self.engine.cached(&objects::services(), service);
        found.is_some_and(|service| shape::addresses(&service.value()).contains(&address))
    }

    async fn label(&self, there: &Object, address: IpAddr) -> Result<(), Status> {
        let labels = [(FAMILY_LABEL, net::family(address)), (MANAGED_BY_LABEL, ALLOCATOR)];
        if labels.iter().all(|(key, value)| there.label(key) == Some(value)) {
            return Ok(());
        }
        let change = |object: &mut Value| {
            let map = edit::child(object, "metadata").and_then(|metadata| edit::make_child(metadata, "labels"));
            map.into_iter().for_each(|map| labels.iter().for_each(|(key, value)| edit::set(map, key, *value)));
            Ok(())
        };
        self.engine.update(&objects::ip_addresses(), &there.key, "", &self.user, &change).await.map(drop)
    }

    /// Addresses that the allocator has given to Services that do not have them.
    async fn orphans(&self) {
        // A Service that cannot be decrypted has its addresses all the same.
        if let Err(status) = self.engine.whole(&objects::services()) {
            tracing::error!(error = status.message, "leaked IPAddresses cannot be told from others, and stay");
            return;
        }
        let now = Timestamp::now();
        for there in self.engine.cached_list(&objects::ip_addresses(), None) {
            let Ok(address) = there.key.name.parse() else { continue };
            let is_ours = there.label(MANAGED_BY_LABEL) == Some(ALLOCATOR);
            if !is_ours || objects::parent(&there).is_some_and(|service| self.has(&service, address)) || is_young(&there, now) {
                continue;
            }
            tracing::warn!(name = there.key.name, "IPAddress appears to have leaked: cleaning up");
            if let Err(status) = self.remove(&there).await {
                tracing::error!(name = there.key.name, error = status.message, "leaked IPAddress is not cleaned up");
            }
        }
    }

    /// As it was seen, or not at all.
    async fn remove(&self, there: &Object) -> Result<(), Status> {
        let options = json!({"preconditions": {"uid": there.uid(), "resourceVersion": there.rev.to_string()}});
        match self.engine.delete(&objects::ip_addresses(), &there.key, options, &self.user).await {
            Err(status) if !matches!(status.code, 404 | 409) => Err(status),
            _ => Ok(()),
        }
    }

    /// The ports that are taken are those of the Services. Exact, since whoever changes one of both changes both, which the write would notice.
    async fn node_ports(&self) -> Result<(), Status> {
        let range = &self.config.node_ports;
        for _ in 0..REPAIRS_MAX {
            let stored = Stored::read(self.engine, range).await?;
            self.engine.fresh().await?;
            let wanted = Stored::of_services(self.engine, range)?;
            let stored = match stored {
                Some(stored) => stored.with_ports(wanted.ports),
                None => wanted,
            };
            if stored.is_written() {
                return Ok(());
            }
            let mut claims = Claims::default();
            stored.claim(&mut claims);
            if claims.settle(self.engine).await? {
                tracing::info!("node ports of all Services claimed");
                return Ok(());
            }
        }
        Err(Status::timeout("others change the node ports all the time"))
    }
}

impl Lost {
    fn follow(self: &Arc<Self>, engine: &Engine) {
        let this = self.clone();
        engine.on_change(&objects::ip_addresses(), Arc::new(move |change| this.address(change)));
        let this = self.clone();
        let changed = move |change: &Change| {
            if change.new.is_none() && change.old.as_ref().is_some_and(|old| old.key.name == DEFAULT) {
                this.add(Found { default_range: true, ..Found::default() });
            }
        };
        engine.on_change(&objects::service_cidrs(), Arc::new(changed));
    }

    fn address(&self, change: &Change) {
        if let (Some(old), None) = (&change.old, &change.new)
            && let Some(Key { namespace, name }) = objects::parent(old)
        {
            self.add(Found { services: [(namespace, name)].into(), ..Found::default() });
        }
    }

    fn add(&self, more: Found) {
        let mut found = self.found.lock();
        found.default_range |= more.default_range;
        found.all_services |= more.all_services;
        found.leaks |= more.leaks;
        found.services.extend(more.services);
        if found.services.len() > LOST_MAX {
            found.services.clear();
            found.all_services = true;
        }
        self.some.notify_one();
    }

    fn take(&self) -> Found {
        std::mem::take(&mut *self.found.lock())
    }
}

fn is_young(object: &Object, now: Timestamp) -> bool {
    let value = object.value();
    let created = time::parse(read::text_at(&value, "/metadata/creationTimestamp"));
    created.is_some_and(|created| now.as_second().saturating_sub(created.as_second()) < ORPHAN_GRACE.as_secs().cast_signed())
}
