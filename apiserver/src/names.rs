//! What a well-formed name is. Source: apimachinery `pkg/util/validation/validation.go`.

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

/// The Go package of a group's internal types, as upstream's errors name them: `core`, `apps`, `authentication`.
pub fn go_package(group: &str) -> &str {
    match group.split('.').next() {
        // The types of events are the core's in every version.
        None | Some("" | "events") => "core",
        Some(first) => first,
    }
}

/// `None` if `name` is a DNS subdomain (RFC 1123, at most 253 bytes), else why not.
pub fn subdomain_error(name: &str) -> Option<String> {
    match name {
        n if n.len() > 253 => Some("must be no more than 253 characters".into()),
        n if api::selector::is_dns_subdomain(n) => None,
        _ => Some(SUBDOMAIN.into()),
    }
}

/// `None` if `name` is a DNS label (RFC 1123, at most 63 bytes), else why not.
pub fn label_error(name: &str) -> Option<String> {
    match name {
        n if n.len() > 63 => Some("must be no more than 63 characters".into()),
        n if api::selector::is_dns_label(n) => None,
        _ => Some(LABEL.into()),
    }
}

/// `None` if `name` can be one segment of a path (RBAC names): not `.`, not `..`, no `/`, no `%`.
pub fn path_segment_error(name: &str) -> Option<String> {
    match name {
        "." | ".." => Some(format!("may not be '{name}'")),
        n => ["/", "%"].iter().find(|c| n.contains(*c)).map(|c| format!("may not contain '{c}'")),
    }
}
