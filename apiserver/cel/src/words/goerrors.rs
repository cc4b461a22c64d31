//! Text that is no address or no URL -> why not, in the words of Go's packages.
//!
//! Sources: `netip.ParseAddr` (an IPv6 address has upstream's words only where it is none at first sight), `url.ParseRequestURI`.

/// Of what [`std::net::IpAddr`] does not read either.
pub fn address(text: &str) -> String {
    let told = |why: &str, at: &str| {
        let at = if at.is_empty() { String::new() } else { format!(" (at {})", api::quoted(at)) };
        format!("ParseAddr({}): {why}{at}", api::quoted(text))
    };
    match text.bytes().find(|byte| b".:%".contains(byte)) {
        Some(b'.') => {
            let (why, at) = four(text);
            told(why, at)
        }
        Some(b'%') => told("missing IPv6 address", ""),
        _ => told("unable to parse IP", ""),
    }
}

/// What is wrong with four numbers with dots between, and where.
fn four(text: &str) -> (&'static str, &str) {
    let bytes = text.as_bytes();
    let (mut value, mut digits, mut dots) = (0_u32, 0, 0);
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' if digits == 1 && value == 0 => return ("IPv4 field has octet with leading zero", ""),
            b'0'..=b'9' => {
                (value, digits) = (value * 10 + u32::from(byte - b'0'), digits + 1);
                if value > 255 {
                    return ("IPv4 field has value >255", "");
                }
            }
            b'.' if i == 0 || i + 1 == bytes.len() || digits == 0 => {
                return ("IPv4 field must have at least one digit", text.get(i..).unwrap_or_default());
            }
            b'.' if dots == 3 => return ("IPv4 address too long", ""),
            b'.' => (value, digits, dots) = (0, 0, dots + 1),
            _ => return ("unexpected character", text.get(i..).unwrap_or_default()),
        }
    }
    ("IPv4 address too short", "")
}

pub fn url(text: &str) -> &'static str {
    match text.as_bytes() {
        [] => "empty url",
        bytes if bytes.iter().any(u8::is_ascii_control) => "net/url: invalid control character in URL",
        [b':', ..] => "missing protocol scheme",
        _ => "invalid URI for request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_told_as_go_does() {
        let table = [
            ("x", r#"ParseAddr("x"): unable to parse IP"#),
            ("", r#"ParseAddr(""): unable to parse IP"#),
            ("%eth0", r#"ParseAddr("%eth0"): missing IPv6 address"#),
            ("1.2.3", r#"ParseAddr("1.2.3"): IPv4 address too short"#),
            ("1.2.3.4.5", r#"ParseAddr("1.2.3.4.5"): IPv4 address too long"#),
            ("1.2.3.256", r#"ParseAddr("1.2.3.256"): IPv4 field has value >255"#),
            ("1.2.3.04", r#"ParseAddr("1.2.3.04"): IPv4 field has octet with leading zero"#),
            ("1..2.3", r#"ParseAddr("1..2.3"): IPv4 field must have at least one digit (at ".2.3")"#),
            ("1.2.3.", r#"ParseAddr("1.2.3."): IPv4 field must have at least one digit (at ".")"#),
            ("1.2.x.3", r#"ParseAddr("1.2.x.3"): unexpected character (at "x.3")"#),
        ];
        for (text, wanted) in table {
            assert_eq!(address(text), wanted);
        }
    }

    #[test]
    fn what_is_no_url_is_told_as_go_does() {
        let table = [
            ("", "empty url"),
            ("::", "missing protocol scheme"),
            ("x", "invalid URI for request"),
            ("/\u{1}", "net/url: invalid control character in URL"),
        ];
        for (text, wanted) in table {
            assert_eq!(url(text), wanted, "{text:?}");
        }
    }
}
