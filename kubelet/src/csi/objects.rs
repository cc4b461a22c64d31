//! What the API has for drivers and volumes: read when it is needed, one object at a time, as a node may.
//!
//! Nothing is watched: a node without such volumes costs its server nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    k8s::api::{
        core::v1::Secret,
        storage::v1::{CSIDriver, CSIDriverSpec},
    },
    names::segment,
};
use client::{kube, watch};
use http::{Method, Request};
use parking_lot::Mutex;
use serde_json::Value;

/// Each request.
const REQUEST_BOUND: Duration = Duration::from_secs(10);

pub const MERGE_PATCH: &str = "application/merge-patch+json";
pub const JSON: &str = "application/json";

/// For which what is said of a driver is not asked again, where that may be some seconds old.
const LATELY: Duration = Duration::from_secs(45);

/// When a driver was last asked about, and what was said of it.
type Lately = HashMap<String, (Instant, Option<CSIDriverSpec>)>;

/// Reads and writes as this node.
#[derive(Clone)]
pub struct Objects {
    client: kube::Client,
    /// By name of those that pods have, and registered ones; few.
    lately: Arc<Mutex<Lately>>,
}

impl Objects {
    pub fn new(client: kube::Client) -> Self {
        Self { client, lately: Arc::default() }
    }

    /// What is said of a driver; `None` where nothing is.
    ///
    /// # Errors
    /// The server's words, or that it does not answer.
    pub async fn driver(&self, name: &str) -> Result<Option<CSIDriverSpec>, String> {
        let read = self.get(&format!("/apis/storage.k8s.io/v1/csidrivers/{}", segment(name))).await?;
        let Some(object) = read else { return Ok(None) };
        serde_json::from_value::<CSIDriver>(object).map(|driver| Some(driver.spec)).map_err(|error| error.to_string())
    }

    /// The same, less than a minute old.
    ///
    /// # Errors
    /// As [`Objects::driver`].
    pub async fn driver_lately(&self, name: &str) -> Result<Option<CSIDriverSpec>, String> {
        let known = self.lately.lock().get(name).filter(|(at, _)| at.elapsed() < LATELY).map(|(_, said)| said.clone());
        if let Some(said) = known {
            return Ok(said);
        }
        let said = self.driver(name).await?;
        let mut lately = self.lately.lock();
        lately.retain(|_, (at, _)| at.elapsed() < LATELY);
        lately.insert(name.to_owned(), (Instant::now(), said.clone()));
        Ok(said)
    }

    /// # Errors
    /// The server's words, or that it does not answer; `VolumeAttachment` that is not there too.
    pub async fn attachment(&self, name: &str) -> Result<Value, String> {
        let read = self.get(&format!("/apis/storage.k8s.io/v1/volumeattachments/{}", segment(name))).await?;
        read.ok_or_else(|| format!("volumeattachments.storage.k8s.io {name:?} not found"))
    }

    /// The data of a Secret, as a driver takes it: text.
    ///
    /// # Errors
    /// The server's words, that it does not answer, or that there is none. Never what is in it.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, String> {
        let read = tokio::time::timeout(REQUEST_BOUND, watch::get::<Secret>(&self.client, Some(namespace), name)).await;
        let read = read.map_err(|_| LATE.to_owned())?.map_err(|error| error.to_string())?;
        let data = read.object.data.unwrap_or_default();
        Ok(data.into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
    }

    /// `None` where it is not there.
    ///
    /// # Errors
    /// The server's words, or that it does not answer.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, String> {
        match self.ask(Method::GET, path, JSON, None).await {
            Ok(object) => Ok(Some(object)),
            Err(Failed { code: 404, .. }) => Ok(None),
            Err(failed) => Err(failed.why),
        }
    }

    /// # Errors
    /// The server's code and words; 0 where it does not answer.
    pub async fn ask(&self, method: Method, path: &str, content_type: &str, body: Option<&Value>) -> Result<Value, Failed> {
        let lost = |why: String| Failed { code: 0, why };
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = Request::builder().method(method).uri(path).header("content-type", content_type).body(body);
        let request = request.map_err(|error| lost(error.to_string()))?;
        match tokio::time::timeout(REQUEST_BOUND, self.client.request_text(request)).await {
            Err(_) => Err(lost(LATE.into())),
            Ok(Err(kube::Error::Api(status))) => Err(Failed { code: status.code, why: status.message.clone() }),
            Ok(Err(error)) => Err(lost(error.to_string())),
            Ok(Ok(text)) => serde_json::from_str(&text).map_err(|error| lost(error.to_string())),
        }
    }
}

const LATE: &str = "the API server did not answer in time";

/// A request that was not carried out.
#[derive(Debug)]
pub struct Failed {
    pub code: u16,
    pub why: String,
}
