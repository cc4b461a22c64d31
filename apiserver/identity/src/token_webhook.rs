//! A token -> a TokenReview that somebody outside answers. Source: apiserver `plugin/pkg/authenticator/token/webhook/webhook.go`.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use api::{Status, task::Group};
use apiserver::{
    engine::Engine,
    identity::{Authenticator, Known, User},
};
use async_trait::async_trait;
use serde::{Deserialize, Deserializer};
use serde_json::json;

use crate::{cache::Answers, remote::Remote};

/// How long one request waits for the webhook, attempts and all (upstream: `sharedLookupTimeout`).
const WAIT_BOUND: Duration = Duration::from_secs(30);

/// The webhook authenticator.
pub struct TokenWebhook {
    reviewer: Arc<Reviewer>,
    /// How long an answer holds.
    ttl: Duration,
    answers: Answers<Result<Option<Known>, String>>,
}

/// Who is asked.
struct Reviewer {
    remote: Remote,
    version: String,
    /// The API server's own.
    audiences: Vec<String>,
}

impl TokenWebhook {
    /// `version` is `v1` or `v1beta1`; a `ttl` of nothing keeps nothing.
    ///
    /// # Errors
    /// What is wrong with the file, or the version.
    pub async fn open(file: &Path, version: &str, ttl: Duration, audiences: &[String], group: &Group) -> Result<Self, String> {
        if !["v1", "v1beta1"].contains(&version) {
            return Err(format!("unsupported authentication webhook version {version:?}, supported versions are \"v1\", \"v1beta1\""));
        }
        let remote = Remote::of_kubeconfig(file, group).await?;
        let reviewer = Arc::new(Reviewer { remote, version: version.to_owned(), audiences: audiences.to_vec() });
        Ok(Self { reviewer, ttl, answers: Answers::new(group) })
    }
}

impl Reviewer {
    async fn review(&self, token: &str, wanted: &[String]) -> Result<Option<Known>, String> {
        let review = json!({
            "apiVersion": format!("authentication.k8s.io/{}", self.version), "kind": "TokenReview",
            "metadata": {"creationTimestamp": null}, "spec": {"token": token, "audiences": wanted}, "status": {"user": {}},
        });
        let answered = self.remote.post(&review, WAIT_BOUND, WAIT_BOUND).await.map_err(|error| {
            tracing::error!(url = self.remote.url(), %error, "failed to make webhook authenticator request");
            error.why
        })?;
        let review: Review = serde_json::from_value(answered).map_err(|error| error.to_string())?;
        let status = review.status.unwrap_or_default();
        let meant_for = if status.audiences.is_empty() { &self.audiences } else { &status.audiences };
        let audiences: Vec<String> = wanted.iter().filter(|audience| meant_for.contains(audience)).cloned().collect();
        match () {
            () if audiences.is_empty() => Ok(None),
            () if !status.authenticated && status.error.is_empty() => Ok(None),
            () if !status.authenticated => Err(status.error),
            () => Ok(Some(Known { user: User::authenticated(Arc::new(status.user.into())), audiences })),
        }
    }
}

#[async_trait]
impl Authenticator for TokenWebhook {
    async fn token(&self, _: &Arc<Engine>, token: &str, audiences: &[String]) -> Result<Option<Known>, Status> {
        let wanted = if audiences.is_empty() { &self.reviewer.audiences } else { audiences };
        let parts = [token].into_iter().chain(wanted.iter().map(String::as_str)).map(str::as_bytes);
        let asked = self.answers.asked(parts);
        // What went wrong is not kept.
        let ttl = self.ttl;
        let keep = move |answer: &Result<_, _>| if answer.is_ok() { ttl } else { Duration::ZERO };
        let (reviewer, token, wanted) = (self.reviewer.clone(), token.to_owned(), wanted.to_vec());
        let review = async move { reviewer.review(&token, &wanted).await };
        let answer = self.answers.get(asked, keep, review).await.unwrap_or_else(|lost| Err(lost.to_string()));
        answer.map_err(|why| Status::new(401, "Unauthorized", why))
    }
}

/// Null is nothing, as Go reads it.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
struct Review {
    status: Option<ReviewStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReviewStatus {
    #[serde(deserialize_with = "or_default")]
    authenticated: bool,
    #[serde(deserialize_with = "or_default")]
    user: UserInfo,
    #[serde(deserialize_with = "or_default")]
    audiences: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UserInfo {
    #[serde(deserialize_with = "or_default")]
    username: String,
    #[serde(deserialize_with = "or_default")]
    uid: String,
    #[serde(deserialize_with = "or_default")]
    groups: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    extra: BTreeMap<String, Vec<String>>,
}

impl From<UserInfo> for User {
    fn from(info: UserInfo) -> Self {
        Self { name: info.username, uid: info.uid, groups: info.groups, extra: info.extra }
    }
}

#[cfg(test)]
mod tests;
