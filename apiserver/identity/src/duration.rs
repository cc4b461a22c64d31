//! `1m30s` -> a duration, as Go reads them (`time.ParseDuration`), without signs.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

const UNITS: [(&str, f64); 7] = [("ns", 1e-9), ("us", 1e-6), ("\u{b5}s", 1e-6), ("ms", 1e-3), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];

/// # Errors
/// It is none, or longer than any.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("time: invalid duration {}", api::time::quoted(text));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let (unit, scale) = UNITS.into_iter().find(|(unit, _)| after.starts_with(unit)).ok_or_else(wrong)?;
        seconds += number.parse::<f64>().map_err(|_| wrong())? * scale;
        rest = after.get(unit.len()..).unwrap_or_default();
    }
    if text.is_empty() {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// A field of a file; null is none.
pub fn field<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Option::<String>::deserialize(deserializer)?.map_or(Ok(Duration::ZERO), |text| parse(&text).map_err(D::Error::custom))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let good = [("0", 0), ("3s", 3000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("250ms", 250), ("0s", 0)];
        for (text, milliseconds) in good {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "3", "s", "-3s", "1e9s", "3 s", "..s", "99999999999999999999999h"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
