//! Functions of texts and times. Sources: cel-go `ext/strings.go`, `common/stdlib`, apiserver `pkg/cel/library/regex.go`.

use std::sync::Arc;

use api::time::{Timestamp, rfc3339};
use jiff::tz::TimeZone;
use parking_lot::Mutex;

use super::{
    value::{Evaluated, Failure, Meter, V},
    weight::weight,
};
use crate::schema::pattern::Pattern;

/// Memory of one pattern, and how many the rules of a write keep.
const RULE_PATTERN_BYTES_MAX: usize = 256 << 10;
const PATTERNS_KEPT_MAX: usize = 32;
/// Patterns that stand in rules themselves and are kept from one write to the next; the one that was not used for longest goes.
const LITERALS_KEPT_MAX: usize = 64;
static LITERALS: Mutex<Vec<(Arc<str>, Pattern)>> = Mutex::new(Vec::new());
/// Of compiling a pattern, and of each byte of it.
const COMPILE_COST: (usize, usize) = (2_000, 100);

pub fn call<'v>(run: &mut Meter, name: &str, arguments: &[V<'v>]) -> Result<Option<V<'v>>, Failure> {
    match arguments {
        [V::Timestamp(at)] => Ok(time_part(name, *at, "UTC").transpose()?),
        [V::Timestamp(at), V::Text(zone)] => Ok(time_part(name, *at, zone).transpose()?),
        [V::Duration(nanos)] => Ok(duration_part(name, *nanos)),
        [V::Text(text), rest @ ..] => {
            run.spend(text.len() / 10 + 1)?;
            of_text(run, name, text, rest)
        }
        _ => Ok(None),
    }
}

fn of_text<'v>(run: &mut Meter, name: &str, text: &str, rest: &[V<'v>]) -> Result<Option<V<'v>>, Failure> {
    let place = |found: Option<usize>| Some(V::Int(found.map_or(-1, |at| at as i64)));
    Ok(match (name, rest) {
        ("contains", [V::Text(part)]) => Some(V::Bool(text.contains(&**part))),
        ("startsWith", [V::Text(part)]) => Some(V::Bool(text.starts_with(&**part))),
        ("endsWith", [V::Text(part)]) => Some(V::Bool(text.ends_with(&**part))),
        ("matches", [V::Text(pattern)]) => Some(V::Bool(compiled(run, pattern)?.is_match(text))),
        ("find", [V::Text(pattern)]) => {
            let pattern = compiled(run, pattern)?;
            Some(V::text(pattern.regex().find(text).map_or("", |found| found.as_str())))
        }
        ("findAll", [V::Text(pattern)]) => Some(found_all(run, text, pattern, usize::MAX)?),
        ("findAll", [V::Text(pattern), V::Int(limit)]) => {
            Some(found_all(run, text, pattern, usize::try_from(*limit).unwrap_or(usize::MAX))?)
        }
        ("charAt", [V::Int(at)]) => {
            let length = text.chars().count();
            match usize::try_from(*at) {
                Ok(at) if at == length => Some(V::text("")),
                Ok(at) if at < length => text.chars().nth(at).map(|c| V::text(c.to_string())),
                _ => return Failure::of(format!("index out of range: {at}")),
            }
        }
        ("indexOf", [V::Text(part)]) => place(text.find(&**part).map(|at| text[..at].chars().count())),
        ("indexOf", [V::Text(part), V::Int(from)]) => {
            let skipped = characters(text, *from)?;
            place(text[skipped..].find(&**part).map(|at| text[..skipped + at].chars().count()))
        }
        ("lastIndexOf", [V::Text(part)]) => place(text.rfind(&**part).map(|at| text[..at].chars().count())),
        ("lastIndexOf", [V::Text(part), V::Int(until)]) => {
            let end = characters(text, *until)?;
            let end = (end + part.len()).min(text.len());
            let head = text.get(..end).unwrap_or(text);
            place(head.rfind(&**part).map(|at| text[..at].chars().count()))
        }
        ("lowerAscii", []) => Some(V::text(text.to_ascii_lowercase())),
        ("upperAscii", []) => Some(V::text(text.to_ascii_uppercase())),
        ("trim", []) => Some(V::text(text.trim())),
        ("reverse", []) => Some(V::text(text.chars().rev().collect::<String>())),
        ("jsonpatch.escapeKey", []) => Some(V::text(text.replace('~', "~0").replace('/', "~1"))),
        ("strings.quote", []) => Some(V::text(format!("{text:?}"))),
        ("replace", [V::Text(from), V::Text(to)]) => Some(replaced(run, text, from, to, usize::MAX)?),
        ("replace", [V::Text(from), V::Text(to), V::Int(count)]) => {
            Some(replaced(run, text, from, to, usize::try_from(*count).unwrap_or(usize::MAX))?)
        }
        ("split", [V::Text(separator)]) => Some(split(run, text, separator, usize::MAX)?),
        ("split", [V::Text(separator), V::Int(limit)]) => Some(split(run, text, separator, usize::try_from(*limit).unwrap_or(usize::MAX))?),
        ("substring", [V::Int(start)]) => {
            let start = characters(text, *start)?;
            Some(V::text(&text[start..]))
        }
        ("substring", [V::Int(start), V::Int(end)]) => {
            if start > end {
                return Failure::of(format!("invalid substring range. start: {start}, end: {end}"));
            }
            let (start, end) = (characters(text, *start)?, characters(text, *end)?);
            Some(V::text(&text[start..end]))
        }
        ("format", [list]) if list.is_list() => Some(formatted(run, text, list)?),
        _ => None,
    })
}

/// Where the character at `index` begins; one behind the last is allowed.
fn characters(text: &str, index: i64) -> Result<usize, Failure> {
    let found = usize::try_from(index).ok().and_then(|index| text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(index));
    found.ok_or_else(|| Failure::Error(format!("index out of range: {index}")))
}

/// Compiling is dearer than most of what rules do: once for all rules of a write, and what stands in a rule itself once for many writes. What it costs a
/// rule is the same whether or not it was done before.
fn compiled(run: &mut Meter, pattern: &str) -> Result<Pattern, Failure> {
    run.spend(pattern.len() / 10 + 1)?;
    if let Some(kept) = run.patterns.get(pattern) {
        return Ok(kept.clone());
    }
    run.spend(pattern.len().saturating_mul(COMPILE_COST.1) + COMPILE_COST.0)?;
    let made = if run.is_literal { literal(pattern) } else { made(pattern) };
    let made = made.map_err(Failure::Error)?;
    if run.patterns.len() < PATTERNS_KEPT_MAX {
        run.patterns.insert(pattern.to_owned(), made.clone());
    }
    Ok(made)
}

fn made(pattern: &str) -> Result<Pattern, String> {
    api::steps::took(1);
    Pattern::within(pattern, RULE_PATTERN_BYTES_MAX)
}

fn literal(pattern: &str) -> Result<Pattern, String> {
    let known = |kept: &mut Vec<(Arc<str>, Pattern)>| {
        let at = kept.iter().position(|(text, _)| **text == *pattern)?;
        // Those that were used last are last.
        kept.get_mut(at..)?.rotate_left(1);
        kept.last().map(|(_, pattern)| pattern.clone())
    };
    if let Some(kept) = known(&mut LITERALS.lock()) {
        return Ok(kept);
    }
    let made = made(pattern)?;
    let mut kept = LITERALS.lock();
    // Somebody else may have made it meanwhile.
    if known(&mut kept).is_none() {
        if kept.len() >= LITERALS_KEPT_MAX {
            kept.remove(0);
        }
        kept.push((pattern.into(), made.clone()));
    }
    Ok(made)
}

fn found_all<'v>(run: &mut Meter, text: &str, pattern: &str, limit: usize) -> Evaluated<'v> {
    let pattern = compiled(run, pattern)?;
    let found: Vec<V<'v>> = pattern.regex().find_iter(text).take(limit).map(|found| V::text(found.as_str())).collect();
    run.spend(found.len())?;
    Ok(V::list(found))
}

fn replaced<'v>(run: &mut Meter, text: &str, from: &str, to: &str, count: usize) -> Evaluated<'v> {
    let times = if from.is_empty() { text.chars().count() + 1 } else { text.matches(from).count() };
    run.spend((text.len() + times.min(count).saturating_mul(to.len())) / 10)?;
    Ok(V::text(text.replacen(from, to, count)))
}

fn split<'v>(run: &mut Meter, text: &str, separator: &str, limit: usize) -> Evaluated<'v> {
    if limit == 0 {
        return Ok(V::list(Vec::new()));
    }
    run.spend(text.len() / 4)?;
    let parts: Vec<V<'v>> = if separator.is_empty() {
        let mut parts: Vec<String> = text.chars().map(String::from).collect();
        if parts.len() > limit {
            let rest = parts.split_off(limit - 1).concat();
            parts.push(rest);
        }
        parts.into_iter().map(V::text).collect()
    } else {
        text.splitn(limit, separator).map(V::text).collect()
    };
    Ok(V::list(parts))
}

fn time_part<'v>(name: &str, at: Timestamp, zone: &str) -> Option<Evaluated<'v>> {
    let civil = |zone: TimeZone| at.to_zoned(zone);
    let offset = zone.split_once(':').and_then(|(hours, minutes)| {
        let sign = if hours.starts_with('-') { -1 } else { 1 };
        let hours: i32 = hours.trim_start_matches('+').parse().ok()?;
        let minutes: i32 = minutes.parse().ok()?;
        jiff::tz::Offset::from_seconds(hours.checked_mul(3600)?.checked_add(sign * minutes.checked_mul(60)?)?).ok()
    });
    let zoned = match (zone, offset) {
        ("UTC" | "Z" | "", _) => civil(TimeZone::UTC),
        (_, Some(offset)) => civil(TimeZone::fixed(offset)),
        (name, None) => match TimeZone::get(name) {
            Ok(zone) => civil(zone),
            Err(_) => return Some(Failure::of(format!("unknown time zone {zone}"))),
        },
    };
    let number = |value: i64| Some(Ok(V::Int(value)));
    match name {
        "getFullYear" => number(zoned.year().into()),
        "getMonth" => number(i64::from(zoned.month()) - 1),
        "getDayOfYear" => number(i64::from(zoned.day_of_year()) - 1),
        "getDayOfMonth" => number(i64::from(zoned.day()) - 1),
        "getDate" => number(zoned.day().into()),
        "getDayOfWeek" => number(zoned.weekday().to_sunday_zero_offset().into()),
        "getHours" => number(zoned.hour().into()),
        "getMinutes" => number(zoned.minute().into()),
        "getSeconds" => number(zoned.second().into()),
        "getMilliseconds" => number(zoned.millisecond().into()),
        _ => None,
    }
}

fn duration_part<'v>(name: &str, nanos: i64) -> Option<V<'v>> {
    Some(V::Int(match name {
        "getHours" => nanos / 3_600_000_000_000,
        "getMinutes" => nanos / 60_000_000_000,
        "getSeconds" => nanos / 1_000_000_000,
        "getMilliseconds" => nanos / 1_000_000 % 1000,
        _ => return None,
    }))
}

/// `"%s and %d".format([a, b])`
fn formatted<'v>(run: &mut Meter, text: &str, list: &V<'v>) -> Evaluated<'v> {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok().map(|digits| digits.min(100));
        }
        let Some(value) = list.element(next) else { return Failure::of(format!("index {next} out of range")) };
        next += 1;
        run.spend(weight(&value, run.left))?;
        let shown = match (chars.next(), &value) {
            (Some('s'), value) => shown(value),
            (Some('d'), V::Int(_) | V::Uint(_)) => shown(&value),
            (Some('f'), V::Double(value)) => format!("{value:.*}", precision.unwrap_or(6)),
            (Some('f'), V::Int(value)) => format!("{:.*}", precision.unwrap_or(6), *value as f64),
            (Some('e'), V::Double(value)) => format!("{value:.*e}", precision.unwrap_or(6)),
            (Some('b'), V::Int(value)) => format!("{value:b}"),
            (Some('b'), V::Bool(value)) => u8::from(*value).to_string(),
            (Some('x'), V::Int(value)) => format!("{value:x}"),
            (Some('X'), V::Int(value)) => format!("{value:X}"),
            (Some('x'), V::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            (Some('X'), V::Text(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
            (Some('o'), V::Int(value)) => format!("{value:o}"),
            (Some(clause), _) => return Failure::of(format!("error during formatting: unrecognized formatting clause {clause:?}")),
            (None, _) => return Failure::of("unexpected end of string"),
        };
        run.spend(shown.len() / 10)?;
        out.push_str(&shown);
    }
    Ok(V::text(out))
}

/// As `string()` and `%s` write a value.
pub fn shown(value: &V<'_>) -> String {
    match value {
        V::Null => "null".to_owned(),
        V::Bool(value) => value.to_string(),
        V::Int(value) => value.to_string(),
        V::Uint(value) => value.to_string(),
        V::Double(value) => value.to_string(),
        V::Text(text) => text.to_string(),
        V::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        V::Duration(nanos) => seconds(*nanos),
        V::Timestamp(at) => rfc3339(*at),
        V::Quantity(quantity) => quantity.to_string(),
        V::Ip(address) => address.to_string(),
        V::Cidr(address, length) => format!("{address}/{length}"),
        V::Url(text) => text.to_string(),
        V::Semver(version) => {
            let numbers = version.numbers.map(|number| number.to_string()).join(".");
            if version.pre.is_empty() { numbers } else { format!("{numbers}-{}", version.pre.join(".")) }
        }
        V::Type(name) => (*name).to_owned(),
        V::Format(name) => name.to_string(),
        V::Authorizer(_) | V::Check(..) | V::Decision(_) | V::Variables(_) => value.type_name().to_owned(),
        V::Optional(None) => "optional.none()".to_owned(),
        V::Optional(Some(value)) => format!("optional({})", shown(value)),
        list if list.is_list() => format!("[{}]", list.elements().map(|element| shown(&element)).collect::<Vec<_>>().join(", ")),
        map => {
            let mut entries: Vec<String> = map.entries().iter().map(|(key, value)| format!("{}: {}", shown(key), shown(value))).collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

fn seconds(nanos: i64) -> String {
    let (whole, part) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).unsigned_abs());
    let sign = if nanos < 0 && whole == 0 { "-" } else { "" };
    if part == 0 { format!("{whole}s") } else { format!("{sign}{whole}.{}s", format!("{part:09}").trim_end_matches('0')) }
}
