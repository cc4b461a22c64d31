//! What the pod loop asks of the API: write a status, delete an object, make a mirror. One try each; the loop tries again.

use std::sync::Arc;

use api::{Key, k8s::api::core::v1::Pod};
use client::kube::{
    Api, Client, Error,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};

use crate::meta;

/// What came of it.
#[derive(Clone, Debug)]
pub enum Answer {
    Done(Arc<Pod>),
    /// There is no such pod (any more).
    Gone,
    /// Logged; worth another try.
    Failed,
}

/// Changes the status of exactly this pod.
pub async fn patch_status(client: &Client, pod: &Pod, changes: Value) -> Answer {
    let body = json!({"metadata": {"uid": meta::uid(pod)}, "status": changes});
    let patched = of(client, pod).patch_status(meta::name(pod), &PatchParams::default(), &Patch::Strategic(body)).await;
    answer(patched.map(Some), pod, "pod status not written")
}

/// Deletes exactly this pod at once.
pub async fn delete(client: &Client, pod: &Pod) -> Answer {
    let preconditions = Some(Preconditions { uid: Some(meta::uid(pod).into()), resource_version: None });
    let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
    let deleted = of(client, pod).delete(meta::name(pod), &params).await;
    answer(deleted.map(|deleted| deleted.left()), pod, "pod not deleted")
}

pub async fn create(client: &Client, pod: &Pod) -> Answer {
    let created = of(client, pod).create(&PostParams::default(), pod).await;
    answer(created.map(Some), pod, "mirror pod not made")
}

fn of(client: &Client, pod: &Pod) -> Api<Pod> {
    Api::namespaced(client.clone(), meta::namespace(pod))
}

fn answer(result: Result<Option<Pod>, Error>, pod: &Pod, what: &'static str) -> Answer {
    match result {
        Ok(answered) => Answer::Done(Arc::new(answered.unwrap_or_else(|| pod.clone()))),
        // Conflict: another pod has that name now.
        Err(Error::Api(status)) if status.code == 404 || status.code == 409 => Answer::Gone,
        Err(error) => {
            tracing::warn!(ns = meta::namespace(pod), name = meta::name(pod), uid = meta::uid(pod), %error, what, "API call failed");
            Answer::Failed
        }
    }
}

pub fn key(pod: &Pod) -> Key {
    Key::new(meta::namespace(pod), meta::name(pod))
}
