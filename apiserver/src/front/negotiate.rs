//! `Accept` and `Content-Type` -> the form of the reply and of the body. Source: apiserver `pkg/endpoints/handlers/negotiation`.

use std::borrow::Cow;

use api::Status;
use http::{HeaderMap, HeaderName, header};

use super::query::Query;
use crate::{body::Response, schema::Schema, wire};

const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
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
    Table { version: String, include: Include },
    Partial { version: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub format: Format,
    pub transform: Transform,
}

impl Output {
    /// The bytes as they are kept.
    pub const JSON: Self = Self { format: Format::Json, transform: Transform::Plain };
}

/// The syntax of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Json,
    Yaml,
    Protobuf,
}

/// The form of the reply, which is of a kind with this schema.
///
/// # Errors
/// 406 where nothing that is accepted can be served.
pub(crate) fn output(headers: &HeaderMap, query: &Query, schema: &Schema) -> Result<Output, Status> {
    let takes = |output: &Output| match (output.format, &output.transform) {
        (Format::Protobuf, Transform::Plain) => schema.has_protobuf(),
        (Format::Protobuf, Transform::Partial { .. }) => schema.tables().is_some(),
        (Format::Protobuf, Transform::Table { .. }) => false,
        (Format::Json | Format::Pretty | Format::Yaml, _) => true,
    };
    let accept = text(headers, &header::ACCEPT);
    let found = offers(&accept).into_iter().find_map(|one| one_output(one, query).filter(takes));
    let mut found = found.ok_or_else(|| Status::not_acceptable(&ACCEPTED))?;
    if matches!(found.transform, Transform::Table { .. }) && include(query).is_none() {
        let why = format!("includeObject: Invalid value: {:?}: must be 'Metadata', 'Object', 'None', or empty", query.get("includeObject"));
        return Err(Status::bad_request(format!("Unable to convert to Table as requested: {why}")));
    }
    if found.format == Format::Json && pretty(headers, query) {
        found.format = Format::Pretty;
    }
    Ok(found)
}

/// As [`output`], of a watch.
///
/// # Errors
/// 406, also for YAML, which has no frames.
pub(crate) fn stream_output(headers: &HeaderMap, query: &Query, schema: &Schema) -> Result<Output, Status> {
    let output = output(headers, query, schema)?;
    if output.format == Format::Yaml { Err(Status::not_acceptable(&STREAMED)) } else { Ok(output) }
}

/// The syntax of a refusal: nothing is transformed. `None` where nothing that is accepted can be served; it is JSON then, indented.
pub(crate) fn refusal(headers: &HeaderMap, query: &Query) -> Option<Format> {
    let accept = text(headers, &header::ACCEPT);
    let is_plain = |one: &str| !one.split(';').skip(1).any(|param| ["as=", "g=", "v="].iter().any(|name| param.trim().starts_with(name)));
    let found = offers(&accept).into_iter().filter(|one| is_plain(one)).find_map(|one| one_output(one, query))?;
    Some(if found.format == Format::Json && pretty(headers, query) { Format::Pretty } else { found.format })
}

/// go-restful's own refusal, which comes before ours: of what is accepted nothing is anything or named as it is served.
pub(crate) fn unroutable(headers: &HeaderMap) -> Option<Response> {
    let accept = text(headers, &header::ACCEPT);
    let fits = |one: &str| {
        let media = one.split(';').next().unwrap_or_default().trim();
        media == "*/*" || ACCEPTED.contains(&media)
    };
    if accept.is_empty() || accept.split(',').any(fits) {
        return None;
    }
    Some(wire::unroutable(&ACCEPTED))
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
        None => Transform::Plain,
        Some("Table") if known => Transform::Table { version, include: include(query).unwrap_or(Include::Metadata) },
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") if known => Transform::Partial { version },
        Some(_) => return None,
    };
    Some(Output { format, transform })
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
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        output(&headers, &Query::default(), &Schema::Open).ok().map(|out| (out.format, out.transform))
    }

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
            ("application/json;q=0.5,application/yaml", Some((Format::Yaml, Transform::Plain))),
            ("text/html", None),
        ];
        for (accept, wanted) in cases {
            assert_eq!(transform(accept), wanted, "{accept}");
        }
    }
}
