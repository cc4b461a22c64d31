//! A quantity's text -> its digits and the power of ten that they count, as Go's parser reads it (`ParseQuantity`).
//!
//! Digits stay text: a number of a million digits costs a look at each, and a power of ten nothing, whatever it is.

use std::borrow::Cow;

use super::{Format, NANO, NUMERIC, Quantity, RULE, SUFFIX};

/// What has been read.
pub(super) struct Read<'a> {
    text: &'a str,
    is_negative: bool,
    /// Without zeros in front, but for a zero itself; those of a binary number are multiplied out.
    digits: Cow<'a, str>,
    /// Of the last digit: `15` and -1 are 1.5.
    power: i64,
    format: Format,
    /// Go takes it to be in canonical form, and writes it as it came (`Quantity.s`).
    is_kept: bool,
}

/// The parts of a text (`parseQuantityString`).
struct Split<'a> {
    is_negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

/// Digits that Go counts with in an `int64` (`maxInt64Factors`).
const FAST_DIGITS: i64 = 18;
const NANO_POWER: i64 = -9;
/// Of `E`.
const DECIMAL_POWER: i64 = 18;

impl<'a> Read<'a> {
    pub fn of(text: &'a str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err(RULE);
        }
        let split = Split::of(text)?;
        let (format, exponent) = scale(split.suffix).ok_or(SUFFIX)?;
        let (whole, fraction) = (split.whole, split.fraction);
        let (long, short) = (length(whole), length(fraction));
        let power = if format == Format::Binary { 0 } else { exponent } - short;
        let precision = match format {
            Format::Binary if short > 0 => -1,
            Format::Binary => 15 - long - exponent * 3 / 10 - 1,
            _ => FAST_DIGITS - long - short,
        };
        let is_fast = precision >= 0 && power >= NANO_POWER;
        let number = text.get(..text.len() - split.suffix.len()).unwrap_or_default();
        if !is_fast && !number.bytes().any(|b| b.is_ascii_digit()) {
            return Err(NUMERIC);
        }
        let plain = if fraction.is_empty() { Cow::Borrowed(whole) } else { Cow::Owned(format!("{whole}{fraction}")) };
        let is_kept = is_fast
            && match format {
                Format::Binary => !whole.parse::<i64>().is_ok_and(|value| value % 8 == 0),
                _ => power % 3 == 0 && !plain.ends_with("000") && !plain.starts_with('0'),
            };
        let digits = if format == Format::Binary { shifted(&plain, exponent).into() } else { plain };
        Ok(Self { text, is_negative: split.is_negative, digits: without_zeros(digits), power, format, is_kept })
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// In nano-units, what is finer rounded away from zero; what is larger than fits, and a binary number beyond 2^63 - 1, is the largest.
    pub fn nano(&self) -> i128 {
        let (digits, power) = rounded(&self.digits, self.power);
        let most = if self.format == Format::Binary { i128::from(i64::MAX) * NANO } else { i128::MAX };
        let size = u32::try_from(power - NANO_POWER).ok().and_then(|power| 10i128.checked_pow(power));
        let value = match (&*digits, size) {
            ("0", _) => 0,
            (digits, Some(size)) => digits.parse::<i128>().ok().and_then(|digits| digits.checked_mul(size)).unwrap_or(most),
            _ => most,
        };
        if self.is_negative { -value.min(most) } else { value.min(most) }
    }

    pub fn written(self) -> Cow<'a, str> {
        if self.is_kept {
            return Cow::Borrowed(self.text);
        }
        let nano = self.nano();
        if self.format == Format::Binary || nano.checked_abs().is_some_and(|nano| nano < i128::MAX) {
            return Cow::Owned(Quantity { nano, format: self.format }.to_string());
        }
        Cow::Owned(self.large())
    }

    /// A decimal number that does not fit. Beyond `E` there is no suffix: there Go writes the number without any, which is another number; we keep the zeros.
    fn large(&self) -> String {
        let digits = self.digits.trim_end_matches('0');
        let power = self.power + length(&self.digits) - length(digits);
        let most = if self.format == Format::Exponent { i64::MAX } else { DECIMAL_POWER };
        let chosen = (power - power.rem_euclid(3)).min(most);
        let zeros = "0".repeat(usize::try_from(power - chosen).unwrap_or_default());
        let sign = if self.is_negative { "-" } else { "" };
        let suffix = match (self.format, chosen) {
            (_, 0) => String::new(),
            (Format::Exponent, power) => format!("e{power}"),
            (_, power) => super::decimal_suffix(power).to_owned(),
        };
        format!("{sign}{digits}{zeros}{suffix}")
    }
}

impl<'a> Split<'a> {
    fn of(text: &'a str) -> Result<Self, &'static str> {
        let is_negative = text.starts_with('-');
        let rest = text.strip_prefix(['-', '+']).unwrap_or(text).trim_start_matches('0');
        let (whole, rest) = rest.split_at(digits_of(rest));
        let whole = if whole.is_empty() { "0" } else { whole };
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits_of(rest)),
            None => ("", rest),
        };
        let power = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
        let power = power.strip_prefix(['-', '+']).unwrap_or(power);
        if digits_of(power) < power.len() {
            return Err(RULE);
        }
        Ok(Self { is_negative, whole, fraction, suffix })
    }
}

/// Suffix -> its family, and the power of ten or of two.
fn scale(suffix: &str) -> Option<(Format, i64)> {
    let (format, power) = match suffix {
        "n" => (Format::Decimal, -9),
        "u" => (Format::Decimal, -6),
        "m" => (Format::Decimal, -3),
        "" => (Format::Decimal, 0),
        "k" => (Format::Decimal, 3),
        "M" => (Format::Decimal, 6),
        "G" => (Format::Decimal, 9),
        "T" => (Format::Decimal, 12),
        "P" => (Format::Decimal, 15),
        "E" => (Format::Decimal, DECIMAL_POWER),
        "Ki" => (Format::Binary, 10),
        "Mi" => (Format::Binary, 20),
        "Gi" => (Format::Binary, 30),
        "Ti" => (Format::Binary, 40),
        "Pi" => (Format::Binary, 50),
        "Ei" => (Format::Binary, 60),
        _ => (Format::Exponent, i64::from(suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?)),
    };
    Some((format, power))
}

fn digits_of(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

fn length(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

fn without_zeros(digits: Cow<'_, str>) -> Cow<'_, str> {
    match digits.bytes().position(|b| b != b'0') {
        Some(0) => digits,
        Some(at) => Cow::Owned(digits.get(at..).unwrap_or_default().to_owned()),
        None => Cow::Borrowed("0"),
    }
}

/// Digits times a power of two, at most 60.
fn shifted(digits: &str, power: i64) -> String {
    let (mut carry, mut backwards) = (0u128, String::with_capacity(digits.len() + 19));
    let mut next = |carry: u128| backwards.push(char::from_digit(u32::try_from(carry % 10).unwrap_or_default(), 10).unwrap_or('0'));
    for digit in digits.bytes().rev() {
        carry += u128::from(digit - b'0') << power;
        next(carry);
        carry /= 10;
    }
    while carry > 0 {
        next(carry);
        carry /= 10;
    }
    backwards.chars().rev().collect()
}

/// Nothing finer than a nano, away from zero.
fn rounded(digits: &str, power: i64) -> (Cow<'_, str>, i64) {
    let Some(dropped) = usize::try_from(NANO_POWER - power).ok().filter(|dropped| *dropped > 0) else {
        return (Cow::Borrowed(digits), power);
    };
    let (kept, rest) = digits.split_at(digits.len().saturating_sub(dropped));
    let is_up = rest.bytes().any(|b| b != b'0');
    let kept = if kept.is_empty() { "0" } else { kept };
    (if is_up { Cow::Owned(incremented(kept)) } else { Cow::Borrowed(kept) }, NANO_POWER)
}

fn incremented(digits: &str) -> String {
    let nines = digits.bytes().rev().take_while(|b| *b == b'9').count();
    let (head, zeros) = (digits.get(..digits.len() - nines).unwrap_or_default(), "0".repeat(nines));
    match head.char_indices().next_back().and_then(|(at, last)| Some((head.get(..at)?, last.to_digit(10)? + 1))) {
        Some((head, last)) => format!("{head}{last}{zeros}"),
        None => format!("1{zeros}"),
    }
}

#[cfg(test)]
mod tests;
