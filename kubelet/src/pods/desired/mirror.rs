//! Static pods -> shadows in the API, so that everybody sees them.
//!
//! Upstream: `pkg/kubelet/pod/mirror_client.go`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use api::{
    Key,
    annotations::{CONFIG_HASH, CONFIG_MIRROR},
    k8s::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference},
};
use client::kube::Client;

use crate::{
    meta,
    pods::status::api_calls::{self, Answer, key},
};

/// The mirror pods that the API has, and those that are being made or deleted.
#[derive(Default)]
pub struct MirrorPods {
    mirrors: HashMap<Key, Arc<Pod>>,
    touching: BTreeSet<Key>,
}

/// A static pod that is here.
#[derive(Clone, Copy)]
pub struct StaticPod<'a> {
    pub pod: &'a Arc<Pod>,
    /// It is not to be here any more.
    pub ends: bool,
}

/// A change of the API's mirrors.
#[derive(Debug, PartialEq)]
pub enum Touch {
    /// For this static pod.
    Make(Arc<Pod>),
    Delete(Arc<Pod>),
}

impl MirrorPods {
    pub fn has(&self, key: &Key) -> bool {
        self.mirrors.contains_key(key)
    }

    /// The API's mirror of that name.
    pub fn saw(&mut self, key: &Key, mirror: Option<Arc<Pod>>) {
        match mirror {
            Some(mirror) => self.mirrors.insert(key.clone(), mirror),
            None => self.mirrors.remove(key),
        };
    }

    /// What is to be made and deleted so that the mirrors fit the static pods; [`MirrorPods::touched`] is owed for each.
    pub fn fit<'a>(&mut self, statics: impl Iterator<Item = StaticPod<'a>>) -> Vec<(Key, Touch)> {
        let (mut ours, mut touches) = (BTreeSet::new(), Vec::new());
        for StaticPod { pod, ends } in statics {
            let key = key(pod);
            match self.mirrors.get(&key) {
                _ if ends => {}
                None => touches.push((key.clone(), Touch::Make(pod.clone()))),
                Some(mirror) if is_stale(mirror, pod) => touches.push((key.clone(), Touch::Delete(mirror.clone()))),
                Some(_) => {}
            }
            ours.insert(key);
        }
        let stray = self.mirrors.iter().filter(|(key, _)| !ours.contains(*key));
        touches.extend(stray.map(|(key, mirror)| (key.clone(), Touch::Delete(mirror.clone()))));
        touches.retain(|(key, _)| self.touching.insert(key.clone()));
        touches
    }

    /// What came of a change; the mirror, where one was made which the API's watch has not delivered.
    pub fn touched(&mut self, key: &Key, answer: Answer) -> Option<Arc<Pod>> {
        self.touching.remove(key);
        match answer {
            Answer::Gone => {
                self.mirrors.remove(key);
                None
            }
            Answer::Done(pod) => Some(pod).filter(|pod| pod.metadata.uid.is_some() && !self.has(key)),
            Answer::Failed => None,
        }
    }
}

impl Touch {
    /// One try. [`Answer::Gone`] of a deletion is its success.
    pub async fn carry_out(&self, client: &Client, node_name: &str, node_uid: Option<String>) -> Answer {
        match (self, node_uid) {
            (Self::Delete(mirror), _) => match api_calls::delete(client, mirror).await {
                Answer::Failed => Answer::Failed,
                Answer::Done(_) | Answer::Gone => Answer::Gone,
            },
            (Self::Make(pod), Some(uid)) => api_calls::create(client, &Arc::new(mirror_of(pod, node_name, uid))).await,
            (Self::Make(_), None) => Answer::Failed,
        }
    }

    /// What is there already, the watch will show: another try has time.
    pub fn is_to_wait(&self, answer: &Answer) -> bool {
        matches!((self, answer), (_, Answer::Failed) | (Self::Make(_), Answer::Gone))
    }
}

/// Of an earlier manifest, or deleted by a user: it is made anew.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, annotation: &str, hash: &str) -> Arc<Pod> {
        let text =
            format!(r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"{hash}","annotations":{{"{annotation}":"{hash}"}}}}}}"#);
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn mirrors_fit_the_static_pods_one_change_at_a_time() {
        let (a, b) = (pod("a", CONFIG_HASH, "1"), pod("b", CONFIG_HASH, "2"));
        let mut mirrors = MirrorPods::default();
        let fit = |mirrors: &mut MirrorPods, pods: &[(&Arc<Pod>, bool)]| {
            mirrors.fit(pods.iter().map(|(pod, ends)| StaticPod { pod, ends: *ends }))
        };
        let key_a = key(&a);
        assert_eq!(fit(&mut mirrors, &[(&a, false), (&b, true)]), [(key_a.clone(), Touch::Make(a.clone()))]);
        assert_eq!(fit(&mut mirrors, &[(&a, false)]), [], "it is being made");
        let stale = pod("a", CONFIG_MIRROR, "0");
        assert_eq!(mirrors.touched(&key_a, Answer::Done(stale.clone())), Some(stale.clone()));
        mirrors.saw(&key_a, Some(stale.clone()));
        assert_eq!(fit(&mut mirrors, &[(&a, false)]), [(key_a.clone(), Touch::Delete(stale))]);
        assert_eq!(mirrors.touched(&key_a, Answer::Gone), None);
        let good = pod("a", CONFIG_MIRROR, "1");
        mirrors.saw(&key_a, Some(good.clone()));
        assert_eq!(fit(&mut mirrors, &[(&a, true)]), [], "it stands until nothing is left of its pod");
        assert_eq!(fit(&mut mirrors, &[]), [(key_a, Touch::Delete(good))]);
    }
}
