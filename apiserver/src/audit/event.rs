//! What is known of a request -> an `audit.k8s.io/v1` Event, a line of JSON with the fields in upstream's order.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::Arc,
};

use api::time::{Timestamp, rfc3339_micro};
use bytes::Bytes;
use serde::Serialize;
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
    pub user: &'a Arc<User>,
    pub impersonated: Option<&'a Arc<User>>,
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

#[derive(Serialize)]
struct UserInfo<'a> {
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
#[derive(Default)]
pub(super) struct ObjectRef {
    resource: String,
    namespace: String,
    name: String,
    uid: String,
    api_group: String,
    api_version: String,
    resource_version: String,
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

impl Event<'_> {
    pub fn line(&self) -> Bytes {
        let mut line = Line(Vec::with_capacity(LINE_BYTES_USUAL));
        line.json("{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"level\":", &self.level);
        line.string(",\"auditID\":", self.id);
        line.json(",\"stage\":", &self.stage);
        line.string(",\"requestURI\":", self.uri);
        line.string(",\"verb\":", self.verb);
        line.user(",\"user\":", self.user);
        if let Some(user) = self.impersonated {
            line.user(",\"impersonatedUser\":", user);
        }
        if !self.constraint.is_empty() {
            line.fields(",\"authenticationMetadata\":", [("impersonationConstraint", self.constraint)]);
        }
        if let Some((first, others)) = self.sources.split_first() {
            line.string(",\"sourceIPs\":[", first);
            others.iter().for_each(|source| line.string(",", source));
            line.raw("]");
        }
        if !self.agent.is_empty() {
            line.string(",\"userAgent\":", self.agent);
        }
        if let Some(object) = self.object {
            line.fields(",\"objectRef\":", object.fields());
        }
        if let Some(status) = &self.response_status {
            line.json(",\"responseStatus\":", status);
        }
        if let Some(request) = self.request {
            line.raw(",\"requestObject\":");
            line.raw(request.get());
        }
        if let Some(response) = self.response {
            line.raw(",\"responseObject\":");
            line.raw(response.get());
        }
        line.time(",\"requestReceivedTimestamp\":", self.received);
        line.time(",\"stageTimestamp\":", self.now);
        if !self.annotations.is_empty() {
            line.fields(",\"annotations\":", self.annotations.iter().map(|(key, value)| (&**key, &**value)));
        }
        line.raw("}\n");
        line.0.into()
    }

    /// The same without the objects in it (`truncate` in apiserver `plugin/pkg/audit/truncate`).
    pub fn short_line(&self) -> Bytes {
        let (mut annotations, (key, value)) = (self.annotations.clone(), TRUNCATED);
        annotations.insert(key.into(), value.into());
        Event { request: None, response: None, annotations: &annotations, ..*self }.line()
    }
}

/// Of most users what a line says is a fraction of this.
const USER_BYTES_KEPT: usize = 4 << 10;
const USERS_KEPT: usize = 16;

type KeptUser = Option<(Arc<User>, Box<str>)>;

thread_local! {
    /// What lines say of users that a thread has lately told of.
    static USERS: RefCell<[KeptUser; USERS_KEPT]> = const { RefCell::new([const { None }; USERS_KEPT]) };
}

/// A line in the making. By hand: a serializer writes it in two hundred pieces, byte by byte looked at, which is a sixth of what a request costs.
struct Line(Vec<u8>);

impl Line {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn json(&mut self, lead: &str, value: &impl Serialize) {
        self.raw(lead);
        serde_json::to_writer(&mut self.0, value).expect("strings, numbers and JSON can be written");
    }

    fn string(&mut self, lead: &str, text: &str) {
        // Not `all`, which looks at one byte after the other.
        let is_plain = text.bytes().fold(true, |plain, byte| plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\'));
        if !is_plain {
            return self.json(lead, &text);
        }
        self.0.reserve(lead.len() + text.len() + 2);
        self.raw(lead);
        self.0.push(b'"');
        self.raw(text);
        self.0.push(b'"');
    }

    fn fields<'f>(&mut self, lead: &str, fields: impl IntoIterator<Item = (&'f str, &'f str)>) {
        self.raw(lead);
        let mut open = "{";
        for (name, value) in fields {
            self.string(open, name);
            self.string(":", value);
            open = ",";
        }
        self.raw(if open == "{" { "{}" } else { "}" });
    }

    fn user(&mut self, lead: &str, user: &Arc<User>) {
        self.raw(lead);
        let slot = user.name.bytes().rev().take(USERS_KEPT).fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        USERS.with_borrow_mut(|kept| {
            let kept = &mut kept[slot % USERS_KEPT];
            if let Some((_, text)) = kept.as_ref().filter(|(known, _)| Arc::ptr_eq(known, user) || known == user) {
                return self.raw(text);
            }
            let text = serde_json::to_string(&UserInfo::of(user)).expect("strings can be written");
            self.raw(&text);
            if text.len() <= USER_BYTES_KEPT {
                *kept = Some((user.clone(), text.into()));
            }
        });
    }

    fn time(&mut self, lead: &str, at: Timestamp) {
        // Before the epoch parts of a second are negative.
        match Micros(at).text() {
            Some(text) => self.string(lead, std::str::from_utf8(&text).unwrap_or_default()),
            None => self.string(lead, &rfc3339_micro(at)),
        }
    }
}

/// A time, for [`rfc3339_micro`] as text.
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

impl<'a> UserInfo<'a> {
    fn of(user: &'a User) -> Self {
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

    /// Those that are not empty.
    fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let fields = [
            ("resource", &self.resource),
            ("namespace", &self.namespace),
            ("name", &self.name),
            ("uid", &self.uid),
            ("apiGroup", &self.api_group),
            ("apiVersion", &self.api_version),
            ("resourceVersion", &self.resource_version),
            ("subresource", &self.subresource),
        ];
        fields.into_iter().map(|(name, value)| (name, value.as_str())).filter(|(_, value)| !value.is_empty())
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
            let mut line = Line(Vec::new());
            line.time("", at);
            assert_eq!(String::from_utf8(line.0).unwrap(), format!("\"{}\"", rfc3339_micro(at)), "{micros}");
        }
    }

    #[test]
    fn whatever_is_told_comes_back_as_it_was() {
        for text in ["", "plain", "\"", "\\", "a\"b\\c", "\n", "\u{1f}\u{7f}", "h\u{e4}\u{df}lich \u{1f600}", "\u{2028}"] {
            let user = Arc::new(User { name: text.into(), groups: vec![text.into()], ..User::default() });
            let mut line = Line(Vec::new());
            line.fields("{\"o\":", [(text, text), ("b", text)]);
            line.string(",\"s\":", text);
            line.user(",\"u\":", &user);
            // The second time as it is remembered.
            line.user(",\"v\":", &user);
            line.fields(",\"e\":", []);
            line.raw("}");
            let told: Value = serde_json::from_slice(&line.0).unwrap();
            let of_user = serde_json::to_value(UserInfo::of(&user)).unwrap();
            assert_eq!(told, serde_json::json!({"o": {text: text, "b": text}, "s": text, "u": of_user, "v": of_user, "e": {}}));
        }
    }

    #[test]
    fn users_of_one_place_are_told_apart() {
        let user = |uid: String| Arc::new(User { name: "a".into(), uid, ..User::default() });
        for at in 0..3 {
            let (user, mut line) = (user(at.to_string()), Line(Vec::new()));
            line.user("", &user);
            assert_eq!(String::from_utf8(line.0).unwrap(), format!("{{\"username\":\"a\",\"uid\":\"{at}\"}}"));
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
