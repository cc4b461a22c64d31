//! A JSONPath of a printer column and an object -> what stands there. Source: client-go `util/jsonpath`, the part that definitions use.

use serde_json::Value;

/// `.status.conditions[?(@.type=="Ready")].status`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// From the end where negative.
    Index(i64),
    All,
    /// Elements of which the path inside compares so; `None`: it is there.
    Where(JsonPath, Option<(Comparison, Value)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Values looked at for one path.
const LOOKS_MAX: usize = 100_000;

impl JsonPath {
    /// `None` for what is no such path.
    pub fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after)?;
                steps.push(bracket(after[..end].trim())?);
                rest = &after[end + 1..];
            } else if let Some(after) = rest.strip_prefix('.') {
                let (name, next) = field(after);
                match name.as_str() {
                    "" => {}
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(name)),
                }
                rest = next;
            } else {
                return None;
            }
        }
        Some(Self(steps))
    }

    /// The first value there.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        find(&self.0, value, &mut 0)
    }

    /// As a JSON pointer, where it names fields only.
    pub fn pointer(&self) -> Option<String> {
        self.0.iter().map(|step| if let Step::Field(name) = step { Some(format!("/{}", escaped(name))) } else { None }).collect()
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn find<'v>(steps: &[Step], value: &'v Value, looks: &mut usize) -> Option<&'v Value> {
    *looks += 1;
    if *looks > LOOKS_MAX {
        return None;
    }
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match step {
        Step::Field(name) => find(rest, value.get(name)?, looks),
        Step::Index(at) => {
            let list = value.as_array()?;
            let length = i64::try_from(list.len()).ok()?;
            let at = if *at < 0 { length.checked_add(*at)? } else { *at };
            find(rest, list.get(usize::try_from(at).ok()?)?, looks)
        }
        Step::All => match value {
            Value::Array(list) => list.iter().find_map(|element| find(rest, element, looks)),
            Value::Object(map) => map.values().find_map(|element| find(rest, element, looks)),
            _ => None,
        },
        Step::Where(path, wanted) => value.as_array()?.iter().find_map(|element| {
            let met = find(&path.0, element, looks).is_some_and(|found| match wanted {
                None => true,
                Some((comparison, wanted)) => compares(*comparison, found, wanted),
            });
            if met { find(rest, element, looks) } else { None }
        }),
    }
}

fn compares(comparison: Comparison, found: &Value, wanted: &Value) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = match (found, wanted) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match comparison {
        Comparison::Equal => order == Some(Equal),
        Comparison::Unequal => order != Some(Equal),
        Comparison::Less => order == Some(Less),
        Comparison::LessOrEqual => matches!(order, Some(Less | Equal)),
        Comparison::Greater => order == Some(Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Greater | Equal)),
    }
}

/// A field's name, in which a backslash takes the meaning of what follows.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            c => name.push(c),
        }
    }
    (name, "")
}

/// The bracket that closes; those in quotes do not count.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0_usize, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquoted(text) {
        return Some(Step::Field(name.to_owned()));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return condition(filter.trim());
    }
    // A slice begins there.
    text.split(':').next().and_then(|number| if number.is_empty() { Some(0) } else { number.parse().ok() }).map(Step::Index)
}

fn unquoted(text: &str) -> Option<&str> {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('\'').or_else(|| inner('"'))
}

fn condition(text: &str) -> Option<Step> {
    const WORDS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::Unequal),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let inner = |text: &str| JsonPath::parse(text.trim().strip_prefix('@')?);
    let split = WORDS.iter().find_map(|(word, comparison)| Some((text.split_once(word)?, *comparison)));
    let Some(((left, right), comparison)) = split else { return Some(Step::Where(inner(text)?, None)) };
    let right = right.trim();
    let wanted = match unquoted(right) {
        Some(text) => Value::from(text),
        None => serde_json::from_str(right).ok()?,
    };
    Some(Step::Where(inner(left)?, Some((comparison, wanted))))
}

/// What a column of type `typ` shows of a value (`cellForJSONValue`).
pub fn cell(typ: &str, value: Option<&Value>, now: api::time::Timestamp) -> Value {
    let Some(value) = value else { return Value::Null };
    match (typ, value) {
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", Value::Null) => "<no value>".into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => number.as_i64().or_else(|| number.as_f64().map(|f| f as i64)).into(),
        ("number", Value::Number(number)) => number.as_f64().into(),
        ("boolean", Value::Bool(value)) => (*value).into(),
        ("date", Value::String(text)) => match api::time::parse(text) {
            Some(_) => kinds::common::table::since(text, now).into(),
            None => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_the_first() {
        let object = json!({"a": {"b.c": 1, "list": [{"t": "x", "v": 1}, {"t": "y", "v": 2, "n": [5, 6]}]}});
        let table = [
            (".a.list[1].v", json!(2)),
            (".a.list[-1].n[0]", json!(5)),
            (r".a.b\.c", json!(1)),
            (".a['b.c']", json!(1)),
            (r#".a.list[?(@.t=="y")].v"#, json!(2)),
            (".a.list[?(@.v > 1)].t", json!("y")),
            (".a.list[*].n", json!([5, 6])),
            (".a.list[?(@.n)].t", json!("y")),
        ];
        for (path, wanted) in table {
            assert_eq!(JsonPath::parse(path).unwrap().first(&object), Some(&wanted), "{path}");
        }
        assert_eq!(JsonPath::parse(".a.gone").unwrap().first(&object), None);
        assert_eq!(JsonPath::parse("a"), None);
        assert_eq!(JsonPath::parse(".a[").or(JsonPath::parse(".a[?(b)]")), None);
        assert_eq!(JsonPath::parse(".a.b").unwrap().pointer().as_deref(), Some("/a/b"));
    }

    #[test]
    fn cells_are_of_their_type() {
        let now = api::time::parse("2026-01-01T00:05:00Z").unwrap();
        assert_eq!(cell("date", Some(&json!("2026-01-01T00:00:00Z")), now), "5m");
        assert_eq!(cell("date", Some(&json!("x")), now), "<invalid>");
        assert_eq!(cell("integer", Some(&json!("x")), now), Value::Null);
        assert_eq!(cell("string", Some(&json!([1])), now), "[1]");
    }
}
