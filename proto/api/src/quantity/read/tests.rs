//! What Go's package makes of texts: as it writes them, and rounded to thousandths (`go.txt`, written by a program over apimachinery 1.36).

use crate::quantity::{Quantity, written};

#[test]
fn texts_are_read_and_written_as_go_does() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for line in include_str!("go.txt").lines() {
        seen += 1;
        let mut parts = line.split('|');
        let (text, wanted, rounded) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let found = written(text).unwrap_or_else(|why| why.split('\'').next().unwrap().trim_end().into());
        if found != wanted {
            wrong.push(format!("{text:?} is {found:?}, Go has {wanted:?}"));
        }
        let Ok(quantity) = Quantity::parse(text) else { continue };
        let (nearest, kept) = (quantity.rounded_to_milli(), Quantity::parse(rounded).unwrap());
        if nearest != quantity && nearest.to_string() != rounded {
            wrong.push(format!("{text:?} rounded is {nearest}, Go has {rounded:?}"));
        }
        if !nearest.minus(kept).is_zero() {
            wrong.push(format!("{text:?} rounded is {nearest}, Go has {kept} in {rounded:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen > 120, "{seen}");
}

/// There Go writes `1`: beyond `E` it has no suffix, and forgets that there was one.
#[test]
fn what_is_beyond_all_suffixes_keeps_its_value() {
    assert_eq!(written("1000E").unwrap(), "1000E");
    assert_eq!(written("123456789012345678901234567890E").unwrap(), "123456789012345678901234567890E");
    assert_eq!(written("12345678901234567890e100").unwrap(), "123456789012345678900e99");
    assert_eq!(written("1e2147483646").unwrap(), "1e2147483646");
    assert!(written("1e2147483648").is_err());
}

#[test]
fn a_long_text_costs_no_more_than_its_length() {
    let digits = "9".repeat(1 << 20);
    for (text, wanted) in [
        (format!("{digits}Ei"), "9223372036854775807"),
        (format!("0.{digits}Ki"), "1Ki"),
        (format!("0.{digits}"), "1"),
        (format!("-1e-{}", i32::MAX), "-1e-9"),
        (format!("0.{}1n", "0".repeat(1 << 20)), "1n"),
    ] {
        assert_eq!(written(&text).unwrap(), wanted);
    }
    assert_eq!(written(&digits).unwrap(), digits);
}
