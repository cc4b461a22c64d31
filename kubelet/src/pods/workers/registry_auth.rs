//! Pull secrets and an image -> the credentials to try.
//!
//! Source: `pkg/credentialprovider` (`.dockerconfigjson` and `.dockercfg`).

use std::collections::BTreeMap;

use api::k8s::api::core::v1::Secret;
use base64::{Engine, engine::general_purpose::STANDARD};
use cri::AuthConfig;
use serde::Deserialize;

use super::image_name;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

/// All that fit the image, the most specific first.
pub fn for_image(secrets: &[Secret], image: &str) -> Vec<AuthConfig> {
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for (place, entry) in secrets.iter().flat_map(entries) {
        if fits(&place, image) {
            found.push((place.len(), auth(entry)));
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

/// What cannot be read holds no credentials.
fn entries(secret: &Secret) -> BTreeMap<String, Entry> {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|bytes| bytes.0.as_slice());
    if let Some(bytes) = data(".dockerconfigjson") {
        return serde_json::from_slice(bytes).map(|c: DockerConfig| c.auths).unwrap_or_default();
    }
    data(".dockercfg").and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default()
}

/// `place` is a registry, with a scheme or a path perhaps, or with `*` for a label of its host.
fn fits(place: &str, image: &str) -> bool {
    let place = place.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let registry = image_name::registry(image);
    let docker = |h: &str| matches!(h, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    if docker(host) && docker(registry) {
        return true;
    }
    let labels = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (mine, theirs) = (labels(host), labels(registry));
    let same = mine.len() == theirs.len() && mine.iter().zip(&theirs).all(|(m, t)| m == "*" || m == t);
    let rest = image.strip_prefix(registry).map(|r| r.trim_start_matches('/')).unwrap_or(image);
    same && (path.is_empty() || matches!(path, "v1" | "v2") || rest.starts_with(path))
}

fn auth(entry: Entry) -> AuthConfig {
    let decoded = STANDARD.decode(&entry.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (username, password) = match pair {
        Some((user, password)) if entry.username.is_empty() => (user.to_owned(), password.to_owned()),
        _ => (entry.username, entry.password),
    };
    AuthConfig { username, password, identity_token: entry.identitytoken, ..AuthConfig::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::k8s::ByteString;

    #[test]
    fn the_most_specific_fitting_entry_comes_first() {
        let config = r#"{"auths": {"r.example": {"auth": "YTpi"}, "https://r.example/team": {"username": "c", "password": "d"},
            "other.example": {"username": "x"}}}"#;
        let secret = Secret { data: Some([(".dockerconfigjson".to_owned(), ByteString(config.into()))].into()), ..Secret::default() };
        let found = for_image(&[secret], "r.example/team/app:1");
        let names: Vec<_> = found.iter().map(|a| (a.username.as_str(), a.password.as_str())).collect();
        assert_eq!(names, [("c", "d"), ("a", "b")]);
    }

    #[test]
    fn places() {
        for (place, image, fit) in [
            ("https://index.docker.io/v1/", "nginx:latest", true),
            ("*.example.org", "a.example.org/x", true),
            ("*.example.org", "a.b.example.org/x", false),
            ("r.example/team", "r.example/other/x", false),
        ] {
            assert_eq!(fits(place, image), fit, "{place} {image}");
        }
    }
}
