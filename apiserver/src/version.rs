//! This build -> `/version`: what kubectl prints as the server's version (`apimachinery/pkg/version`).

use http::{HeaderValue, header};
use serde_json::{Value, json};

use crate::{
    body::{Response, full},
    non_resource::{Router, non_resource_routes},
};

/// The Kubernetes release whose behaviour this server has.
pub const MAJOR: &str = "1";
pub const MINOR: &str = "36";
/// As `gitVersion`, in node status and in logs.
pub const GIT_VERSION: &str = concat!("v1.36.0+skiff.", env!("CARGO_PKG_VERSION"));

/// Serves `/version`.
pub fn routes() -> Router {
    non_resource_routes(&["/version", "/version/"], async |_| Some(json_reply(&body())))
}

/// `version.Info`.
pub fn body() -> Value {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "major": MAJOR, "minor": MINOR, "emulationMajor": MAJOR, "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR, "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": option_env!("SKIFF_COMMIT").unwrap_or(""), "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{arch}", std::env::consts::OS),
    })
}

/// A 200 with a JSON body.
pub(crate) fn json_reply(body: &Value) -> Response {
    let mut response = Response::new(full(body.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_can_read_it() {
        let body = body();
        assert_eq!((&body["major"], &body["minor"]), (&json!("1"), &json!("36")));
        assert!(GIT_VERSION.starts_with("v1.36.0+skiff."));
    }
}
