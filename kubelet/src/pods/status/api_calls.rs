//! What the pod loop asks of the API: write a status, delete an object, make a mirror. One try each; the loop tries again.

use std::sync::Arc;

use api::{Key, k8s::api::core::v1::Pod};
use client::{
    Object,
    kube::{
        Client, Error,
        api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
        core::Request,
        core::request::Error as RequestError,
    },
    watch::requests,
};
use serde::Deserialize;
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
pub async fn patch_status(client: &Client, pod: &Arc<Pod>, changes: Value) -> Answer {
    let body = json!({"metadata": {"uid": meta::uid(pod)}, "status": changes});
    let request = of(pod).patch_subresource("status", meta::name(pod), &PatchParams::default(), &Patch::Strategic(body));
    answer(sent(client, request).await, pod, "pod status not written")
}

/// Deletes exactly this pod at once.
pub async fn delete(client: &Client, pod: &Arc<Pod>) -> Answer {
    let preconditions = Some(Preconditions { uid: Some(meta::uid(pod).into()), resource_version: None });
    let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
    answer(sent(client, of(pod).delete(meta::name(pod), &params)).await, pod, "pod not deleted")
}

pub async fn create(client: &Client, pod: &Arc<Pod>) -> Answer {
    let request = serde_json::to_vec(&**pod).map_err(RequestError::SerializeBody);
    let request = request.and_then(|body| of(pod).create(&PostParams::default(), body));
    answer(sent(client, request).await, pod, "mirror pod not made")
}

fn of(pod: &Pod) -> Request {
    requests::<Pod>(Some(meta::namespace(pod)))
}

/// The pod as it is now, unless the answer is that nothing is left of it.
async fn sent(client: &Client, request: Result<http::Request<Vec<u8>>, RequestError>) -> Result<Option<Pod>, Error> {
    #[derive(Deserialize)]
    struct Answered {
        kind: Option<String>,
    }
    let text = client.request_text(request.map_err(Error::BuildRequest)?).await?;
    let answered: Answered = serde_json::from_str(&text).map_err(Error::SerdeError)?;
    if answered.kind.as_deref() == Some("Status") {
        return Ok(None);
    }
    Pod::read(text.as_bytes()).map(|seen| Some(seen.object)).map_err(Error::SerdeError)
}

fn answer(result: Result<Option<Pod>, Error>, pod: &Arc<Pod>, what: &'static str) -> Answer {
    match result {
        Ok(answered) => Answer::Done(answered.map_or_else(|| pod.clone(), Arc::new)),
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
