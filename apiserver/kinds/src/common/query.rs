//! A raw query string -> its parameters, and parameters -> a query string, as Go's `net/url` reads and writes them.

use std::fmt::Write;

/// Parameters in the order they were sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// What cannot be decoded is left out, as Go's `url.ParseQuery` does.
    pub fn parse(raw: &str) -> Self {
        let pairs = raw.split('&').filter(|p| !p.is_empty() && !p.contains(';')).filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(key)?, decode(value)?))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter.
    pub fn first(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    pub fn all<'a, 'k>(&'a self, key: &'k str) -> impl Iterator<Item = &'a str> + use<'a, 'k> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A boolean option: absent, `false` and `0` are false, all else is true (`Convert_Slice_string_To_bool`).
    pub fn flag(&self, key: &str) -> bool {
        self.first(key).is_some_and(|v| !v.eq_ignore_ascii_case("false") && v != "0")
    }

    pub fn push(&mut self, key: &str, value: impl Into<String>) {
        self.0.push((key.to_owned(), value.into()));
    }

    /// `a=b&c=d`, sorted by key, the values of one key in their order; empty without parameters.
    pub fn encode(&self) -> String {
        let mut sorted: Vec<&(String, String)> = self.0.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        sorted.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect::<Vec<_>>().join("&")
    }

    /// `path?query`, or `path` alone without parameters.
    pub fn after(&self, path: &str) -> String {
        if self.0.is_empty() { path.to_owned() } else { format!("{path}?{}", self.encode()) }
    }
}

/// `None` for a `%` that two hexadecimal digits do not follow.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => out.push(hex(bytes.next())? << 4 | hex(bytes.next())?),
            other => out.push(other),
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

fn hex(digit: Option<u8>) -> Option<u8> {
    char::from(digit?).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            // Writing to a string does not fail.
            other => drop(write!(out, "%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_survive_the_round_trip() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%26b&stdin=true&tty=0&x");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo a&b"]);
        assert_eq!((query.flag("stdin"), query.flag("tty"), query.flag("x"), query.flag("y")), (true, false, true, false));
        assert_eq!(query.encode(), "command=sh&command=-c&command=echo+a%26b&stdin=true&tty=0&x=");
        assert_eq!(Query::default().after("/p"), "/p");
        assert_eq!(Query::parse("a=%zz&b=%2&c=%00;d&e=1"), Query(vec![("e".into(), "1".into())]));
    }
}
