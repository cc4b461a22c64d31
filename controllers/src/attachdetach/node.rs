//! One node -> `status.volumesAttached`: what its agent may mount. Source: `statusupdater/node_status_updater.go`.

use std::{collections::BTreeMap, sync::Arc};

use api::{Key, k8s::api::core::v1::Node};
use client::pods::Pod;
use podspec::{claims::volume_name, csi};
use reconcile::{Action, Controller, Plan, Wake};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    memory::Listing,
    view::{Detach, Site, View, changed, moved, node_of, stands_otherwise},
};

pub struct Reports {
    view: View,
}

pub struct World {
    pub node: Arc<Node>,
    /// By what the node calls the volume.
    pub sites: BTreeMap<String, Site>,
    /// The names of volumes that would be new in the list.
    pub volumes: BTreeMap<String, String>,
    /// Held until the list is written.
    _listing: Listing,
}

impl Reports {
    pub fn new(view: &View) -> Self {
        Self { view: view.clone() }
    }
}

impl Controller for Reports {
    type World = World;

    fn name(&self) -> &'static str {
        "attach-detach-node-status-controller"
    }

    fn watches(&self, wake: &Wake) {
        let key = |name: String| Key::new("", &name);
        self.view.relist.get_or_init(|| Box::new(wake.handle()));
        wake.on(&self.view.attachments, move |attachment, wake| wake(key(attachment.spec.node_name.clone())));
        let handle = wake.handle();
        wake.on(&self.view.nodes, |_, _| {});
        self.view.nodes.on_change(move |old, new| {
            let differs = stands_otherwise(old.map(Arc::as_ref), new.map(Arc::as_ref))
                || !changed(old.map(Arc::as_ref), new.map(Arc::as_ref)).is_empty();
            let name = new.filter(|_| differs).and_then(|node| node.metadata.name.clone());
            name.into_iter().map(key).for_each(&handle);
        });
        let (view, handle) = (self.view.clone(), wake.handle());
        wake.on(&self.view.pods, |_, _| {});
        self.view.pods.on_change(move |old, new| {
            let concerns = |pod: &&Arc<Pod>| !view.used_by(pod).is_empty();
            if moved(old, new) {
                old.into_iter().chain(new).filter(concerns).map(|pod| Key::new("", node_of(pod))).for_each(&handle);
            }
        });
        let view = self.view.clone();
        wake.on(&self.view.volumes, move |volume, wake| {
            if csi::source(volume).is_some() {
                view.nodes_of(volume.metadata.name.as_deref().unwrap_or_default()).into_iter().map(key).for_each(wake);
            }
        });
        let view = self.view.clone();
        wake.on(&self.view.claims, move |claim, wake| {
            let volume = view.volumes.get(&Key::new("", volume_name(claim)));
            if volume.is_some_and(|volume| csi::source(&volume).is_some()) {
                view.nodes_of(volume_name(claim)).into_iter().map(key).for_each(wake);
            }
        });
        let attachments = self.view.attachments.clone();
        wake.on(&self.view.drivers, move |driver, wake| {
            let all = attachments.list();
            let its = all.iter().filter(|one| Some(&one.spec.attacher) == driver.metadata.name.as_ref());
            its.map(|one| key(one.spec.node_name.clone())).for_each(wake);
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let node = self.view.nodes.get(key)?;
        let mut sites = self.view.on_node(&key.name, Instant::now());
        let listing = self.view.list(&key.name, &mut sites);
        let named = |name: &String| Some((name.clone(), self.view.volume(name)?.metadata.name.clone()?));
        let volumes = sites.iter().filter(|(name, site)| site.is_to_be_listed(name)).filter_map(|(name, _)| named(name)).collect();
        Some(World { node, sites, volumes, _listing: listing })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

pub fn plan(world: &World) -> Plan {
    let before: Vec<&str> =
        world.node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten()).map(|one| one.name.as_str()).collect();
    let stays = |name: &str| csi::split(name).is_none() || world.sites.get(name).is_some_and(|site| site.is_to_be_listed(name));
    let new: Vec<(&String, &Site)> =
        world.sites.iter().filter(|(name, site)| site.is_to_be_listed(name) && !before.contains(&name.as_str())).collect();
    let after: Vec<&str> = before.iter().copied().filter(|name| stays(name)).chain(new.iter().map(|(name, _)| name.as_str())).collect();
    let mut plan = Plan::rest();
    if after != before {
        let entries: Vec<Value> = after.iter().map(|name| json!({"name": name, "devicePath": device(&world.node, name)})).collect();
        let list = if entries.is_empty() { Value::Null } else { entries.into() };
        plan.actions.push(Action::patch_status(&*world.node, json!({"status": {"volumesAttached": list}})));
        let told =
            new.iter().flat_map(|(name, site)| site.pods.iter().map(|pod| (pod, world.volumes.get(*name).map_or("nil", String::as_str))));
        // Upstream's words end with a blank.
        plan.actions.extend(told.map(|(pod, volume)| {
            Action::normal(&**pod, "SuccessfulAttachVolume", format!("AttachVolume.Attach succeeded for volume {volume:?} "))
        }));
    }
    let waits = world.sites.iter().filter(|(_, site)| site.is_attached() && site.pods.is_empty());
    let left = waits.filter_map(|(name, site)| if let Detach::Wait(left) = site.detach(name) { left } else { None }).min();
    left.into_iter().fold(plan, Plan::again_in)
}

/// Where another plugin said where the device is, that stays. Drivers say it to the node alone.
fn device<'a>(node: &'a Node, name: &str) -> &'a str {
    let mut all = node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten());
    all.find(|one| one.name == name).map(|one| one.device_path.as_str()).unwrap_or_default()
}
