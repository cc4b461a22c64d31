//! Nodes and pods -> the status. Source: `updateDaemonSetStatus`, `storeDaemonSetStatus` of `pkg/controller/daemon/daemon_controller.go`.

use api::{k8s::api::apps::v1::DaemonSetStatus, steps};

use super::Daemon;

/// In the order of the status: desired, current, misscheduled, ready, updated, available.
#[derive(Default)]
struct Counts {
    desired: i32,
    current: i32,
    misscheduled: i32,
    ready: i32,
    updated: i32,
    available: i32,
}

impl Daemon<'_> {
    /// `None` where it is told already.
    pub fn status(&self) -> Option<DaemonSetStatus> {
        let Counts { desired, current, misscheduled, ready, updated, available } = self.counts();
        let before = self.set.status.clone().unwrap_or_default();
        let told = before.observed_generation.unwrap_or(0).max(self.set.metadata.generation.unwrap_or(0));
        let some = |n: i32| (n != 0).then_some(n);
        let now = DaemonSetStatus {
            desired_number_scheduled: desired,
            current_number_scheduled: current,
            number_misscheduled: misscheduled,
            number_ready: ready,
            updated_number_scheduled: some(updated),
            number_available: some(available),
            number_unavailable: some(desired - available),
            observed_generation: (told != 0).then_some(told),
            ..before.clone()
        };
        (now != before).then_some(now)
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (node, fit) in steps::counted(self.world.nodes.iter()) {
            // The first: bound, and the oldest.
            let pod = self.on_node.get(&**node).and_then(|pods| pods.first());
            match pod {
                _ if !fit.run => counts.misscheduled += i32::from(pod.is_some()),
                None => counts.desired += 1,
                Some(pod) => {
                    counts.desired += 1;
                    counts.current += 1;
                    counts.ready += i32::from(pod.ready_since().is_some());
                    counts.available += i32::from(self.is_available(pod));
                    counts.updated += i32::from(self.is_updated(pod));
                }
            }
        }
        counts
    }
}
