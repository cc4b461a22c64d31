//! What is known of a pod -> what the node's server sees of it, made anew only where something changed. Nothing of it is a copy.

use std::sync::Arc;

use api::k8s::api::core::v1::{Pod, PodStatus};

use crate::{ContainerView, PodView, pods::runtime_state::pod::RuntimePod};

/// What was shown last.
#[derive(Default)]
pub struct Published(Option<Shown>);

struct Shown {
    pod: Arc<Pod>,
    status: Option<Arc<PodStatus>>,
    runtime: Option<Arc<RuntimePod>>,
}

impl Published {
    /// `None` where that was shown already.
    pub fn next(&mut self, pod: &Arc<Pod>, status: Option<&Arc<PodStatus>>, runtime: Option<&Arc<RuntimePod>>) -> Option<PodView> {
        let same =
            |was: &Shown| Arc::ptr_eq(&was.pod, pod) && is_same(was.status.as_ref(), status) && is_same(was.runtime.as_ref(), runtime);
        if self.0.as_ref().is_some_and(same) {
            return None;
        }
        self.0 = Some(Shown { pod: pod.clone(), status: status.cloned(), runtime: runtime.cloned() });
        let containers = runtime.into_iter().flat_map(|r| r.containers.iter().rev()).map(|c| ContainerView {
            name: c.name.clone(),
            id: c.id.clone(),
            attempt: c.restart_count,
            running: c.is_running(),
            log_path: c.log_path.clone(),
        });
        let sandbox_id = runtime.and_then(|r| r.ready_sandbox()).map(|s| s.id.clone());
        Some(PodView { pod: pod.clone(), status: status.cloned(), sandbox_id, containers: containers.collect() })
    }
}

fn is_same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    a.map(Arc::as_ptr) == b.map(Arc::as_ptr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_shared_and_shown_once() {
        let (pod, status, runtime) = (Arc::new(Pod::default()), Arc::new(PodStatus::default()), Arc::new(RuntimePod::default()));
        let mut published = Published::default();
        let view = published.next(&pod, Some(&status), None).unwrap();
        assert!(Arc::ptr_eq(&view.pod, &pod) && view.status.is_some_and(|shown| Arc::ptr_eq(&shown, &status)));
        assert!(published.next(&pod, Some(&status), None).is_none());
        assert!(published.next(&pod, Some(&status), Some(&runtime)).is_some());
        assert!(published.next(&pod, Some(&Arc::new(PodStatus::default())), Some(&runtime)).is_some());
        assert!(published.next(&Arc::new(Pod::default()), None, None).is_some());
    }
}
