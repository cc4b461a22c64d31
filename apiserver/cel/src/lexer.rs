//! Source -> tokens. Source: the grammar of cel-spec (`doc/langdef.md`).

use std::sync::Arc;

use super::syntax::{Issue, Literal};

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Literal(Literal),
    Ident(String),
    /// Between backticks: a field's name only.
    Quoted(String),
    Symbol(&'static str),
    End,
}

/// Of a name, in characters: a variable's is looked for with every use of one.
const NAME_CHARS_MAX: usize = 256;

const SYMBOLS: [&str; 26] = [
    "&&", "||", "==", "!=", "<=", ">=", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%", "<", ">", "=", "|",
];

const KEYWORDS: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Tokens with the place of each.
pub fn tokens(source: &str) -> Result<Vec<(usize, Token)>, Issue> {
    let chars: Vec<char> = source.chars().collect();
    let mut lexer = Lexer { chars: &chars, at: 0 };
    let mut out = Vec::new();
    loop {
        lexer.blank();
        let at = lexer.at;
        let token = lexer.token()?;
        let is_end = token == Token::End;
        out.push((at, token));
        if is_end {
            return Ok(out);
        }
    }
}

/// Whether the language keeps the word for itself (`RESERVED` in cel-spec `doc/langdef.md`): no variable can have it for a name.
pub fn is_reserved(word: &str) -> bool {
    KEYWORDS.contains(&word)
}

struct Lexer<'c> {
    chars: &'c [char],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn issue(&self, why: String) -> Issue {
        Issue { at: self.at, why }
    }

    fn blank(&mut self) {
        loop {
            match self.peek(0) {
                ' ' | '\t' | '\n' | '\r' | '\u{c}' => self.at += 1,
                '/' if self.peek(1) == '/' => {
                    while self.at < self.chars.len() && self.peek(0) != '\n' {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn token(&mut self) -> Result<Token, Issue> {
        if self.at >= self.chars.len() {
            return Ok(Token::End);
        }
        let c = self.peek(0);
        if c.is_ascii_digit() || c == '.' && self.peek(1).is_ascii_digit() {
            return self.number();
        }
        if let Some(prefix) = self.text_prefix() {
            return self.text(prefix);
        }
        if c.is_ascii_alphabetic() || c == '_' {
            let start = self.at;
            while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == '_' {
                self.at += 1;
            }
            if self.at - start > NAME_CHARS_MAX {
                return Err(Issue { at: start, why: format!("name too long: must have at most {NAME_CHARS_MAX} characters") });
            }
            let word: String = self.chars[start..self.at].iter().collect();
            return Ok(match word.as_str() {
                "true" => Token::Literal(Literal::Bool(true)),
                "false" => Token::Literal(Literal::Bool(false)),
                "null" => Token::Literal(Literal::Null),
                "in" => Token::Symbol("in"),
                _ => Token::Ident(word),
            });
        }
        if c == '`' {
            let rest = &self.chars[self.at + 1..];
            let Some(end) = rest.iter().position(|c| *c == '`') else {
                return Err(self.issue("Syntax error: token recognition error at: '`'".into()));
            };
            let name = rest[..end].iter().collect();
            self.at += end + 2;
            return Ok(Token::Quoted(name));
        }
        for symbol in SYMBOLS {
            if symbol.chars().enumerate().all(|(ahead, c)| self.peek(ahead) == c) {
                self.at += symbol.len();
                return Ok(Token::Symbol(symbol));
            }
        }
        Err(self.issue(format!("Syntax error: token recognition error at: '{c}'")))
    }

    fn number(&mut self) -> Result<Token, Issue> {
        let start = self.at;
        if self.peek(0) == '0' && self.peek(1) == 'x' {
            self.at += 2;
            while self.peek(0).is_ascii_hexdigit() {
                self.at += 1;
            }
            let digits: String = self.chars[start + 2..self.at].iter().collect();
            return self.whole(u64::from_str_radix(&digits, 16).ok(), start);
        }
        let digits = |lexer: &mut Self| {
            while lexer.peek(0).is_ascii_digit() {
                lexer.at += 1;
            }
        };
        digits(self);
        let mut is_real = false;
        if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
            is_real = true;
            self.at += 1;
            digits(self);
        }
        let sign = usize::from(matches!(self.peek(1), '+' | '-'));
        if matches!(self.peek(0), 'e' | 'E') && self.peek(1 + sign).is_ascii_digit() {
            is_real = true;
            self.at += 1 + sign;
            digits(self);
        }
        let text: String = self.chars[start..self.at].iter().collect();
        if is_real {
            return text
                .parse()
                .map(|value| Token::Literal(Literal::Double(value)))
                .map_err(|_| self.issue("invalid double literal".into()));
        }
        self.whole(text.parse().ok(), start)
    }

    fn whole(&mut self, value: Option<u64>, start: usize) -> Result<Token, Issue> {
        let is_unsigned = matches!(self.peek(0), 'u' | 'U');
        self.at += usize::from(is_unsigned);
        match value {
            Some(value) if is_unsigned => Ok(Token::Literal(Literal::Uint(value))),
            // The minus sign of the least number stands before it: the parser puts both together.
            Some(value) if value <= 1 << 63 => Ok(Token::Literal(Literal::Int(value as i64))),
            _ => Err(Issue { at: start, why: format!("invalid {} literal", if is_unsigned { "uint" } else { "int" }) }),
        }
    }

    /// How long what stands before the quote is (`r`, `b`), where a text begins here.
    fn text_prefix(&self) -> Option<usize> {
        let mut length = 0;
        while length < 2 && matches!(self.peek(length), 'r' | 'R' | 'b' | 'B') {
            length += 1;
        }
        (0..=length).find(|ahead| matches!(self.peek(*ahead), '"' | '\'')).filter(|found| *found == length)
    }

    fn text(&mut self, prefix: usize) -> Result<Token, Issue> {
        let start = self.at;
        let flags: Vec<char> = (0..prefix).map(|ahead| self.peek(ahead).to_ascii_lowercase()).collect();
        self.at += prefix;
        let quote = self.peek(0);
        let is_long = self.peek(1) == quote && self.peek(2) == quote;
        self.at += if is_long { 3 } else { 1 };
        let mut bytes = Vec::new();
        let is_bytes = flags.contains(&'b');
        loop {
            let c = self.peek(0);
            if self.at >= self.chars.len() || !is_long && c == '\n' {
                return Err(Issue { at: start, why: format!("Syntax error: token recognition error at: '{quote}'") });
            }
            let ends = if is_long { (0..3).all(|ahead| self.peek(ahead) == quote) } else { c == quote };
            if ends {
                self.at += if is_long { 3 } else { 1 };
                break;
            }
            self.at += 1;
            if c == '\\' && !flags.contains(&'r') {
                self.escape(is_bytes, &mut bytes)?;
            } else {
                bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
            }
        }
        if is_bytes {
            return Ok(Token::Literal(Literal::Bytes(Arc::from(bytes))));
        }
        let text = String::from_utf8(bytes).map_err(|_| Issue { at: start, why: "invalid string literal".into() })?;
        Ok(Token::Literal(Literal::Text(Arc::from(text))))
    }

    fn escape(&mut self, is_bytes: bool, out: &mut Vec<u8>) -> Result<(), Issue> {
        let c = self.peek(0);
        self.at += 1;
        let mut coded = |lexer: &mut Self, digits: usize, radix: u32, first: &str| {
            let text: String = first.chars().chain((0..digits).map(|ahead| lexer.peek(ahead))).collect();
            lexer.at += digits;
            let code = u32::from_str_radix(&text, radix).map_err(|_| lexer.issue("invalid escape sequence".into()))?;
            if is_bytes && (radix == 8 || digits == 2) {
                out.push(u8::try_from(code).map_err(|_| lexer.issue("invalid escape sequence".into()))?);
                return Ok(());
            }
            let c = char::from_u32(code).ok_or_else(|| lexer.issue("invalid escape sequence".into()))?;
            out.extend(c.encode_utf8(&mut [0; 4]).bytes());
            Ok(())
        };
        match c {
            'x' | 'X' => coded(self, 2, 16, ""),
            'u' => coded(self, 4, 16, ""),
            'U' => coded(self, 8, 16, ""),
            '0'..='3' => coded(self, 2, 8, &c.to_string()),
            _ => {
                out.push(match c {
                    'a' => 7,
                    'b' => 8,
                    'f' => 12,
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    'v' => 11,
                    '\\' | '\'' | '"' | '`' | '?' => c as u8,
                    _ => return Err(self.issue("invalid escape sequence".into())),
                });
                Ok(())
            }
        }
    }
}
