//! One volume -> its `VolumeAttachment`s: made where a pod wants it, deleted where none does.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api::{
    Key,
    k8s::{
        api::{
            core::v1::{Node, PersistentVolume},
            storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec},
        },
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    },
    names::segment,
    time::Timestamp,
};
use client::{
    kube,
    leader::Clock,
    pods::{Pod, PodMeta},
};
use podspec::{claims::volume_name, csi};
use reconcile::{Action, Controller, Done, Plan, Wake};
use tokio::time::{Instant, timeout};

use super::{
    told,
    view::{Detach, Site, View, changed, is_in_use, listed, moved, stands_otherwise},
};
use crate::{
    Entry, catalog,
    lasted::{Ages, Lasted},
};

/// After so long pods are told that the driver does not answer, and again. Upstream: `csiTimeout`.
const ATTACH_BOUND: Duration = Duration::from_secs(2 * 60);
const READ_BOUND: Duration = Duration::from_secs(30);
/// Where the server did not say what a node has mounted, or said something else than the cache, or the node's list is being written.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Pods of a node that are told of one thing.
const TOLD_MAX: usize = 64;
/// Modes of volumes that several nodes may have. Upstream: `IsMultiAttachAllowed`.
const SHARED: [&str; 2] = ["ReadWriteMany", "ReadOnlyMany"];

pub struct Attachments {
    view: View,
    client: kube::Client,
    ages: Ages,
}

pub struct World {
    /// As nodes call it.
    pub name: String,
    pub volume: Option<Arc<PersistentVolume>>,
    pub sites: BTreeMap<String, Site>,
    /// Nodes whose pods were told that it is attached elsewhere.
    pub told: HashSet<String>,
    /// Of nodes that it is to be detached from: whether it is mounted there, as the server says; `None` where that did not say.
    pub mounted: BTreeMap<String, Option<bool>>,
    pub lasted: Lasted,
}

impl Attachments {
    /// What a row of the table has no room for.
    pub fn of(entry: &Entry<'_>) -> Self {
        Self::new(&entry.attached, &entry.config.clock, entry.client())
    }

    /// `client` reads nodes.
    pub fn new(view: &View, clock: &Clock, client: kube::Client) -> Self {
        Self { view: view.clone(), client, ages: Ages::new(clock) }
    }

    /// The cache may be behind: the node could be about to mount it.
    async fn is_mounted(&self, node: &str, name: &str) -> Option<bool> {
        let path = format!("/api/v1/nodes/{}", segment(node));
        match timeout(READ_BOUND, catalog::get(&self.client, &path)).await {
            Ok(Ok(object)) => {
                let node: Node = serde_json::from_value(object).ok()?;
                Some(is_in_use(&node, name) || listed(&node).contains(&name))
            }
            Ok(Err(error)) if catalog::is_absent(&error, node) => Some(false),
            Ok(Err(error)) => {
                tracing::warn!(node, %error, "failed to read what a node has mounted; nothing is detached");
                None
            }
            Err(_) => None,
        }
    }
}

impl Controller for Attachments {
    type World = World;

    fn name(&self) -> &'static str {
        "persistentvolume-attach-detach-controller"
    }

    fn watches(&self, wake: &Wake) {
        let key = |name: String| Key::new("", &name);
        let view = self.view.clone();
        wake.on(&self.view.attachments, move |attachment, wake| view.names_of(attachment).into_iter().map(key).for_each(wake));
        wake.on(&self.view.volumes, move |volume, wake| csi::name_of(volume).into_iter().map(key).for_each(wake));
        let volumes = self.view.volumes.clone();
        wake.on(&self.view.claims, move |claim, wake| {
            let volume = volumes.get(&Key::new("", volume_name(claim)));
            volume.and_then(|volume| csi::name_of(&volume)).into_iter().map(key).for_each(wake);
        });
        let (view, handle) = (self.view.clone(), wake.handle());
        wake.on(&self.view.pods, |_, _| {});
        self.view.pods.on_change(move |old, new| {
            if moved(old, new) {
                old.into_iter().chain(new).flat_map(|pod| view.used_by(pod)).map(key).for_each(&handle);
            }
        });
        let (view, handle) = (self.view.clone(), wake.handle());
        wake.on(&self.view.nodes, |_, _| {});
        self.view.nodes.on_change(move |old, new| {
            let Some(name) = new.or(old).and_then(|node| node.metadata.name.as_deref()) else { return };
            let (was, is) = (old.map(Arc::as_ref), new.map(Arc::as_ref));
            let mut all = changed(was, is);
            if stands_otherwise(was, is) {
                all.extend(view.names_at(name).into_iter().chain(view.used_at(name)));
            }
            all.into_iter().map(key).for_each(&handle);
        });
        // Drivers come and go with whoever installs them.
        let volumes = self.view.volumes.clone();
        wake.on(&self.view.drivers, move |driver, wake| {
            let its = |name: &String| csi::split(name).is_some_and(|(of, _)| Some(of) == driver.metadata.name.as_deref());
            volumes.list().iter().filter_map(|volume| csi::name_of(volume)).filter(its).map(key).for_each(wake);
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let (name, now) = (key.name.clone(), Instant::now());
        let (volume, mut sites) = (self.view.volume(&name), self.view.sites(&name, now));
        self.view.leave(&name, &mut sites);
        let mut mounted = BTreeMap::new();
        for (node, site) in sites.iter().filter(|(_, site)| site.is_leaving && site.detach(&name) == Detach::Safe) {
            let is_mounted = if site.node.is_some() { self.is_mounted(node, &name).await } else { Some(false) };
            mounted.insert(node.clone(), is_mounted);
        }
        let made = |site: &Site| Some(site.attachment.as_ref()?.metadata.creation_timestamp.as_ref()?.0);
        let lasted = self.ages.of(key, sites.values().filter_map(made), Timestamp::now());
        let told = self.view.told(&name);
        Some(World { name, volume, sites, told, mounted, lasted })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        world.plan()
    }

    fn weight(&self, world: &World) -> usize {
        world.sites.values().map(|site| site.pods.len()).sum()
    }

    fn ran(&self, _: &Key, world: &World, done: &Done<'_>) {
        let has_failed = |path: &str| done.failed.iter().any(|(action, _)| matches!(action, Action::Delete { path: of, .. } if of == path));
        for (site, action) in world.sites.values().filter_map(|site| Some((site, world.deletion(site)?))) {
            if let (Action::Delete { path, .. }, Detach::Forced(why)) = (&action, site.detach(&world.name))
                && !has_failed(path)
            {
                told::forced(why);
            }
        }
        self.view.tell(&world.name, world.refused().map(|(node, _)| node.clone()).collect());
    }

    fn failed(&self, _: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        let (Action::Create { object, .. }, kube::Error::Api(status)) = (action, error) else { return None };
        let named = object.pointer("/spec/source/persistentVolumeName")?.as_str()?;
        let volume = self.view.volumes.get(&Key::new("", named)).filter(|_| status.code != 409)?;
        let sites = self.view.sites(&csi::name_of(&volume)?, Instant::now());
        let pod = sites.get(object.pointer("/spec/nodeName")?.as_str()?)?.pods.first()?;
        Some(attach_failed(pod, named, &status.message))
    }
}

impl World {
    pub fn plan(&self) -> Plan {
        let mut plan = Plan::rest();
        for site in self.sites.values().filter(|site| site.pods.is_empty() && site.attachment.is_some()) {
            match site.detach(&self.name) {
                Detach::Wait(Some(left)) => plan = plan.again_in(left),
                _ if site.is_to_go(&self.name) && self.deletion(site).is_none() => plan = plan.again_in(READ_AGAIN),
                _ => plan.actions.extend(self.deletion(site)),
            }
        }
        let mut is_free = self.is_shared() || self.sites.values().all(|site| site.attachment.is_none());
        for (node, site) in self.sites.iter().filter(|(_, site)| !site.pods.is_empty()) {
            match &site.attachment {
                Some(attachment) => plan = self.attaching(site, attachment, plan),
                None if is_free && site.is_managed() => {
                    plan.actions.extend(self.made_for(node));
                    is_free = self.is_shared();
                }
                None => {}
            }
        }
        let news = self.refused().filter(|(node, _)| !self.told.contains(*node));
        plan.actions.extend(news.flat_map(|(node, site)| self.multi_attach(node, site)));
        plan
    }

    /// The attachment goes, where it may.
    fn deletion(&self, site: &Site) -> Option<Action> {
        let attachment = site.attachment.as_ref().filter(|_| site.is_leaving)?;
        let may = match site.detach(&self.name) {
            Detach::Wait(_) => false,
            Detach::Safe => self.mounted.get(&attachment.spec.node_name) == Some(&Some(false)),
            Detach::Forced(_) => true,
        };
        may.then(|| Action::delete(&**attachment))
    }

    fn made_for(&self, node: &str) -> Option<Action> {
        let (volume, (driver, handle)) = (self.volume.as_ref()?, csi::split(&self.name)?);
        Some(Action::create(&VolumeAttachment {
            metadata: ObjectMeta { name: Some(csi::attachment_name(handle, driver, node)), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: driver.to_owned(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: volume.metadata.name.clone(),
                    ..VolumeAttachmentSource::default()
                },
            },
            status: None,
        }))
    }

    /// Says what keeps an attachment from being one. Upstream: `verifyAttachmentStatus`, `waitForVolumeAttachDetachStatusWithLister`.
    fn attaching(&self, site: &Site, attachment: &VolumeAttachment, mut plan: Plan) -> Plan {
        if site.is_attached() {
            return plan;
        }
        let error = attachment.status.as_ref().and_then(|status| status.attach_error.as_ref());
        let made = attachment.metadata.creation_timestamp.as_ref().map_or(self.lasted.now, |at| at.0);
        let left = self.lasted.left(made, ATTACH_BOUND);
        let why = match error {
            _ if attachment.metadata.deletion_timestamp.is_some() => "volume attachment is being deleted".to_owned(),
            Some(error) => error.message.clone().unwrap_or_default(),
            None if !left.is_zero() => return plan.again_in(left),
            None => {
                let (driver, handle) = csi::split(&self.name).unwrap_or_default();
                plan = plan.again_in(ATTACH_BOUND);
                format!("timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}")
            }
        };
        plan.actions.extend(site.pods.iter().take(TOLD_MAX).map(|pod| attach_failed(pod, self.volume_name(), &why)));
        plan
    }

    /// Nodes that have to wait because the volume is attached to another one.
    pub fn refused(&self) -> impl Iterator<Item = (&String, &Site)> {
        let is_elsewhere = !self.is_shared() && self.sites.values().any(Site::is_attached);
        self.sites.iter().filter(move |(_, site)| is_elsewhere && !site.pods.is_empty() && site.attachment.is_none() && site.is_managed())
    }

    /// Upstream: `reportMultiAttachError`. Nobody is told the names of pods in another namespace.
    fn multi_attach(&self, node: &str, site: &Site) -> Vec<Action> {
        let others: Vec<&Pod> = self
            .sites
            .iter()
            .filter(|(other, site)| *other != node && site.is_attached())
            .flat_map(|(_, site)| &site.pods)
            .map(|pod| &**pod)
            .collect();
        let told = |pod: &Arc<Pod>| {
            let (near, far): (Vec<&Pod>, Vec<&Pod>) = others.iter().partition(|other| other.metadata.namespace == pod.metadata.namespace);
            let names: Vec<&str> = near.iter().map(|pod| name_in(&pod.metadata)).collect();
            let why = match (near.len(), far.len()) {
                (0, 0) => "Volume is already exclusively attached to one node and can't be attached to another".to_owned(),
                (0, far) => format!("Volume is already used by {far} pod(s) in different namespaces"),
                (_, 0) => format!("Volume is already used by pod(s) {}", names.join(", ")),
                (_, far) => format!("Volume is already used by pod(s) {} and {far} pod(s) in different namespaces", names.join(", ")),
            };
            Action::warning(&**pod, "FailedAttachVolume", format!("Multi-Attach error for volume {:?} {why}", self.volume_name()))
        };
        site.pods.iter().take(TOLD_MAX).map(told).collect()
    }

    fn is_shared(&self) -> bool {
        let modes = self.volume.as_ref().and_then(|volume| volume.spec.as_ref()?.access_modes.as_ref());
        modes.is_none_or(|modes| modes.is_empty() || modes.iter().any(|mode| SHARED.contains(&mode.as_str())))
    }

    fn volume_name(&self) -> &str {
        self.volume.as_ref().and_then(|volume| volume.metadata.name.as_deref()).unwrap_or("nil")
    }
}

fn attach_failed(pod: &Arc<Pod>, volume: &str, why: &str) -> Action {
    Action::warning(&**pod, "FailedAttachVolume", format!("AttachVolume.Attach failed for volume {volume:?} : {why}"))
}

fn name_in(meta: &PodMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}
