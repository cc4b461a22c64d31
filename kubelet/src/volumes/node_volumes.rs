//! Pods' volumes -> what the node has for them: attached and staged with the first pod, unstaged and detached with the last.
//!
//! Upstream: `pkg/kubelet/volumemanager/cache/actual_state_of_world.go`, and the global mounts of `pkg/volume/csi`.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    plugin::{Host, NodePlugin, NodeVolume, VolumePlugin, VolumeToMount, blocking},
    plugins::Table,
    record::{self, Record, User},
};
use crate::meta;

/// A plugin's name, and one of its handles.
pub type Id = (String, String);

/// The plugin whose volumes stand in the node's `status.volumesInUse`.
const CSI: &str = "csi";

/// All volumes that the node has, by what their records say.
pub struct NodeVolumes {
    dir: PathBuf,
    plugins: Table,
    slots: Mutex<HashMap<Id, Arc<Slot>>>,
    /// Which of them a pod uses, by its uid.
    uses: Mutex<HashMap<String, BTreeSet<Id>>>,
    /// [`record::Found::unread`]
    unread: Mutex<BTreeSet<PathBuf>>,
}

/// One volume; the lock is held while anything is done with it.
struct Slot(tokio::sync::Mutex<State>);

enum State {
    Fresh,
    Known(Known),
    /// Unstaged, and no longer in [`NodeVolumes::slots`].
    Gone,
}

struct Known {
    record: Record,
    /// By this run of the agent: what an earlier one staged is staged again before it is used, which costs little where it still is.
    staged: bool,
}

/// At which step a volume failed, and why.
#[derive(Debug)]
pub enum Failed {
    Attach(String),
    Stage(String),
}

/// What a pod uses of the node.
pub struct Use {
    pub plugin: String,
    pub user: User,
    pub volume: NodeVolume,
}

impl NodeVolumes {
    /// What earlier runs left below `dir`. Reads it.
    pub fn found(dir: PathBuf, plugins: Table) -> Self {
        let found = record::all(&dir);
        let this = Self { plugins, slots: Mutex::default(), uses: Mutex::default(), unread: Mutex::new(found.unread), dir };
        for record in found.records {
            let id: Id = (record.plugin.clone(), record.handle.clone());
            let known = this.found_again(record);
            this.slots.lock().insert(id, Arc::new(Slot(tokio::sync::Mutex::new(known))));
        }
        this
    }

    /// Tells the plugins of what earlier runs left. For the start, while nobody is at any of it.
    pub fn tell(&self, host: &Host) {
        let slots: Vec<(Id, Arc<Slot>)> = self.slots.lock().iter().map(|(id, slot)| (id.clone(), slot.clone())).collect();
        for (id, slot) in slots {
            if let Ok(state) = slot.0.try_lock() {
                self.tell_of(host, &id, &state);
            }
        }
        self.tell_whole(host);
    }

    fn tell_of(&self, host: &Host, id: &Id, state: &State) {
        let plugin = self.plugins.iter().find(|plugin| plugin.name() == id.0).and_then(|plugin| plugin.node());
        if let (Some(plugin), State::Known(known)) = (plugin, state) {
            plugin.found_again(host, &known.volume(record::directory(&self.dir, &id.0, &id.1)));
        }
    }

    fn tell_whole(&self, host: &Host) {
        host.csi.in_use.set_whole(self.unread(CSI).is_none());
    }

    /// Why not all that a plugin has on the node is known; `None` where it is.
    pub fn unread(&self, plugin: &str) -> Option<String> {
        let of_plugin = self.dir.join(plugin);
        let unread = self.unread.lock();
        let path = unread.iter().find(|path| **path == self.dir || path.starts_with(&of_plugin))?;
        Some(format!("not all records of the node's volumes can be read: {}", path.display()))
    }

    /// Reads once more what could not be read, and tells the plugins of what is known then.
    pub async fn look_again(&self, host: &Host) {
        let before = self.unread.lock().clone();
        if before.is_empty() {
            return;
        }
        let root = self.dir.clone();
        let found = match blocking(move || Ok(record::all(&root))).await {
            Ok(found) => found,
            Err(why) => return tracing::error!(why, "failed to read the records of staged volumes"),
        };
        let mut unread = found.unread;
        for record in found.records {
            let id: Id = (record.plugin, record.handle);
            let (slot, dir) = (self.slot(&id), record::directory(&self.dir, &id.0, &id.1));
            // Whoever is at it may be long: a driver is asked. It may not be known yet.
            let Ok(mut state) = slot.0.try_lock() else {
                unread.insert(dir);
                continue;
            };
            // By now it may be gone, and is read once more.
            if self.look(&mut state, &id, &dir).await.is_err() {
                unread.insert(dir);
            }
            self.tell_of(host, &id, &state);
        }
        {
            let mut now = self.unread.lock();
            now.retain(|path| !before.contains(path));
            now.extend(unread);
        }
        self.tell_whole(host);
    }

    /// The uids of the pods that use any.
    pub fn users(&self) -> BTreeSet<String> {
        self.uses.lock().keys().cloned().collect()
    }

    /// Each volume of each of those pods. Waits for nobody.
    pub fn uses(&self) -> Vec<(String, Id)> {
        self.uses.lock().iter().flat_map(|(uid, ids)| ids.iter().map(|id| (uid.clone(), id.clone()))).collect()
    }

    /// Makes the node's part of a pod's volume ready, and notes that the pod uses it.
    ///
    /// # Errors
    /// The step that failed; the pod is noted all the same.
    pub async fn stage(&self, plugin: &dyn VolumePlugin, node: &dyn NodePlugin, volume: &VolumeToMount) -> Result<NodeVolume, Failed> {
        let identity = node.identify(volume).map_err(Failed::Stage)?;
        let id: Id = (plugin.name().into(), identity.handle.clone());
        let user = User { pod_uid: meta::uid(volume.pod()).into(), volume: volume.volume.name.clone(), mode: volume.mode };
        self.uses.lock().entry(user.pod_uid.clone()).or_default().insert(id.clone());
        let dir = record::directory(&self.dir, &id.0, &id.1);
        loop {
            let slot = self.slot(&id);
            let mut state = slot.0.lock().await;
            self.look(&mut state, &id, &dir).await.map_err(Failed::Stage)?;
            let known = match &mut *state {
                // It was unstaged while we waited.
                State::Gone => continue,
                State::Known(known) => known,
                State::Fresh => {
                    let (plugin, handle) = id.clone();
                    let record = Record { plugin, handle, attributes: Default::default(), device: None, users: BTreeSet::new() };
                    *state = State::Known(Known { record, staged: false });
                    continue;
                }
            };
            let mut record = known.record.clone();
            record.attributes.extend(identity.attributes);
            record.users.insert(user);
            known.put(&dir, record).await.map_err(Failed::Stage)?;
            return known.bring(node, dir, volume).await;
        }
    }

    /// What a pod uses, as it is recorded.
    pub async fn of_pod(&self, uid: &str) -> Vec<Use> {
        let ids: Vec<Id> = self.uses.lock().get(uid).into_iter().flatten().cloned().collect();
        let mut uses = Vec::new();
        for id in ids {
            uses.extend(self.of_volume(uid, &id).await);
        }
        uses
    }

    /// What a pod uses of one volume, as it is recorded.
    pub async fn of_volume(&self, uid: &str, id: &Id) -> Vec<Use> {
        let (slot, dir) = (self.slot(id), record::directory(&self.dir, &id.0, &id.1));
        let mut state = slot.0.lock().await;
        let looked = self.look(&mut state, id, &dir).await;
        let State::Known(known) = &*state else {
            looked.unwrap_or_else(|why| tracing::error!(plugin = id.0, volume = id.1, uid, why, "what a pod has of a volume is not known"));
            return Vec::new();
        };
        let volume = known.volume(dir);
        let own = known.record.users.iter().filter(|user| user.pod_uid == uid);
        own.map(|user| Use { plugin: id.0.clone(), user: user.clone(), volume: volume.clone() }).collect()
    }

    /// The pod uses none any more: those that no other uses are unstaged and detached.
    ///
    /// # Errors
    /// The first that fails; the pod still counts as its user.
    pub async fn release(&self, host: &Host, uid: &str) -> Result<(), String> {
        let ids: Vec<Id> = self.uses.lock().get(uid).into_iter().flatten().cloned().collect();
        for id in ids {
            self.release_one(host, uid, &id).await?;
            let mut uses = self.uses.lock();
            let left = uses.get_mut(uid).is_some_and(|ids| {
                ids.remove(&id);
                !ids.is_empty()
            });
            if !left {
                uses.remove(uid);
            }
        }
        Ok(())
    }

    async fn release_one(&self, host: &Host, uid: &str, id: &Id) -> Result<(), String> {
        let (slot, dir) = (self.slot(id), record::directory(&self.dir, &id.0, &id.1));
        let mut state = slot.0.lock().await;
        if let Err(why) = self.look(&mut state, id, &dir).await {
            // Others may have it: it stays staged, and the pod is let go.
            tracing::error!(plugin = id.0, volume = id.1, uid, why, "a volume is not unstaged");
        }
        if matches!(*state, State::Gone) {
            // Another released it while we waited: what has its place now is not ours.
            return Ok(());
        }
        if let State::Known(known) = &mut *state {
            if known.record.users.iter().any(|user| user.pod_uid != uid) {
                let mut record = known.record.clone();
                record.users.retain(|user| user.pod_uid != uid);
                return known.put(&dir, record).await;
            }
            let plugin = self.plugins.iter().find(|plugin| plugin.name() == id.0).and_then(|plugin| plugin.node());
            let plugin = plugin.ok_or_else(|| format!("no volume plugin {:?} unstages {:?}", id.0, id.1))?;
            known.staged = false;
            let volume = known.volume(dir.clone());
            let failed = |step: &str, why: String| format!("{step} failed for volume {:?} : {why}", id.1);
            plugin.unstage(host, &volume).await.map_err(|why| failed("UnmountDevice", why))?;
            plugin.detach(host, &volume).await.map_err(|why| failed("DetachVolume.Detach", why))?;
            blocking(move || record::remove(&dir).map_err(|e| e.to_string())).await?;
        }
        *state = State::Gone;
        let mut slots = self.slots.lock();
        if slots.get(id).is_some_and(|there| Arc::ptr_eq(there, &slot)) {
            slots.remove(id);
        }
        Ok(())
    }

    /// A volume that is not known may have a record all the same, which could not be read when the agent began. It is never written over.
    ///
    /// # Errors
    /// It still cannot be read.
    async fn look(&self, state: &mut State, id: &Id, dir: &Path) -> Result<(), String> {
        if !matches!(state, State::Fresh) {
            return Ok(());
        }
        let (root, at) = (self.dir.clone(), dir.to_owned());
        let read = move || record::read(&root, &at).map_err(|e| format!("the volume's record in {} cannot be read: {e}", at.display()));
        let read = blocking(read).await.inspect_err(|_| {
            self.unread.lock().insert(dir.to_owned());
        });
        if let Some(record) = read? {
            tracing::info!(plugin = id.0, volume = id.1, "the record of a volume can be read again");
            *state = self.found_again(record);
        }
        Ok(())
    }

    /// Of an earlier run.
    fn found_again(&self, record: Record) -> State {
        let id: Id = (record.plugin.clone(), record.handle.clone());
        for user in &record.users {
            self.uses.lock().entry(user.pod_uid.clone()).or_default().insert(id.clone());
        }
        State::Known(Known { record, staged: false })
    }

    fn slot(&self, id: &Id) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        slots.entry(id.clone()).or_insert_with(|| Arc::new(Slot(tokio::sync::Mutex::new(State::Fresh)))).clone()
    }
}

impl Known {
    /// Attaches and stages it, where this run of the agent has not.
    async fn bring(&mut self, node: &dyn NodePlugin, dir: PathBuf, to_mount: &VolumeToMount) -> Result<NodeVolume, Failed> {
        if self.staged {
            return Ok(self.volume(dir));
        }
        let attached = node.attach(&self.volume(dir.clone()), to_mount).await.map_err(Failed::Attach)?;
        let mut record = Record { device: attached.device, ..self.record.clone() };
        record.attributes.extend(attached.attributes);
        self.put(&dir, record).await.map_err(Failed::Attach)?;
        let place = dir.clone();
        blocking(move || record::make_staging(&place).map_err(|e| format!("{}: {e}", place.display()))).await.map_err(Failed::Stage)?;
        let volume = self.volume(dir);
        node.stage(&volume, to_mount).await.map_err(Failed::Stage)?;
        self.staged = true;
        Ok(volume)
    }

    /// On the disk first.
    async fn put(&mut self, dir: &Path, record: Record) -> Result<(), String> {
        if record != self.record {
            let (dir, written) = (dir.to_owned(), record.clone());
            blocking(move || record::write(&dir, &written).map_err(|e| format!("{}: {e}", dir.display()))).await?;
            self.record = record;
        }
        Ok(())
    }

    fn volume(&self, dir: PathBuf) -> NodeVolume {
        let Record { handle, attributes, device, .. } = &self.record;
        NodeVolume { handle: handle.clone(), attributes: attributes.clone(), device: device.clone(), staging: record::staging(&dir) }
    }
}
