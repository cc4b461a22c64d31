//! What becomes due while pods have volumes of drivers: about every minute, as upstream looks at each pod again.
//!
//! Upstream: `MarkRemountRequired` and `checkVolumeFSResize` in `pkg/kubelet/volumemanager`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future::join_all, stream};
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep},
};

use super::{
    Manager, State,
    node_volumes::{Id, Use},
    plugin::{Sources, VolumeToMount},
};
use crate::meta;

/// Upstream: a pod is looked at a minute after the last time, or half as much later.
const TEND_EVERY: Duration = Duration::from_secs(60);
const JITTER: f64 = 0.5;
/// An agent that was started again looks soon, and then more and more rarely until that: pods and drivers come back one by one.
const FIRST: Duration = Duration::from_secs(5);
/// Volumes of one driver that are tended at a time. Drivers wait for no other.
const OF_DRIVER_MAX: usize = 2;
/// What fails after so long was not answered: no deadline of a driver's call is shorter.
const UNANSWERED_AFTER: Duration = Duration::from_secs(30);

/// A pod's uid, and a volume that it uses.
type Used = (String, Id);

/// A plugin's name, and of its drivers the one.
type Driver = (String, String);

/// Runs until its task ends.
pub async fn tend(manager: Manager) {
    let mut pause = FIRST;
    loop {
        sleep(pause).await;
        look(&manager).await;
        pause = (pause * 2).min(TEND_EVERY.mul_f64(1.0 + rand::random_range(0.0..JITTER)));
    }
}

/// Looks at each pod's volumes once.
pub async fn look(manager: &Manager) {
    manager.shared.nodes.look_again(&manager.host()).await;
    let mut drivers: BTreeMap<Driver, Vec<Used>> = BTreeMap::new();
    for (uid, id) in manager.shared.nodes.uses() {
        drivers.entry(driver(&id)).or_default().push((uid, id));
    }
    let pods = Pods::default();
    round(drivers, |used| volume(manager, &pods, used)).await;
}

/// As its volumes' unique names have it.
fn driver((plugin, handle): &Id) -> Driver {
    (plugin.clone(), handle.split('^').next().unwrap_or_default().to_owned())
}

/// Tends all, each driver's by itself. A driver that has not answered once is left alone for the rest of the round.
async fn round<F: Future<Output = bool>>(drivers: BTreeMap<Driver, Vec<Used>>, tend: impl Fn(Used) -> F) {
    let tend = &tend;
    let all = drivers.into_iter().map(|(driver, mut uses)| async move {
        // Where it hangs at some, those are not the first in each round.
        uses.shuffle(&mut rand::rng());
        let answers = &AtomicBool::new(true);
        let each = |used| async move {
            if answers.load(Ordering::Relaxed) && !tend(used).await {
                answers.store(false, Ordering::Relaxed);
            }
        };
        stream::iter(uses).for_each_concurrent(OF_DRIVER_MAX, each).await;
        if !answers.load(Ordering::Relaxed) {
            tracing::warn!(plugin = driver.0, driver = driver.1, "a driver does not answer: its volumes are tended in the next round");
        }
    });
    join_all(all).await;
}

/// Pods whose volumes are being tended, by uid.
type Pods = Mutex<HashMap<String, Weak<Tended>>>;

/// A pod, kept from teardown until the last of its volumes that is being tended is done.
struct Tended {
    sources: Arc<Sources>,
    _alone: OwnedMutexGuard<State>,
}

/// One that something else is done with is left to that.
fn pod(manager: &Manager, pods: &Pods, uid: &str) -> Option<Arc<Tended>> {
    let mut pods = pods.lock();
    if let Some(tended) = pods.get(uid).and_then(Weak::upgrade) {
        return Some(tended);
    }
    let known = manager.shared.pods.lock().get(uid).cloned()?;
    let alone = known.state.clone().try_lock_owned().ok()?;
    let State::Here(here) = &*alone else { return None };
    let pod = here.pod.clone()?;
    let sources = Sources { objects: manager.shared.objects.all(&pod), host: manager.host(), pod, tokens: Default::default() };
    let tended = Arc::new(Tended { sources: Arc::new(sources), _alone: alone });
    pods.insert(uid.to_owned(), Arc::downgrade(&tended));
    Some(tended)
}

/// Whether its driver answers.
async fn volume(manager: &Manager, pods: &Pods, (uid, id): Used) -> bool {
    let Some(pod) = pod(manager, pods, &uid) else { return true };
    let shared = manager.shared.clone();
    let tended = manager.to_its_end(async move {
        let mut answers = true;
        for used in shared.nodes.of_volume(&uid, &id).await {
            answers &= one(&shared, &pod.sources, used).await;
        }
        answers
    });
    let answers = tended.await.unwrap_or_else(|why| {
        tracing::error!(why, "failed to tend volumes");
        true
    });
    // What was put off for us.
    manager.shared.again.notify_one();
    answers
}

async fn one(shared: &super::Shared, sources: &Arc<Sources>, used: Use) -> bool {
    let Some(plugin) = shared.plugins.iter().find(|plugin| plugin.name() == used.plugin) else { return true };
    let volumes = meta::spec(&sources.pod).and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let Some(volume) = volumes.iter().find(|volume| volume.name == used.user.volume).cloned() else { return true };
    let volume = VolumeToMount { sources: sources.clone(), volume, mode: used.user.mode, claimed: None, node: Some(used.volume) };
    let began = Instant::now();
    let Err(why) = plugin.tend(&volume).await else { return true };
    let pod = &sources.pod;
    tracing::warn!(ns = meta::namespace(pod), name = meta::name(pod), volume = volume.volume.name, why, "failed to tend a volume");
    began.elapsed() < UNANSWERED_AFTER
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_hangs_holds_up_no_other_and_is_asked_no_more() {
        let used = |at: usize, driver: &str| (format!("u{at}"), ("csi".to_owned(), format!("{driver}^v{at}")));
        let mut drivers: BTreeMap<Driver, Vec<Used>> = BTreeMap::new();
        for used in (0..9).flat_map(|at| [used(at, "hangs"), used(at, "works")]) {
            drivers.entry(driver(&used.1)).or_default().push(used);
        }
        assert_eq!(drivers.len(), 2);
        let began = Instant::now();
        let (asked, done) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let (at_a_time, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        round(drivers, async |(_, (_, handle)): Used| {
            if handle.starts_with("hangs") {
                asked.lock().push(handle);
                sleep(Duration::from_secs(120)).await;
                return false;
            }
            most.fetch_max(at_a_time.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(Duration::from_secs(1)).await;
            at_a_time.fetch_sub(1, Ordering::Relaxed);
            done.lock().push(began.elapsed());
            true
        })
        .await;
        assert_eq!((asked.lock().len(), most.into_inner()), (OF_DRIVER_MAX, OF_DRIVER_MAX));
        let done = done.into_inner();
        assert!(done.len() == 9 && done.iter().all(|at| *at < Duration::from_secs(10)), "{done:?}");
    }
}
