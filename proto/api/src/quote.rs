//! Text -> the same in quotes, as Go's `strconv.Quote` (`%q`) writes it.

use std::fmt::Write as _;

/// Only what can be printed stands as it is: control characters and odd spaces are escaped, `\x01` below 128, `\u00a0` beyond.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => put(&mut out, format_args!("\\x{:02x}", u32::from(c))),
            c if is_printed(c) => out.push(c),
            c if u32::from(c) < 0x1_0000 => put(&mut out, format_args!("\\u{:04x}", u32::from(c))),
            c => put(&mut out, format_args!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = out.write_fmt(text);
}

/// `unicode.IsPrint`: Rust's own escapes know what cannot be printed, but that marks stand behind a letter.
fn is_printed(c: char) -> bool {
    c.is_ascii() || !c.is_whitespace() && !format!("a{c}").escape_debug().to_string().contains("\\u{")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_go_does() {
        let table = [
            ("a\u{1}b", r#""a\x01b""#),
            ("\u{7f}", r#""\x7f""#),
            ("a\"b\\c\nd\te\rf\u{7}\u{8}\u{b}\u{c}", r#""a\"b\\c\nd\te\rf\a\b\v\f""#),
            ("it's \u{e4} \u{4e16}", "\"it's \u{e4} \u{4e16}\""),
            ("\u{a0}\u{200b}\u{85}", r#""\u00a0\u200b\u0085""#),
            ("e\u{301}", "\"e\u{301}\""),
            ("\u{e0001}", r#""\U000e0001""#),
        ];
        for (text, wanted) in table {
            assert_eq!(quoted(text), wanted);
        }
    }
}
