//! A label selector's text -> its requirements, or what is wrong with it in upstream's words. Source: apimachinery `pkg/labels/selector.go`.

use std::collections::BTreeSet;

use super::{Op, Requirement};
use crate::{name_rules, quoted};

const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'t> {
    End,
    /// A key or a value; `in` and `notin` are operators where one is due, and words elsewhere.
    Word(&'t str),
    /// One of `! = == != < > ( ) ,`.
    Sign(&'t str),
}

struct Parser<'t> {
    rest: &'t str,
    /// The one that comes next.
    next: Token<'t>,
}

/// Requirements in the order of the text.
pub fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { rest: text, next: Token::End };
    parser.take();
    let mut out = Vec::new();
    loop {
        match parser.next {
            Token::End => return Ok(out),
            Token::Word(_) | Token::Sign("!") => {}
            other => return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.literal())),
        }
        out.push(parser.requirement().map_err(|why| format!("unable to parse requirement: {why}"))?);
        match parser.take() {
            Token::End => return Ok(out),
            Token::Sign(",") if matches!(parser.next, Token::Word(_) | Token::Sign("!")) => {}
            Token::Sign(",") => return Err(format!("found '{}', expected: identifier after ','", parser.next.literal())),
            other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.literal())),
        }
    }
}

impl<'t> Token<'t> {
    fn literal(self) -> &'t str {
        match self {
            Token::End => "",
            Token::Word(text) | Token::Sign(text) => text,
        }
    }
}

fn is_sign(c: char) -> bool {
    "=!(),><".contains(c)
}

fn is_space(c: char) -> bool {
    " \t\r\n".contains(c)
}

impl<'t> Parser<'t> {
    /// The next token; the one after it is read.
    fn take(&mut self) -> Token<'t> {
        let token = self.next;
        let all = self.rest.trim_start_matches(is_space);
        let (text, rest) = match all.find(|c: char| is_sign(c) || is_space(c)) {
            Some(0) => all.split_at(if all.starts_with("==") || all.starts_with("!=") { 2 } else { 1 }),
            end => all.split_at(end.unwrap_or(all.len())),
        };
        self.rest = rest;
        self.next = match text {
            "" => Token::End,
            text if text.starts_with(is_sign) => Token::Sign(text),
            text => Token::Word(text),
        };
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut first = self.take();
        let absent = first == Token::Sign("!");
        if absent {
            first = self.take();
        }
        let Token::Word(key) = first else { return Err(format!("found '{}', expected: identifier", first.literal())) };
        well_formed(name_rules::qualified(key), "<nil>", key)?;
        if absent || matches!(self.next, Token::End | Token::Sign(",")) {
            let op = if absent { Op::DoesNotExist } else { Op::Exists };
            return Ok(Requirement { key: key.to_owned(), op, values: Vec::new() });
        }
        let (op, is_set) = match self.take() {
            Token::Word("in") => (Op::In, true),
            Token::Word("notin") => (Op::NotIn, true),
            Token::Sign("=" | "==") => (Op::In, false),
            Token::Sign("!=") => (Op::NotIn, false),
            Token::Sign(">") => (Op::Gt, false),
            Token::Sign("<") => (Op::Lt, false),
            other => return Err(format!("found '{}', expected: {OPERATORS}", other.literal())),
        };
        let values = if is_set { self.set()? } else { BTreeSet::from([self.exact()?]) };
        checked(key, op, &values)?;
        Ok(Requirement { key: key.to_owned(), op, values: values.into_iter().map(str::to_owned).collect() })
    }

    /// `parseExactValue`: empty where nothing follows.
    fn exact(&mut self) -> Result<&'t str, String> {
        if matches!(self.next, Token::End | Token::Sign(",")) {
            return Ok("");
        }
        match self.take() {
            Token::Word(value) => Ok(value),
            other => Err(format!("found '{}', expected: identifier", other.literal())),
        }
    }

    /// `parseValues`
    fn set(&mut self) -> Result<BTreeSet<&'t str>, String> {
        let open = self.take();
        if open != Token::Sign("(") {
            return Err(format!("found '{}' expected: '('", open.literal()));
        }
        let first = self.next;
        let values = match first {
            Token::Word(_) | Token::Sign(",") => self.words()?,
            Token::Sign(")") => BTreeSet::from([""]),
            _ => return Err(format!("found '{}', expected: ',', ')' or identifier", first.literal())),
        };
        match self.take() {
            Token::Sign(")") => Ok(values),
            _ => Err(format!("found '{}', expected: ')'", first.literal())),
        }
    }

    /// `parseIdentifiersList`: words and commas; between two commas stands the empty one.
    fn words(&mut self) -> Result<BTreeSet<&'t str>, String> {
        let mut words = BTreeSet::new();
        loop {
            match self.take() {
                Token::Word(word) => {
                    words.insert(word);
                    match self.next {
                        Token::Sign(",") => {}
                        Token::Sign(")") => return Ok(words),
                        other => return Err(format!("found '{}', expected: ',' or ')'", other.literal())),
                    }
                }
                Token::Sign(",") => {
                    if words.is_empty() || matches!(self.next, Token::Sign("," | ")")) {
                        words.insert("");
                    }
                    if self.next == Token::Sign(")") {
                        return Ok(words);
                    }
                }
                other => return Err(format!("found '{}', expected: ',', or identifier", other.literal())),
            }
        }
    }
}

/// `NewRequirement`: what is wrong with the values.
fn checked(key: &str, op: Op, values: &BTreeSet<&str>) -> Result<(), String> {
    let mut errors = Vec::new();
    for (i, value) in values.iter().enumerate() {
        if matches!(op, Op::Gt | Op::Lt) && value.parse::<i64>().is_err() {
            errors.push(format!("values[{i}]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer", quoted(value)));
        }
    }
    for (i, value) in values.iter().enumerate() {
        errors.extend(well_formed(name_rules::label_value(value), &format!("values[{i}][{key}]"), value).err());
    }
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        more => Err(format!("[{}]", more.join(", "))),
    }
}

fn well_formed(errors: Vec<String>, at: &str, value: &str) -> Result<(), String> {
    if errors.is_empty() { Ok(()) } else { Err(format!("{at}: Invalid value: {}: {}", quoted(value), errors.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_told_in_upstreams_words() {
        let parse = "unable to parse requirement: ";
        let cases = [
            (",a", "", "found ',', expected: !, identifier, or 'end of string'"),
            ("(a=b)", "", "found '(', expected: !, identifier, or 'end of string'"),
            ("a=b,", "", "found '', expected: identifier after ','"),
            ("a=b,=", "", "found '=', expected: identifier after ','"),
            ("a=b=c", "", "found '=', expected: ',' or 'end of string'"),
            ("a=b c", "", "found 'c', expected: ',' or 'end of string'"),
            ("!a=b", "", "found '=', expected: ',' or 'end of string'"),
            ("!", parse, "found '', expected: identifier"),
            ("a b=c", parse, "found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a==(", parse, "found '(', expected: identifier"),
            ("a in b", parse, "found 'b' expected: '('"),
            ("a in (b", parse, "found '', expected: ',' or ')'"),
            ("a in (=", parse, "found '=', expected: ',', ')' or identifier"),
            ("a in (b,=", parse, "found '=', expected: ',', or identifier"),
            ("n>x", parse, "values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer"),
        ];
        for (text, before, wanted) in cases {
            assert_eq!(requirements(text), Err(format!("{before}{wanted}")), "{text}");
        }
        let starts = [
            ("-a", "<nil>: Invalid value: \"-a\": name part must consist of"),
            ("A.b/c", "<nil>: Invalid value: \"A.b/c\": prefix part a lowercase RFC 1123 subdomain"),
            ("a in (b,-c)", "values[0][a]: Invalid value: \"-c\": a valid label must be"),
            ("n>-", "[values[0]: Invalid value: \"-\": for 'Gt'"),
            ("n>\u{7f}'\u{85}", r#"[values[0]: Invalid value: "\x7f'\u0085": for 'Gt'"#),
            ("\u{1}\u{1f600}\u{200b}", "<nil>: Invalid value: \"\\x01\u{1f600}\\u200b\": name part must consist of"),
        ];
        for (text, wanted) in starts {
            let why = requirements(text).unwrap_err();
            assert!(why.starts_with(&format!("{parse}{wanted}")), "{text}: {why}");
        }
    }

    #[test]
    fn sets_have_empty_words_between_commas() {
        let values = |text: &str| requirements(text).map(|all| all[0].values.clone());
        for (text, wanted) in [
            ("a in ()", vec![""]),
            ("a in (,b)", vec!["", "b"]),
            ("a in (b,)", vec!["", "b"]),
            ("a in (b,,c)", vec!["", "b", "c"]),
            ("a in (in,notin,b,b)", vec!["b", "in", "notin"]),
            ("a=", vec![""]),
            ("a = in", vec!["in"]),
        ] {
            assert_eq!(values(text), Ok(wanted.into_iter().map(str::to_owned).collect()), "{text}");
        }
    }
}
