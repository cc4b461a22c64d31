//! Static pods -> shadows in the API, so that everybody sees them.
//!
//! Upstream: `pkg/kubelet/pod/mirror_client.go`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use api::{
    Key,
    k8s::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference},
};

use super::{
    api_calls::{self, Answer, key},
    entry::Origin,
    sync_loop::{Event, SyncLoop, is_named, revision},
};
use crate::meta;

const CONFIG_HASH: &str = "kubernetes.io/config.hash";
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
const RETRY: Duration = Duration::from_secs(5);

impl SyncLoop {
    /// The directory's pods, all of them.
    pub(super) fn manifests(&mut self, pods: Vec<Arc<Pod>>) {
        let uids: BTreeSet<String> = pods.iter().map(|pod| meta::uid(pod).to_owned()).collect();
        let gone = |(uid, e): (&String, &super::entry::Entry)| (e.origin == Origin::Manifest && !uids.contains(uid)).then(|| uid.clone());
        let gone: Vec<String> = self.entries.iter().filter_map(gone).collect();
        gone.iter().for_each(|uid| self.gone(uid));
        self.static_pods = pods;
        self.begin_static_pods();
        self.fit_mirrors();
    }

    /// Begins those that are new; one that takes the place of another of its name waits until nothing is left of that.
    pub(super) fn begin_static_pods(&mut self) {
        for pod in self.static_pods.clone() {
            let place = key(&pod);
            if !self.entries.values().any(|e| e.origin == Origin::Manifest && is_named(&e.pod, &place)) {
                self.wanted(Origin::Manifest, pod);
            }
        }
    }

    /// The API's object of that name is, or was, a mirror.
    pub(super) fn mirror_changed(&mut self, key: &Key, mirror: Option<Arc<Pod>>) {
        match mirror.clone() {
            Some(mirror) => self.mirrors.insert(key.clone(), mirror),
            None => self.mirrors.remove(key),
        };
        if let Some(uid) = self.static_uid(key) {
            self.show_in(&uid, mirror);
            self.write(&uid);
        }
        self.fit_mirrors();
    }

    /// Makes, replaces and deletes mirrors so that they fit the static pods.
    pub(super) fn fit_mirrors(&mut self) {
        if !self.synced {
            return;
        }
        let wanted: Vec<Arc<Pod>> = self
            .entries
            .values()
            .filter(|e| e.origin == Origin::Manifest && e.memory.stop.as_ref().is_none_or(|s| !s.removes()))
            .map(|e| e.pod.clone())
            .collect();
        for pod in &wanted {
            match self.mirrors.get(&key(pod)) {
                None => self.touch(key(pod), Touch::Make(pod.clone())),
                Some(mirror) if is_stale(mirror, pod) => self.touch(key(pod), Touch::Delete(mirror.clone())),
                Some(_) => {}
            }
        }
        let stray = |key: &&Key| self.static_uid(key).is_none();
        let stray: Vec<(Key, Arc<Pod>)> =
            self.mirrors.keys().filter(stray).filter_map(|key| Some((key.clone(), self.mirrors.get(key)?.clone()))).collect();
        stray.into_iter().for_each(|(key, mirror)| self.touch(key, Touch::Delete(mirror)));
    }

    pub(super) fn mirror_touched(&mut self, key: &Key, answer: Answer) {
        self.touching.remove(key);
        if matches!(answer, Answer::Gone) {
            self.mirrors.remove(key);
        }
        if let (Answer::Done(pod), Some(uid)) = (answer, self.static_uid(key))
            && pod.metadata.uid.is_some()
            && !self.mirrors.contains_key(key)
        {
            self.mirrors.insert(key.clone(), pod.clone());
            self.show_in(&uid, Some(pod));
            self.write(&uid);
        }
        self.fit_mirrors();
    }

    fn touch(&mut self, key: Key, touch: Touch) {
        if !self.touching.insert(key.clone()) {
            return;
        }
        let (client, events, node) = (self.deps.client.clone(), self.events.clone(), self.deps.clone());
        self.group.spawn(Box::pin(async move {
            let makes = matches!(touch, Touch::Make(_));
            let answer = match touch {
                Touch::Delete(mirror) => match api_calls::delete(&client, &mirror).await {
                    Answer::Failed => Answer::Failed,
                    Answer::Done(_) | Answer::Gone => Answer::Gone,
                },
                Touch::Make(pod) => {
                    let owner = node.nodes.get(&Key::new("", &node.node.node_name)).and_then(|n| n.metadata.uid.clone());
                    match owner {
                        Some(uid) => api_calls::create(&client, &mirror_of(&pod, &node.node.node_name, uid)).await,
                        None => Answer::Failed,
                    }
                }
            };
            // What is there already, the watch will show.
            if matches!(answer, Answer::Failed) || makes && matches!(answer, Answer::Gone) {
                tokio::time::sleep(RETRY).await;
            }
            let _ = events.send(Event::MirrorTouched { key, answer }).await;
        }));
    }

    fn show_in(&mut self, uid: &str, mirror: Option<Arc<Pod>>) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let same = |known: &Arc<Pod>, new: &Arc<Pod>| meta::uid(known) == meta::uid(new) && revision(known) > revision(new);
        match (&entry.shown, &mirror) {
            (Some(known), Some(new)) if same(known, new) => {}
            _ => entry.shown = mirror,
        }
    }

    fn static_uid(&self, key: &Key) -> Option<String> {
        let ours = self.entries.values().find(|e| e.origin == Origin::Manifest && is_named(&e.pod, key));
        ours.map(|e| meta::uid(&e.pod).to_owned())
    }
}

enum Touch {
    Make(Arc<Pod>),
    Delete(Arc<Pod>),
}

/// Of an earlier manifest, or deleted by somebody: it is made anew.
fn is_stale(mirror: &Pod, pod: &Pod) -> bool {
    hash(mirror) != hash(pod) || mirror.metadata.deletion_timestamp.is_some()
}

fn hash(pod: &Pod) -> Option<&str> {
    meta::annotation(pod, CONFIG_MIRROR).or_else(|| meta::annotation(pod, CONFIG_HASH))
}

fn mirror_of(pod: &Pod, node_name: &str, node_uid: String) -> Pod {
    let mut mirror = pod.clone();
    let hash = meta::annotation(pod, CONFIG_HASH).unwrap_or_default().to_owned();
    mirror.metadata.uid = None;
    mirror.metadata.annotations.get_or_insert_default().insert(CONFIG_MIRROR.into(), hash);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node_name.into(),
        uid: node_uid,
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    mirror.status = None;
    mirror
}
