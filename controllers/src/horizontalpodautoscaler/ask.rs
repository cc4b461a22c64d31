//! A path -> what the server, or a metrics API behind it, answers: in bounded time and room.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::{
    Gvr,
    names::{is_possible, segment},
};
use client::kube;
use http::{Request, header::ACCEPT};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};

/// Of one answer: the metrics of some 40,000 pods.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Of one question.
const ANSWER_BOUND: Duration = Duration::from_secs(10);
/// Of what a refusal says: it is written into the status of each autoscaler that it concerns.
const REFUSAL_BYTES_MAX: usize = 1024;

/// Who asks, and what need not be asked each time.
pub struct Asks {
    pub client: kube::Client,
    /// By group and kind. As large as the number of kinds that are served, and were named of late.
    pub kinds: Mutex<HashMap<(String, String), Known>>,
    /// The version of the custom metrics API, and until when that is believed (`PeriodicallyInvalidate`).
    pub custom_version: Mutex<Option<(String, Instant)>>,
    pub custom_version_lasts: Duration,
}

/// The resources of a kind, and until when that is believed.
pub type Known = (Instant, Arc<[Gvr]>);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// 0 where nobody answered.
    pub code: u16,
    pub message: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    message: Option<String>,
}

impl Asks {
    pub fn new(client: kube::Client, period: Duration) -> Self {
        Self { client, kinds: Mutex::default(), custom_version: Mutex::default(), custom_version_lasts: period }
    }

    /// One GET, answered by `until` and within [`ANSWER_BOUND`]. An answer that is no JSON of that shape is a refusal.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, until: Instant) -> Result<T, Refused> {
        let (late, now) = (|| Refused::because("there was no answer in time".into()), Instant::now());
        if until <= now {
            return Err(late());
        }
        let until = until.min(now + ANSWER_BOUND);
        match timeout_at(until, self.bytes(path)).await {
            Ok(bytes) => serde_json::from_slice(&bytes?).map_err(|error| Refused::because(format!("the answer cannot be read: {error}"))),
            Err(_) => Err(late()),
        }
    }

    async fn bytes(&self, path: &str) -> Result<Vec<u8>, Refused> {
        let request = Request::get(path).header(ACCEPT, "application/json").body(kube::client::Body::empty());
        let request = request.map_err(|error| Refused::because(error.to_string()))?;
        let answer = self.client.send(request).await.map_err(|error| Refused::because(error.to_string()))?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = body.map_err(|error| Refused::because(format!("the answer cannot be read: {error}")))?.to_bytes();
        if code.is_success() {
            return Ok(bytes.into());
        }
        let said = serde_json::from_slice::<Refusal>(&bytes).ok().and_then(|refusal| refusal.message).filter(|said| !said.is_empty());
        let message = said.unwrap_or_else(|| match code.as_u16() {
            404 => "the server could not find the requested resource".to_owned(),
            _ => format!("the server answered {code}"),
        });
        Err(Refused { code: code.as_u16(), ..Refused::because(message) })
    }
}

impl Refused {
    fn because(mut message: String) -> Self {
        message.truncate(message.floor_char_boundary(REFUSAL_BYTES_MAX));
        Self { code: 0, message }
    }
}

/// The words as a path, each as one segment.
///
/// # Errors
/// A word that no path can have as a segment.
pub fn path(words: &[&str]) -> Result<String, String> {
    let mut path = String::new();
    for word in words {
        if !is_possible(word) {
            return Err(format!("{word:?} may not be a part of a path"));
        }
        path.push('/');
        path.push_str(&segment(word));
    }
    Ok(path)
}
