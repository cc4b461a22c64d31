//! Types and values -> the words that Go's decoder has for them in its errors.

use std::borrow::Cow;

use api::time;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{Table, Type};

/// What was met: `string`, `number 1.5`, `object`, ...
pub fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What was wanted: `string`, `[]v1.Container`, `map[string]string`, ...
pub fn type_name(table: &Table, typ: Type) -> Cow<'static, str> {
    match typ {
        Type::String => "string".into(),
        Type::Bool => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Double => "float64".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Time => "v1.Time".into(),
        Type::MicroTime => "v1.MicroTime".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::IntOrString => "intstr.IntOrString".into(),
        Type::Any => "interface {}".into(),
        Type::Object(at) => {
            let name = &table.definition(at).name;
            let start = name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
            name.get(start..).unwrap_or(name).to_owned().into()
        }
        Type::List(at) => format!("[]{}", type_name(table, table.element(at))).into(),
        Type::Map(at) => format!("map[string]{}", type_name(table, table.element(at))).into(),
    }
}

/// Why `text` is no base64 (`base64.CorruptInputError`); line breaks are skipped, as Go does.
pub fn base64_error(text: &str) -> Option<String> {
    if STANDARD.decode(text).is_ok() {
        return None;
    }
    let kept: Vec<(usize, u8)> = text.bytes().enumerate().filter(|(_, b)| !matches!(b, b'\r' | b'\n')).collect();
    let bytes: Vec<u8> = kept.iter().map(|(_, b)| *b).collect();
    let at = match STANDARD.decode(&bytes) {
        Ok(_) => return None,
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => at,
        Err(_) => bytes.iter().position(|b| *b == b'=').unwrap_or(bytes.len()),
    };
    let at = kept.get(at).map_or(text.len(), |(at, _)| *at);
    Some(format!("illegal base64 data at input byte {at}"))
}

/// What `RFC3339Micro` has beyond RFC 3339.
const MICROSECONDS: &str = ".000000";

/// Why `text` is no time (`time.Parse` by RFC 3339). A layout with a fraction wants as many digits; else there may be one of any length.
pub fn time_error(text: &str, layout: &str) -> Option<String> {
    let (mut rest, whole) = (text, time::quoted(text));
    let parts: [(&str, usize); 13] = [
        ("2006", 4),
        ("-", 0),
        ("01", 2),
        ("-", 0),
        ("02", 2),
        ("T", 0),
        ("15", 2),
        (":", 0),
        ("04", 2),
        (":", 0),
        ("05", 2),
        (MICROSECONDS, 8),
        ("Z07:00", 9),
    ];
    let is_exact = layout.contains(MICROSECONDS);
    for (part, digits) in parts {
        let taken = match digits {
            0 => rest.strip_prefix(part),
            8 if is_exact => micros(rest),
            8 => Some(fraction(rest)),
            9 => zone(rest),
            n => rest.get(..n).filter(|d| d.bytes().all(|b| b.is_ascii_digit())).and_then(|_| rest.get(n..)),
        };
        match taken {
            Some(after) => rest = after,
            None => return Some(format!("parsing time {whole} as {layout:?}: cannot parse {} as {part:?}", time::quoted(rest))),
        }
    }
    match rest.is_empty() {
        false => Some(format!("parsing time {whole}: extra text: {}", time::quoted(rest))),
        true if time::parse(text).is_none() => Some(format!("parsing time {whole}: {} out of range", out_of_range(text))),
        true => None,
    }
}

/// Past a fraction of a second, if there is one.
fn fraction(text: &str) -> &str {
    match text.strip_prefix(['.', ',']) {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_digit()) => digits.trim_start_matches(|c: char| c.is_ascii_digit()),
        _ => text,
    }
}

/// Past exactly six digits of one.
fn micros(text: &str) -> Option<&str> {
    let digits = text.strip_prefix(['.', ','])?;
    let count = MICROSECONDS.len() - 1;
    digits.get(..count).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())).and_then(|_| digits.get(count..))
}

/// Past the offset.
fn zone(after: &str) -> Option<&str> {
    if let Some(rest) = after.strip_prefix('Z') {
        return Some(rest);
    }
    let offset = after.strip_prefix(['+', '-'])?.as_bytes();
    let well = matches!(offset, [a, b, b':', c, d, ..] if [a, b, c, d].iter().all(|d| d.is_ascii_digit()));
    if well { after.get(6..) } else { None }
}

fn out_of_range(text: &str) -> &'static str {
    let number = |from: usize| text.get(from..from + 2).and_then(|n| n.parse::<u8>().ok()).unwrap_or(0);
    match (number(5), number(11), number(14), number(17)) {
        (0 | 13.., ..) => "month",
        (_, 24.., ..) => "hour",
        (_, _, 60.., _) => "minute",
        (_, _, _, 60..) => "second",
        _ => "day",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_refused_in_gos_words() {
        const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
        let table = [
            ("2024-01-02T03:04:05Z", None),
            ("2024-01-02T03:04:05.5+02:00", None),
            ("abc", Some(r#"parsing time "abc" as "2006-01-02T15:04:05Z07:00": cannot parse "abc" as "2006""#)),
            ("2024-01-02", Some(r#"parsing time "2024-01-02" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#)),
            ("2024-13-02T03:04:05Z", Some(r#"parsing time "2024-13-02T03:04:05Z": month out of range"#)),
            ("2024-02-30T03:04:05Z", Some(r#"parsing time "2024-02-30T03:04:05Z": day out of range"#)),
            (
                "2024-01-02T03:04:05Z\u{e4}\u{7f}\n",
                Some("parsing time \"2024-01-02T03:04:05Z\\xc3\\xa4\u{7f}\\x0a\": extra text: \"\\xc3\\xa4\u{7f}\\x0a\""),
            ),
            ("2024-01-02T03:04:05Zx", Some(r#"parsing time "2024-01-02T03:04:05Zx": extra text: "x""#)),
        ];
        for (text, words) in table {
            assert_eq!(time_error(text, LAYOUT).as_deref(), words, "{text}");
        }
        const MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";
        let table = [
            ("2024-01-02T03:04:05.123456Z", None),
            ("2024-01-02T03:04:05.123456-01:30", None),
            ("2024-01-02T03:04:05Z", Some(r#"cannot parse "Z" as ".000000""#)),
            ("2024-01-02T03:04:05.123Z", Some(r#"cannot parse ".123Z" as ".000000""#)),
            ("2024-01-02T03:04:05.123456789+02:00", Some(r#"cannot parse "789+02:00" as "Z07:00""#)),
        ];
        for (text, words) in table {
            let wanted = words.map(|words| format!("parsing time {text:?} as {MICRO:?}: {words}"));
            assert_eq!(time_error(text, MICRO), wanted, "{text}");
        }
    }

    #[test]
    fn base64_is_refused_with_the_place() {
        assert_eq!(base64_error("aGk="), None);
        assert_eq!(base64_error("aG\nk="), None);
        assert_eq!(base64_error("a!k=").as_deref(), Some("illegal base64 data at input byte 1"));
        assert_eq!(base64_error("aGk").as_deref(), Some("illegal base64 data at input byte 3"));
    }
}
