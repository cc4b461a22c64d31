//! Query string -> PodLogOptions.
//!
//! Source: `ValidatePodLogOptions` in `pkg/apis/core/validation`, `getContainerLogs` in `pkg/kubelet/server/server.go`.

use api::time::Timestamp;
use http::StatusCode;

use crate::server::route::pairs;

/// What is wanted of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub follow: bool,
    pub timestamps: bool,
    pub previous: Which,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// Lines before this are not shown.
    pub since: Option<Timestamp>,
    pub stream: Stream,
}

/// The container as it is, or as it was before its last restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    #[default]
    Current,
    Previous,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stream {
    #[default]
    All,
    Stdout,
    Stderr,
}

impl Options {
    /// # Errors
    /// Status and text, as upstream's kubelet refuses.
    pub fn parse(query: &str, now: Timestamp) -> Result<Self, (StatusCode, &'static str)> {
        let invalid = (StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#);
        let mut options = Self::default();
        let (mut since_seconds, mut since_time) = (None, None);
        for (key, value) in pairs(query) {
            match key.as_str() {
                "follow" => options.follow = flag(&value)?,
                "timestamps" => options.timestamps = flag(&value)?,
                "previous" => options.previous = if flag(&value)? { Which::Previous } else { Which::Current },
                "tail" if value == "all" => options.tail_lines = None,
                "tail" | "tailLines" => options.tail_lines = Some(number(&value)?.try_into().map_err(|_| invalid)?),
                "limitBytes" => options.limit_bytes = Some(u64::try_from(number(&value)?).ok().filter(|n| *n > 0).ok_or(invalid)?),
                "sinceSeconds" => since_seconds = Some(Some(number(&value)?).filter(|n| *n > 0).ok_or(invalid)?),
                "sinceTime" if !value.is_empty() => since_time = Some(api::time::parse(&value).ok_or(UNDECODABLE)?),
                "stream" => options.stream = stream(&value).ok_or(invalid)?,
                _ => {}
            }
        }
        if since_seconds.is_some() && since_time.is_some() {
            return Err(invalid);
        }
        let ago = |seconds: i64| Timestamp::from_second(now.as_second().saturating_sub(seconds)).unwrap_or(Timestamp::UNIX_EPOCH);
        options.since = since_time.or_else(|| since_seconds.map(ago));
        Ok(options)
    }
}

const UNDECODABLE: (StatusCode, &str) = (StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#);

fn number(value: &str) -> Result<i64, (StatusCode, &'static str)> {
    value.parse().map_err(|_| UNDECODABLE)
}

/// As apimachinery converts query parameters: anything but these is true.
fn flag(value: &str) -> Result<bool, (StatusCode, &'static str)> {
    Ok(!matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
}

fn stream(value: &str) -> Option<Stream> {
    match value {
        "" | "All" => Some(Stream::All),
        "Stdout" => Some(Stream::Stdout),
        "Stderr" => Some(Stream::Stderr),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_and_refused_as_upstream_does() {
        let parse = |q| Options::parse(q, Timestamp::from_second(1000).unwrap());
        let got = parse("follow=true&tailLines=5&limitBytes=7&sinceSeconds=10&timestamps=1&previous=false").unwrap();
        assert!(got.follow && got.timestamps && got.previous == Which::Current);
        assert_eq!((got.tail_lines, got.limit_bytes), (Some(5), Some(7)));
        assert_eq!(got.since, Some(Timestamp::from_second(990).unwrap()));
        for (bad, code) in [
            ("tailLines=x", 400),
            ("sinceTime=yesterday", 400),
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=0", 422),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422),
            ("stream=x", 422),
        ] {
            assert_eq!(parse(bad).unwrap_err().0.as_u16(), code, "{bad}");
        }
    }
}
