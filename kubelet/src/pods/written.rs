//! What the API is to know of a pod -> written, one request at a time: its status, and that nothing is left of it.

use std::time::Duration;

use api::{faults::catch_all, k8s::api::core::v1::PodStatus};

use super::{
    api_calls::{self, Answer},
    entry::Origin,
    patch,
    sync_loop::{Event, SyncLoop, revision},
};
use crate::metrics::STATUS_SYNC;

/// After an API call for a pod failed.
const API_RETRY: Duration = Duration::from_secs(2);

impl SyncLoop {
    /// Writes the status where the API's differs; one write at a time.
    pub(super) fn write(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let (Some(shown), Some(status)) = (entry.shown.clone(), entry.memory.status.clone()) else { return };
        let repeats = entry.written.as_ref().is_some_and(|(written, at)| *written == status && revision(&shown) <= *at);
        if entry.writing || entry.deleting || repeats {
            return;
        }
        let there = shown.status.clone().unwrap_or_default();
        let Some(changes) = patch::between(&there, &status) else { return };
        entry.writing = true;
        let (deps, events, uid) = (self.deps.clone(), self.events.clone(), uid.to_owned());
        self.group.spawn(Box::pin(async move {
            let answer = deps.metrics.timed(STATUS_SYNC, "", api_calls::patch_status(&deps.client, &shown, changes));
            let answer = catch_all("pods", answer).await.unwrap_or(Answer::Failed);
            if matches!(answer, Answer::Failed) {
                tokio::time::sleep(API_RETRY).await;
            }
            let _ = events.send(Event::Wrote { uid, status: Box::new(status), answer }).await;
        }));
    }

    pub(super) fn wrote(&mut self, uid: &str, status: PodStatus, answer: Answer) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.writing = false;
        match answer {
            Answer::Done(pod) => {
                entry.written = Some((status, revision(&pod)));
                if entry.shown.as_ref().is_some_and(|known| revision(known) < revision(&pod)) {
                    entry.shown = Some(pod);
                }
            }
            // The watch will say so too.
            Answer::Gone => entry.shown = None,
            Answer::Failed => {}
        }
        self.write(uid);
        self.finish(uid);
    }

    /// Lets go of a pod of which nothing is left: first its API object, then our own entry.
    pub(super) fn finish(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid).filter(|e| e.is_finished() && !e.looking) else { return };
        let api = entry.shown.clone().filter(|_| entry.origin == Origin::Api);
        let Some(pod) = api else {
            self.forget(uid);
            return;
        };
        if entry.writing || std::mem::replace(&mut entry.deleting, true) {
            return;
        }
        let (client, events, uid) = (self.deps.client.clone(), self.events.clone(), uid.to_owned());
        self.group.spawn(Box::pin(async move {
            let answer = catch_all("pods", api_calls::delete(&client, &pod)).await.unwrap_or(Answer::Failed);
            if matches!(answer, Answer::Failed) {
                tokio::time::sleep(API_RETRY).await;
            }
            let _ = events.send(Event::Deleted { uid, answer }).await;
        }));
    }

    pub(super) fn deleted(&mut self, uid: &str, answer: &Answer) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        match answer {
            Answer::Failed => {
                entry.deleting = false;
                self.finish(uid);
            }
            Answer::Gone => self.forget(uid),
            // Finalizers may hold it: it is forgotten when the watch says so.
            Answer::Done(_) => {}
        }
    }
}
