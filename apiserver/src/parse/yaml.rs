//! YAML bytes -> a JSON value, as sigs.k8s.io/yaml reads them.

use serde::de::{Deserialize, Deserializer};
use serde_yaml::{
    granit_parser::{Event, Parser},
    options::DuplicateKeyPolicy,
};

use super::{Parsed, seed};

/// Texts about keys that stand twice.
const LINES_MAX: usize = 100;

struct Document(Parsed);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        seed::read(reader).map(Document)
    }
}

pub fn read(bytes: &[u8]) -> Result<Parsed, String> {
    let text = String::from_utf8_lossy(first_document(bytes));
    // The seed sees every key and notes those that stand twice.
    let options = serde_yaml::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let read = serde_yaml::from_str_with_options::<Document>(&text, options);
    let mut parsed = read.map_err(|error| format!("{}{}", super::FROM_YAML, complaint(&error.to_string())))?.0;
    if !parsed.duplicates.is_empty() {
        parsed.lines = twice(&text);
    }
    Ok(parsed)
}

/// Of several documents the first counts.
fn first_document(body: &[u8]) -> &[u8] {
    let is_blank = |text: &[u8]| {
        text.split(|byte| *byte == b'\n').all(|line| line.trim_ascii().is_empty() || line.trim_ascii_start().starts_with(b"#"))
    };
    let mut at = 0;
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let is_mark = line.strip_prefix(b"---").is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace));
        if is_mark && !is_blank(&body[..at]) {
            return &body[..at];
        }
        at += line.len();
    }
    body
}

/// The reader's words, "... at line 4, column 2" -> go-yaml's: `yaml: line 4: ...`. Source: `go.yaml.in/yaml/v2` `decode.go` (fail).
fn complaint(error: &str) -> String {
    let (what, place) = error.rsplit_once(" at line ").unwrap_or((error, ""));
    let line = place.split(',').next().and_then(|line| line.parse::<usize>().ok()).unwrap_or_default();
    let problem = match what.split_once("did not find expected") {
        // What a parser meets is told of with the line before it, what a scanner meets with its own.
        Some((context, wanted)) if context.starts_with("while parsing") => {
            (format!("did not find expected{wanted}"), line.saturating_sub(1))
        }
        _ if what.starts_with("tabs disallowed") => ("found character that cannot start any token".to_owned(), line),
        _ => (what.rsplit_once(", ").filter(|_| what.starts_with("while ")).map_or(what, |(_, problem)| problem).to_owned(), line),
    };
    match problem {
        // The first line is none.
        (problem, 0) => format!("yaml: {problem}"),
        (problem, 1) if line == 1 => format!("yaml: {problem}"),
        (problem, line) => format!("yaml: line {line}: {problem}"),
    }
}

/// `line 4: key "a" already set in map`, for each key of a mapping that stood in it before.
fn twice(text: &str) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), Vec::new());
    for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
        let is_key = event.is_node() && open.last_mut().is_some_and(Level::is_at_key);
        match event {
            Event::Scalar(key, ..) if is_key => {
                let Some(Level::Map { keys, .. }) = open.last_mut() else { continue };
                if !keys.insert(key.to_string()) && found.len() < LINES_MAX {
                    found.push(format!("line {}: key {} already set in map", span.start.line(), api::quoted(&key)));
                }
            }
            Event::MappingStart(..) => open.push(Level::Map { keys: Default::default(), next_is_key: true }),
            Event::SequenceStart(..) => open.push(Level::List),
            Event::MappingEnd | Event::SequenceEnd => drop(open.pop()),
            _ => {}
        }
    }
    found
}

enum Level {
    Map { keys: std::collections::HashSet<String>, next_is_key: bool },
    List,
}

impl Level {
    /// Of a node that begins here.
    fn is_at_key(&mut self) -> bool {
        match self {
            Level::Map { next_is_key, .. } => std::mem::replace(next_is_key, !*next_is_key),
            Level::List => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_document_counts() {
        let first = |text: &'static str| std::str::from_utf8(first_document(text.as_bytes())).unwrap();
        assert_eq!(first("a: 1\n---\nb: 1\n"), "a: 1\n");
        assert_eq!(first("---\na: 1\n--- \nb: 1\n"), "---\na: 1\n");
        assert_eq!(first("# x\n\n---\na: ---\n---b: 1\n"), "# x\n\n---\na: ---\n---b: 1\n");
        assert_eq!(first(""), "");
        assert_eq!(read(b"a: 1\n---\n{").map(|parsed| parsed.value), Ok(serde_json::json!({"a": 1})));
    }

    #[test]
    fn malformed_yaml_is_refused_in_go_yamls_words() {
        let table = [
            ("a: b: c", "yaml: mapping values are not allowed in this context"),
            ("a: 1\nb: c: d", "yaml: line 2: mapping values are not allowed in this context"),
            ("a:\n\tb: 1", "yaml: line 2: found character that cannot start any token"),
        ];
        for (text, wanted) in table {
            assert_eq!(read(text.as_bytes()).unwrap_err(), format!("error converting YAML to JSON: {wanted}"), "{text}");
        }
    }

    #[test]
    fn keys_that_stand_twice_are_told_of_by_line() {
        let text = b"a: 1\nb: {c: 1, d: [x, c], c: 2}\na: 2\ne:\n  a: a\n  b: b\n";
        assert_eq!(read(text).unwrap().lines, ["line 2: key \"c\" already set in map", "line 3: key \"a\" already set in map"]);
        assert_eq!(read(b"a: a\nb: {a: b}\n").unwrap().lines, Vec::<String>::new());
        let odd = "\"\\x7f'\\u00a0\": 1\n\"\\x7f'\\u00a0\": 2\n";
        assert_eq!(read(odd.as_bytes()).unwrap().lines, [r#"line 2: key "\x7f'\u00a0" already set in map"#]);
    }
}
