//! Formats of texts -> whether a text is one. Source: kube-openapi `pkg/validation/strfmt/default.go`, apiextensions `pkg/apiserver/validation/formats.go`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::LazyLock,
};

use base64::Engine;
use kinds::common::name_rules;

use super::pattern::Pattern;

const KNOWN: &[&str] = &[
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8slongname",
    "k8sshortname",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
];

/// Whether texts are checked by it. Hyphens do not count.
pub fn is_known(format: &str) -> bool {
    !format.is_empty() && KNOWN.contains(&normalized(format).as_str())
}

/// Whether `text` is of a known format.
pub fn is(format: &str, text: &str) -> bool {
    match normalized(format).as_str() {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok() && text.len().is_multiple_of(4) && !text.is_empty(),
        "cidr" => is_cidr(text),
        "creditcard" => card(&text.chars().filter(char::is_ascii_digit).collect::<String>()),
        "date" => is_date(text),
        "datetime" => text.len() >= 20 && jiff::Timestamp::from_str(text).is_ok(),
        "duration" => is_duration(text),
        "email" => is_email(text),
        "hexcolor" => HEX_COLOR.is_match(text),
        "hostname" => is_hostname(text),
        "ipv4" => Ipv4Addr::from_str(text).is_ok(),
        "ipv6" => Ipv6Addr::from_str(text).is_ok(),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "k8slongname" => name_rules::dns_subdomain(text).is_empty(),
        "k8sshortname" => name_rules::dns_label(text).is_empty(),
        "mac" => is_mac(text),
        "rgbcolor" => RGB_COLOR.is_match(text),
        "ssn" => SSN.is_match(text),
        "uri" => is_uri(text),
        "uuid" => UUID.is_match(text),
        "uuid3" => UUID.is_match(text) && version(text) == Some('3'),
        "uuid4" => UUID.is_match(text) && version(text) == Some('4') && is_variant(text),
        "uuid5" => UUID.is_match(text) && version(text) == Some('5') && is_variant(text),
        _ => true,
    }
}

fn normalized(format: &str) -> String {
    format.replace('-', "")
}

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).expect("the pattern is a constant that compiles")
}

static HEX_COLOR: LazyLock<Pattern> = LazyLock::new(|| pattern("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"));
static RGB_COLOR: LazyLock<Pattern> = LazyLock::new(|| {
    let part = r"\s*([01]?[0-9]?[0-9]|2[0-4][0-9]|25[0-5])\s*";
    pattern(&format!(r"^rgb\({part},{part},{part}\)$"))
});
static SSN: LazyLock<Pattern> = LazyLock::new(|| pattern(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$"));
static UUID: LazyLock<Pattern> = LazyLock::new(|| pattern("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"));
static CARD: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(
        r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$",
    )
});

fn version(uuid: &str) -> Option<char> {
    uuid.chars().filter(|c| *c != '-').nth(12)
}

fn is_variant(uuid: &str) -> bool {
    uuid.chars().filter(|c| *c != '-').nth(16).is_some_and(|c| "89abAB".contains(c))
}

fn card(digits: &str) -> bool {
    let luhn = digits.bytes().rev().enumerate().map(|(at, digit)| {
        let value = u32::from(digit - b'0');
        if at % 2 == 0 {
            value
        } else if value * 2 > 9 {
            value * 2 - 9
        } else {
            value * 2
        }
    });
    CARD.is_match(digits) && luhn.sum::<u32>() % 10 == 0
}

fn is_isbn10(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let value = |(at, c): (usize, &char)| match c {
        'X' if at == 9 => Some(10 * 10),
        c => c.to_digit(10).map(|digit| (at as u32 + 1) * digit),
    };
    digits.len() == 10 && digits.iter().enumerate().map(value).sum::<Option<u32>>().is_some_and(|sum| sum % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let value = |(at, c): (usize, &char)| c.to_digit(10).map(|digit| if at % 2 == 0 { digit } else { 3 * digit });
    digits.len() == 13 && digits.iter().enumerate().map(value).sum::<Option<u32>>().is_some_and(|sum| sum % 10 == 0)
}

fn is_mac(text: &str) -> bool {
    let separated = |separator: char, digits: usize, parts: &[usize]| {
        let all: Vec<&str> = text.split(separator).collect();
        parts.contains(&all.len()) && all.iter().all(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    separated(':', 2, &[6, 8, 20]) || separated('-', 2, &[6, 8, 20]) || separated('.', 4, &[3, 4, 10])
}

/// `net.ParseCIDR`
pub fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let max = match IpAddr::from_str(address) {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= max)
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && jiff::civil::Date::from_str(text).is_ok()
}

/// Labels of letters, digits and hyphens, of at most 63 characters, 255 in all.
fn is_hostname(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    !text.is_empty() && text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label)
}

/// `net/mail.ParseAddress` of plain addresses and those with a name in front.
fn is_email(text: &str) -> bool {
    let address = match (text.rfind('<'), text.strip_suffix('>')) {
        (Some(at), Some(whole)) => &whole[at + 1..],
        _ => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let is_atom = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    let is_dotted = |text: &str| text.split('.').all(|part| !part.is_empty() && part.chars().all(is_atom));
    is_dotted(local) && (is_dotted(domain) || domain.starts_with('[') && domain.ends_with(']'))
}

/// `net/url.ParseRequestURI`: an absolute URI or an absolute path.
pub fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.chars().any(|c| c.is_control() || c == ' ') {
        return false;
    }
    if text.starts_with('/') {
        return has_good_escapes(text);
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    let authority = rest.strip_prefix("//").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let port = |authority: &str| {
        let host = authority.rsplit('@').next().unwrap_or_default();
        let after = host.rsplit(']').next().unwrap_or_default();
        after.rsplit_once(':').is_none_or(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
    };
    is_scheme && has_good_escapes(rest) && authority.is_none_or(port)
}

fn has_good_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}

/// Go's durations, and Scala's (`22 ns`, `3 days`).
fn is_duration(text: &str) -> bool {
    static SCALA: LazyLock<Pattern> = LazyLock::new(|| {
        pattern(
            r"^((\d+)\s*(nanoseconds|nanosecond|nanos|nano|ns|microseconds|microsecond|micros|micro|us|µs|milliseconds|millisecond|millis|milli|ms|seconds|second|secs|sec|s|minutes|minute|mins|min|m|hours|hour|hrs|hr|h|days|day|d|weeks|week|wks|wk|w))$",
        )
    });
    go_duration(text).is_some() || SCALA.is_match(text.trim())
}

/// `time.ParseDuration`, in nanoseconds.
pub fn go_duration(text: &str) -> Option<i64> {
    api::time::go_duration(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_knows_its_own() {
        let table = [
            ("date-time", "2014-12-15T19:30:20.000Z", "2014-12-15"),
            ("date", "2014-12-15", "2014-13-15"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("uri", "https://a.b/c?d", "a b"),
            ("email", "a@b.c", "a"),
            ("hostname", "a.b-c", "-a"),
            ("mac", "00:1b:44:11:3a:b7", "00:1b"),
            ("uuid", "01234567-89ab-cdef-0123-456789abcdef", "x"),
            ("uuid4", "01234567-89ab-4def-8123-456789abcdef", "01234567-89ab-3def-8123-456789abcdef"),
            ("byte", "aGVsbG8=", "!"),
            ("duration", "1h30m", "1 fortnight"),
            ("duration", "3 days", "h"),
            ("isbn", "978-0321751041", "978-0321751042"),
            ("isbn10", "0321751043", "0321751044"),
            ("creditcard", "4111-1111-1111-1111", "4111-1111-1111-1112"),
            ("hexcolor", "#FFF", "#FF"),
            ("rgbcolor", "rgb(1,2,3)", "rgb(1,2)"),
            ("ssn", "111-22-3333", "1"),
            ("k8s-short-name", "a-b", "A"),
            ("k8s-long-name", "a.b", "a..b"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
        ];
        for (format, good, bad) in table {
            assert!(is_known(format), "{format}");
            assert!(is(format, good), "{format} {good}");
            assert!(!is(format, bad), "{format} {bad}");
        }
        assert!(!is_known("int-or-string") && !is_known(""));
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(go_duration("1.5h"), Some(5_400_000_000_000));
        assert_eq!(go_duration("-1s"), Some(-1_000_000_000));
        assert_eq!([go_duration(""), go_duration("1"), go_duration("9999999999999h"), go_duration(".s")], [None; 4]);
    }
}
