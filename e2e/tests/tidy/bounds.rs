//! Every limit in the code -> a row of docs/security.md with its value, and every row -> a limit in the code.

use std::{collections::HashMap, fs, sync::LazyLock};

use regex::Regex;

use crate::source::{Source, root};

const DOCUMENT: &str = "docs/security.md";

/// A constant that bounds something: by its name, `..._MAX`, `MAX_...`, `..._BOUND` or `..._LIMIT`.
struct Bound {
    path: String,
    name: String,
    value: String,
}

/// A row of the table: `| what | value | flag | file | constant |`.
struct Row {
    line: usize,
    value: String,
    flag: String,
    path: String,
    name: String,
}

pub fn offences(product: &[Source]) -> Vec<String> {
    let bounds: Vec<Bound> = product.iter().filter(|s| !is_bench(s)).flat_map(bounds_of).collect();
    let text = fs::read_to_string(root().join(DOCUMENT)).unwrap_or_default();
    let rows: Vec<Row> = text.lines().enumerate().filter_map(|(n, line)| row(n + 1, line)).collect();
    assert!(bounds.len() > 100 && !rows.is_empty(), "{} limits, {} rows: the rule checks nothing", bounds.len(), rows.len());
    let flags: String = product.iter().filter(|s| s.path.starts_with("src/flags")).map(|s| s.text.as_str()).collect();
    let mut found = missing(&bounds, &rows);
    let known: Vec<Bound> = product.iter().filter(|s| s.path.starts_with("src/flags")).flat_map(defaults_of).chain(bounds).collect();
    found.extend(rows.iter().filter_map(|row| stale(row, &known)));
    found.extend(rows.iter().filter_map(|row| no_flag(row, &flags)));
    found
}

/// Benchmarks, the store's made-up disk and the tests' door serve nobody.
fn is_bench(source: &Source) -> bool {
    ["/benches/", "/bench.rs", "/load.rs", "/faulty", "apiserver/door/"].iter().any(|part| source.path.contains(part))
}

fn missing(bounds: &[Bound], rows: &[Row]) -> Vec<String> {
    let told = |b: &&Bound| rows.iter().any(|r| r.path == b.path && r.name == b.name);
    let absent = bounds.iter().filter(|b| !told(b));
    absent.map(|b| format!("{DOCUMENT} lacks: | | {} | | `{}` | `{}` |", b.value, b.path, b.name)).collect()
}

fn stale(row: &Row, bounds: &[Bound]) -> Option<String> {
    let Row { line, value, path, name, .. } = row;
    match bounds.iter().find(|b| b.path == *path && b.name == *name) {
        None => Some(format!("{DOCUMENT}:{line}: {path} has no {name}")),
        Some(b) if b.value != *value => Some(format!("{DOCUMENT}:{line}: {path} {name} is {}, not {value}", b.value)),
        Some(_) => None,
    }
}

fn no_flag(row: &Row, flags: &str) -> Option<String> {
    let field = row.flag.trim_matches('`').strip_prefix("--")?.replace('-', "_");
    let known = flags.contains(&format!("pub {field}:"));
    (!known).then(|| format!("{DOCUMENT}:{}: skiff has no flag {}", row.line, row.flag))
}

fn row(line: usize, text: &str) -> Option<Row> {
    let cells: Vec<&str> = text.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let [_, value, flag, path, name] = cells.as_slice() else { return None };
    let code = |cell: &str| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
    Some(Row { line, value: (*value).to_owned(), flag: (*flag).to_owned(), path: code(path)?, name: code(name)? })
}

/// The defaults of flags: a row may name the flag's field in place of a constant.
fn defaults_of(source: &Source) -> Vec<Bound> {
    static FLAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#"default_value(?:_t)? = "?([^",)]+)"?[^\n]*\n\s*pub (\w+):"#).unwrap());
    let flag = |found: regex::Captures| Bound { path: source.path.clone(), name: found[2].to_owned(), value: found[1].to_owned() };
    FLAG.captures_iter(&source.text).map(flag).collect()
}

fn bounds_of(source: &Source) -> Vec<Bound> {
    static CONST: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\s*(?:pub(?:\([a-z]+\))? )?const (\w+): ([\w:]+) = (.+);").unwrap());
    static LIMIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(_MAX|_BOUND|_LIMIT)(_SECONDS)?$|^BOUND$|^MAX_").unwrap());
    let constants: Vec<[&str; 3]> = source.code().filter_map(|(_, line)| Some(CONST.captures(line)?.extract::<3>().1)).collect();
    let known: HashMap<&str, &str> = constants.iter().map(|[name, _, expr]| (*name, *expr)).collect();
    let limits = constants.iter().filter(|[name, ..]| LIMIT.is_match(name));
    let bound =
        |[name, _, expr]: &[&str; 3]| Bound { path: source.path.clone(), name: (*name).to_owned(), value: words(name, expr, &known) };
    limits.map(bound).collect()
}

/// The value as a person writes it: `3 MiB`, `10 s`, `4,096`. What cannot be reckoned here stands as it is in the code.
fn words(name: &str, expr: &str, known: &HashMap<&str, &str>) -> String {
    // Tests wait for less.
    let product = expr.strip_prefix("if cfg!(test) {").and_then(|rest| rest.split_once("} else {"));
    let expr = product.map_or(expr, |(_, rest)| rest.trim().trim_end_matches('}').trim());
    for (unit, nanos) in [("secs", 1_000_000_000), ("millis", 1_000_000), ("micros", 1_000)] {
        let inner = expr.strip_prefix(&format!("Duration::from_{unit}(")).and_then(|rest| rest.strip_suffix(')'));
        if let Some(count) = inner.and_then(|inner| reckon(inner, known)) {
            return span(count * nanos);
        }
    }
    let Some(number) = reckon(expr, known) else { return format!("`{expr}`") };
    if name.contains("BYTES") || name.contains("SIZE") {
        bytes(number)
    } else if name.contains("SECONDS") {
        span(number * 1_000_000_000)
    } else {
        grouped(number)
    }
}

/// Sums of products of shifted numbers; names are looked up in the same file.
fn reckon(expr: &str, known: &HashMap<&str, &str>) -> Option<i128> {
    let expr = expr.trim();
    for (operator, apply) in [
        (" << ", shl as fn(i128, i128) -> Option<i128>),
        (" + ", i128::checked_add),
        (" - ", i128::checked_sub),
        (" * ", i128::checked_mul),
    ] {
        if let Some((left, right)) = expr.rsplit_once(operator) {
            return apply(reckon(left, known)?, reckon(right, known)?);
        }
    }
    if let Some(value) = known.get(expr) {
        return reckon(value, known);
    }
    expr.replace('_', "").parse().ok()
}

fn shl(value: i128, by: i128) -> Option<i128> {
    value.checked_mul(1_i128.checked_shl(u32::try_from(by).ok()?)?)
}

fn bytes(number: i128) -> String {
    match number {
        n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{} MiB", grouped(n >> 20)),
        n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{} KiB", grouped(n >> 10)),
        n => format!("{} B", grouped(n)),
    }
}

fn span(nanos: i128) -> String {
    const SECOND: i128 = 1_000_000_000;
    match nanos {
        n if n >= 3600 * SECOND && n % (3600 * SECOND) == 0 => format!("{} h", n / (3600 * SECOND)),
        n if n > 60 * SECOND && n % (60 * SECOND) == 0 => format!("{} min", n / (60 * SECOND)),
        n if n >= SECOND && n % SECOND == 0 => format!("{} s", grouped(n / SECOND)),
        n if n % 1_000_000 == 0 => format!("{} ms", n / 1_000_000),
        n => format!("{} us", n / 1_000),
    }
}

fn grouped(number: i128) -> String {
    let digits = number.to_string();
    let from_end = |at: usize| digits.len() - at;
    let comma = |(at, c): (usize, char)| if at > 0 && from_end(at) % 3 == 0 { format!(",{c}") } else { c.to_string() };
    digits.char_indices().map(comma).collect()
}

#[test]
fn values_read_as_people_write_them() {
    let known = HashMap::from([("OTHER", "4")]);
    for (name, expr, wanted) in [
        ("BODY_BYTES_MAX", "3 << 20", "3 MiB"),
        ("HEADER_BYTES_MAX", "256 * 1024", "256 KiB"),
        ("WAIT_MAX", "Duration::from_secs(5 * 60)", "5 min"),
        ("REQUEST_MAX", "Duration::from_secs(60)", "60 s"),
        ("STALL_MAX", "if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(60) }", "60 s"),
        ("SEND_BOUND", "Duration::from_millis(100)", "100 ms"),
        ("CLIENTS_MAX", "262_144", "262,144"),
        ("NAMES_MAX", "63 - OTHER", "59"),
        ("SIZES_MAX", "ELSEWHERE as usize", "`ELSEWHERE as usize`"),
    ] {
        assert_eq!(words(name, expr, &known), wanted, "{name} = {expr}");
    }
}
