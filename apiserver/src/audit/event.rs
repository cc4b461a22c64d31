//! What is known of a request -> an `audit.k8s.io/v1` Event, a line of JSON with the fields in upstream's order.

use std::{borrow::Cow, cell::Cell, collections::BTreeMap};

use api::time::{Timestamp, rfc3339_micro};
use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Value, value::RawValue};

use super::policy::{Level, Stage};
use crate::identity::{Attributes, User};

/// By key; most of them are the same words with each request.
pub(super) type Annotations = BTreeMap<Cow<'static, str>, Cow<'static, str>>;

/// What says that the objects were left out (`annotationKey` in apiserver `plugin/pkg/audit/truncate`).
const TRUNCATED: (&str, &str) = ("audit.k8s.io/truncated", "true");
/// Room for most lines.
const LINE_BYTES_USUAL: usize = 1024;

#[derive(Clone, Copy)]
pub(super) struct Event<'a> {
    pub level: Level,
    pub id: &'a str,
    pub stage: Stage,
    pub uri: &'a str,
    pub verb: &'a str,
    pub user: UserInfo<'a>,
    pub impersonated: Option<UserInfo<'a>>,
    pub constraint: &'a str,
    pub sources: &'a [String],
    pub agent: &'a str,
    pub object: Option<&'a ObjectRef>,
    pub response_status: Option<ResponseStatus<'a>>,
    pub request: Option<&'a RawValue>,
    pub response: Option<&'a RawValue>,
    pub received: Timestamp,
    pub now: Timestamp,
    pub annotations: &'a Annotations,
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct UserInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

/// What the request is about.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

/// A `metav1.Status` without its own metadata.
#[derive(Clone, Copy, Serialize)]
pub(super) struct ResponseStatus<'a> {
    metadata: Empty,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Value>,
    code: u16,
}

#[derive(Clone, Copy, Serialize)]
struct Empty {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuthenticationMetadata<'a> {
    impersonation_constraint: &'a str,
}

impl Event<'_> {
    pub fn line(&self) -> Bytes {
        let mut line = Vec::with_capacity(LINE_BYTES_USUAL);
        serde_json::to_writer(&mut line, self).expect("strings, numbers and JSON can be written");
        line.push(b'\n');
        line.into()
    }

    /// The same without the objects in it (`truncate` in apiserver `plugin/pkg/audit/truncate`).
    pub fn short_line(&self) -> Bytes {
        let (mut annotations, (key, value)) = (self.annotations.clone(), TRUNCATED);
        annotations.insert(key.into(), value.into());
        Event { request: None, response: None, annotations: &annotations, ..*self }.line()
    }
}

impl Serialize for Event<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("kind", "Event")?;
        map.serialize_entry("apiVersion", "audit.k8s.io/v1")?;
        map.serialize_entry("level", &self.level)?;
        map.serialize_entry("auditID", self.id)?;
        map.serialize_entry("stage", &self.stage)?;
        map.serialize_entry("requestURI", self.uri)?;
        map.serialize_entry("verb", self.verb)?;
        map.serialize_entry("user", &self.user)?;
        if let Some(user) = &self.impersonated {
            map.serialize_entry("impersonatedUser", user)?;
        }
        if !self.constraint.is_empty() {
            map.serialize_entry("authenticationMetadata", &AuthenticationMetadata { impersonation_constraint: self.constraint })?;
        }
        if !self.sources.is_empty() {
            map.serialize_entry("sourceIPs", self.sources)?;
        }
        if !self.agent.is_empty() {
            map.serialize_entry("userAgent", self.agent)?;
        }
        if let Some(object) = self.object {
            map.serialize_entry("objectRef", object)?;
        }
        if let Some(status) = &self.response_status {
            map.serialize_entry("responseStatus", status)?;
        }
        if let Some(request) = self.request {
            map.serialize_entry("requestObject", request)?;
        }
        if let Some(response) = self.response {
            map.serialize_entry("responseObject", response)?;
        }
        map.serialize_entry("requestReceivedTimestamp", &Micros(self.received))?;
        map.serialize_entry("stageTimestamp", &Micros(self.now))?;
        if !self.annotations.is_empty() {
            map.serialize_entry("annotations", self.annotations)?;
        }
        map.end()
    }
}

/// A time as [`rfc3339_micro`] writes it.
struct Micros(Timestamp);

thread_local! {
    /// The last second that was written, and its text: as good as all events of a thread that are told of in one second share it.
    static SECOND: Cell<(i64, [u8; SECOND_LEN])> = const { Cell::new((i64::MIN, [0; SECOND_LEN])) };
}

/// `2026-01-02T03:04:05`
const SECOND_LEN: usize = 19;
const MICROS_LEN: usize = SECOND_LEN + ".000006Z".len();

impl Micros {
    fn text(&self) -> Option<[u8; MICROS_LEN]> {
        let (second, mut micros) = (self.0.as_second(), u32::try_from(self.0.subsec_microsecond()).ok()?);
        let (known, mut text) = SECOND.get();
        if known != second {
            text = rfc3339_micro(self.0).as_bytes().first_chunk().copied()?;
            SECOND.set((second, text));
        }
        let mut out = *b"0000-00-00T00:00:00.000000Z";
        out[..SECOND_LEN].copy_from_slice(&text);
        for digit in out[SECOND_LEN + 1..MICROS_LEN - 1].iter_mut().rev() {
            *digit = b'0' + (micros % 10) as u8;
            micros /= 10;
        }
        Some(out)
    }
}

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // Before the epoch parts of a second are negative.
        match self.text() {
            Some(text) => to.serialize_str(std::str::from_utf8(&text).unwrap_or_default()),
            None => to.serialize_str(&rfc3339_micro(self.0)),
        }
    }
}

impl<'a> UserInfo<'a> {
    pub fn of(user: &'a User) -> Self {
        Self { username: &user.name, uid: &user.uid, groups: &user.groups, extra: &user.extra }
    }
}

impl ObjectRef {
    pub fn of(asked: &Attributes<'_>) -> Self {
        Self {
            resource: asked.resource.to_owned(),
            namespace: asked.namespace.to_owned(),
            name: asked.name.to_owned(),
            api_group: asked.group.to_owned(),
            api_version: asked.version.to_owned(),
            subresource: asked.subresource.to_owned(),
            ..Self::default()
        }
    }

    /// What the request itself does not say stands in the object that it brings.
    pub fn complete(&mut self, object: &Value) {
        let fields = [
            ("namespace", &mut self.namespace),
            ("name", &mut self.name),
            ("uid", &mut self.uid),
            ("resourceVersion", &mut self.resource_version),
        ];
        let metadata = object.get("metadata");
        for (field, value) in fields.into_iter().filter(|(_, value)| value.is_empty()) {
            metadata.and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or_default().clone_into(value);
        }
    }
}

impl<'a> ResponseStatus<'a> {
    pub fn of(code: u16, status: Option<&'a Value>) -> Self {
        let part = |name: &str| status.and_then(|status| status.get(name)).filter(|part| !part.as_str().is_some_and(str::is_empty));
        Self {
            metadata: Empty {},
            status: part("status"),
            message: part("message"),
            reason: part("reason"),
            details: part("details"),
            code,
        }
    }
}

/// Of an object, of each item of a list, and of the object of each row of a table (`copyWithoutManagedFields`).
pub(super) fn drop_managed_fields(object: &mut Value) {
    let forget = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("managedFields");
        }
    };
    forget(object);
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        forget(item);
    }
    for row in object.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        row.get_mut("object").into_iter().for_each(forget);
    }
}

/// JSON on one line, however deep it is; `None` where it is none.
pub(super) fn on_one_line(json: &[u8]) -> Option<Box<RawValue>> {
    let (mut out, mut is_text, mut is_escaped) = (Vec::with_capacity(json.len()), false, false);
    for byte in json {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' if !is_text => continue,
            b'"' if !is_escaped => is_text = !is_text,
            _ => {}
        }
        is_escaped = is_text && !is_escaped && *byte == b'\\';
        out.push(*byte);
    }
    // Looked through without going down into it: there is no limit to the levels, and text has no newlines of its own.
    RawValue::from_string(String::from_utf8(out).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_everywhere() {
        let second = 1_796_000_000_000_000;
        for micros in
            [second, second + 7, second + 999_999, second + 1_000_000, second + 5, 0, 1, -1, -1_000_001, i64::from(u32::MAX) * 1_000_000]
        {
            let at = Timestamp::from_microsecond(micros).unwrap();
            assert_eq!(serde_json::to_value(Micros(at)).unwrap(), rfc3339_micro(at), "{micros}");
        }
    }

    #[test]
    fn json_of_any_depth_comes_on_one_line() {
        let line = |json: &str| on_one_line(json.as_bytes()).map(|raw| raw.get().to_owned());
        assert_eq!(line("{ \"a b\" :\n[1 ,\t\"\\\" \\\\\" ] }\r\n").as_deref(), Some("{\"a b\":[1,\"\\\" \\\\\"]}"));
        let deep = format!("{}1{}", "[\n".repeat(1000), "]".repeat(1000));
        assert_eq!(line(&deep), Some(deep.replace('\n', "")));
        for none in ["", "{", "[1 2", "\"a\nb\"", "{} {}", "\"\\"] {
            assert_eq!(line(none), None, "{none}");
        }
        assert!(on_one_line(b"\"\xff\"").is_none());
    }
}
