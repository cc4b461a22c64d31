//! A regular expression as Go reads it (RE2) -> one that takes linear time.
//!
//! Go's `\d`, `\w`, `\s` and `\b` are those of ASCII; `[[]` and `\Q...\E` have no like in the `regex` crate and are written out.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

/// Memory of one compiled expression: some that are a few bytes long would take gigabytes.
const PATTERN_BYTES_MAX: usize = 4 << 20;
const DFA_BYTES_MAX: usize = 1 << 20;
/// Nesting of groups.
const PATTERN_DEPTH_MAX: u32 = 250;

/// Clones share what was compiled, and the room that it works in.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<Regex>);

impl Pattern {
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        Self::within(text, PATTERN_BYTES_MAX)
    }

    /// One that takes no more than `bytes` of memory.
    ///
    /// # Errors
    /// As [`Pattern::new`].
    pub fn within(text: &str, bytes: usize) -> Result<Self, String> {
        let built =
            RegexBuilder::new(&translated(text)).size_limit(bytes).dfa_size_limit(DFA_BYTES_MAX).nest_limit(PATTERN_DEPTH_MAX).build();
        built.map(|regex| Self(Arc::new(regex))).map_err(|error| told(text, &error))
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

/// What the crate says of an expression, and what Go's `regexp/syntax` says of it.
const GO: [(&str, &str); 8] = [
    ("unclosed group", "missing closing )"),
    ("unopened group", "unexpected )"),
    ("unclosed character class", "missing closing ]"),
    ("invalid character class range, the start must be <= the end", "invalid character class range"),
    ("unrecognized escape sequence", "invalid escape sequence"),
    ("repetition operator missing expression", "missing argument to repetition operator"),
    ("incomplete escape sequence, reached end of pattern prematurely", "trailing backslash at end of expression"),
    ("unrecognized flag", "invalid or unsupported Perl syntax"),
];

fn told(text: &str, error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => format!("error parsing regexp: expression too large: `{text}`"),
        other => {
            let why = other.to_string();
            let last = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let why = GO.iter().find(|(ours, _)| *ours == last).map_or(last, |(_, go)| go);
            format!("error parsing regexp: {why}: `{text}`")
        }
    }
}

fn translated(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    let mut class = Class::Outside;
    while let Some(c) = chars.next() {
        match (c, class) {
            ('\\', _) => match chars.next() {
                Some('Q') => quoted(&mut chars, &mut out),
                Some(next) => escaped(next, class != Class::Outside, &mut out),
                None => out.push('\\'),
            },
            ('[', Class::Outside) => {
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                // A bracket that comes first is itself.
                if chars.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
                class = Class::Inside;
            }
            ('[', Class::Inside) if chars.peek() == Some(&':') => {
                out.push('[');
                class = Class::Named;
            }
            ('[', _) => out.push_str("\\["),
            (']', Class::Named) => {
                out.push(']');
                class = Class::Inside;
            }
            (']', Class::Inside) => {
                out.push(']');
                class = Class::Outside;
            }
            // Operators on sets there.
            ('&' | '~', Class::Inside) => out.extend(['\\', c]),
            ('-', Class::Inside) if chars.peek() == Some(&'-') => out.push_str("\\-"),
            _ => out.push(c),
        }
    }
    out
}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Outside,
    Inside,
    /// `[:alpha:]`
    Named,
}

fn escaped(c: char, in_class: bool, out: &mut String) {
    let set = match c {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => "\\t\\n\\x0C\\r ",
        'D' => "^0-9",
        'W' => "^0-9A-Za-z_",
        'S' => "^\\t\\n\\x0C\\r ",
        'b' if !in_class => return out.push_str("(?-u:\\b)"),
        // Where they mean something here, or may not be escaped.
        '<' | '>' => return out.push(c),
        c if !c.is_ascii() => return out.push(c),
        c => return out.extend(['\\', c]),
    };
    if in_class && !set.starts_with('^') {
        out.push_str(set);
    } else {
        out.push('[');
        out.push_str(set);
        out.push(']');
    }
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    while let Some(c) = chars.next() {
        if c == '\\' && chars.next_if_eq(&'E').is_some() {
            return;
        }
        out.push_str(&regex::escape(&c.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_expression_is_told_in_gos_words() {
        for (text, wanted) in [
            ("(", "missing closing )"),
            (")", "unexpected )"),
            ("[a", "missing closing ]"),
            ("[b-a]", "invalid character class range"),
            ("*", "missing argument to repetition operator"),
            ("a\\", "trailing backslash at end of expression"),
        ] {
            assert_eq!(Pattern::new(text).unwrap_err(), format!("error parsing regexp: {wanted}: `{text}`"));
        }
    }

    #[test]
    fn patterns_are_those_of_go() {
        let table = [
            (r"^\d+$", "12", "\u{661}"),
            (r"^[\w-]+$", "a-b", "\u{e9}"),
            (r"^[[]a$", "[a", "a"),
            (r"^\Qa.b\E$", "a.b", "axb"),
            (r"^[a&&b]+$", "a&b", "c"),
            (r"^[]x]$", "]", "y"),
            (r"^[[:alpha:]]+$", "abc", "1"),
            (r"^[^\s]+$", "a", " "),
            (r"^a\-b$", "a-b", "ab"),
        ];
        for (pattern, good, bad) in table {
            let pattern = Pattern::new(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}"));
            assert!(pattern.is_match(good) && !pattern.is_match(bad), "{pattern:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_told_and_bombs_are_refused() {
        assert!(Pattern::new("[a").unwrap_err().starts_with("error parsing regexp: "));
        assert!(Pattern::new("(((a{1000}){1000}){1000})").unwrap_err().contains("too large"));
        assert!(Pattern::new("(?=a)").is_err(), "looking around is not RE2's");
        assert!(Pattern::new(&"(".repeat(10_000)).is_err());
    }
}
