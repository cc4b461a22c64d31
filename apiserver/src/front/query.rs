//! A query string -> its decoded pairs, as Go's `net/url` reads them.

use std::{borrow::Cow, num::IntErrorKind};

use api::Status;

/// Decoded pairs, in the order sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// What cannot be decoded is left out, as Go's `url.ParseQuery` does.
    pub fn parse(raw: Option<&str>) -> Self {
        let pairs = raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        let plain = |text: &str| unescaped(&text.replace('+', " ")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let decoded = pairs.filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((plain(key)?, plain(value)?))
        });
        Self(decoded.collect())
    }

    /// The first value of `key`, which with all others of it is then gone.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(k, _)| k == key)?;
        let (_, value) = self.0.remove(at);
        self.0.retain(|(k, _)| k != key);
        Some(value)
    }

    /// The first value of `key`, empty where there is none.
    pub fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value)
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// As Go's parameter codec reads booleans: present and neither `false` nor `0`.
    pub fn flag(&self, key: &str) -> bool {
        self.optional_flag(key).unwrap_or(false)
    }

    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        let value = self.all(key).next()?;
        Some(!matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    pub fn number(&self, key: &str) -> Result<Option<u64>, Status> {
        match self.get(key) {
            "" => Ok(None),
            // A negative limit or timeout is none, as upstream's readers take it.
            text => text.parse::<i64>().map(|n| Some(n.max(0).unsigned_abs())).map_err(|error| {
                let too_much = matches!(error.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow);
                let why = if too_much { "value out of range" } else { "invalid syntax" };
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
            }),
        }
    }
}

/// Percent-decoding; `None` for a bad escape, and for what is no UTF-8 then.
pub(crate) fn decoded(text: &str) -> Option<String> {
    String::from_utf8(unescaped(text)?.into_owned()).ok()
}

/// Whether every `%` begins an escape.
pub(crate) fn is_escaped(text: &str) -> bool {
    unescaped(text).is_some()
}

/// `None` for a `%` that two hexadecimal digits do not follow.
fn unescaped(text: &str) -> Option<Cow<'_, [u8]>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut bytes, mut out) = (text.bytes(), Vec::with_capacity(text.len()));
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' { digit(bytes.next())? << 4 | digit(bytes.next())? } else { byte });
    }
    Some(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let mut query = Query::parse(Some("a=b%20c&a=d+e&f&g=%zz&h=%2&i=j;k=l"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["b c", "d e"]);
        assert!(query.flag("f"));
        assert_eq!(query.0.len(), 3, "what cannot be read is left out");
        assert_eq!((query.take("a").as_deref(), query.take("a")), (Some("b c"), None));
        assert!(!Query::parse(Some("watch=0")).flag("watch"));
    }

    #[test]
    fn a_negative_limit_is_none() {
        for (text, number) in [("limit=-1", Some(Some(0))), ("limit=5", Some(Some(5))), ("", Some(None)), ("limit=x", None)] {
            assert_eq!(Query::parse(Some(text)).number("limit").ok(), number, "{text}");
        }
    }
}
