//! A decoded path, and a query as sent -> as Go writes them: what is handed on says what was authorized, and says it once.
//!
//! Source: Go's `net/url`, `EscapedPath` and `Values.Encode`.

use super::query::Query;

/// Of a path, what stands as it is besides letters and digits.
const PATH: &[u8] = b"-_.~$&+,/:;=@";
const QUERY: &[u8] = b"-_.~";

pub(crate) fn path(decoded: &str) -> String {
    escaped(decoded, PATH)
}

/// Sorted by key; what cannot be decoded is left out, as nobody here has seen it.
pub(crate) fn query(raw: Option<&str>) -> String {
    let parsed = Query::parse(raw);
    let mut pairs: Vec<(&str, &str)> = parsed.pairs().collect();
    pairs.sort_by_key(|(key, _)| *key);
    let word = |text: &str| escaped(text, QUERY).replace("%20", "+");
    pairs.iter().map(|(key, value)| format!("{}={}", word(key), word(value))).collect::<Vec<_>>().join("&")
}

fn escaped(text: &str, plain: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes_them() {
        assert_eq!(path("/apis/a/v1/x y?%/\u{e9}:1*"), "/apis/a/v1/x%20y%3F%25/%C3%A9:1%2A");
        assert_eq!(query(Some("watch=1&b=x%3Dy&a=2&b=+&bad=%zz&c")), "a=2&b=x%3Dy&b=+&c=&watch=1");
        assert_eq!(query(None), "");
    }
}
