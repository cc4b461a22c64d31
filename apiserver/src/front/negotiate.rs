//! `Accept` and `Content-Type` -> the form of the reply and of the body. Source: apiserver `pkg/endpoints/handlers/negotiation`.

use std::borrow::Cow;

use api::Status;
use http::{HeaderMap, HeaderName, header};

use super::query::Query;
use crate::{
    body::Response,
    kind::{Kind, Storage},
    names::go_package,
    schema::Schema,
    wire::{self, Layout},
};

const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
/// What lists give, which may become watches.
const ALL: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const STREAMED: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Pretty,
    Yaml,
    Protobuf,
}

/// How much of each object a table row carries (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

/// What becomes of the objects on the way out. The version is that of `meta.k8s.io`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    Plain,
    Table {
        version: String,
        include: Include,
    },
    /// Metadata alone, asked for as one's or as a list's.
    Partial {
        version: String,
        answer: Answer,
    },
}

/// What the answer to a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    One,
    Many,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub format: Format,
    pub transform: Transform,
    /// An `includeObject` of a table that there is none of.
    pub unknown_include: Option<Box<str>>,
}

/// What can be answered: objects with this schema, as tables where these are shown.
#[derive(Clone, Copy)]
pub(crate) struct Offer<'a> {
    pub schema: &'a Schema,
    pub tables: bool,
}

impl Output {
    /// The bytes as they are kept.
    pub const JSON: Self = Self { format: Format::Json, transform: Transform::Plain, unknown_include: None };

    /// Whether an answer can be shown so. Upstream looks when it has the answer, and all is done by then (`transformResponseObject`).
    ///
    /// # Errors
    /// 406 for a list that was asked for as one object, and the other way about; 400 for an `includeObject` that there is none of.
    pub fn fits(&self, kind: &Kind, answer: Answer) -> Result<(), Status> {
        self.includes()?;
        let told = match (&self.transform, answer) {
            (Transform::Partial { answer: Answer::One, .. }, Answer::Many) => {
                format!("you requested PartialObjectMetadata, but the requested object is a list ({})", go_type(kind, answer))
            }
            (Transform::Partial { answer: Answer::Many, .. }, Answer::One) => {
                format!("you requested PartialObjectMetadataList, but the requested object is not a list ({})", go_type(kind, answer))
            }
            _ => return Ok(()),
        };
        Err(Status::new(406, "NotAcceptable", told))
    }

    /// `ValidateTableOptions`
    fn includes(&self) -> Result<(), Status> {
        let Some(given) = &self.unknown_include else { return Ok(()) };
        let why = format!("includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty", api::quoted(given));
        Err(Status::bad_request(format!("Unable to convert to Table as requested: {why}")))
    }
}

/// As Go's `%T` names the internal type of the answer.
fn go_type(kind: &Kind, answer: Answer) -> String {
    let list = if answer == Answer::Many { "List" } else { "" };
    if matches!(kind.schema, Schema::Custom(_)) {
        return format!("*unstructured.Unstructured{list}");
    }
    let group = match &kind.storage {
        Storage::As { group, .. } => group,
        _ => &kind.group,
    };
    format!("*{}.{}{list}", go_package(group), kind.kind)
}

/// The syntax of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Json,
    Yaml,
    Protobuf,
}

/// The form of the reply.
///
/// # Errors
/// 406 where nothing that is accepted can be served.
pub(crate) fn output(headers: &HeaderMap, query: &Query, offer: Offer<'_>) -> Result<Output, Status> {
    answered(headers, query, offer, |transform| transform)
}

/// The form of the reply, where `shown` is what becomes of a transformation.
fn answered(headers: &HeaderMap, query: &Query, offer: Offer<'_>, shown: fn(Transform) -> Transform) -> Result<Output, Status> {
    let accept = text(headers, &header::ACCEPT);
    let read = |one| one_output(one, query).map(|output| Output { transform: shown(output.transform), ..output });
    let found = offers(&accept).into_iter().find_map(|one| read(one).filter(|output| offer.has(output)));
    let mut found = found.ok_or_else(|| Status::not_acceptable(&ACCEPTED))?;
    if matches!(found.transform, Transform::Table { .. }) && include(query).is_none() {
        found.unknown_include = Some(query.get("includeObject").into());
    }
    if found.format == Format::Json && pretty(headers, query) {
        found.format = Format::Pretty;
    }
    Ok(found)
}

impl Offer<'_> {
    fn has(self, output: &Output) -> bool {
        match (output.format, &output.transform) {
            (Format::Protobuf, Transform::Plain) => self.schema.has_protobuf(),
            (Format::Protobuf, Transform::Partial { .. }) => self.schema.tables().is_some(),
            (Format::Protobuf, Transform::Table { .. }) => false,
            (Format::Json | Format::Pretty | Format::Yaml, Transform::Table { .. }) => self.tables,
            (Format::Json | Format::Pretty | Format::Yaml, _) => true,
        }
    }
}

/// As [`output`], of a watch. An event is one object, and told as it is where it was asked for as a list.
///
/// # Errors
/// 406, also for YAML, which has no frames; 400 for an `includeObject` that there is none of (`serveWatchHandler`).
pub(crate) fn stream_output(headers: &HeaderMap, query: &Query, offer: Offer<'_>) -> Result<Output, Status> {
    let of_one = |transform| match transform {
        Transform::Partial { answer: Answer::Many, .. } => Transform::Plain,
        other => other,
    };
    // Before it is looked whether that can be served: of a custom kind there is metadata in protobuf, and no object.
    let output = answered(headers, query, offer, of_one)?;
    output.includes()?;
    if output.format == Format::Yaml {
        return Err(Status::not_acceptable(&STREAMED));
    }
    Ok(output)
}

/// The syntax of a refusal: nothing is transformed. `None` where nothing that is accepted can be served; it is JSON then, indented.
pub(crate) fn refusal(headers: &HeaderMap, query: &Query) -> Option<Format> {
    let accept = text(headers, &header::ACCEPT);
    let is_plain = |one: &str| !one.split(';').skip(1).any(|param| ["as=", "g=", "v="].iter().any(|name| param.trim().starts_with(name)));
    let found = offers(&accept).into_iter().filter(|one| is_plain(one)).find_map(|one| one_output(one, query))?;
    Some(if found.format == Format::Json && pretty(headers, query) { Format::Pretty } else { found.format })
}

/// What a route takes and gives (go-restful's `Consumes` and `Produces`).
pub(crate) struct Route {
    /// Of a body; any where it has none.
    pub takes: Option<&'static [&'static str]>,
    /// Whether it may also stream.
    pub streams: bool,
}

/// go-restful's own refusals, which come before ours: the body is of no type that the route takes, or of what is accepted nothing is anything or named as
/// the route gives it.
pub(crate) fn unroutable(headers: &HeaderMap, query: &Query, route: &Route) -> Option<Response> {
    if route.takes.is_some_and(|types| !types.contains(&media_type(headers).as_str())) {
        return Some(wire::of_router(415, "UnsupportedMediaType", "415: Unsupported Media Type", layout(headers, query)));
    }
    let gives: &[&str] = if route.streams { &ALL } else { &ACCEPTED };
    unacceptable(headers, query, gives)
}

/// The same of a route that gives these types.
pub(crate) fn unacceptable(headers: &HeaderMap, query: &Query, gives: &[&str]) -> Option<Response> {
    let accept = text(headers, &header::ACCEPT);
    let fits = |one: &str| {
        let media = one.split(';').next().unwrap_or_default().trim();
        media == "*/*" || gives.contains(&media)
    };
    if accept.is_empty() || accept.split(',').any(fits) {
        return None;
    }
    let told = format!("406: Not Acceptable\n\nAvailable representations: {}", gives.join(", "));
    Some(wire::of_router(406, "NotAcceptable", &told, layout(headers, query)))
}

/// What is refused because nothing else is accepted is JSON all the same, for people to read.
fn layout(headers: &HeaderMap, query: &Query) -> Layout {
    if refusal(headers, query) == Some(Format::Json) { Layout::OneLine } else { Layout::Indented }
}

/// What is accepted, the best first (`goautoneg.ParseAccept`).
fn offers(accept: &str) -> Vec<&str> {
    let mut offers: Vec<(f32, &str)> =
        accept.split(',').map(str::trim).filter(|one| !one.is_empty()).map(|one| (quality(one), one)).collect();
    if offers.is_empty() {
        offers.push((1.0, "*/*"));
    }
    offers.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.starts_with("*/").cmp(&b.1.starts_with("*/"))));
    offers.into_iter().map(|(_, one)| one).collect()
}

/// The syntax of the body; JSON where the request does not say.
///
/// # Errors
/// 415 for anything but JSON, YAML and protobuf.
pub(crate) fn input(headers: &HeaderMap) -> Result<Input, Status> {
    match media_type(headers).as_str() {
        "" | "application/json" => Ok(Input::Json),
        "application/yaml" => Ok(Input::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Input::Protobuf),
        _ => Err(Status::unsupported_media_type(&ACCEPTED)),
    }
}

/// The content type in lower case, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = text(headers, &header::CONTENT_TYPE);
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a large reply may be compressed.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let value = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(',').any(|one| one.split(';').next().map(str::trim) == Some("gzip"))
}

/// A header that is there is never as good as absent: what of it is no text is replaced, and then no known word.
fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Cow<'h, str> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default()
}

fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    if query.all("pretty").next().is_some() {
        return query.flag("pretty");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|known| agent.starts_with(known))
}

fn quality(offer: &str) -> f32 {
    let q = offer.split(';').skip(1).find_map(|param| param.trim().strip_prefix("q="));
    q.and_then(|q| q.parse().ok()).unwrap_or(1.0)
}

fn one_output(offer: &str, query: &Query) -> Option<Output> {
    let mut parts = offer.split(';').map(str::trim);
    let format = match parts.next()? {
        "application/json" | "application/*" | "*/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        "application/vnd.kubernetes.protobuf" => Format::Protobuf,
        _ => return None,
    };
    let params: Vec<(&str, &str)> = parts.filter_map(|param| param.split_once('=')).collect();
    let param = |name: &str| params.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let version = param("v").unwrap_or("v1").to_owned();
    let known = param("g") == Some("meta.k8s.io") && matches!(version.as_str(), "v1" | "v1beta1");
    if param("stream").is_some_and(|stream| !stream.is_empty() && (stream != "watch" || format == Format::Yaml)) {
        return None;
    }
    let transform = match param("as") {
        None if param("g").is_none() && param("v").is_none() => Transform::Plain,
        Some("Table") if known => Transform::Table { version, include: include(query).unwrap_or(Include::Metadata) },
        Some("PartialObjectMetadata") if known => Transform::Partial { version, answer: Answer::One },
        Some("PartialObjectMetadataList") if known => Transform::Partial { version, answer: Answer::Many },
        // A group or version of nothing is none that is known.
        _ => return None,
    };
    Some(Output { format, transform, unknown_include: None })
}

fn include(query: &Query) -> Option<Include> {
    match query.get("includeObject") {
        "" | "Metadata" => Some(Include::Metadata),
        "None" => Some(Include::None),
        "Object" => Some(Include::Object),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transform(accept: &str) -> Option<(Format, Transform)> {
        asked(accept, "", true).ok().map(|out| (out.format, out.transform))
    }

    fn asked(accept: &str, query: &str, tables: bool) -> Result<Output, Status> {
        output(&accepting(accept), &Query::parse(Some(query)), Offer { schema: &Schema::Open, tables })
    }

    fn accepting(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())])
    }

    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

    #[test]
    fn the_first_form_that_can_be_served_is() {
        let table = Transform::Table { version: "v1".into(), include: Include::Metadata };
        let cases = [
            ("", Some((Format::Json, Transform::Plain))),
            ("*/*", Some((Format::Json, Transform::Plain))),
            ("application/vnd.kubernetes.protobuf", None),
            ("application/vnd.kubernetes.protobuf, application/json", Some((Format::Json, Transform::Plain))),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some((Format::Json, table))),
            ("application/json;as=Nonsense;v=v1;g=meta.k8s.io,application/yaml", Some((Format::Yaml, Transform::Plain))),
            ("application/json;v=v1;g=meta.k8s.io,application/yaml", Some((Format::Yaml, Transform::Plain))),
            ("application/json;q=0.5,application/yaml", Some((Format::Yaml, Transform::Plain))),
            ("text/html", None),
        ];
        for (accept, wanted) in cases {
            assert_eq!(transform(accept), wanted, "{accept}");
        }
    }

    #[test]
    fn what_shows_no_tables_is_not_shown_as_one() {
        assert_eq!(asked(TABLE, "", false).err().map(|status| status.code), Some(406));
        assert_eq!(asked(&format!("{TABLE},application/json"), "", false), Ok(Output::JSON));
    }

    #[test]
    fn what_was_asked_for_is_held_against_the_answer() {
        let kind = crate::front::scale::kind();
        let fits = |accept: &str, query: &str, answer| {
            asked(accept, query, true).unwrap().fits(kind, answer).map_err(|status| (status.code, status.message))
        };
        let of = |name: &str| format!("application/json;as={name};v=v1;g=meta.k8s.io");
        let (one, many) = (of("PartialObjectMetadata"), of("PartialObjectMetadataList"));
        assert_eq!(fits(&one, "", Answer::One), Ok(()));
        assert_eq!(fits(&many, "", Answer::Many), Ok(()));
        let told = "you requested PartialObjectMetadata, but the requested object is a list (*autoscaling.ScaleList)";
        assert_eq!(fits(&one, "", Answer::Many), Err((406, told.into())));
        let told = "you requested PartialObjectMetadataList, but the requested object is not a list (*autoscaling.Scale)";
        assert_eq!(fits(&many, "", Answer::One), Err((406, told.into())));
        assert_eq!(fits(TABLE, "includeObject=None", Answer::Many), Ok(()));
        let told =
            "Unable to convert to Table as requested: includeObject: Invalid value: \"x\": must be 'Metadata', 'Object', 'None', or empty";
        assert_eq!(fits(TABLE, "includeObject=x", Answer::Many), Err((400, told.into())));
    }

    #[test]
    fn a_watch_is_held_against_what_a_stream_can_be() {
        let asked = |accept: &str, query: &str| {
            let offer = Offer { schema: &Schema::Open, tables: true };
            let output = stream_output(&accepting(accept), &Query::parse(Some(query)), offer);
            output.map(|output| (output.format, output.transform)).map_err(|status| (status.code, status.message))
        };
        let told = "Unable to convert to Table as requested: includeObject: Invalid value: \"x\\x7f\": must be 'Metadata', 'Object', 'None', or empty";
        assert_eq!(asked(TABLE, "includeObject=x%7f"), Err((400, told.into())));
        assert!(asked(TABLE, "includeObject=Object").is_ok());
        // What is no table does not mind.
        assert_eq!(asked("application/json", "includeObject=x"), Ok((Format::Json, Transform::Plain)));
        assert_eq!(asked("application/yaml", "").unwrap_err().0, 406);
        // An event is one object: who asks for metadata as a list gets it as it is, where it can be had so.
        let many = |media: &str| format!("{media};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io");
        assert_eq!(asked(&many("application/json"), ""), Ok((Format::Json, Transform::Plain)));
        let tables = Box::leak(Box::new(crate::schema::Tables::new("", "", &[])));
        let custom = Schema::custom(&api::Gvk::new("test.io", "v1", "Thing"), &serde_json::json!({"type": "object"}), Some(tables));
        let both = format!("{},application/json", many("application/vnd.kubernetes.protobuf"));
        for (accept, wanted) in [(many("application/vnd.kubernetes.protobuf"), Err(406)), (both, Ok(Format::Json))] {
            let output = stream_output(&accepting(&accept), &Query::default(), Offer { schema: &custom, tables: true });
            assert_eq!(output.map(|output| output.format).map_err(|status| status.code), wanted, "{accept}");
        }
    }

    #[test]
    fn the_router_refuses_before_anything_is_read() {
        let code = |accept: &str, content: &'static str, route: &Route| {
            let mut headers = accepting(accept);
            headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content));
            unroutable(&headers, &Query::default(), route).map(|response| response.status().as_u16())
        };
        let (list, patch) = (Route { takes: None, streams: true }, Route { takes: Some(&["application/a"]), streams: false });
        assert_eq!(code("application/json", "", &list), None);
        assert_eq!(code("application/xml", "", &list), Some(406));
        assert_eq!(code("*/*", "application/a", &patch), None);
        assert_eq!(code("application/xml", "application/b", &patch), Some(415), "the body comes first");
    }
}
