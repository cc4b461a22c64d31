//! Names of things: group-version-kind, group-version-resource, namespace/name.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

/// Group, version and kind, as in an object's `apiVersion` and `kind`. The core group is the empty string.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    pub group: String,
    pub version: String,
    pub kind: String,
}

/// Group, version and resource, as in a URL path. Of built-in kinds they are static, of others found at run time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvr {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub resource: Cow<'static, str>,
}

/// Group and resource, as messages and RBAC rules name a collection: `pods`, `deployments.apps`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    pub group: String,
    pub resource: String,
}

/// An object's place within its collection. Cluster-scoped objects have an empty namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Gvk {
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self { group: group.into(), version: version.into(), kind: kind.into() }
    }

    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

impl Gvr {
    pub fn new(group: impl Into<Cow<'static, str>>, version: impl Into<Cow<'static, str>>, resource: impl Into<Cow<'static, str>>) -> Self {
        Self { group: group.into(), version: version.into(), resource: resource.into() }
    }

    /// The collection, whatever the version: what is written by one is seen by all.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.resource)
    }
}

impl GroupResource {
    pub fn new(group: &str, resource: &str) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// `("apps", "v1")` -> `apps/v1`; `("", "v1")` -> `v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `apps/v1` -> `("apps", "v1")`; `v1` -> `("", "v1")`; `None` for more than one slash.
pub fn split_api_version(api_version: &str) -> Option<(&str, &str)> {
    match api_version.split_once('/') {
        None => Some(("", api_version)),
        Some((_, version)) if version.contains('/') => None,
        Some(pair) => Some(pair),
    }
}

/// A name as one segment of a URL's path: what may not stand there as it is comes percent-encoded (RFC 3986, 3.3).
pub fn segment(name: &str) -> Cow<'_, str> {
    let stays = |b: u8| b.is_ascii_alphanumeric() || b"-._~:@".contains(&b);
    if name.bytes().all(stays) {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        if stays(byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Cow::Owned(out)
}

/// Whether an object of any kind can have this name: one that cannot be a segment of a path is refused for all of them. Source: apimachinery
/// `pkg/api/validation/path/name.go`.
pub fn is_possible(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%'])
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_one_segment() {
        let cases = [
            ("web", "web"),
            ("system:node", "system:node"),
            ("a b", "a%20b"),
            ("a/b?c#d", "a%2Fb%3Fc%23d"),
            ("\u{e9}\r\n", "%C3%A9%0D%0A"),
        ];
        for (name, wanted) in cases {
            assert_eq!(segment(name), wanted);
        }
    }

    #[test]
    fn some_names_are_nobodys() {
        assert!(["web", "a b", "system:node", "..."].iter().all(|n| is_possible(n)));
        assert!(["", ".", "..", "a/b", "a%20b"].iter().all(|n| !is_possible(n)));
    }
}
