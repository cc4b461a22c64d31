//! What stands on each node -> pods that are missing, and pods that are too many, are over, or should not be there.
//!
//! Source: `manage`, `podsShouldBeOnNode` of `pkg/controller/daemon/daemon_controller.go`.

use std::sync::Arc;

use api::{steps, time::Timestamp};
use client::pods::Pod;
use reconcile::Action;

use super::{Changes, Daemon, nodes::Fit, rolling};
use crate::revisions::HASH;

/// Those that are bound first, then the oldest. `podByCreationTimestampAndPhase`
pub fn age(pod: &Pod) -> (bool, Option<Timestamp>, String) {
    let is_bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    (!is_bound, pod.metadata.creation_timestamp.as_ref().map(|at| at.0), pod.name_any())
}

impl<'a> Daemon<'a> {
    pub fn manage(&self) -> Changes<'a> {
        let mut changes = Changes::default();
        for (node, fit) in steps::counted(self.world.nodes.iter()) {
            self.manage_node(node, *fit, &mut changes);
        }
        // Who never was bound is nobody's to collect.
        let nowhere = self.on_node.iter().filter(|(node, _)| !self.world.nodes.contains_key(**node));
        changes
            .delete
            .extend(nowhere.flat_map(|(_, pods)| pods).filter(|pod| is_unbound(pod) && pod.metadata.deletion_timestamp.is_none()));
        changes
    }

    fn manage_node(&self, node: &'a str, fit: Fit, changes: &mut Changes<'a>) {
        let pods = self.on_node.get(node);
        match pods {
            None if fit.run => changes.create.push(node),
            None => {}
            Some(pods) if fit.stay => {
                let running = self.running(node, pods, changes);
                self.manage_running(node, fit, &running, changes);
            }
            Some(pods) => changes.delete.extend(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none())),
        }
    }

    /// What is over goes, a failed one when its time has come.
    fn running(&self, node: &str, pods: &[&'a Arc<Pod>], changes: &mut Changes<'a>) -> Vec<&'a Arc<Pod>> {
        let mut running = Vec::new();
        for pod in pods.iter().copied().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let named = || format!("daemon pod {}/{} on node {node}", pod.namespace().unwrap_or_default(), pod.name_any());
            match pod.phase() {
                "Failed" => match self.world.waits.get(pod.metadata.name.as_deref().unwrap_or_default()) {
                    Some(wait) => changes.again = changes.again.into_iter().chain([*wait]).min(),
                    None => {
                        let message = format!("Found failed {}, will try to kill it", named());
                        changes.told.push(Action::warning(self.set, "FailedDaemonPod", message));
                        changes.delete.push(pod);
                    }
                },
                "Succeeded" => {
                    let message = format!("Found succeeded {}, will try to delete it", named());
                    changes.told.push(Action::normal(self.set, "SucceededDaemonPod", message));
                    changes.delete.push(pod);
                }
                _ => running.push(pod),
            }
        }
        running
    }

    /// `running`: in the order of [`age`].
    fn manage_running(&self, node: &'a str, fit: Fit, running: &[&'a Arc<Pod>], changes: &mut Changes<'a>) {
        if !rolling::allows_surge(self.spec) {
            changes.delete.extend(running.iter().skip(1));
            return;
        }
        if running.is_empty() && fit.run {
            changes.create.push(node);
        }
        if running.len() < 2 {
            return;
        }
        // Two may be there while the new one is not ready and the old one is; all others are too many.
        let (new, old): (Vec<_>, Vec<_>) = running.iter().copied().partition(|pod| pod.labels().get(HASH) == Some(&self.hash));
        changes.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (old.ready_since().is_none() || self.is_available(new))
        {
            changes.delete.push(*old);
        }
    }
}

fn is_unbound(pod: &Pod) -> bool {
    age(pod).0
}
