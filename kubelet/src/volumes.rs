//! Pod -> its volumes on this node: made, filled, kept current, and taken away.
//!
//! Everything stands under `<root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`, as upstream's, but what must not touch the disk:
//! `<root>/private/<uid>/<plugin>/<name>`.
//! Source: `pkg/kubelet/volumemanager`, `pkg/volume/*`.

mod atomic;
#[cfg(test)]
mod claim_tests;
mod claims;
#[cfg(test)]
mod csi_tests;
mod device;
mod directories;
mod files;
mod local_storage;
mod mount_table;
#[cfg(test)]
mod node_tests;
mod node_volumes;
mod objects;
mod ownership;
mod payload;
mod plugin;
mod plugins;
mod private;
mod propagation;
mod record;
mod rehearse;
mod removal;
mod set_up;
mod tear_down;
mod tending;
#[cfg(test)]
pub(crate) mod testing;
mod tree;
mod usage;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use api::{faults::catch_all, k8s::api::core::v1::Pod, task::Group, time::Timestamp};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, Semaphore, oneshot};

pub(crate) use self::{
    mount_table::unmount_below, plugin::blocking, propagation::make_shared, rehearse::rehearse, usage::of as disk_usage,
};
use self::{
    node_volumes::NodeVolumes,
    payload::Tokened,
    plugin::{Host, Mode, Sources},
    plugins::Table,
    private::Private,
    set_up::{Ready, Which},
};
pub use self::{
    objects::{Object, Objects},
    plugin::Mounted,
    removal::remove_all,
    set_up::Failure,
};
use crate::{csi::Csi, dirs, downward::Allocatable, env::Fetched, meta, tokens::Tokens};

/// How long a pod waits for the first sight of its ConfigMaps and Secrets before they count as failed.
const OBJECTS_WAIT: Duration = Duration::from_secs(10);
/// After a refresh that failed: how long until it is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Pods whose volumes are written again at a time.
const REWRITES_MAX: usize = 8;

/// The volumes of this node's pods. Clones share it.
#[derive(Clone)]
pub struct Manager {
    shared: Arc<Shared>,
}

struct Shared {
    root_dir: PathBuf,
    client: client::kube::Client,
    csi: Arc<Csi>,
    plugins: Table,
    nodes: NodeVolumes,
    private: Arc<Private>,
    objects: Objects,
    tokens: Tokens,
    allocatable: Mutex<Allocatable>,
    pods: Mutex<HashMap<String, Arc<Known>>>,
    /// Pods whose object changed since they were prepared; bounded by the number of pods.
    updated: Mutex<HashMap<String, Arc<Pod>>>,
    /// Pods that were to be written again while others were at them; bounded likewise.
    late: Mutex<BTreeSet<String>>,
    again: tokio::sync::Notify,
    group: Group,
}

/// A pod that has volumes here.
struct Known {
    /// The lock is held while anything is done with its volumes, so that set up and teardown never meet.
    state: Arc<tokio::sync::Mutex<State>>,
}

enum State {
    Here(Here),
    Gone,
}

/// A pod as it was last prepared, by this run of the agent.
#[derive(Default)]
struct Here {
    /// `None` before it was.
    pod: Option<Arc<Pod>>,
    ready: Ready,
}

/// The volumes of one pod that are ready, by name.
#[derive(Clone)]
pub struct PodVolumes {
    pod: Arc<Pod>,
    ready: Ready,
    objects: Objects,
}

/// Why a pod's volumes are not ready.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// An event for each that is not.
    #[error("{}", .0.iter().map(|failure| failure.message.as_str()).collect::<Vec<_>>().join("; "))]
    SetUp(Vec<Failure>),
    #[error("{path}: {why}")]
    TearDown { path: String, why: String },
}

impl Manager {
    /// `client` fetches ConfigMaps, Secrets and tokens; updates run in `group`. Reads what an earlier run has left staged.
    pub fn new(root_dir: PathBuf, client: client::kube::Client, csi: Arc<Csi>, group: &Group) -> Self {
        Self::with(plugins::TABLE, root_dir, client, csi, group)
    }

    fn with(plugins: Table, root_dir: PathBuf, client: client::kube::Client, csi: Arc<Csi>, group: &Group) -> Self {
        let objects = Objects::new(client.clone(), group);
        let tokens = Tokens::new(client.clone());
        let shared = Shared {
            plugins,
            nodes: NodeVolumes::found(dirs::node_volumes(&root_dir), plugins),
            private: Arc::new(Private::below(&root_dir)),
            root_dir,
            client,
            csi,
            objects,
            tokens,
            allocatable: Mutex::default(),
            pods: Mutex::default(),
            updated: Mutex::default(),
            late: Mutex::default(),
            again: tokio::sync::Notify::new(),
            group: group.clone(),
        };
        let manager = Self { shared: Arc::new(shared) };
        manager.shared.nodes.tell(&manager.host());
        group.spawn_loop("volumes", Box::pin(keep_current(manager.clone())));
        group.spawn_loop("volumes of drivers", Box::pin(tending::tend(manager.clone())));
        group.spawn_loop("local storage", Box::pin(local_storage::keep_clean(manager.clone())));
        manager
    }

    /// What the node can give to pods: bounds memory volumes, and is what containers without limits see as theirs.
    pub fn set_allocatable(&self, allocatable: Allocatable) {
        *self.shared.allocatable.lock() = allocatable;
    }

    /// Makes and fills all volumes of a pod; again, it brings them up to date (labels and annotations may have changed). Returns once all are
    /// ready; waits at most some seconds for the objects they are filled from. Given up, it goes on to the end of what it began.
    ///
    /// # Errors
    /// [`Error::SetUp`] with an event for each volume that is not ready.
    pub async fn prepare(&self, pod: &Arc<Pod>) -> Result<PodVolumes, Error> {
        let shared = &self.shared;
        shared.objects.hold(pod);
        shared.objects.ready(pod, OBJECTS_WAIT).await;
        let tokens = self.tokens(pod).await;
        let mut state = self.known(meta::uid(pod)).state.clone().lock_owned().await;
        if let State::Here(here) = &mut *state {
            here.pod = Some(pod.clone());
        }
        let ready = self.write(pod.clone(), tokens, state, Which::All).await?;
        Ok(PodVolumes { pod: pod.clone(), ready, objects: shared.objects.clone() })
    }

    /// How many of the ConfigMaps and Secrets that the pod names are too many to be watched; told once.
    pub fn unwatched(&self, uid: &str) -> Option<usize> {
        self.shared.objects.untold(uid)
    }

    /// Tells of a pod that is here, at first sight and at each change of it: its labels and annotations appear in its files soon after,
    /// and one that an earlier run of ours prepared is kept current again. Without a directory here it is left alone. Does not block.
    pub fn updated(&self, pod: &Arc<Pod>) {
        let uid = meta::uid(pod);
        let known = self.shared.pods.lock().contains_key(uid);
        let is_here = || self.pod_dir(uid).join("volumes").exists() || self.shared.private.of_pod(uid).exists();
        if !known && !is_here() {
            return;
        }
        if !known {
            self.known(uid);
            self.shared.objects.hold(pod);
        }
        self.shared.updated.lock().insert(uid.to_owned(), pod.clone());
        self.shared.again.notify_one();
    }

    /// Takes away all volumes of a pod, from the node too where no other pod has them. Call it when no container of the pod is left.
    /// Idempotent; given up, it goes on to the end of what it began.
    ///
    /// # Errors
    /// [`Error::TearDown`], where something cannot be taken away; ask again.
    pub async fn teardown(&self, uid: &str) -> Result<(), Error> {
        // Known as gone until nothing is left of it, so that a late update of the pod does not begin to write it again.
        let known = self.known(uid);
        self.shared.objects.release(uid);
        self.shared.tokens.forget(uid);
        let (shared, host, owned) = (self.shared.clone(), self.host(), uid.to_owned());
        // Waits for a writer that is at it, and keeps later ones out.
        let mut state = known.state.clone().lock_owned().await;
        *state = State::Gone;
        let removed = self.to_its_end(async move {
            let _alone = state;
            tear_down::all(shared.plugins, &shared.nodes, &host, &owned).await
        });
        let failed = |(path, why): (PathBuf, String)| Error::TearDown { path: path.display().to_string(), why };
        removed.await.unwrap_or_else(|why| Err((self.pod_dir(uid), why))).map_err(failed)?;
        self.shared.private.forget(uid);
        self.shared.pods.lock().remove(uid);
        Ok(())
    }

    /// Ends what goes on for a pod: watches of its objects, its tokens. Its files stay.
    pub fn forget(&self, uid: &str) {
        self.shared.objects.release(uid);
        self.shared.tokens.forget(uid);
        self.shared.pods.lock().remove(uid);
    }

    /// The uids that have a directory here or use a volume of the node, of pods known and forgotten.
    pub fn present(&self) -> BTreeSet<String> {
        let dirs = [self.shared.root_dir.join("pods"), self.shared.private.dir().to_owned()];
        let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
        let uids = entries.filter_map(|e| e.file_name().into_string().ok());
        uids.chain(self.shared.nodes.users()).collect()
    }

    /// ConfigMaps and Secrets of the pods here.
    pub fn objects(&self) -> &Objects {
        &self.shared.objects
    }

    fn known(&self, uid: &str) -> Arc<Known> {
        let mut pods = self.shared.pods.lock();
        pods.entry(uid.to_owned()).or_insert_with(|| Arc::new(Known::default())).clone()
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        dirs::pod(&self.shared.root_dir, uid)
    }

    fn host(&self) -> Host {
        let shared = &self.shared;
        Host {
            root_dir: shared.root_dir.clone(),
            client: shared.client.clone(),
            private: shared.private.clone(),
            allocatable: *shared.allocatable.lock(),
            tokens: shared.tokens.clone(),
            csi: shared.csi.clone(),
        }
    }

    /// Sets up the pod's volumes while it holds the pod's state; what is ready then.
    async fn write(&self, pod: Arc<Pod>, tokens: Tokened, mut state: OwnedMutexGuard<State>, which: Which) -> Result<Ready, Error> {
        let objects = self.shared.objects.all(&pod);
        let (shared, sources) = (self.shared.clone(), Arc::new(Sources { host: self.host(), pod, objects, tokens }));
        let written = self.to_its_end(async move {
            let State::Here(here) = &mut *state else { return Err(vec![unready("the pod is being removed".into())]) };
            let done = set_up::all(shared.plugins, &shared.nodes, &sources, which, &mut here.ready).await;
            let ready = here.ready.clone();
            drop(state);
            if which == Which::All {
                // What was put off for us, and what the tokens want next.
                shared.again.notify_one();
            }
            done.map(|()| ready)
        });
        written.await.unwrap_or_else(|why| Err(vec![unready(why)])).map_err(Error::SetUp)
    }

    /// Runs `work` also where its caller is given up: what is half done is for nobody else to begin with.
    async fn to_its_end<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, String> {
        let (done, answer) = oneshot::channel();
        self.shared.group.spawn(Box::pin(async move {
            let _ = done.send(catch_all("volumes", work).await);
        }));
        match answer.await {
            Ok(done) => done.map_err(|panic| format!("volume task failed: {panic}")),
            Err(_) => Err("volume task failed: the agent stops".into()),
        }
    }

    /// The tokens that the pod's projected volumes ask for.
    async fn tokens(&self, pod: &Pod) -> Tokened {
        let asked = payload::tokens_wanted(pod).into_iter().map(|wanted| async move {
            let token = self.shared.tokens.get(pod, &wanted.0, wanted.1).await;
            (wanted, token)
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Writes again what has changed; gives when to look again.
    async fn refresh(&self, tokens_due: bool) -> Option<Duration> {
        let mut uids = self.shared.objects.changed();
        if tokens_due {
            uids.extend(self.shared.tokens.due(Timestamp::now()));
        }
        uids.extend(std::mem::take(&mut *self.shared.late.lock()));
        let mut updated = std::mem::take(&mut *self.shared.updated.lock());
        uids.extend(updated.keys().cloned());
        // One pod's server, tokens or volumes may take long, and hold up nobody else's.
        let writing = Semaphore::new(REWRITES_MAX);
        let all = uids.into_iter().map(|uid| {
            let newer = updated.remove(&uid);
            self.rewrite(uid, newer, &writing)
        });
        let failed = join_all(all).await.contains(&false);
        let next = self.shared.tokens.next_due(Timestamp::now());
        if failed { Some(next.map_or(RETRY, |n| n.max(RETRY))) } else { next }
    }

    /// Writes the volumes of a pod again; false where that failed.
    async fn rewrite(&self, uid: String, newer: Option<Arc<Pod>>, writing: &Semaphore) -> bool {
        let Some(known) = self.shared.pods.lock().get(&uid).cloned() else { return true };
        let Ok(mut state) = known.state.clone().try_lock_owned() else {
            self.put_off(uid, newer);
            return true;
        };
        let Some(pod) = state.pod(newer) else { return true };
        drop(state);
        if !self.shared.objects.all_seen(&pod) {
            // The first sight of each is a change: we come again.
            return true;
        }
        let tokens = self.tokens(&pod).await;
        // Never closed.
        let _place = writing.acquire().await;
        let Ok(state) = known.state.clone().try_lock_owned() else {
            self.put_off(uid, None);
            return true;
        };
        let written = self.write(pod.clone(), tokens, state, Which::Remount).await;
        if let Err(error) = &written {
            tracing::warn!(ns = meta::namespace(&pod), name = meta::name(&pod), uid, %error, "failed to refresh volumes");
        }
        written.is_ok()
    }

    /// Until whoever is at the pod's volumes is done, and says so.
    fn put_off(&self, uid: String, newer: Option<Arc<Pod>>) {
        match newer {
            Some(newer) => drop(self.shared.updated.lock().entry(uid).or_insert(newer)),
            None => drop(self.shared.late.lock().insert(uid)),
        }
    }
}

impl PodVolumes {
    /// What containers mount.
    pub fn get(&self, name: &str) -> Option<&Mounted> {
        self.of(name, Mode::Filesystem)
    }

    /// What containers have as a device.
    pub fn device(&self, name: &str) -> Option<&Mounted> {
        self.of(name, Mode::Block)
    }

    fn of(&self, name: &str, mode: Mode) -> Option<&Mounted> {
        self.ready.get(name).filter(|(of, _)| *of == mode).map(|(_, mounted)| mounted)
    }

    /// The ConfigMaps and Secrets that the pod refers to, as they are now.
    ///
    /// # Errors
    /// Where one of them could not be read (not: where it is missing).
    pub fn fetched(&self) -> Result<Fetched, String> {
        self.objects.of_environment(&self.pod)
    }
}

impl Default for Known {
    fn default() -> Self {
        Self { state: Arc::new(tokio::sync::Mutex::new(State::Here(Here::default()))) }
    }
}

impl State {
    /// The pod as it is known, after `newer`; `None` where there is none, or it is gone.
    fn pod(&mut self, newer: Option<Arc<Pod>>) -> Option<Arc<Pod>> {
        let State::Here(here) = self else { return None };
        here.pod = newer.or_else(|| here.pod.take());
        here.pod.clone()
    }
}

fn unready(message: String) -> Failure {
    Failure { reason: "FailedMount", message }
}

#[cfg(test)]
pub(crate) fn is_mounted(path: &std::path::Path) -> bool {
    mount_table::is_mounted(path).unwrap_or_default()
}

/// Writes volumes again when their objects change, and their tokens before they expire.
async fn keep_current(manager: Manager) {
    let mut wait = None;
    loop {
        let tokens_due = tokio::select! {
            () = manager.shared.objects.change() => false,
            () = manager.shared.again.notified() => false,
            () = sleep(wait) => true,
        };
        wait = manager.refresh(tokens_due).await;
    }
}

/// Forever, where there is nothing to wait for.
async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::volumes::testing::{Scratch, eventually, mounting};

    fn manager(dir: &std::path::Path, group: &Group) -> Manager {
        testing::manager(dir.to_owned(), testing::nobody(), group)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_config_map_follows_its_object_and_goes_with_the_pod() {
        let dir = Scratch::new();
        let group = Group::new();
        let manager = manager(dir.path(), &group);
        let p = Arc::new(mounting(
            r#"{"containers":[{"name":"a"}],"volumes":[{"name":"v","configMap":{"name":"c"}},{"name":"e","emptyDir":{}}]}"#,
        ));
        let map = |value: &str| {
            serde_json::from_str(&format!(r#"{{"metadata":{{"name":"c","namespace":"default"}},"data":{{"k":"{value}"}}}}"#)).unwrap()
        };
        manager.objects().set(&p, "c", Object::ConfigMap(Arc::new(map("one"))));
        let volumes = manager.prepare(&p).await.unwrap();
        let file = volumes.get("v").unwrap().path.join("k");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
        assert!(volumes.get("v").unwrap().read_only);
        assert!(volumes.get("e").unwrap().path.ends_with("pods/u1/volumes/kubernetes.io~empty-dir/e"));
        manager.objects().set(&p, "c", Object::ConfigMap(Arc::new(map("two"))));
        eventually("the new content", || std::fs::read_to_string(&file).is_ok_and(|t| t == "two")).await;
        assert_eq!(manager.present(), BTreeSet::from(["u1".to_owned()]));
        manager.teardown("u1").await.unwrap();
        manager.teardown("u1").await.unwrap();
        assert!(manager.present().is_empty());
        assert!(group.drain(Duration::from_secs(5)).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn secrets_are_in_memory_and_go_without_a_trace() {
        let (dir, group) = (Scratch::new(), Group::new());
        let manager = manager(dir.path(), &group);
        let p = Arc::new(mounting(
            r#"{"containers":[{"name":"a"}],"volumes":[{"name":"s","secret":{"secretName":"s","defaultMode":256}},
            {"name":"h","hostPath":{"path":"/etc","type":"Directory"}},
            {"name":"d","downwardAPI":{"items":[{"path":"n","fieldRef":{"fieldPath":"metadata.name"}}]}}]}"#,
        ));
        let secret = serde_json::from_str(r#"{"metadata":{"name":"s","namespace":"default"},"data":{"x":"c2VjcmV0"}}"#).unwrap();
        manager.objects().set(&p, "s", Object::Secret(Arc::new(secret)));
        let volumes = manager.prepare(&p).await.unwrap();
        let secret = &volumes.get("s").unwrap().path;
        assert_eq!(std::fs::read_to_string(secret.join("x")).unwrap(), "secret");
        assert_eq!(std::fs::metadata(secret.join("x")).unwrap().mode() & 0o777, 0o400);
        assert!(secret.starts_with(dir.path().join("private/u1")));
        assert_eq!(volumes.get("h"), Some(&Mounted { path: "/etc".into(), read_only: false }));
        assert_eq!(std::fs::read_to_string(volumes.get("d").unwrap().path.join("n")).unwrap(), "web");
        for _ in 0..2 {
            manager.teardown("u1").await.unwrap();
            assert!(manager.present().is_empty() && !secret.exists() && std::path::Path::new("/etc").exists());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn late_updates_do_not_bring_back_a_pod_that_goes() {
        let dir = Scratch::new();
        let group = Group::new();
        let manager = manager(dir.path(), &group);
        let p = Arc::new(mounting(
            r#"{"containers":[{"name":"a"}],"volumes":[{"name":"d","downwardAPI":{"items":[{"path":"l","fieldRef":{"fieldPath":"metadata.name"}}]}}]}"#,
        ));
        for _ in 0..20 {
            manager.prepare(&p).await.unwrap();
            let (telling, told, done) = (manager.clone(), p.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
            let ended = done.clone();
            let teller = tokio::task::spawn_blocking(move || {
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    telling.updated(&told);
                }
            });
            let gone = manager.teardown("u1").await;
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            teller.await.unwrap();
            gone.unwrap();
            assert!(manager.present().is_empty());
        }
        assert!(manager.shared.pods.lock().is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn labels_follow_the_pod_into_its_files() {
        let dir = Scratch::new();
        let group = Group::new();
        let manager = manager(dir.path(), &group);
        let mut p = Arc::new(mounting(
            r#"{"containers":[{"name":"a"}],"volumes":[{"name":"d","downwardAPI":{"items":[{"path":"l","fieldRef":{"fieldPath":"metadata.labels"}}]}}]}"#,
        ));
        manager.updated(&p);
        assert!(manager.present().is_empty(), "not prepared yet");
        let volumes = manager.prepare(&p).await.unwrap();
        Arc::make_mut(&mut p).metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        manager.updated(&p);
        assert_eq!(manager.present(), BTreeSet::from(["u1".to_owned()]));
        let file = volumes.get("d").unwrap().path.join("l");
        eventually("the new label", || std::fs::read_to_string(&file).is_ok_and(|t| t == "a=\"b\"")).await;
        // Another run of ours finds the pod and keeps its files current.
        let next = Group::new();
        let manager = self::manager(dir.path(), &next);
        Arc::make_mut(&mut p).metadata.labels = Some([("a".to_owned(), "c".to_owned())].into());
        manager.updated(&p);
        eventually("the newest label", || std::fs::read_to_string(&file).is_ok_and(|t| t == "a=\"c\"")).await;
        manager.teardown("u1").await.unwrap();
        assert!(manager.present().is_empty());
    }

    #[tokio::test]
    async fn what_no_container_has_is_left_alone() {
        let (dir, group) = (Scratch::new(), Group::new());
        let manager = manager(dir.path(), &group);
        let mut p = mounting(
            r#"{"containers":[{"name":"a"}],"volumes":[{"name":"e","emptyDir":{}},{"name":"c","configMap":{"name":"none"}},{"name":"n","nfs":{"server":"s","path":"/"}}]}"#,
        );
        p.spec.as_mut().unwrap().containers[0].volume_mounts.as_mut().unwrap().truncate(1);
        manager.objects().set(&p, "none", Object::Missing);
        let volumes = manager.prepare(&Arc::new(p)).await.unwrap();
        assert!(volumes.get("e").is_some() && volumes.get("c").is_none() && volumes.get("n").is_none());
        manager.teardown("u1").await.unwrap();
    }

    #[tokio::test]
    async fn what_is_missing_is_said_in_upstreams_words() {
        let dir = Scratch::new();
        let group = Group::new();
        let manager = manager(dir.path(), &group);
        let p = Arc::new(mounting(
            r#"{"containers":[{"name":"a"}],"volumes":[{"name":"v","configMap":{"name":"c"}},{"name":"n","nfs":{"server":"s","path":"/"}}]}"#,
        ));
        manager.objects().set(&p, "c", Object::Missing);
        let Err(Error::SetUp(lines)) = manager.prepare(&p).await else { panic!("prepared") };
        assert_eq!(lines[0].message, r#"MountVolume.SetUp failed for volume "v" : configmap "c" not found"#);
        assert_eq!(lines[1].message, r#"MountVolume.SetUp failed for volume "n" : volumes of type "nfs" are not supported"#);
    }
}
