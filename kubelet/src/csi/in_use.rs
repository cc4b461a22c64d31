//! Volumes that pods of this node use <-> `status.volumesInUse`, and `status.volumesAttached` as the controller answers.
//!
//! A volume is staged only once the API has it as used here: who detaches looks there, and waits while it is. Source: `MarkVolumesAsReportedInUse`
//! in `pkg/kubelet/volumemanager`, `GenerateVerifyControllerAttachedVolumeFunc` in `pkg/volume/util/operationexecutor`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use api::{
    Key,
    k8s::api::core::v1::{Node, NodeStatus},
};
use client::Cache;
use parking_lot::Mutex;
use podspec::csi::PREFIX;
use tokio::sync::{Notify, watch};

/// Until it is attached, or the pod's set-up is tried again.
const ATTACHED_BOUND: Duration = Duration::from_secs(20);

pub struct InUse {
    key: Key,
    nodes: Cache<Node>,
    wanted: Mutex<Wanted>,
    /// The node's status is to be written.
    pub changed: Notify,
    /// The node's object changed.
    seen: watch::Sender<()>,
}

/// Names as upstream's: `kubernetes.io/csi/DRIVER^HANDLE`.
#[derive(Default)]
struct Wanted {
    names: BTreeSet<String>,
    /// Volumes may be staged here of which nothing is known: what was said of them is said on.
    partial: bool,
    /// Of those, the ones that this run has unstaged.
    released: BTreeSet<String>,
}

impl InUse {
    pub fn new(node_name: &str, nodes: Cache<Node>) -> Self {
        let seen = watch::Sender::new(());
        let tell = seen.clone();
        nodes.on_change(move |_, _| {
            tell.send_replace(());
        });
        Self { key: Key::new("", node_name), nodes, wanted: Mutex::default(), changed: Notify::new(), seen }
    }

    /// What the node's status is to say; `None` where there is nothing to say, nor was before.
    pub fn shown(&self, before: Option<&Vec<String>>) -> Option<Vec<String>> {
        let wanted = self.wanted.lock();
        let kept =
            before.into_iter().flatten().filter(|name| wanted.partial && name.starts_with(PREFIX) && !wanted.released.contains(*name));
        let names: Vec<String> = kept.chain(&wanted.names).collect::<BTreeSet<_>>().into_iter().cloned().collect();
        if names.is_empty() && before.is_none() { None } else { Some(names) }
    }

    pub fn add(&self, name: &str) {
        let mut wanted = self.wanted.lock();
        wanted.released.remove(name);
        if wanted.names.insert(name.to_owned()) {
            self.changed.notify_one();
        }
    }

    /// Once it is unstaged.
    pub fn remove(&self, name: &str) {
        let mut wanted = self.wanted.lock();
        if wanted.names.remove(name) {
            if wanted.partial {
                wanted.released.insert(name.to_owned());
            }
            self.changed.notify_one();
        }
    }

    /// Tells whether all that earlier runs staged is known. Until it is, what the API has as used here stays, but for what this run has unstaged:
    /// whoever detaches must not take what may be mounted.
    pub fn set_whole(&self, whole: bool) {
        let mut wanted = self.wanted.lock();
        if wanted.partial == whole {
            wanted.partial = !whole;
            wanted.released.clear();
            self.changed.notify_one();
        }
    }

    /// Waits until the API has the volume as used here, and then as attached.
    ///
    /// # Errors
    /// Upstream's words, where that takes too long; ask again.
    pub async fn attached(&self, name: &str) -> Result<(), String> {
        self.add(name);
        let mut seen = self.seen.subscribe();
        let attached = async {
            loop {
                seen.mark_unchanged();
                if self.look(name).is_ok() {
                    return;
                }
                // Its sender lives as long as we do.
                let _ = seen.changed().await;
            }
        };
        match tokio::time::timeout(ATTACHED_BOUND, attached).await {
            Ok(()) => Ok(()),
            Err(_) => self.look(name),
        }
    }

    fn look(&self, name: &str) -> Result<(), String> {
        let node: Option<Arc<Node>> = self.nodes.get(&self.key);
        let status: Option<&NodeStatus> = node.as_ref().and_then(|node| node.status.as_ref());
        let is_used = status.is_some_and(|status| status.volumes_in_use.iter().flatten().any(|used| used == name));
        if !is_used {
            return Err("Volume has not been added to the list of VolumesInUse in the node's volume status".into());
        }
        let is_attached = status.is_some_and(|status| status.volumes_attached.iter().flatten().any(|volume| volume.name == name));
        if is_attached { Ok(()) } else { Err("Volume not attached according to node status".into()) }
    }
}

#[cfg(test)]
mod tests {
    use api::task::Group;
    use client::Caches;
    use serde_json::json;

    use super::*;
    use crate::volumes::testing::nobody;

    fn node(revision: u32, used: &[&str], attached: &[&str]) -> Node {
        let attached: Vec<_> = attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        let status = json!({"volumesInUse": used, "volumesAttached": attached});
        serde_json::from_value(json!({"metadata": {"name": "n", "resourceVersion": revision.to_string()}, "status": status})).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_said_to_be_used_before_it_is_waited_for() {
        let group = Group::new();
        let nodes: Cache<Node> = Caches::unfollowed(nobody(), group.clone()).of();
        let in_use = InUse::new("n", nodes.clone());
        assert_eq!((in_use.shown(None), in_use.shown(Some(&vec!["x".into()]))), (None, Some(vec![])));
        nodes.feed(node(1, &[], &["v"]), false);
        assert!(in_use.attached("v").await.unwrap_err().contains("VolumesInUse"), "whoever detaches does not know yet");
        assert_eq!(in_use.shown(None), Some(vec!["v".into()]));
        nodes.feed(node(2, &["v"], &[]), false);
        assert_eq!(in_use.attached("v").await.unwrap_err(), "Volume not attached according to node status");
        let (waited, ()) = tokio::join!(in_use.attached("v"), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            nodes.feed(node(3, &["v"], &["w", "v"]), false);
        });
        waited.unwrap();
        in_use.remove("v");
        assert_eq!(in_use.shown(None), None);
        group.stop();
    }

    #[tokio::test]
    async fn what_is_not_known_stays_in_use() {
        let group = Group::new();
        let in_use = InUse::new("n", Caches::unfollowed(nobody(), group.clone()).of());
        let name = |handle: &str| format!("{PREFIX}d^{handle}");
        let before = vec![name("lost"), name("own"), "kubernetes.io/other/x".into()];
        in_use.set_whole(false);
        in_use.add(&name("own"));
        in_use.add(&name("new"));
        assert_eq!(in_use.shown(Some(&before)), Some(vec![name("lost"), name("new"), name("own")]));
        assert_eq!(in_use.shown(None), Some(vec![name("new"), name("own")]));
        in_use.remove(&name("own"));
        assert_eq!(in_use.shown(Some(&before)), Some(vec![name("lost"), name("new")]), "this run has unstaged it");
        in_use.add(&name("own"));
        in_use.remove(&name("new"));
        in_use.set_whole(true);
        assert_eq!(in_use.shown(Some(&before)), Some(vec![name("own")]));
        group.stop();
    }
}
