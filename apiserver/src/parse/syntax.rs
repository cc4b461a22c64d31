//! Malformed JSON -> what Go's scanner says about it. Source of the words: Go `encoding/json/scanner.go`.

use super::DEPTH_MAX;

/// What is wrong with `data`, or `None` if Go would find nothing wrong with its syntax.
pub fn complaint(data: &[u8]) -> Option<String> {
    Scan { data, at: 0, open: Vec::new() }.document().err()
}

/// The same JSON with `\ufffd` for each half of a surrogate pair that stands alone; `None` where there is none.
pub fn without_lone_surrogates(text: &str) -> Option<String> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok()).flatten()
    };
    let (mut out, mut at, mut kept) = (String::new(), 0, 0);
    while let Some(next) = text.get(at..).and_then(|rest| rest.find('\\')) {
        at += next;
        match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at += 12,
            (Some(0xd800..=0xdfff), _) => {
                out += text.get(kept..at)?;
                out += "\\ufffd";
                at += 6;
                kept = at;
            }
            // What is escaped is no escape.
            _ => at += 2,
        }
    }
    (kept > 0).then(|| out + text.get(kept..).unwrap_or_default())
}

struct Scan<'a> {
    data: &'a [u8],
    at: usize,
    /// The closing brackets that are due.
    open: Vec<u8>,
}

type Step = Result<(), String>;

impl Scan<'_> {
    fn document(&mut self) -> Step {
        loop {
            self.value()?;
            if self.close()? {
                break;
            }
        }
        match self.next_visible() {
            Ok(c) => Err(invalid(c, "after top-level value")),
            Err(_) => Ok(()),
        }
    }

    /// Up to the end of a scalar or of an empty container, descending into the first member of others.
    fn value(&mut self) -> Step {
        loop {
            match self.next_visible()? {
                b'{' if self.opens(b'}')? => return Ok(()),
                b'{' => self.key()?,
                b'[' if self.opens(b']')? => return Ok(()),
                b'[' => {}
                b'"' => return self.string(),
                b'-' => return self.number(b'-'),
                c if c.is_ascii_digit() => return self.number(c),
                b't' => return self.literal("true"),
                b'f' => return self.literal("false"),
                b'n' => return self.literal("null"),
                c => return Err(invalid(c, "looking for beginning of value")),
            }
        }
    }

    /// Notes that `end` is due; true if it comes at once.
    fn opens(&mut self, end: u8) -> Result<bool, String> {
        if self.open.len() >= DEPTH_MAX {
            return Err("exceeded max depth".into());
        }
        if self.next_visible()? == end {
            return Ok(true);
        }
        self.at -= 1;
        self.open.push(end);
        Ok(false)
    }

    fn key(&mut self) -> Step {
        match self.next_visible()? {
            b'"' => self.string()?,
            c => return Err(invalid(c, "looking for beginning of object key string")),
        }
        match self.next_visible()? {
            b':' => Ok(()),
            c => Err(invalid(c, "after object key")),
        }
    }

    /// After a value: closes what ends here. True if all is closed, false if another value follows.
    fn close(&mut self) -> Result<bool, String> {
        loop {
            let Some(&end) = self.open.last() else { return Ok(true) };
            match self.next_visible()? {
                c if c == end => {
                    self.open.pop();
                }
                b',' if end == b'}' => return self.key().map(|()| false),
                b',' => return Ok(false),
                c if end == b'}' => return Err(invalid(c, "after object key:value pair")),
                c => return Err(invalid(c, "after array element")),
            }
        }
    }

    fn string(&mut self) -> Step {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                c if c < 0x20 => return Err(invalid(c, "in string literal")),
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Step {
        match self.next()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Ok(()),
            b'u' => (0..4).try_for_each(|_| match self.next()? {
                c if c.is_ascii_hexdigit() => Ok(()),
                c => Err(invalid(c, "in \\u hexadecimal character escape")),
            }),
            c => Err(invalid(c, "in string escape code")),
        }
    }

    fn number(&mut self, first: u8) -> Step {
        let lead = if first == b'-' { self.digit("in numeric literal")? } else { first };
        if lead != b'0' {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digit("after decimal point in numeric literal")?;
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digit("in exponent of numeric literal")?;
            self.digits();
        }
        Ok(())
    }

    fn digit(&mut self, place: &str) -> Result<u8, String> {
        match self.next()? {
            c if c.is_ascii_digit() => Ok(c),
            c => Err(invalid(c, place)),
        }
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn literal(&mut self, word: &str) -> Step {
        for expected in word.bytes().skip(1) {
            match self.next()? {
                c if c == expected => {}
                c => return Err(invalid(c, &format!("in literal {word} (expecting {})", quoted(expected)))),
            }
        }
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, String> {
        let c = self.peek().ok_or("unexpected end of JSON input")?;
        self.at += 1;
        Ok(c)
    }

    fn next_visible(&mut self) -> Result<u8, String> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.next()
    }
}

fn invalid(c: u8, place: &str) -> String {
    format!("invalid character {} {place}", quoted(c))
}

/// As `strconv.Quote` shows a byte, in single quotes.
fn quoted(c: u8) -> String {
    match c {
        b'\'' => "'\\''".into(),
        b'"' => "'\"'".into(),
        b'\\' => "'\\\\'".into(),
        b'\n' => "'\\n'".into(),
        b'\r' => "'\\r'".into(),
        b'\t' => "'\\t'".into(),
        c if c < 0x20 || c == 0x7f => format!("'\\x{c:02x}'"),
        c if (0x80..0xa1).contains(&c) => format!("'\\u{c:04x}'"),
        c => format!("'{}'", char::from(c)),
    }
}
