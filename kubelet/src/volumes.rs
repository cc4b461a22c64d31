//! Pod -> its volumes on this node: made, filled, kept current, and taken away.
//!
//! Everything stands under `<root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`, as upstream's, but what must not touch the disk:
//! `<root>/private/<uid>/<plugin>/<name>`.
//! Source: `pkg/kubelet/volumemanager`, `pkg/volume/*`.

mod atomic;
mod empty_dir;
mod host_path;
mod mount_table;
mod objects;
mod ownership;
mod payload;
mod private;
mod rehearse;
mod setup;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use api::{
    faults::{catch, catch_all},
    k8s::api::core::v1::Pod,
    task::Group,
    time::Timestamp,
};
use parking_lot::Mutex;

pub(crate) use self::mount_table::unmount_below;
pub use self::objects::{Object, Objects};
pub(crate) use self::rehearse::rehearse;
use self::{payload::Tokened, private::Private, setup::Place};
use crate::{dirs, downward::Allocatable, env::Fetched, meta, tokens::Tokens};

/// How long a pod waits for the first sight of its ConfigMaps and Secrets before they count as failed.
const OBJECTS_WAIT: Duration = Duration::from_secs(10);
/// After a refresh that failed: how long until it is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The volumes of this node's pods. Clones share it.
#[derive(Clone)]
pub struct Manager {
    shared: Arc<Shared>,
}

struct Shared {
    root_dir: PathBuf,
    private: Arc<Private>,
    objects: Objects,
    tokens: Tokens,
    allocatable: Mutex<Allocatable>,
    pods: Mutex<HashMap<String, Arc<Known>>>,
    /// Pods whose object changed since they were prepared; bounded by the number of pods.
    updated: Mutex<HashMap<String, Box<Pod>>>,
    again: tokio::sync::Notify,
}

/// A pod that has volumes here.
struct Known {
    /// As it was last prepared; the lock is held while its files are written, so that writers and teardown never meet.
    state: Mutex<State>,
}

enum State {
    Here(Box<Pod>),
    Gone,
}

/// Which of two pods of one uid is newer: the one that a writer was given, or the one that is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Given,
    Known,
}

/// The volumes of one pod that are ready, by name.
#[derive(Clone)]
pub struct PodVolumes {
    pod: Arc<Pod>,
    mounted: BTreeMap<String, Mounted>,
    objects: Objects,
}

/// One volume on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub path: PathBuf,
    /// Whether it may only be read, whatever the mount says.
    pub read_only: bool,
}

/// Why a pod's volumes are not ready. Each is the message of a `FailedMount` event.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", .0.join("; "))]
    SetUp(Vec<String>),
    #[error("{path}: {why}")]
    TearDown { path: String, why: String },
}

impl Manager {
    /// `client` fetches ConfigMaps, Secrets and tokens; updates run in `group`.
    pub fn new(root_dir: PathBuf, client: client::kube::Client, group: &Group) -> Self {
        let objects = Objects::new(client.clone(), group);
        let tokens = Tokens::new(client);
        let shared = Shared {
            private: Arc::new(Private::below(&root_dir)),
            root_dir,
            objects,
            tokens,
            allocatable: Mutex::default(),
            pods: Mutex::default(),
            updated: Mutex::default(),
            again: tokio::sync::Notify::new(),
        };
        let manager = Self { shared: Arc::new(shared) };
        group.spawn_loop("volumes", Box::pin(keep_current(manager.clone())));
        manager
    }

    /// What the node can give to pods: bounds memory volumes, and is what containers without limits see as theirs.
    pub fn set_allocatable(&self, allocatable: Allocatable) {
        *self.shared.allocatable.lock() = allocatable;
    }

    /// Makes and fills all volumes of a pod; again, it brings them up to date (labels and annotations may have changed). Returns once all are
    /// ready; waits at most some seconds for the objects they are filled from.
    ///
    /// # Errors
    /// [`Error::SetUp`] with a line for each volume that is not ready.
    pub async fn prepare(&self, pod: &Pod) -> Result<PodVolumes, Error> {
        let shared = &self.shared;
        shared.objects.hold(pod);
        shared.objects.ready(pod, OBJECTS_WAIT).await;
        let known = self.known(meta::uid(pod));
        let mounted = self.write(pod, known, Keep::Given).await?;
        shared.again.notify_one();
        Ok(PodVolumes { pod: Arc::new(pod.clone()), mounted, objects: shared.objects.clone() })
    }

    /// Tells of a pod that is here, at first sight and at each change of it: its labels and annotations appear in its files soon after,
    /// and one that an earlier run of ours prepared is kept current again. Without a directory here it is left alone. Does not block.
    pub fn updated(&self, pod: &Pod) {
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
        self.shared.updated.lock().insert(uid.to_owned(), Box::new(pod.clone()));
        self.shared.again.notify_one();
    }

    /// Takes away everything under the pod's directory: unmounts, then deletes. Call it when no container of the pod is left. Idempotent.
    ///
    /// # Errors
    /// [`Error::TearDown`], where something cannot be unmounted or deleted; ask again.
    pub async fn teardown(&self, uid: &str) -> Result<(), Error> {
        // Known as gone until nothing is left of it, so that a late update of the pod does not begin to write it again.
        let known = self.known(uid);
        self.shared.objects.release(uid);
        self.shared.tokens.forget(uid);
        let (dir, private) = (self.pod_dir(uid), self.shared.private.of_pod(uid));
        let removed = blocking(move || {
            // Waits for a writer that is at it, and keeps later ones out.
            let mut state = known.state.lock();
            *state = State::Gone;
            setup::remove(&dir, &private)
        });
        removed.await?;
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

    /// The uids that have a directory here, of pods known and forgotten.
    pub fn present(&self) -> BTreeSet<String> {
        let dirs = [self.shared.root_dir.join("pods"), self.shared.private.dir().to_owned()];
        let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    /// ConfigMaps and Secrets of the pods here.
    pub fn objects(&self) -> &Objects {
        &self.shared.objects
    }

    fn known(&self, uid: &str) -> Arc<Known> {
        let mut pods = self.shared.pods.lock();
        pods.entry(uid.to_owned()).or_insert_with(|| Arc::new(Known { state: Mutex::new(State::fresh()) })).clone()
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        dirs::pod(&self.shared.root_dir, uid)
    }

    /// Writes all volumes of the pod that is known last.
    async fn write(&self, pod: &Pod, known: Arc<Known>, keep: Keep) -> Result<BTreeMap<String, Mounted>, Error> {
        let tokens = self.tokens(pod).await;
        let fetched = self.shared.objects.all(pod);
        let place = Place {
            pod_dir: self.pod_dir(meta::uid(pod)),
            private: self.shared.private.clone(),
            allocatable: *self.shared.allocatable.lock(),
        };
        let given = Box::new(pod.clone());
        blocking(move || {
            let mut state = known.state.lock();
            if let (State::Here(pod), Keep::Given) = (&mut *state, keep) {
                *pod = given;
            }
            match &*state {
                State::Gone => Err(Error::SetUp(vec!["the pod is being removed".into()])),
                State::Here(pod) => setup::all(&place, pod, &fetched, &tokens).map_err(Error::SetUp),
            }
        })
        .await
    }

    /// The tokens that the pod's projected volumes ask for.
    async fn tokens(&self, pod: &Pod) -> Tokened {
        let mut tokens = Tokened::new();
        for wanted in payload::tokens_wanted(pod) {
            let token = self.shared.tokens.get(pod, &wanted.0, wanted.1).await;
            tokens.insert(wanted, token);
        }
        tokens
    }

    /// Writes again what has changed; gives when to look again.
    async fn refresh(&self, tokens_due: bool) -> Option<Duration> {
        let mut uids = self.shared.objects.changed();
        if tokens_due {
            uids.extend(self.shared.tokens.due(Timestamp::now()));
        }
        let updated = std::mem::take(&mut *self.shared.updated.lock());
        uids.extend(updated.keys().cloned());
        let mut failed = false;
        for uid in uids {
            let Some(known) = self.shared.pods.lock().get(&uid).cloned() else { continue };
            let Some(pod) = known.pod(updated.get(&uid).map(AsRef::as_ref)) else { continue };
            if !self.shared.objects.all_seen(&pod) {
                // The first sight of each is a change: we come again.
                continue;
            }
            let written = catch_all("volumes", Box::pin(self.write(&pod, known, Keep::Known))).await;
            if let Err(error) = written.unwrap_or_else(|panic| Err(Error::SetUp(vec![panic.to_string()]))) {
                failed = true;
                tracing::warn!(ns = meta::namespace(&pod), name = meta::name(&pod), uid, %error, "volumes not brought up to date");
            }
        }
        let next = self.shared.tokens.next_due(Timestamp::now());
        if failed { Some(next.map_or(RETRY, |n| n.max(RETRY))) } else { next }
    }
}

impl PodVolumes {
    pub fn get(&self, name: &str) -> Option<&Mounted> {
        self.mounted.get(name)
    }

    /// The ConfigMaps and Secrets that the pod refers to, as they are now.
    ///
    /// # Errors
    /// Where one of them could not be read (not: where it is missing).
    pub fn fetched(&self) -> Result<Fetched, String> {
        self.objects.of_environment(&self.pod)
    }
}

impl Known {
    /// The pod as it is known, after `newer`; `None` where it was never prepared, or is gone.
    fn pod(&self, newer: Option<&Pod>) -> Option<Box<Pod>> {
        let mut state = self.state.lock();
        let State::Here(pod) = &mut *state else { return None };
        if let Some(newer) = newer {
            **pod = newer.clone();
        }
        (!meta::uid(pod).is_empty()).then(|| pod.clone())
    }
}

impl State {
    fn fresh() -> Self {
        State::Here(Box::default())
    }
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

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let joined = tokio::task::spawn_blocking(|| catch("volumes", work)).await;
    let failed = |why: &dyn std::fmt::Display| Err(Error::SetUp(vec![format!("volume task failed: {why}")]));
    joined.map_or_else(|ended| failed(&ended), |done| done.unwrap_or_else(|panic| failed(&panic)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    fn manager(dir: &std::path::Path, group: &Group) -> Manager {
        let never = tower::service_fn(|_: http::Request<client::kube::client::Body>| async {
            std::future::pending::<Result<http::Response<client::kube::client::Body>, std::convert::Infallible>>().await
        });
        Manager::new(dir.to_owned(), client::kube::Client::new(never, "default"), group)
    }

    async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_config_map_follows_its_object_and_goes_with_the_pod() {
        let dir = tempfile::tempdir().unwrap();
        let group = Group::new();
        let manager = manager(dir.path(), &group);
        let p = pod(r#"{"containers":[{"name":"a"}],"volumes":[{"name":"v","configMap":{"name":"c"}},{"name":"e","emptyDir":{}}]}"#);
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
    async fn late_updates_do_not_bring_back_a_pod_that_goes() {
        let dir = tempfile::tempdir().unwrap();
        let group = Group::new();
        let manager = manager(dir.path(), &group);
        let p = pod(
            r#"{"containers":[{"name":"a"}],"volumes":[{"name":"d","downwardAPI":{"items":[{"path":"l","fieldRef":{"fieldPath":"metadata.name"}}]}}]}"#,
        );
        for _ in 0..20 {
            match manager.prepare(&p).await {
                Err(error) if error.to_string().contains("mount tmpfs") => return eprintln!("skipped: {error}"),
                done => drop(done.unwrap()),
            }
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
        unmount_below(dir.path()).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn labels_follow_the_pod_into_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let group = Group::new();
        let manager = manager(dir.path(), &group);
        let mut p = pod(
            r#"{"containers":[{"name":"a"}],"volumes":[{"name":"d","downwardAPI":{"items":[{"path":"l","fieldRef":{"fieldPath":"metadata.labels"}}]}}]}"#,
        );
        manager.updated(&p);
        assert!(manager.present().is_empty(), "not prepared yet");
        let volumes = match manager.prepare(&p).await {
            Err(error) if error.to_string().contains("mount tmpfs") => return eprintln!("skipped: {error}"),
            done => done.unwrap(),
        };
        p.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        manager.updated(&p);
        assert_eq!(manager.present(), BTreeSet::from(["u1".to_owned()]));
        let file = volumes.get("d").unwrap().path.join("l");
        eventually("the new label", || std::fs::read_to_string(&file).is_ok_and(|t| t == "a=\"b\"")).await;
        // Another run of ours finds the pod and keeps its files current.
        let next = Group::new();
        let manager = self::manager(dir.path(), &next);
        p.metadata.labels = Some([("a".to_owned(), "c".to_owned())].into());
        manager.updated(&p);
        eventually("the newest label", || std::fs::read_to_string(&file).is_ok_and(|t| t == "a=\"c\"")).await;
        manager.teardown("u1").await.unwrap();
        assert!(manager.present().is_empty());
        unmount_below(dir.path()).unwrap();
    }

    #[tokio::test]
    async fn what_is_missing_is_said_in_upstreams_words() {
        let dir = tempfile::tempdir().unwrap();
        let group = Group::new();
        let manager = manager(dir.path(), &group);
        let p = pod(
            r#"{"containers":[{"name":"a"}],"volumes":[{"name":"v","configMap":{"name":"c"}},{"name":"n","nfs":{"server":"s","path":"/"}}]}"#,
        );
        manager.objects().set(&p, "c", Object::Missing);
        let Err(Error::SetUp(lines)) = manager.prepare(&p).await else { panic!("prepared") };
        assert_eq!(lines[0], r#"MountVolume.SetUp failed for volume "v" : configmap "c" not found"#);
        assert_eq!(lines[1], r#"MountVolume.SetUp failed for volume "n" : volumes of type "nfs" are not supported"#);
    }
}
