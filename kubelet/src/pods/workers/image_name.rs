//! An image name as users write it -> with a tag, or why it is none.
//!
//! Source: the grammar of `github.com/distribution/reference`.

/// Adds `:latest` where there is neither tag nor digest. The error is the reference library's word for it.
pub fn with_default_tag(name: &str) -> Result<String, &'static str> {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    let (path, tag) = split_tag(rest);
    if digest.is_some_and(|d| !is_digest(d)) || tag.is_some_and(|t| !is_tag(t)) || !is_path(path)? {
        return Err("invalid reference format");
    }
    Ok(if digest.is_none() && tag.is_none() { format!("{name}:latest") } else { name.to_owned() })
}

/// The registry's host, `docker.io` where none is named.
pub fn registry(name: &str) -> &str {
    match name.split_once('/') {
        Some((host, _)) if host == "localhost" || host.contains(['.', ':']) => host,
        _ => "docker.io",
    }
}

/// A colon after the last slash begins a tag; one before it a port.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    }
}

fn is_path(path: &str) -> Result<bool, &'static str> {
    let host = registry(path);
    let named = path.strip_prefix(host).and_then(|rest| rest.strip_prefix('/'));
    let repository = named.unwrap_or(path);
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        let rest_is_fine = is_repository(&repository.to_ascii_lowercase());
        return Err(if rest_is_fine { "invalid reference format: repository name must be lowercase" } else { "invalid reference format" });
    }
    Ok((named.is_none() || is_host(host)) && is_repository(repository))
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let label =
        |l: &str| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    name.split('.').all(label) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_repository(repository: &str) -> bool {
    repository.split('/').all(is_component)
}

/// Lower-case letters and digits, parted by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges = component.bytes().next().is_some_and(alphanumeric) && component.bytes().last().is_some_and(alphanumeric);
    let mut gaps = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|gap| !gap.is_empty());
    edges && gaps.all(|gap| matches!(gap, "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first = tag.bytes().next().is_some_and(word);
    first && tag.len() <= 128 && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    digest
        .split_once(':')
        .is_some_and(|(algorithm, hex)| !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let digest = format!("a/b@sha256:{}", "0".repeat(64));
        let fine = [
            ("nginx", "nginx:latest"),
            ("nginx:1.2", "nginx:1.2"),
            ("localhost:5000/a_b/c--d", "localhost:5000/a_b/c--d:latest"),
            ("example.org/x:V1", "example.org/x:V1"),
            (&digest, &digest),
        ];
        for (name, full) in fine {
            assert_eq!(with_default_tag(name).as_deref(), Ok(full));
        }
        for name in ["", "a b", "a/", "a//b", "a:", ":x", "-a", "a@sha256:12", "a___b", "x:y z", "http://a/b"] {
            assert_eq!(with_default_tag(name), Err("invalid reference format"), "{name}");
        }
        assert_eq!(with_default_tag("Nginx"), Err("invalid reference format: repository name must be lowercase"));
    }

    #[test]
    fn registries() {
        assert_eq!(registry("nginx"), "docker.io");
        assert_eq!(registry("library/nginx"), "docker.io");
        assert_eq!(registry("localhost/nginx"), "localhost");
        assert_eq!(registry("a.b:5000/c/d"), "a.b:5000");
    }
}
