//! What the API is to know of a pod -> what to ask of it next, one request at a time: write the status, or that nothing is left of it.
//!
//! Upstream: `syncPod` in `pkg/kubelet/status/status_manager.go`.

use std::sync::Arc;

use api::k8s::api::core::v1::{Pod, PodStatus};
use serde_json::Value;

use super::{api_calls::Answer, patch};

/// The object whose status is ours to write, the pod itself or a static pod's mirror, and what is under way for it.
#[derive(Default)]
pub struct ApiPod {
    /// The newest that we have seen; `None` where the API has none.
    shown: Option<Arc<Pod>>,
    writing: bool,
    /// What was written last, and the revision that came of it.
    written: Option<(Arc<PodStatus>, u64)>,
    /// It is being deleted by us.
    deleting: bool,
}

/// One write of a status.
pub struct Write {
    pub pod: Arc<Pod>,
    pub status: Arc<PodStatus>,
    /// A strategic merge patch of `status`.
    pub changes: Value,
}

/// What is left to ask of the API for a pod of which nothing runs any more.
#[derive(Debug, PartialEq)]
pub enum Ending {
    Delete(Arc<Pod>),
    /// A request is under way.
    Waits,
    Over,
}

impl ApiPod {
    pub fn of(shown: Option<Arc<Pod>>) -> Self {
        Self { shown, ..Self::default() }
    }

    pub fn shown(&self) -> Option<&Arc<Pod>> {
        self.shown.as_ref()
    }

    /// The API has it; what is older than what was seen is not taken.
    pub fn saw(&mut self, pod: Arc<Pod>) {
        if self.shown.as_ref().is_none_or(|known| revision(known) <= revision(&pod)) {
            self.shown = Some(pod);
        }
    }

    /// The API has this mirror, which may be another one than before.
    pub fn saw_mirror(&mut self, mirror: Option<Arc<Pod>>) {
        let uid = |pod: &Arc<Pod>| pod.metadata.uid.clone();
        match (&self.shown, &mirror) {
            (Some(known), Some(new)) if uid(known) == uid(new) && revision(known) > revision(new) => {}
            _ => self.shown = mirror,
        }
    }

    pub fn gone(&mut self) {
        self.shown = None;
    }

    /// What to write, where the API's status differs; [`ApiPod::wrote`] is owed for it.
    pub fn begin_write(&mut self, status: &Arc<PodStatus>) -> Option<Write> {
        let shown = self.shown.as_ref()?;
        let repeats = self.written.as_ref().is_some_and(|(written, at)| written == status && revision(shown) <= *at);
        if self.writing || self.deleting || repeats {
            return None;
        }
        let none = PodStatus::default();
        let changes = patch::between(shown.status.as_ref().unwrap_or(&none), status)?;
        self.writing = true;
        Some(Write { pod: shown.clone(), status: status.clone(), changes })
    }

    pub fn status_written(&mut self, status: Arc<PodStatus>, answer: Answer) {
        self.writing = false;
        match answer {
            Answer::Done(pod) => {
                self.written = Some((status, revision(&pod)));
                if self.shown.as_ref().is_some_and(|known| revision(known) < revision(&pod)) {
                    self.shown = Some(pod);
                }
            }
            // The watch will say so too.
            Answer::Gone => self.shown = None,
            Answer::Failed => {}
        }
    }

    /// Nothing is left of it here; [`ApiPod::deleted`] is owed for [`Ending::Delete`].
    pub fn begin_delete(&mut self) -> Ending {
        let Some(pod) = self.shown.clone() else { return Ending::Over };
        if self.writing || std::mem::replace(&mut self.deleting, true) {
            return Ending::Waits;
        }
        Ending::Delete(pod)
    }

    /// After a failure [`ApiPod::begin_delete`] begins anew.
    pub fn pod_deleted(&mut self, answer: &Answer) -> Ending {
        match answer {
            Answer::Failed => {
                self.deleting = false;
                Ending::Waits
            }
            Answer::Gone => Ending::Over,
            // Finalizers may hold it: it is forgotten when the watch says so.
            Answer::Done(_) => Ending::Waits,
        }
    }
}

fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|rv| rv.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(revision: u64, phase: &str) -> Arc<Pod> {
        let text = format!(r#"{{"metadata":{{"uid":"u","resourceVersion":"{revision}"}},"status":{{"phase":"{phase}"}}}}"#);
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn status(phase: &str) -> Arc<PodStatus> {
        Arc::new(PodStatus { phase: Some(phase.into()), ..PodStatus::default() })
    }

    #[test]
    fn one_write_at_a_time_and_none_that_repeats() {
        let mut api = ApiPod::of(Some(pod(1, "Pending")));
        assert!(api.begin_write(&status("Pending")).is_none(), "no difference");
        let write = api.begin_write(&status("Running")).unwrap();
        assert_eq!(write.changes["phase"], "Running");
        assert!(api.begin_write(&status("Failed")).is_none() && api.begin_delete() == Ending::Waits, "one at a time");
        api.status_written(write.status, Answer::Done(pod(3, "Running")));
        assert_eq!(api.shown(), Some(&pod(3, "Running")));
        api.saw(pod(2, "Pending"));
        assert!(api.begin_write(&status("Running")).is_none(), "what is seen late is old");
        assert!(api.begin_write(&status("Succeeded")).is_some());
    }

    #[test]
    fn it_is_deleted_once_and_again_where_that_failed() {
        let mut api = ApiPod::of(Some(pod(1, "Failed")));
        assert!(matches!(api.begin_delete(), Ending::Delete(_)));
        assert_eq!(api.begin_delete(), Ending::Waits);
        assert!(api.begin_write(&status("Running")).is_none(), "it goes");
        assert_eq!(api.pod_deleted(&Answer::Failed), Ending::Waits);
        assert!(matches!(api.begin_delete(), Ending::Delete(_)));
        assert_eq!(api.pod_deleted(&Answer::Done(pod(1, "Failed"))), Ending::Waits);
        assert_eq!(api.pod_deleted(&Answer::Gone), Ending::Over);
        assert_eq!(ApiPod::default().begin_delete(), Ending::Over);
    }
}
