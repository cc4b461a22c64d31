//! What this process is and how it was started -> `/statusz` and `/flagz`, as text, or as objects of `config.k8s.io` where those are asked for.
//!
//! Source: apiserver `pkg/server/statusz`, `pkg/server/flagz` (KEP-4827, KEP-4828; beta, on by default, in 1.36). Text is for people: its delimiters
//! change from one answer to the next, so that nobody reads it by machine.

use std::{collections::BTreeMap, fmt::Write, future::ready, sync::Arc};

use api::{Status, time::Timestamp};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::{
    body::{Response, full},
    non_resource::{Router, non_resource_routes},
    version, wire,
};

const COMPONENT: &str = "apiserver";
const GROUP: &str = "config.k8s.io";
const DELIMITERS: [&str; 4] = [":", ": ", "=", " "];
const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", "text/plain"];

/// What is told of the process.
pub struct ZPages {
    began: Timestamp,
    /// Names and values; secrets are not among the values.
    flags: BTreeMap<String, String>,
    /// First parts of the paths that help to look into the process.
    paths: Vec<&'static str>,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    /// Of this version.
    Json(&'static str),
    Yaml(&'static str),
}

impl ZPages {
    pub fn new(flags: BTreeMap<String, String>, paths: &[&'static str]) -> Arc<Self> {
        let mut paths = paths.to_vec();
        paths.sort_unstable();
        Arc::new(Self { began: Timestamp::now(), flags, paths })
    }

    pub fn routes(self: &Arc<Self>) -> Router {
        let (status, flags) = (self.clone(), self.clone());
        let status = non_resource_routes(&["/statusz"], move |parts| ready(Some(status.reply("Statusz", &parts.headers))));
        status.merge(non_resource_routes(&["/flagz"], move |parts| ready(Some(flags.reply("Flagz", &parts.headers)))))
    }

    fn reply(&self, kind: &str, headers: &HeaderMap) -> Response {
        let Some(form) = negotiated(kind, headers) else { return wire::refusal(&Status::not_acceptable(&ACCEPTED)) };
        let (Form::Json(version) | Form::Yaml(version)) = form else {
            let delimiter = DELIMITERS.choose(&mut rand::rng()).copied().unwrap_or(" ");
            return wire::reply(StatusCode::OK, "text/plain; charset=utf-8", full(self.text(kind, delimiter, Timestamp::now())));
        };
        let object = self.object(kind, version, Timestamp::now());
        let mut reply = match form {
            Form::Yaml(_) => wire::reply(StatusCode::OK, "application/yaml", full(serde_yaml::to_string(&object).unwrap_or_default())),
            _ => wire::json(StatusCode::OK, &object),
        };
        if version == "v1alpha1" {
            let path = kind.to_lowercase();
            let words = format!("299 - \"This version of the {path} endpoint is deprecated. Please use a newer version.\"");
            reply.headers_mut().extend(HeaderValue::try_from(words).ok().map(|words| (header::WARNING, words)));
        }
        reply
    }

    fn object(&self, kind: &str, version: &str, now: Timestamp) -> Value {
        let mut object = json!({"kind": kind, "apiVersion": format!("{GROUP}/{version}"), "metadata": {"name": COMPONENT}});
        let fields = if kind == "Flagz" {
            json!({"flags": self.flags})
        } else {
            json!({
                "startTime": api::time::rfc3339(self.began), "uptimeSeconds": self.up(now), "goVersion": "", "binaryVersion": binary(),
                "emulationVersion": format!("{}.{}", version::MAJOR, version::MINOR), "paths": self.paths,
            })
        };
        if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
            object.extend(fields);
        }
        object
    }

    fn text(&self, kind: &str, delimiter: &str, now: Timestamp) -> String {
        let mut out = format!(
            "\n{COMPONENT} {}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n",
            kind.to_lowercase()
        );
        if kind == "Flagz" {
            for (name, value) in &self.flags {
                let _ = writeln!(out, "{name}{delimiter}{value}");
            }
            return out;
        }
        let (up, d) = (self.up(now), delimiter);
        let _ = writeln!(out, "\nStarted{d} {}", self.began.strftime("%a %b %e %H:%M:%S UTC %Y"));
        let _ = writeln!(out, "Up{d} {} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
        let _ = writeln!(out, "Go version{d} \nBinary version{d} {}", binary());
        let _ = writeln!(out, "Emulation version{d} {}.{}\nPaths{d} {}", version::MAJOR, version::MINOR, self.paths.join(" "));
        out
    }

    fn up(&self, now: Timestamp) -> i64 {
        (now.as_second() - self.began.as_second()).max(0)
    }
}

/// Without the `v`, as upstream's versions print.
fn binary() -> &'static str {
    version::GIT_VERSION.trim_start_matches('v')
}

/// The first that is accepted and served. An object is told of where its group, version and kind are named.
fn negotiated(kind: &str, headers: &HeaderMap) -> Option<Form> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.trim().is_empty() {
        return Some(Form::Text);
    }
    accept.split(',').find_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let parameters: BTreeMap<&str, &str> = parts.filter_map(|part| part.split_once('=')).collect();
        let of = |name: &str| parameters.get(name).copied();
        let version = ["v1beta1", "v1alpha1"].into_iter().find(|version| of("v") == Some(version));
        let version = version.filter(|_| of("g") == Some(GROUP) && of("as") == Some(kind));
        match (media_type, version) {
            ("text/plain" | "text/*" | "*/*", _) if of("as").is_none() => Some(Form::Text),
            ("application/json" | "application/*" | "*/*", Some(version)) => Some(Form::Json(version)),
            ("application/yaml", Some(version)) => Some(Form::Yaml(version)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Arc<ZPages> {
        let flags = [("secure-port", "6443"), ("agent-token", "CLASSIFIED")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        ZPages::new(flags.into(), &["/metrics", "/livez"])
    }

    fn accept(text: &str) -> HeaderMap {
        [(header::ACCEPT, HeaderValue::from_str(text).unwrap())].into_iter().collect()
    }

    #[test]
    fn an_object_is_told_of_where_it_is_named() {
        let named = |version: &str| format!("application/json;v={version};g=config.k8s.io;as=Statusz");
        for (text, form) in [
            ("", Some(Form::Text)),
            ("*/*", Some(Form::Text)),
            ("text/html, text/plain;q=0.5", Some(Form::Text)),
            ("application/json", None),
            (named("v1beta1").as_str(), Some(Form::Json("v1beta1"))),
            (named("v1alpha1").as_str(), Some(Form::Json("v1alpha1"))),
            (named("v1").as_str(), None),
            ("application/yaml; g=config.k8s.io; v=v1beta1; as=Statusz", Some(Form::Yaml("v1beta1"))),
            ("application/json;v=v1beta1;g=config.k8s.io;as=Flagz", None),
            ("application/vnd.kubernetes.protobuf, text/plain", Some(Form::Text)),
        ] {
            assert_eq!(negotiated("Statusz", &accept(text)), form, "{text}");
        }
        assert_eq!(pages().reply("Statusz", &accept("application/json")).status(), 406);
        let old = pages().reply("Flagz", &accept("application/json;v=v1alpha1;g=config.k8s.io;as=Flagz"));
        assert_eq!(old.headers()["warning"], "299 - \"This version of the flagz endpoint is deprecated. Please use a newer version.\"");
    }

    #[test]
    fn pages_say_what_upstreams_say() {
        let (pages, hour) = (pages(), Timestamp::now() + std::time::Duration::from_secs(3_725));
        let status = pages.object("Statusz", "v1beta1", hour);
        assert_eq!((&status["kind"], &status["apiVersion"]), (&json!("Statusz"), &json!("config.k8s.io/v1beta1")));
        assert_eq!((&status["emulationVersion"], &status["paths"]), (&json!("1.36"), &json!(["/livez", "/metrics"])));
        let text = pages.text("Statusz", "=", hour);
        assert!(
            text.starts_with("\napiserver statusz\nWarning: This endpoint is not meant") && text.contains("\nUp= 1 hr 02 min 0"),
            "{text}"
        );
        assert!(text.ends_with("\nEmulation version= 1.36\nPaths= /livez /metrics\n"), "{text}");
        let flags = pages.text("Flagz", ": ", hour);
        assert!(flags.ends_with("agent-token: CLASSIFIED\nsecure-port: 6443\n"), "{flags}");
        assert_eq!(pages.object("Flagz", "v1beta1", hour)["flags"]["secure-port"], "6443");
    }
}
