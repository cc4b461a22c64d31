//! Instants as Kubernetes writes them: RFC 3339 in UTC, whole seconds (`Time`) or microseconds (`MicroTime`), and spans that objects name.
//!
//! Objects say any number of seconds: sums end at the last instant there is, and what is negative or too long is cut, never an overflow.

use std::time::Duration;

pub use jiff::{Timestamp, tz::TimeZone};

/// A wait that is longer is as good as for ever: 30 years, as far as timers reach.
pub const SPAN_MAX: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// `2026-01-02T03:04:05Z`
pub fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.000006Z`
pub fn rfc3339_micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// `2026-01-02T03:04:05+01:00`, and `Z` where the zone is as UTC.
pub fn rfc3339_in(at: Timestamp, zone: TimeZone) -> String {
    at.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z")
}

/// `Mon, 02 Jan 2006 15:04:05 +0000`
pub fn rfc1123z(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// Times in the API have whole seconds.
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Reads either form; `None` where it is not RFC 3339.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// A number of seconds that an object names, as a wait: negative ones are none, and none is longer than [`SPAN_MAX`].
pub fn span(seconds: impl Into<i64>) -> Duration {
    Duration::from_secs(seconds.into().max(0).unsigned_abs()).min(SPAN_MAX)
}

/// So many seconds before `at`, or the first instant there is; below zero is none.
pub fn before(at: Timestamp, seconds: impl Into<i64>) -> Timestamp {
    at.saturating_sub(span(seconds)).unwrap_or(Timestamp::MIN)
}

/// `span` later than `at`, or the last instant there is.
pub fn after(at: Timestamp, span: Duration) -> Timestamp {
    at.saturating_add(span.min(SPAN_MAX)).unwrap_or(Timestamp::MAX)
}

/// Seconds from `now` until `seconds` after `since`; negative once that is past. Whatever `since` and `seconds` are, this is a number.
pub fn left(since: Timestamp, seconds: impl Into<i64>, now: Timestamp) -> i64 {
    since.as_second().saturating_add(seconds.into()).saturating_sub(now.as_second())
}

/// In quotes, as Go's package `time` writes what it cannot read: unlike `%q`, what is no printed ASCII comes byte by byte.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=0x7f => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

/// Go's `time.ParseDuration`: nanoseconds, of `1h30m`, `1.5s` or `-10ms`.
///
/// # Errors
/// What is wrong with it, in Go's words.
pub fn go_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quoted(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len()));
        let (unit, next) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(invalid());
        }
        let mut part: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(format!("time: missing unit in duration {}", quoted(text))),
            other => return Err(format!("time: unknown unit {} in duration {}", quoted(other), quoted(text))),
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total = whole.checked_mul(part).and_then(|more| total.checked_add(more)).ok_or_else(invalid)?;
        for digit in fraction.bytes() {
            part /= 10;
            total = total.checked_add(part * i128::from(digit - b'0')).ok_or_else(invalid)?;
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("1.5h", 5_400_000_000_000),
            ("-1s", -1_000_000_000),
            ("+1h2m3.004s", 3_723_004_000_000),
            (".5ms", 500_000),
            ("10µs", 10_000),
        ] {
            assert_eq!(go_duration(text), Ok(nanos), "{text}");
        }
        for (text, why) in [
            ("", "time: invalid duration \"\""),
            ("abc", "time: invalid duration \"abc\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("5\u{e4}\"\t", r#"time: unknown unit "\xc3\xa4\"\x09" in duration "5\xc3\xa4\"\x09""#),
            ("1.2.3s", "time: invalid duration \"1.2.3s\""),
            ("9999999999999h", "time: invalid duration \"9999999999999h\""),
            ("170141183460469231731687303715884105.9us", "time: invalid duration \"170141183460469231731687303715884105.9us\""),
        ] {
            assert_eq!(go_duration(text), Err(why.to_owned()));
        }
    }

    #[test]
    fn whatever_an_object_says_is_a_time() {
        let instants = [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX];
        let numbers = [i64::MIN, -1, 0, 1, i64::from(i32::MAX), 100_000_000, i64::MAX];
        for (a, b, n) in instants.iter().flat_map(|a| instants.iter().flat_map(move |b| numbers.map(|n| (*a, *b, n)))) {
            let wait = span(n);
            assert!(wait <= SPAN_MAX && (n > 0) == (wait > Duration::ZERO), "{n}");
            // A timer takes it.
            assert!(std::time::Instant::now().checked_add(wait).is_some());
            assert!(after(a, wait) >= a && after(a, Duration::MAX) >= a && before(a, n) <= a);
            let _ = left(a, n, b);
        }
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!((span(7), after(at(1), span(7)), left(at(1), 7, at(3))), (Duration::from_secs(7), at(8), 5));
    }
}
