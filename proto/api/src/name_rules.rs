//! A name -> what is wrong with it, in upstream's words. Source: apimachinery `pkg/util/validation/validation.go` and `pkg/api/validate/content`.
//!
//! Each rule gives all its errors; an empty list is a well-formed name.

use crate::selector::{is_dns_label, is_dns_subdomain, is_label_value};

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SUBDOMAIN_UNDERSCORE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const ENV_NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

/// `BannedOwners` (`pkg/api/validation/objectmeta.go`): what is told of an object owns nothing.
pub fn is_banned_owner(api_version: &str, kind: &str) -> bool {
    (api_version, kind) == ("v1", "Event")
}

/// `IsDNS1123Label`
pub fn dns_label(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 63);
    if is_dns_label(value) || (value.len() > 63 && !value.contains('.') && is_dns_subdomain_unbounded(value)) {
        return errors;
    }
    errors.push(if is_dns_subdomain_unbounded(value) { "must not contain dots".into() } else { LABEL.into() });
    errors
}

/// `IsDNS1035Label`
pub fn dns_1035_label(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 63);
    if !(is_dns_part(value) && value.starts_with(|c: char| c.is_ascii_lowercase())) {
        errors.push(LABEL_1035.into());
    }
    errors
}

/// `IsDNS1123Subdomain`
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 253);
    if !is_dns_subdomain_unbounded(value) {
        errors.push(SUBDOMAIN.into());
    }
    errors
}

/// `IsPathSegmentName`
pub fn path_segment(value: &str) -> Vec<String> {
    if matches!(value, "." | "..") {
        return vec![format!("may not be '{value}'")];
    }
    ['/', '%'].into_iter().filter(|c| value.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// `IsDNS1123SubdomainWithUnderscore`
pub fn dns_subdomain_with_underscore(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 253);
    let plain = value.split('.').map(|part| part.strip_prefix('_').unwrap_or(part).replace('_', "-")).collect::<Vec<_>>().join(".");
    if !is_dns_subdomain_unbounded(&plain) {
        errors.push(SUBDOMAIN_UNDERSCORE.into());
    }
    errors
}

/// `IsWildcardDNS1123Subdomain`
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 253);
    if !value.strip_prefix("*.").is_some_and(is_dns_subdomain_unbounded) {
        errors.push(WILDCARD.into());
    }
    errors
}

/// `IsQualifiedName` (a label key): `[prefix/]name`.
pub fn qualified(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            errors.extend(prefix_errors(prefix));
            name
        }
        _ => {
            let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {QUALIFIED} {tail}")];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".into());
    }
    if !is_label_shaped(name) {
        errors.push(format!("name part {QUALIFIED}"));
    }
    errors
}

/// `IsValidLabelValue`
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push("must be no more than 63 bytes".into());
    }
    if !value.is_empty() && !is_label_shaped(value) {
        errors.push(crate::selector::LABEL_VALUE_RULE.into());
    }
    errors
}

/// `IsRelaxedEnvVarName`, the rule since 1.34.
pub fn env_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.is_empty() {
        errors.push("environment variable name must be non-empty".into());
    }
    if !value.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        errors.push(ENV_NAME.into());
    }
    errors
}

/// `IsConfigMapKey`
pub fn config_key(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 253);
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        errors.push(CONFIG_KEY.into());
    }
    errors.extend(match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        v if v.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    });
    errors
}

/// `IsValidPortName`
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 15);
    let alphabet = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if value.is_empty() || !value.bytes().all(alphabet) {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// `IsValidPortNum`
pub fn port_number(value: i64) -> Vec<String> {
    in_range(value, 1, 65535)
}

/// `IsValidUserID` and `IsValidGroupID`
pub fn user_id(value: i64) -> Vec<String> {
    in_range(value, 0, i64::from(i32::MAX))
}

/// `IsValidPercent`
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) { Vec::new() } else { vec![PERCENT.into()] }
}

/// `IsHTTPHeaderName`
pub fn header_name(value: &str) -> Vec<String> {
    let well = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if well { Vec::new() } else { vec![HEADER.into()] }
}

/// `must be between 1 and 65535, inclusive`
pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) { Vec::new() } else { vec![format!("must be between {low} and {high}, inclusive")] }
}

fn too_long(value: &str, max: usize) -> Vec<String> {
    if value.len() > max { vec![format!("must be no more than {max} characters")] } else { Vec::new() }
}

fn prefix_errors(prefix: &str) -> Vec<String> {
    match prefix {
        "" => vec!["prefix part must be non-empty".into()],
        p if is_dns_subdomain(p) => Vec::new(),
        p if p.len() > 253 => vec!["prefix part must be no more than 253 bytes".into()],
        _ => vec![format!("prefix part {SUBDOMAIN}")],
    }
}

fn is_dns_subdomain_unbounded(value: &str) -> bool {
    // The length has an error of its own; each part is checked apart so that it does not count here.
    value.split('.').all(|part| !part.is_empty() && is_dns_part(part))
}

fn is_dns_part(part: &str) -> bool {
    let (first, last) = (part.as_bytes().first(), part.as_bytes().last());
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    first.is_some_and(alnum) && last.is_some_and(alnum) && part.bytes().all(|b| alnum(&b) || b == b'-')
}

fn is_label_shaped(name: &str) -> bool {
    // Long names have an error of their own: only the alphabet is looked at.
    let edges = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.ends_with(|c: char| c.is_ascii_alphanumeric());
    if name.len() <= 63 {
        !name.is_empty() && is_label_value(name)
    } else {
        edges && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_an_object_owns_nothing() {
        assert!(is_banned_owner("v1", "Event"));
        assert!(!is_banned_owner("events.k8s.io/v1", "Event") && !is_banned_owner("v1", "Pod"));
    }

    #[test]
    fn each_rule_says_what_is_wrong() {
        let long = "a".repeat(64);
        let cases: [(Vec<String>, &[&str]); 17] = [
            (dns_label("web"), &[]),
            (dns_label("a.b"), &["must not contain dots"]),
            (dns_label("A"), &[LABEL]),
            (dns_label(&long), &["must be no more than 63 characters"]),
            (dns_1035_label("v1"), &[]),
            (dns_1035_label("1v"), &[LABEL_1035]),
            (wildcard_subdomain("*.a.b"), &[]),
            (wildcard_subdomain("a.*.b"), &[WILDCARD]),
            (port_name("http"), &[]),
            (port_name("80"), &["must contain at least one letter (a-z)"]),
            (port_name("a--b"), &["must not contain consecutive hyphens"]),
            (
                qualified("a/b/c"),
                &[&format!("a valid label key {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")],
            ),
            (qualified("/b"), &["prefix part must be non-empty"]),
            (env_name("A B"), &[]),
            (env_name("A=B"), &[ENV_NAME]),
            (config_key(".."), &["must not be '..'"]),
            (port_number(0), &["must be between 1 and 65535, inclusive"]),
        ];
        for (found, wanted) in cases {
            assert_eq!(found, wanted);
        }
    }
}
