//! Label and field selectors: parse, match, print.
//!
//! Grammar and messages: apimachinery `pkg/labels/selector.go` and `pkg/fields/selector.go`.

mod matcher;
mod parse;

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub use matcher::Matcher;

/// A conjunction of requirements on labels; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(pub Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub op: Op,
    /// Sorted.
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

/// A conjunction of `field=value` and `field!=value`; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<FieldTerm>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub equal: bool,
    pub value: String,
}

impl Labels {
    /// Parses `a=b,c!=d,e in (f,g),h,!i,j>1`.
    ///
    /// # Errors
    /// What is wrong with the text, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = parse::requirements(text)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self(requirements))
    }

    /// `None` selects nothing (as upstream's nil selector does); an empty selector selects everything.
    ///
    /// # Errors
    /// An operator that does not exist.
    pub fn from_selector(selector: Option<&LabelSelector>) -> Result<Option<Self>, String> {
        let Some(selector) = selector else { return Ok(None) };
        let mut out = Self::from_map(selector.match_labels.iter().flatten());
        for expr in selector.match_expressions.iter().flatten() {
            let op = match expr.operator.as_str() {
                "In" => Op::In,
                "NotIn" => Op::NotIn,
                "Exists" => Op::Exists,
                "DoesNotExist" => Op::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let mut values = expr.values.clone().unwrap_or_default();
            values.sort();
            out.0.push(Requirement { key: expr.key.clone(), op, values });
        }
        out.0.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Some(out))
    }

    /// Equality on each pair.
    pub fn from_map<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let equal = |(k, v): (&String, &String)| Requirement { key: k.clone(), op: Op::In, values: vec![v.clone()] };
        Self(map.into_iter().map(equal).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_with(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
    }

    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| r.matches(get(&r.key)))
    }
}

impl Requirement {
    pub fn matches(&self, value: Option<&str>) -> bool {
        match (self.op, value) {
            (Op::In, Some(v)) => self.has(v),
            (Op::NotIn, Some(v)) => !self.has(v),
            (Op::Exists, v) => v.is_some(),
            (Op::NotIn | Op::DoesNotExist, None) => true,
            (Op::Gt | Op::Lt, Some(v)) => self.compares(v),
            (Op::DoesNotExist, Some(_)) | (Op::In | Op::Gt | Op::Lt, None) => false,
        }
    }

    fn has(&self, value: &str) -> bool {
        self.values.binary_search_by(|own| own.as_str().cmp(value)).is_ok()
    }

    fn compares(&self, value: &str) -> bool {
        let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
        match (value.parse::<i64>(), bound) {
            (Ok(v), Some(b)) if self.op == Op::Gt => v > b,
            (Ok(v), Some(b)) => v < b,
            _ => false,
        }
    }
}

impl Fields {
    /// Parses `a=b,c==d,e!=f`; `\\`, `\,` and `\=` are escapes in values. The first operator of a term is the one that counts.
    ///
    /// # Errors
    /// A term without an operator, or a value that is not escaped as it must be, in upstream's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_unescaped(text).into_iter().filter(|p| !p.is_empty()) {
            let Some((field, equal, value)) = split_term(&part) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            terms.push(FieldTerm { field: field.to_owned(), equal, value: unescape(value)? });
        }
        Ok(Self(terms))
    }

    /// `field=value`.
    pub fn one(field: &str, value: &str) -> Self {
        Self(vec![FieldTerm { field: field.to_owned(), equal: true, value: value.to_owned() }])
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that `field` must equal, where a term says so: the way to an index.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// A field that is absent reads as the empty string.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|t| (get(&t.field).unwrap_or("") == t.value) == t.equal)
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&words.join(","))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.op {
            Op::In if self.values.len() == 1 => write!(f, "{key}={values}"),
            Op::NotIn if self.values.len() == 1 => write!(f, "{key}!={values}"),
            Op::In => write!(f, "{key} in ({values})"),
            Op::NotIn => write!(f, "{key} notin ({values})"),
            Op::Exists => write!(f, "{key}"),
            Op::DoesNotExist => write!(f, "!{key}"),
            Op::Gt => write!(f, "{key}>{values}"),
            Op::Lt => write!(f, "{key}<{values}"),
        }
    }
}

/// The rule for label values, in upstream's words.
pub const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
/// The rule for the name part of label and annotation keys, in upstream's words.
pub const LABEL_KEY_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// At most 63 characters of the label alphabet; may be empty.
pub fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_qualified_part(value)
}

/// `[prefix/]name`: the prefix a DNS subdomain, the name a label word.
pub fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        None => is_qualified_part(key),
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_qualified_part(name),
    }
}

fn is_qualified_part(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// RFC 1123 subdomain: at most 253 bytes of dot-separated lower-case labels.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|part| is_dns_word(part, usize::MAX))
}

/// RFC 1123 label: at most 63 bytes, lower-case alphanumeric and `-`.
pub fn is_dns_label(text: &str) -> bool {
    is_dns_word(text, 63)
}

fn is_dns_word(text: &str, max: usize) -> bool {
    let bytes = text.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= max
        && bytes.first().is_some_and(alnum)
        && bytes.last().is_some_and(alnum)
        && bytes.iter().all(|b| alnum(b) || *b == b'-')
}

fn split_unescaped(text: &str) -> Vec<String> {
    let (mut parts, mut current, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            ',' if !escaped => parts.push(std::mem::take(&mut current)),
            _ => current.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(current);
    parts
}

/// Field, whether it is to be equal, and the value as written (`splitTerm`).
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let (field, rest) = term.split_at(term.find('=')?);
    match field.strip_suffix('!') {
        Some(field) => Some((field, false, rest.strip_prefix('=')?)),
        None => Some((field, true, rest.strip_prefix("==").or(rest.strip_prefix('='))?)),
    }
}

/// `UnescapeValue`
fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence: String = ['\\'].into_iter().chain(other).collect();
                    return Err(format!("invalid field selector: invalid escape sequence: {sequence}"));
                }
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {}", u32::from(c))),
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let map: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Labels::parse(selector).unwrap().matches(Some(&map))
    }

    #[test]
    fn every_operator_matches_as_upstream_does() {
        let labels = [("app", "web"), ("n", "5")];
        for yes in ["", "app=web", "app==web", "app in (web,db)", "app", "!x", "x!=1", "x notin (a)", "n>4", "n<6"] {
            assert!(matches(yes, &labels), "{yes}");
        }
        for no in ["app!=web", "app notin (web)", "!app", "x", "x=1", "n>5", "n<5", "app in (db)"] {
            assert!(!matches(no, &labels), "{no}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["a=b,", ",", "a in b", "a in (b", "=b", "a b", "a=b=c", "-a=b", "n>x"] {
            assert!(Labels::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_match_absent_as_empty() {
        let fields = Fields::parse("spec.nodeName=,metadata.name!=a").unwrap();
        assert!(fields.matches_with(|f| (f == "metadata.name").then_some("b")));
        assert!(!fields.matches_with(|_| Some("a")));
        assert!(Fields::parse("a").is_err());
        assert_eq!(Fields::parse("a=b\\,c").unwrap().exact("a"), Some("b,c"));
    }

    #[test]
    fn fields_are_split_at_the_first_operator() {
        let terms = |text: &str| Fields::parse(text).map(|f| f.0.into_iter().map(|t| (t.field, t.equal, t.value)).collect::<Vec<_>>());
        let one = |field: &str, equal, value: &str| Ok(vec![(field.to_owned(), equal, value.to_owned())]);
        assert_eq!(terms("a==b"), one("a", true, "b"));
        assert_eq!(terms("a!=b"), one("a", false, "b"));
        assert_eq!(terms("a!b=c"), one("a!b", true, "c"));
        assert_eq!(terms("a=!b"), one("a", true, "!b"));
        assert_eq!(terms("a=b\\\\\\="), one("a", true, "b\\="));
        assert_eq!(terms("a=b!=c"), Err("invalid field selector: unescaped character in value: 61".into()));
        assert_eq!(terms("a=b\\c"), Err("invalid field selector: invalid escape sequence: \\c".into()));
        assert_eq!(terms("a=b\\"), Err("invalid field selector: invalid escape sequence: \\".into()));
        assert_eq!(terms("a,b=c"), Err("invalid selector: 'a,b=c'; can't understand 'a'".into()));
    }

    #[test]
    fn printing_and_parsing_agree() {
        for text in ["a=b", "a in (b,c)", "a notin (b,c)", "!a", "a", "a!=b", "a=b,c=d"] {
            assert_eq!(Labels::parse(text).unwrap().to_string(), text);
        }
    }
}
