//! A pod's list of volumes -> each set up by its plugin.
//!
//! Upstream: `GenerateMountVolumeFunc` and `GenerateMapVolumeFunc` in `pkg/volume/util/operationexecutor/operation_generator.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::symlink,
    path::Path,
    sync::Arc,
};

use api::{
    faults::catch_all,
    k8s::api::core::v1::{Pod, Volume},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};

use super::{
    claims,
    node_volumes::{Failed, NodeVolumes, Use},
    plugin::{Mode, Mounted, Sources, VolumePlugin, VolumeToMount, blocking},
    plugins::Table,
};
use crate::meta;

/// A volume that is not ready: an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `FailedMount`, of a block volume `FailedMapVolume`.
    pub reason: &'static str,
    pub message: String,
}

/// Which of a pod's volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All; those that do not change are set up once.
    All,
    /// Those whose content follows objects.
    Remount,
}

/// A pod's volumes that are ready, by name.
pub type Ready = BTreeMap<String, (Mode, Mounted)>;

/// Volumes of a pod at a time whose plugins ask others for something; those that write files do so one after the other, since what they
/// write is held in memory meanwhile.
const AT_A_TIME_MAX: usize = 8;

/// Sets up what is not ready, and what follows objects once more.
///
/// # Errors
/// The event of each that failed, in the pod's order; the others are done.
pub async fn all(plugins: Table, nodes: &NodeVolumes, sources: &Arc<Sources>, which: Which, ready: &mut Ready) -> Result<(), Vec<Failure>> {
    let volumes = meta::spec(&sources.pod).and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let used = used(&sources.pod);
    let asks = |volume: &Volume| claims::is_claim(volume) || volume.csi.is_some();
    // Before any is begun with: each would wait for the others.
    let recorded = if volumes.iter().any(asks) { nodes.of_pod(meta::uid(&sources.pod)).await } else { Vec::new() };
    let (mut remote, mut local): (Vec<BoxFuture<'_, _>>, Vec<BoxFuture<'_, _>>) = Default::default();
    for (at, volume) in volumes.iter().enumerate().filter(|(_, volume)| used.contains(volume.name.as_str())) {
        let remounts = plugins.iter().find(|plugin| plugin.can_support(volume, None)).is_some_and(|plugin| plugin.requires_remount());
        if remounts || which == Which::All && !ready.contains_key(&volume.name) {
            let list = if asks(volume) { &mut remote } else { &mut local };
            list.push(one(plugins, nodes, sources, volume, &recorded).map(move |done| (at, done)).boxed());
        }
    }
    let remote = stream::iter(remote).buffer_unordered(AT_A_TIME_MAX).collect::<Vec<_>>();
    let local = stream::iter(local).buffer_unordered(1).collect::<Vec<_>>();
    let (mut done, local) = tokio::join!(remote, local);
    done.extend(local);
    done.sort_by_key(|(at, _)| *at);
    let mut failures = Vec::new();
    for (_, (name, done)) in done {
        match done {
            Ok(mounted) => drop(ready.insert(name, mounted)),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// The volumes that containers have; the others are left alone, whatever they are. Upstream: `GetPodVolumeNames` in `pkg/volume/util/util.go`.
fn used(pod: &Pod) -> BTreeSet<&str> {
    let mounts = meta::containers(pod).flat_map(|c| c.volume_mounts.iter().flatten());
    let devices = meta::containers(pod).flat_map(|c| c.volume_devices.iter().flatten());
    let later = meta::spec(pod).into_iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    let later = later.flat_map(|c| c.volume_mounts.iter().flatten());
    mounts.chain(later).map(|mount| mount.name.as_str()).chain(devices.map(|device| device.name.as_str())).collect()
}

/// A block volume is one that a container names as a device.
fn mode(pod: &Pod, volume: &str) -> Mode {
    let block = meta::containers(pod).any(|c| c.volume_devices.iter().flatten().any(|device| device.name == volume));
    if block { Mode::Block } else { Mode::Filesystem }
}

type Done = (String, Result<(Mode, Mounted), Failure>);

async fn one(plugins: Table, nodes: &NodeVolumes, sources: &Arc<Sources>, volume: &Volume, recorded: &[Use]) -> Done {
    let (name, mode) = (volume.name.clone(), mode(&sources.pod, &volume.name));
    let done = catch_all("volumes", async {
        let mut to_mount = VolumeToMount { sources: sources.clone(), volume: volume.clone(), mode, claimed: None, node: None };
        if let Some(mounted) = found(plugins, recorded, &mut to_mount).await {
            return Ok(mounted);
        }
        to_mount.claimed = claims::resolve(&to_mount).await.map_err(|why| (Step::SetUp, why))?.map(Arc::new);
        let unsupported = || format!("volumes of type {:?} are not supported", kind(volume));
        let plugin = plugins.iter().find(|plugin| plugin.can_support(volume, to_mount.persistent())).copied();
        let plugin = plugin.ok_or_else(|| (Step::SetUp, unsupported()))?;
        if mode == Mode::Block && !plugin.supports_block() {
            return Err((Step::SetUp, format!("volumes of type {:?} are no block devices", kind(volume))));
        }
        set_up(plugin, nodes, to_mount).await
    });
    let done = done.await.unwrap_or_else(|panic| Err((Step::SetUp, panic.to_string())));
    (name, done.map(|mounted| (mode, mounted)).map_err(|(step, why)| failure(mode, step, &volume.name, &why)))
}

#[derive(Clone, Copy)]
enum Step {
    Attach,
    Stage,
    SetUp,
    Link,
}

/// What an earlier run of the agent made ready for the pod.
async fn found(plugins: Table, recorded: &[Use], volume: &mut VolumeToMount) -> Option<Mounted> {
    if !claims::is_claim(&volume.volume) && volume.volume.csi.is_none() {
        return None;
    }
    let used = recorded.iter().find(|used| used.user.volume == volume.volume.name && used.user.mode == volume.mode);
    let plugin = used.map(|used| &used.plugin);
    volume.node = used.map(|used| used.volume.clone());
    // One that is recorded is its plugin's; without a record it is one of those that have none.
    let could = plugins.iter().filter(|candidate| plugin.map_or(candidate.node().is_none(), |name| candidate.name() == name));
    for plugin in could {
        if let Some(mounted) = plugin.found(volume).await {
            let path = if volume.mode == Mode::Block { volume.dir(plugin.name()) } else { mounted.path };
            return Some(Mounted { path, ..mounted });
        }
    }
    None
}

async fn set_up(plugin: &dyn VolumePlugin, nodes: &NodeVolumes, mut to_mount: VolumeToMount) -> Result<Mounted, (Step, String)> {
    let mode = to_mount.mode;
    to_mount.node = None;
    if let Some(node) = plugin.node() {
        let staged = nodes.stage(plugin, node, &to_mount).await;
        to_mount.node = Some(staged.map_err(|failed| match failed {
            Failed::Attach(why) => (Step::Attach, why),
            Failed::Stage(why) => (Step::Stage, why),
        })?);
    }
    let link = to_mount.dir(plugin.name());
    let mounted = plugin.set_up(to_mount).await.map_err(|why| (Step::SetUp, why))?;
    match mode {
        Mode::Filesystem => Ok(mounted),
        Mode::Block => {
            let (device, path) = (mounted.path, link.clone());
            blocking(move || map(&device, &link).map_err(|e| e.to_string())).await.map_err(|why| (Step::Link, why))?;
            Ok(Mounted { path, ..mounted })
        }
    }
}

/// The pod's own link to a device or directory, as upstream's `MapBlockVolume` makes it.
pub fn map(device: &Path, link: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|there| there == device) {
        return Ok(());
    }
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(device, link)
}

fn failure(mode: Mode, step: Step, volume: &str, why: &str) -> Failure {
    let (reason, step) = match (mode, step) {
        (Mode::Filesystem, Step::Attach) => ("FailedMount", "MountVolume.WaitForAttach"),
        (Mode::Filesystem, Step::Stage) => ("FailedMount", "MountVolume.MountDevice"),
        (Mode::Filesystem, Step::SetUp | Step::Link) => ("FailedMount", "MountVolume.SetUp"),
        (Mode::Block, Step::Attach) => ("FailedMapVolume", "MapVolume.WaitForAttach"),
        (Mode::Block, Step::Stage) => ("FailedMapVolume", "MapVolume.SetUpDevice"),
        (Mode::Block, Step::SetUp) => ("FailedMapVolume", "MapVolume.MapPodDevice"),
        (Mode::Block, Step::Link) => ("FailedMapVolume", "MapVolume.MapBlockVolume"),
    };
    Failure { reason, message: format!("{step} failed for volume {volume:?} : {why}") }
}

/// The name of the source's field.
fn kind(volume: &Volume) -> String {
    // By way of text: what makes trees of such wide types is dear to compile.
    let text = serde_json::to_string(volume).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let mut keys = value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).filter(|key| key != "name");
    keys.next().unwrap_or_else(|| "unknown".into())
}
