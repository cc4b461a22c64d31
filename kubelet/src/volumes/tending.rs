//! What becomes due while pods have volumes of drivers: about every minute, as upstream looks at each pod again.
//!
//! Upstream: `MarkRemountRequired` and `checkVolumeFSResize` in `pkg/kubelet/volumemanager`.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use tokio::time::sleep;

use super::{
    Manager, State,
    node_volumes::Use,
    plugin::{Sources, VolumeToMount},
};
use crate::meta;

/// Upstream: a pod is looked at a minute after the last time, or half as much later.
const TEND_EVERY: Duration = Duration::from_secs(60);
const JITTER: f64 = 0.5;
/// An agent that was started again looks soon, and then more and more rarely until that: pods and drivers come back one by one.
const FIRST: Duration = Duration::from_secs(5);
/// Pods whose volumes are tended at a time.
const PODS_MAX: usize = 8;

/// Runs until its task ends.
pub async fn tend(manager: Manager) {
    let mut pause = FIRST;
    loop {
        sleep(pause).await;
        look(&manager).await;
        pause = (pause * 2).min(TEND_EVERY.mul_f64(1.0 + rand::random_range(0.0..JITTER)));
    }
}

/// Looks at each pod once.
pub async fn look(manager: &Manager) {
    let users = manager.shared.nodes.users();
    stream::iter(users).for_each_concurrent(PODS_MAX, |uid| pod(manager, uid)).await;
}

/// One that something else is done with is left to that.
async fn pod(manager: &Manager, uid: String) {
    let Some(known) = manager.shared.pods.lock().get(&uid).cloned() else { return };
    let Ok(state) = known.state.clone().try_lock_owned() else { return };
    let State::Here(here) = &*state else { return };
    let Some(pod) = here.pod.clone() else { return };
    let shared = manager.shared.clone();
    let sources = Sources { objects: shared.objects.all(&pod), host: manager.host(), pod, tokens: Default::default() };
    let sources = Arc::new(sources);
    // Until the end of it, that teardown does not meet it.
    let tended = manager.to_its_end(async move {
        let _alone = state;
        for used in shared.nodes.of_pod(&uid).await {
            one(&shared, &sources, used).await;
        }
    });
    if let Err(why) = tended.await {
        tracing::error!(why, "failed to tend volumes");
    }
    // What was put off for us.
    manager.shared.again.notify_one();
}

async fn one(shared: &super::Shared, sources: &Arc<Sources>, used: Use) {
    let Some(plugin) = shared.plugins.iter().find(|plugin| plugin.name() == used.plugin) else { return };
    let volumes = meta::spec(&sources.pod).and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let Some(volume) = volumes.iter().find(|volume| volume.name == used.user.volume).cloned() else { return };
    let volume = VolumeToMount { sources: sources.clone(), volume, mode: used.user.mode, claimed: None, node: Some(used.volume) };
    if let Err(why) = plugin.tend(&volume).await {
        let pod = &sources.pod;
        tracing::warn!(ns = meta::namespace(pod), name = meta::name(pod), volume = volume.volume.name, why, "failed to tend a volume");
    }
}
