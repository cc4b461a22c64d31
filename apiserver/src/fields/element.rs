//! One step of a path: a field's name, a list item's keys, a set's value, or an index; its order and its two texts.
//!
//! Source: structured-merge-diff `fieldpath/element.go`, `fieldpath/serialize-pe.go`, `value/value.go`.

use std::{cmp::Ordering, fmt};

use serde_json::{Number, Value};

/// Ordered as upstream orders them: names, keys, values, indices.
#[derive(Clone, Debug)]
pub enum Element {
    /// Of a map or an object.
    Field(String),
    /// Of an item of a list map: its key fields, sorted by name.
    Key(Vec<(String, Value)>),
    /// An item of a set.
    Value(Value),
    Index(i64),
}

impl Element {
    pub fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }

    /// Reads the form of FieldsV1 (`f:name`, `k:{"name":"x"}`, `v:"x"`, `i:0`). `None` for what a later version may know.
    ///
    /// # Errors
    /// What is no such form, in upstream's words.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let bytes = text.as_bytes();
        if bytes.len() < 2 {
            return Err("key must be 2 characters long:".into());
        }
        let Some(rest) = text.get(2..).filter(|_| bytes.get(1) == Some(&b':')) else { return Err(format!("missing colon: {text}")) };
        let json = || serde_json::from_str::<Value>(rest).map_err(|error| error.to_string());
        Ok(Some(match bytes.first() {
            Some(b'f') => Self::Field(rest.to_owned()),
            Some(b'v') => Self::Value(json()?),
            Some(b'k') => match json()? {
                Value::Object(map) => {
                    let mut keys: Vec<_> = map.into_iter().collect();
                    keys.sort_by(|one, other| one.0.cmp(&other.0));
                    Self::Key(keys)
                }
                _ => return Err("expected an object of keys".into()),
            },
            Some(b'i') => Self::Index(rest.parse().map_err(|_| format!("strconv.Atoi: parsing {rest:?}: invalid syntax"))?),
            _ => return Ok(None),
        }))
    }

    /// As FieldsV1 writes it.
    pub fn text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => {
                let mut out = String::from("k:{");
                for (at, (name, value)) in keys.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    out.push_str(&escaped(&Value::from(name.as_str())));
                    out.push(':');
                    out.push_str(&escaped(value));
                }
                out.push('}');
                out
            }
            Self::Value(value) => format!("v:{}", escaped(value)),
            Self::Index(at) => format!("i:{at}"),
        }
    }
}

/// JSON as Go writes it, which escapes what HTML could take for its own.
fn escaped(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            plain => out.push(plain),
        }
    }
    out
}

/// As errors show it: `.name`, `[name="x"]`, `[="x"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                f.write_str("[")?;
                for (at, (name, value)) in keys.iter().enumerate() {
                    write!(f, "{}{name}=", if at > 0 { "," } else { "" })?;
                    shown(value, f)?;
                }
                f.write_str("]")
            }
            Self::Value(value) => {
                f.write_str("[=")?;
                shown(value, f)?;
                f.write_str("]")
            }
            Self::Index(at) => write!(f, "[{at}]"),
        }
    }
}

/// `value.ToString`.
fn shown(value: &Value, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match value {
        Value::Array(list) => {
            f.write_str("[")?;
            for (at, item) in list.iter().enumerate() {
                f.write_str(if at > 0 { "," } else { "" })?;
                shown(item, f)?;
            }
            f.write_str("]")
        }
        Value::Object(map) => map.iter().try_for_each(|(name, value)| {
            write!(f, "{name}=")?;
            shown(value, f)
        }),
        Value::String(text) => write!(f, "{text:?}"),
        plain => write!(f, "{plain}"),
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Element {}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(one), Self::Field(two)) => one.cmp(two),
            (Self::Key(one), Self::Key(two)) => pairs(one.iter().map(|(k, v)| (k, v)), two.iter().map(|(k, v)| (k, v))),
            (Self::Value(one), Self::Value(two)) => order(one, two),
            (Self::Index(one), Self::Index(two)) => one.cmp(two),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl Element {
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

fn pairs<'a>(one: impl Iterator<Item = (&'a String, &'a Value)>, mut two: impl Iterator<Item = (&'a String, &'a Value)>) -> Ordering {
    for (name, value) in one {
        let Some((other_name, other)) = two.next() else { return Ordering::Greater };
        let order = name.cmp(other_name).then_with(|| order(value, other));
        if order != Ordering::Equal {
            return order;
        }
    }
    if two.next().is_some() { Ordering::Less } else { Ordering::Equal }
}

/// `value.Compare`: numbers (by their worth), texts, truths, lists, maps, null.
pub(super) fn order(one: &Value, two: &Value) -> Ordering {
    match (one, two) {
        (Value::Number(one), Value::Number(two)) => numbers(one, two),
        (Value::String(one), Value::String(two)) => one.cmp(two),
        (Value::Bool(one), Value::Bool(two)) => one.cmp(two),
        (Value::Array(one), Value::Array(two)) => {
            let items = one.iter().zip(two).map(|(one, two)| order(one, two)).find(|order| *order != Ordering::Equal);
            items.unwrap_or_else(|| one.len().cmp(&two.len()))
        }
        (Value::Object(one), Value::Object(two)) => {
            let sorted = |map: &serde_json::Map<String, Value>| {
                let mut all: Vec<(String, Value)> = map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                all.sort_by(|one, two| one.0.cmp(&two.0));
                all
            };
            let (one, two) = (sorted(one), sorted(two));
            pairs(one.iter().map(|(k, v)| (k, v)), two.iter().map(|(k, v)| (k, v)))
        }
        _ => word(one).cmp(&word(two)),
    }
}

fn word(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

fn numbers(one: &Number, two: &Number) -> Ordering {
    match (one.as_i64(), two.as_i64()) {
        (Some(one), Some(two)) => one.cmp(&two),
        _ => one.as_f64().unwrap_or(f64::MAX).total_cmp(&two.as_f64().unwrap_or(f64::MAX)),
    }
}
