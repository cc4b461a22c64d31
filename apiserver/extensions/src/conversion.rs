//! Objects of a definition with a conversion webhook, from one version to another: its `ConversionReview`, and what its answer says.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/conversion/webhook_converter.go`. Its errors have no reason, there as here.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use api::{Gvk, Status, field_errors::FieldErrors};
use apiserver::{
    engine::Engine,
    kind::Converter,
    outbound::{Callee, Unanswered},
};
use kinds::{
    admission::webhooks::ClientConfig,
    common::{Path, Read, selector},
};
use serde_json::{Map, Value, json};

/// `defaultWebhookTimeout`
const TIMEOUT: Duration = Duration::from_secs(30);

/// The webhook of one definition.
pub(crate) struct Webhook {
    client: ClientConfig,
    /// Of the reviews that it understands, the first that we do.
    review: Option<&'static str>,
    engine: Weak<Engine>,
    callee: OnceLock<Result<Arc<Callee>, String>>,
}

enum Failed {
    /// Nobody was asked.
    Later,
    Told(String),
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self::Told(why)
    }
}

impl From<&str> for Failed {
    fn from(why: &str) -> Self {
        Self::Told(why.to_owned())
    }
}

impl Webhook {
    pub fn of(definition: &Value, engine: &Arc<Engine>) -> Self {
        let webhook = definition.at("spec").at("conversion").at("webhook");
        let client = webhook.at("clientConfig").cloned().unwrap_or_default();
        let known = |version: &Value| ["v1", "v1beta1"].into_iter().find(|known| version.as_str() == Some(known));
        Self {
            // It was validated; what cannot be read names nobody, and says so when it is called.
            client: ClientConfig::read(client).unwrap_or_default(),
            review: webhook.list("conversionReviewVersions").iter().find_map(known),
            engine: Arc::downgrade(engine),
            callee: OnceLock::new(),
        }
    }

    fn callee(&self) -> Result<Arc<Callee>, String> {
        let engine = self.engine.upgrade().ok_or("the server is shutting down")?;
        self.callee.get_or_init(|| self.client.callee(&engine).map(Arc::new)).clone()
    }

    /// The objects of the answer.
    async fn asked(&self, to: &Gvk, objects: &[Value]) -> Result<Vec<Value>, Failed> {
        let version = self.review.ok_or("no supported conversion review versions")?;
        let uid = uuid::Uuid::new_v4().to_string();
        let request = json!({"uid": uid, "desiredAPIVersion": to.api_version(), "objects": objects});
        let review = json!({"kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"), "request": request});
        let (callee, path) = (self.callee()?, self.client.path(TIMEOUT));
        let answered = callee.post(&path, review.to_string().into(), TIMEOUT).await;
        let answered = answered.map_err(|unanswered| match unanswered {
            Unanswered::TooMany => Failed::Later,
            other => Failed::Told(other.told(&callee.url(&path))),
        })?;
        Ok(converted(&answered, version, &uid)?)
    }
}

#[async_trait::async_trait]
impl Converter for Webhook {
    async fn convert(&self, to: &Gvk, objects: Vec<Value>) -> Result<Vec<Value>, Status> {
        let Some(first) = objects.first() else { return Ok(objects) };
        let from = format!("{}, Kind={}", first.text("apiVersion"), first.text("kind"));
        let failed = |why: String| Status::new(500, "", format!("conversion webhook for {from} {why}"));
        let converted = self.asked(to, &objects).await.map_err(|why| match why {
            Failed::Later => Status::too_many_requests("too many large requests wait for webhooks, please try again later", 1),
            Failed::Told(why) => failed(format!("failed: {why}")),
        })?;
        believed(converted, to, &objects).map_err(failed)
    }
}

/// An answer's bytes -> what is believed of it, `objects` being what was asked for: for tests of what a webhook may say.
pub fn read_answer(answer: &[u8], uid: &str, to: &Gvk, objects: &[Value]) -> Result<Vec<Value>, String> {
    believed(converted(answer, "v1", uid)?, to, objects)
}

/// As many objects as were asked for, each of the version asked for, with the metadata it had.
fn believed(mut converted: Vec<Value>, to: &Gvk, objects: &[Value]) -> Result<Vec<Value>, String> {
    if converted.len() != objects.len() {
        return Err(format!("returned {} objects, expected {}", converted.len(), objects.len()));
    }
    let is_one = objects.len() == 1;
    for (at, (object, was)) in converted.iter_mut().zip(objects).enumerate() {
        let of_which = if is_one { String::new() } else { format!(" at index {at}") };
        let what = if is_one { "object" } else { "converted object" };
        typed(object, was, to).map_err(|why| format!("returned invalid {what} at index {at}: {why}"))?;
        same(object, was).map_err(|why| format!("returned invalid {what}{of_which}: {why}"))?;
        let of_which = if is_one { String::new() } else { format!(" in object at index {at}") };
        restored(object, was).map_err(|why| format!("returned invalid metadata{of_which}: {why}"))?;
    }
    Ok(converted)
}

/// `getConvertedObjectsFromResponse`
fn converted(answer: &[u8], version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let mut review: Value =
        serde_json::from_slice(answer).map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
    if version == "v1" && (review.text("apiVersion"), review.text("kind")) != ("apiextensions.k8s.io/v1", "ConversionReview") {
        let got = format!("{}, Kind={}", review.text("apiVersion"), review.text("kind"));
        return Err(format!("expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {got}"));
    }
    let Some(response) = review.get_mut("response").filter(|response| response.is_object()) else {
        return Err("no response provided".into());
    };
    let given = (&*response).text("uid");
    if version == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {}", api::quoted(given)));
    }
    let result = (&*response).at("result");
    match (result.text("status"), result.text("message")) {
        ("Success", _) => {}
        (status, "") => return Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => return Err(message.to_owned()),
    }
    match response.get_mut("convertedObjects").map(Value::take) {
        Some(Value::Array(objects)) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// It is of the version that was asked for, and of its kind.
fn typed(object: &Value, was: &Value, to: &Gvk) -> Result<(), String> {
    let (version, got) = (to.api_version(), object.text("apiVersion"));
    if got != version {
        return Err(format!("invalid groupVersion (expected {version}, received {got})"));
    }
    let (kind, got) = (was.text("kind"), object.text("kind"));
    if got == kind { Ok(()) } else { Err(format!("invalid kind (expected {kind}, received {got})")) }
}

/// `validateConvertedObject`
fn same(object: &Value, was: &Value) -> Result<(), String> {
    for (name, told) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (before, after) = (was.at("metadata").text(name), object.at("metadata").text(name));
        if before != after {
            return Err(format!("must have the same {told}: {before} != {after}"));
        }
    }
    Ok(())
}

/// The metadata are what they were, but for labels and annotations (`restoreObjectMeta`).
fn restored(object: &mut Value, was: &Value) -> Result<(), String> {
    let Some(Value::Object(mut given)) = object.get_mut("metadata").map(Value::take) else {
        return Err("missing metadata in converted object".into());
    };
    let mut metadata = was.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for part in ["labels", "annotations"] {
        let texts = match given.remove(part) {
            None | Some(Value::Null) => {
                metadata.shift_remove(part);
                continue;
            }
            Some(Value::Object(texts)) => texts,
            Some(other) => return Err(format!("invalid metadata.{part} of type {} in converted object", go_type(&other))),
        };
        if let Some((key, value)) = texts.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!("metadata.{part}[{key}] must be a string, but is {} in converted object", go_type(value)));
        }
        if metadata.get(part).and_then(Value::as_object) != Some(&texts) {
            valid(part, &texts)?;
        }
        metadata.insert(part.to_owned(), Value::Object(texts));
    }
    object["metadata"] = Value::Object(metadata);
    Ok(())
}

fn valid(part: &str, texts: &Map<String, Value>) -> Result<(), String> {
    let (texts, mut causes) = (Value::Object(texts.clone()), FieldErrors::default());
    match part {
        "labels" => selector::labels(Some(&texts), Path::ROOT.field("metadata").field("labels"), &mut causes),
        _ => selector::annotations(Some(&texts), Path::ROOT.field("metadata").field("annotation"), &mut causes),
    }
    let told: Vec<String> = causes.0.iter().map(|cause| cause.text()).collect();
    match told.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        all => Err(format!("[{}]", all.join(", "))),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
