//! A value -> YAML as Go writes it: keys in order, text as plain as it may be.
//!
//! Sources: sigs.k8s.io/yaml `goyaml.v2/{encode,sorter,resolve,emitterc}.go`.

use std::{cmp::Ordering, fmt::Write, sync::LazyLock};

use regex::Regex;
use serde_json::{Map, Value};

/// The document, ended by a newline.
pub(crate) fn write(value: &Value) -> String {
    let mut out = String::new();
    node(value, 0, &mut out);
    out
}

/// At the end of a line, of which the rest is the value; each ends its own.
fn node(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => map(fields, indent, out),
        Value::Array(list) if !list.is_empty() => sequence(list, indent, out),
        plain => {
            scalar(plain, indent, out);
            out.push('\n');
        }
    }
}

/// Its first line begins where it stands, the others at `indent`.
fn map(fields: &Map<String, Value>, indent: usize, out: &mut String) {
    let mut keys: Vec<&String> = fields.keys().collect();
    keys.sort_by(|a, b| natural(a, b));
    for (i, key) in keys.into_iter().enumerate() {
        if i > 0 {
            pad(indent, out);
        }
        text(key, indent, true, out);
        out.push(':');
        match fields.get(key) {
            Some(Value::Object(inner)) if !inner.is_empty() => {
                out.push('\n');
                pad(indent + 2, out);
                map(inner, indent + 2, out);
            }
            // Items stand where their key does.
            Some(Value::Array(list)) if !list.is_empty() => {
                out.push('\n');
                pad(indent, out);
                sequence(list, indent, out);
            }
            value => {
                out.push(' ');
                node(value.unwrap_or(&Value::Null), indent + 2, out);
            }
        }
    }
}

fn sequence(list: &[Value], indent: usize, out: &mut String) {
    for (i, value) in list.iter().enumerate() {
        if i > 0 {
            pad(indent, out);
        }
        out.push_str("- ");
        node(value, indent + 2, out);
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn scalar(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::String(words) => text(words, indent, false, out),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
        other => write!(out, "{other}").expect("writing to memory"),
    }
}

fn text(words: &str, indent: usize, is_key: bool, out: &mut String) {
    match () {
        () if words.contains('\n') && !is_key && fits_a_block(words) => block(words, indent, out),
        () if words.contains('\n') || is_special(words) || !is_text(words) => quoted(words, out),
        () if is_plain(words) => out.push_str(words),
        () => write!(out, "'{}'", words.replace('\'', "''")).expect("writing to memory"),
    }
}

/// `|`, with what says how it ends.
fn block(words: &str, indent: usize, out: &mut String) {
    out.push('|');
    if words.starts_with([' ', '\n']) {
        out.push('2');
    }
    let end = match () {
        () if !words.ends_with('\n') => "-",
        () if words.ends_with("\n\n") || words == "\n" => "+",
        () => "",
    };
    out.push_str(end);
    for line in words.strip_suffix('\n').unwrap_or(words).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(indent.max(2), out);
            out.push_str(line);
        }
    }
}

/// Not where a line ends in a space, which nobody would see.
fn fits_a_block(words: &str) -> bool {
    !is_special(words) && !words.contains(" \n") && !words.ends_with(' ')
}

/// What no style but the double quotes shows.
fn is_special(words: &str) -> bool {
    words.chars().any(|c| c.is_control() && c != '\n' || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}'))
}

fn quoted(words: &str, out: &mut String) {
    out.push('"');
    for c in words.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            '\u{feff}' => out.push_str("\\uFEFF"),
            c if c.is_control() => write!(out, "\\x{:02X}", u32::from(c)).expect("writing to memory"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Whether text without quotes is text again (`resolve`).
fn is_text(words: &str) -> bool {
    static OTHER: LazyLock<Regex> = LazyLock::new(|| {
        let parts = [
            r"~|null|Null|NULL|<<|=",
            r"y|Y|yes|Yes|YES|on|On|ON|true|True|TRUE|n|N|no|No|NO|off|Off|OFF|false|False|FALSE",
            r"[-+]?(?:\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN",
            r"[-+]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO]?[0-7_]+|[0-9][0-9_]*)",
            r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?",
            r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?",
            r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ][0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(?:\.[0-9]+)?(?:Z|[-+][0-9]{2}:[0-9]{2})?)?",
        ];
        Regex::new(&format!("^(?:{})$", parts.join("|"))).expect("valid")
    });
    !words.is_empty() && !OTHER.is_match(words)
}

/// Whether nothing in it means something (`yaml_emitter_analyze_scalar`, outside of brackets).
fn is_plain(words: &str) -> bool {
    let is_end = |c: Option<&char>| c.is_none_or(|c| matches!(c, ' ' | '\t' | '\n'));
    let chars: Vec<char> = words.chars().collect();
    let begins = match chars.first() {
        Some('#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' | ' ') | None => true,
        Some('?' | ':' | '-') => is_end(chars.get(1)),
        Some(_) => words.starts_with("---") || words.starts_with("..."),
    };
    let mut means = begins || chars.last() == Some(&' ') || words.starts_with("---");
    for (i, c) in chars.iter().enumerate().skip(1) {
        means |= match c {
            ':' => is_end(chars.get(i + 1)),
            '#' => matches!(chars.get(i - 1), Some(' ' | '\t')),
            _ => false,
        };
    }
    !means
}

/// Numbers in keys count as numbers (`keyList.Less`).
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut in_digits = false;
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        if x == y {
            in_digits = x.is_numeric();
            continue;
        }
        return match (x.is_alphabetic(), y.is_alphabetic()) {
            (true, true) => x.cmp(y),
            (true, false) => {
                if in_digits {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (false, true) => {
                if in_digits {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (false, false) => by_number(&a, &b, i).then(x.cmp(y)),
        };
    }
    a.len().cmp(&b.len())
}

fn by_number(a: &[char], b: &[char], at: usize) -> Ordering {
    let digits = |of: &[char]| -> String { of.iter().skip(at).take_while(|c| c.is_ascii_digit()).collect() };
    let (x, y) = (digits(a), digits(b));
    let is_inside = a.iter().take(at).rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
    let begins_with_zero = a.get(at) == Some(&'0') || b.get(at) == Some(&'0');
    let value = |digits: &str| {
        let first: u64 = u64::from(begins_with_zero && is_inside);
        digits.bytes().fold(first, |sum, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
    };
    value(&x).cmp(&value(&y)).then(x.len().cmp(&y.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_written_as_go_writes_it() {
        let value = json!({
            "metadata": {"name": "a", "labels": {}, "managedFields": [{"fieldsV1": {"f:a": {}, ".": {}, "k:{\"x\":1}": {}}, "time": "2020-01-01T00:00:00Z"}]},
            "data": {"n": "1", "t": "true", "e": "", "s": "a: b", "h": "a #b", "l": "x\ny\n", "m": "x\ny", "u": "a\tb", "q": "it's", "c": "10:30", "d": "a-b"},
            "list": [[1, 2], [], {"b": null, "a10": 1.5, "a9": true}],
        });
        let wanted = r#"data:
  c: "10:30"
  d: a-b
  e: ""
  h: 'a #b'
  l: |
    x
    y
  m: |-
    x
    y
  "n": "1"
  q: it's
  s: 'a: b'
  t: "true"
  u: "a\tb"
list:
- - 1
  - 2
- []
- a9: true
  a10: 1.5
  b: null
metadata:
  labels: {}
  managedFields:
  - fieldsV1:
      .: {}
      f:a: {}
      k:{"x":1}: {}
    time: "2020-01-01T00:00:00Z"
  name: a
"#;
        assert_eq!(write(&value), wanted);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[-a-z0-9:# '\"\\n.,~+%@\\[{|>é\\t]{0,8}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z.:{}-]{1,4}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(value in any_json()) {
            let text = write(&value);
            let read: Value = serde_yaml::from_str(&text).map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
            prop_assert_eq!(read, value, "{}", text);
        }
    }
}
