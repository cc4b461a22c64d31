//! Quantities: `100m`, `1.5Gi`, `2e3` -> exact numbers, and back into canonical form.
//!
//! Source: apimachinery `pkg/api/resource/{quantity,suffix,amount}.go`. Values are kept in nano-units (10^-9) of an `i128`; what is larger saturates.

mod read;

use std::{borrow::Cow, fmt};

use self::read::Read;

/// Where a text does not look like a quantity (`ErrFormatWrong`).
pub const RULE: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
/// Where its number is none (`ErrNumeric`).
pub const NUMERIC: &str = "unable to parse numeric part of quantity";
/// Where its suffix is none (`ErrSuffix`).
pub const SUFFIX: &str = "unable to parse quantity's suffix";

const NANO: i128 = 1_000_000_000;
const MILLI: i128 = 1_000_000;

/// A number with the suffix family it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// The text that Go writes of a quantity that it has read: in canonical form, or as it came where its parser thinks that it is.
///
/// # Errors
/// [`RULE`], [`NUMERIC`] or [`SUFFIX`], where the text is no quantity.
pub fn written(text: &str) -> Result<Cow<'_, str>, &'static str> {
    Read::of(text).map(Read::written)
}

/// [`written`], as the value in a JSON document (`UnmarshalJSON`): spaces around it are nothing. Go looks before it takes escapes for what they stand for, so
/// that a tab or a line's end is not trimmed.
///
/// # Errors
/// As [`written`].
pub fn written_of_json(text: &str) -> Result<Cow<'_, str>, &'static str> {
    written(text.trim_matches(|c: char| c.is_whitespace() && !c.is_ascii_control()))
}

impl Quantity {
    /// # Errors
    /// [`RULE`], [`NUMERIC`] or [`SUFFIX`], where the text is no quantity.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        Read::of(text).map(|read| Self { nano: read.nano(), format: read.format() })
    }

    pub fn from_units(units: i64) -> Self {
        Self { nano: i128::from(units) * NANO, format: Format::Decimal }
    }

    pub fn from_bytes(bytes: i64) -> Self {
        Self { nano: i128::from(bytes) * NANO, format: Format::Binary }
    }

    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * MILLI, format: Format::Decimal }
    }

    /// Whole units, rounded up (upstream's `Value`), saturating.
    pub fn units(self) -> i64 {
        saturate(ceil_div(self.nano, NANO))
    }

    /// Thousandths, rounded up (upstream's `MilliValue`), saturating.
    pub fn milli(self) -> i64 {
        saturate(ceil_div(self.nano, MILLI))
    }

    /// Whole thousandths, away from zero (upstream's `RoundUp`); keeps the format.
    #[must_use]
    pub fn rounded_to_milli(self) -> Self {
        let (whole, rest) = (self.nano / MILLI, self.nano % MILLI);
        Self { nano: (whole + rest.signum()).saturating_mul(MILLI).max(-i128::MAX), format: self.format }
    }

    /// As near as floating point comes to it (upstream's `AsApproximateFloat64`).
    pub fn approximate(self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// No fraction is left: rounded up, in the same format (upstream's `RoundUp(0)`).
    #[must_use]
    pub fn whole(self) -> Self {
        Self { nano: ceil_div(self.nano, NANO).saturating_mul(NANO), format: self.format }
    }

    /// Keeps this one's format; nothing has none of its own (upstream's `Add`).
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_add(other.nano), format: self.format_beside(other) }
    }

    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_sub(other.nano), format: self.format_beside(other) }
    }

    fn format_beside(self, other: Self) -> Format {
        if self.is_zero() { other.format } else { self.format }
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.nano.cmp(&other.nano))
    }
}

/// Canonical form: no fraction, the largest suffix that keeps it exact.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Upstream falls back to decimal where a binary number is below 1Ki or not whole.
        if self.format == Format::Binary && self.nano.abs() >= 1024 * NANO && self.nano % NANO == 0 {
            return binary(f, self.nano / NANO);
        }
        decimal(f, self.nano, self.format == Format::Exponent)
    }
}

fn binary(f: &mut fmt::Formatter<'_>, units: i128) -> fmt::Result {
    let (mut value, mut index) = (units, 0);
    let suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    while value % 1024 == 0 && value != 0 && index + 1 < suffixes.len() {
        value /= 1024;
        index += 1;
    }
    write!(f, "{value}{}", suffixes[index])
}

fn decimal(f: &mut fmt::Formatter<'_>, nano: i128, exponent: bool) -> fmt::Result {
    if nano == 0 {
        return f.write_str("0");
    }
    let (mut value, mut power) = (nano, -9i64);
    while value % 1000 == 0 && (power < 18 || exponent) {
        value /= 1000;
        power += 3;
    }
    if exponent {
        return if power == 0 { write!(f, "{value}") } else { write!(f, "{value}e{power}") };
    }
    write!(f, "{value}{}", decimal_suffix(power))
}

fn decimal_suffix(power: i64) -> &'static str {
    match power {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        0 => "",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        _ => "E",
    }
}

fn ceil_div(value: i128, by: i128) -> i128 {
    let (quotient, rest) = (value / by, value % by);
    if rest > 0 { quotient + 1 } else { quotient }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("1", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("0.1", "100m"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("100M", "100M"),
            ("1e3", "1e3"),
            ("1000", "1k"),
            ("0", "0"),
            ("-5", "-5"),
            ("0.5Ki", "512"),
            ("12E", "12E"),
            ("12Ei", "9223372036854775807"),
            ("-1051862952838943281907132007n", "-1051862952838943281907132007n"),
        ];
        for (text, canonical) in cases {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn a_sum_is_written_as_its_first_part_that_is_something() {
        let of = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(of("0").plus(of("256Mi")).plus(of("1")).to_string(), "268435457");
        assert_eq!(of("0").plus(of("256Mi")).plus(of("2M")).minus(of("2M")).to_string(), "256Mi");
        assert_eq!((of("1500m").whole().to_string(), of("0.1Gi").whole().to_string()), ("2".to_owned(), "107374183".to_owned()));
    }

    #[test]
    fn values_round_up() {
        assert_eq!(Quantity::parse("1500m").unwrap().units(), 2);
        assert_eq!(Quantity::parse("1u").unwrap().milli(), 1);
        assert_eq!(Quantity::parse("64Mi").unwrap().units(), 64 << 20);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "x", "1x", "1 Gi", "--1", "1.2.3", "1e", "1K", "1Gib", " 1", "１"] {
            assert!(Quantity::parse(bad).is_err(), "{bad}");
        }
    }
}
