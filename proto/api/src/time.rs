//! Instants as Kubernetes writes them: RFC 3339 in UTC, whole seconds (`Time`) or microseconds (`MicroTime`).

pub use jiff::Timestamp;

/// `2026-01-02T03:04:05Z`
pub fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.000006Z`
pub fn rfc3339_micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads either form; `None` where it is not RFC 3339.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}
