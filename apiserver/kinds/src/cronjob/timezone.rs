//! The name of a time zone -> what is wrong with it. Source: `validateTimeZone` in `pkg/apis/batch/validation`; names are those of the IANA database.

use api::zone::{is_known, unknown};

/// Of one part of a name.
const PART_MAX: usize = 14;

/// In upstream's words.
pub fn errors(zone: &str) -> Vec<String> {
    if zone.is_empty() {
        return vec!["timeZone must be nil or non-empty string".into()];
    }
    let well = |part: &str| {
        let alphabet = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
        !matches!(part, "" | "." | "..") && !part.starts_with('-') && part.len() <= PART_MAX && part.bytes().all(alphabet)
    };
    if !zone.split('/').all(well) {
        return vec![unknown(zone)];
    }
    let mut out = Vec::new();
    if zone.eq_ignore_ascii_case("Local") {
        out.push("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".into());
    }
    out.extend((!is_known(zone)).then(|| unknown(zone)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_known_or_not() {
        let local = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        let cases: [(&str, &[&str]); 9] = [
            ("UTC", &[]),
            ("Europe/Berlin", &[]),
            ("America/Argentina/Buenos_Aires", &[]),
            ("Etc/GMT+5", &[]),
            ("Local", &[local]),
            ("local", &[local, "unknown time zone local"]),
            ("Mars/Phobos", &["unknown time zone Mars/Phobos"]),
            ("europe/berlin", &["unknown time zone europe/berlin"]),
            ("../UTC", &["unknown time zone ../UTC"]),
        ];
        for (zone, wanted) in cases {
            assert_eq!(errors(zone), wanted, "{zone}");
        }
    }
}
