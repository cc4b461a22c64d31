//! `*/5 * * * *` -> the times it names, or what is wrong with it in the words of `github.com/robfig/cron/v3` (`parser.go`, `spec.go`).

use jiff::{RoundMode, SignedDuration, Span, Timestamp, Unit, Zoned, ZonedRound, civil::DateTime, tz::TimeZone};

use crate::{time::go_duration, zone};

/// A field's least and greatest number, and names of numbers from the least on.
struct Bounds {
    min: i64,
    max: i64,
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds { min: 1, max: 12, names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"] },
    Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

/// Where no time is found within so many years there is none: the 31st of February.
const YEARS_MAX: i16 = 5;

/// An hour, a day, a month, a year, and as long as a schedule may rest.
const LOOKED_BACK: [SignedDuration; 5] = [
    SignedDuration::from_hours(1),
    SignedDuration::from_hours(24),
    SignedDuration::from_hours(32 * 24),
    SignedDuration::from_hours(366 * 24),
    SignedDuration::from_hours(5 * 366 * 24),
];

/// When something is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    times: Times,
    /// `None`: that of whoever asks.
    zone: Option<TimeZone>,
}

#[derive(Clone, Debug, PartialEq)]
enum Times {
    /// At such minutes, hours, days, months and days of the week.
    At([Set; 5]),
    /// `@every`: seconds, at least one.
    Every(i64),
}

/// Numbers of a field, and whether all of them were meant (`*`, `?`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Set {
    bits: u64,
    is_star: bool,
}

impl Set {
    fn has(self, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|number| self.bits >> number & 1 == 1)
    }

    fn only(number: i64) -> Self {
        Self { bits: 1 << number, is_star: false }
    }

    fn all(bounds: &Bounds) -> Self {
        Self { bits: (bounds.min..=bounds.max).fold(0, |bits, number| bits | 1 << number), is_star: true }
    }
}

impl Schedule {
    /// `ParseStandard`
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(schedule: &str) -> Result<Self, String> {
        let (mut rest, mut zone) = (schedule, None);
        if ["TZ=", "CRON_TZ="].iter().any(|prefix| schedule.starts_with(prefix)) {
            // Upstream's parser cuts its text at a space that is not there.
            let Some((name, behind)) = schedule.split_once(' ') else {
                return Err("invalid schedule format: runtime error: slice bounds out of range [:-1]".into());
            };
            let name = name.split_once('=').map_or(name, |(_, name)| name);
            let loaded = zone::load(name).ok_or_else(|| format!("provided bad location {name}: {}", zone::unknown(name)))?;
            (zone, rest) = (Some(loaded), behind.trim());
        }
        if rest.starts_with('@') {
            return Ok(Self { times: descriptor(rest)?, zone });
        }
        let fields: Vec<&str> = rest.split_whitespace().collect();
        if fields.len() != FIELDS.len() {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        }
        let mut sets = [Set::default(); FIELDS.len()];
        for ((field, bounds), set) in fields.iter().zip(&FIELDS).zip(&mut sets) {
            for part in field.split(',').filter(|part| !part.is_empty()) {
                let more = range(part, bounds)?;
                *set = Set { bits: set.bits | more.bits, is_star: set.is_star || more.is_star };
            }
        }
        Ok(Self { times: Times::At(sets), zone })
    }

    /// In this zone, where it names none itself.
    #[must_use]
    pub fn within(mut self, zone: TimeZone) -> Self {
        self.zone.get_or_insert(zone);
        self
    }

    /// The last time that is after `after` and not after `until`.
    pub fn last(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        if let Times::Every(seconds) = self.times {
            let times = (until.as_second() - after.as_second()) / seconds;
            return (times > 0).then(|| Timestamp::from_second(after.as_second() + times * seconds).ok()).flatten();
        }
        // Most of the time there is one not long ago. Whoever names each minute is not followed through years.
        let mut found = None;
        for back in LOOKED_BACK {
            let begin = until.checked_sub(back).map_or(after, |begin| begin.max(after));
            let mut at = self.next(begin);
            while let Some(time) = at.filter(|time| *time <= until) {
                found = Some(time);
                at = self.next(time);
            }
            if found.is_some() || begin == after {
                break;
            }
        }
        found
    }

    /// The first time after `after`; `None` where there is none within five years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        match &self.times {
            Times::Every(seconds) => whole.checked_add(SignedDuration::from_secs(*seconds)).ok(),
            Times::At(sets) => {
                let zone = self.zone.clone().unwrap_or(TimeZone::UTC);
                let from = whole.checked_add(SignedDuration::from_secs(1)).ok()?;
                Some(next(sets, &from.to_zoned(zone))?.timestamp())
            }
        }
    }
}

/// As `SpecSchedule.Next`: each field is moved on until it fits, and where one comes round, those above it are looked at again.
fn next([minutes, hours, days, months, weekdays]: &[Set; 5], from: &Zoned) -> Option<Zoned> {
    // `,` names nothing; five years of minutes are not looked through for it.
    if [minutes, hours, months].iter().any(|set| set.bits == 0) {
        return None;
    }
    let last = from.year().saturating_add(YEARS_MAX);
    let mut at = from.clone();
    while at.year() <= last {
        if !months.has(at.month()) {
            at = begin(&at.first_of_month().ok()?.checked_add(Span::new().months(1)).ok()?)?;
        } else if !is_day(*days, *weekdays, at.datetime()) {
            at = begin(&at.checked_add(Span::new().days(1)).ok()?)?;
        } else if !hours.has(at.hour()) {
            at = ceiling(&at, Unit::Hour)?;
        } else if !minutes.has(at.minute()) || at.second() > 0 {
            at = ceiling(&at, Unit::Minute)?;
        } else {
            return Some(at);
        }
    }
    None
}

/// The first moment of that day.
fn begin(at: &Zoned) -> Option<Zoned> {
    at.start_of_day().ok()
}

/// The beginning of the next hour or minute, by elapsed time: an hour that a clock goes through twice comes twice.
fn ceiling(at: &Zoned, unit: Unit) -> Option<Zoned> {
    let floor = at.round(ZonedRound::new().smallest(unit).mode(RoundMode::Trunc)).ok()?;
    let step = if unit == Unit::Hour { SignedDuration::from_hours(1) } else { SignedDuration::from_mins(1) };
    let next = floor.checked_add(step).ok()?;
    // Where clocks are put by other than whole hours the floor may lie far back.
    if next > *at { Some(next) } else { at.checked_add(SignedDuration::from_mins(1)).ok() }
}

/// Either field names days; both must fit where one of them is a star.
fn is_day(days: Set, weekdays: Set, at: DateTime) -> bool {
    let (day, weekday) = (days.has(at.day()), weekdays.has(at.weekday().to_sunday_zero_offset()));
    if days.is_star || weekdays.is_star { day && weekday } else { day || weekday }
}

fn descriptor(text: &str) -> Result<Times, String> {
    if let Some(every) = text.strip_prefix("@every ") {
        let nanos = go_duration(every).map_err(|why| format!("failed to parse duration {text}: {why}"))?;
        return Ok(Times::Every((nanos / 1_000_000_000).max(1)));
    }
    let [minutes, hours, days, months, weekdays] = &FIELDS;
    let mut sets = [Set::only(minutes.min), Set::only(hours.min), Set::all(days), Set::all(months), Set::all(weekdays)];
    match text {
        "@yearly" | "@annually" => (sets[2], sets[3]) = (Set::only(days.min), Set::only(months.min)),
        "@monthly" => sets[2] = Set::only(days.min),
        "@weekly" => sets[4] = Set::only(weekdays.min),
        "@daily" | "@midnight" => {}
        "@hourly" => sets[1] = Set::all(hours),
        _ => return Err(format!("unrecognized descriptor: {text}")),
    }
    Ok(Times::At(sets))
}

/// One of `*`, `3`, `1-5`, each perhaps with `/2`.
fn range(text: &str, bounds: &Bounds) -> Result<Set, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts.first().copied().unwrap_or_default().split('-').collect();
    let first = ends.first().copied().unwrap_or_default();
    let is_star = matches!(first, "*" | "?");
    let (start, mut end) = if is_star {
        (bounds.min, bounds.max)
    } else {
        let start = number_or_name(first, bounds)?;
        match ends.as_slice() {
            [_] => (start, start),
            [_, last] => (start, number_or_name(last, bounds)?),
            _ => return Err(format!("too many hyphens: {text}")),
        }
    };
    let step = match parts.as_slice() {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            end = if ends.len() == 1 { bounds.max } else { end };
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    let step =
        usize::try_from(step).ok().filter(|step| *step > 0).ok_or_else(|| format!("step of range should be a positive number: {text}"))?;
    Ok(Set { bits: (start..=end).step_by(step).fold(0, |bits, number| bits | 1 << number), is_star: is_star && step == 1 })
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<i64, String> {
    let named = bounds.names.iter().zip(bounds.min..).find(|(name, _)| name.eq_ignore_ascii_case(text));
    named.map_or_else(|| number(text), |(_, number)| Ok(number))
}

fn number(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let well = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let why = if well { "value out of range" } else { "invalid syntax" };
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_upstream_reads_them() {
        for good in [
            "* * * * *",
            "*/5 0-6/2 1,15 JAN mon-FRI",
            "? ? ? ? ?",
            "@every 1h30m",
            "@daily",
            "TZ=Europe/Berlin 0 0 * * *",
            ", * * * *",
            "59 23 31 12 6",
            "5/15 * * * *",
        ] {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
        let cases = [
            ("every day", "expected exactly 5 fields, found 2: [every day]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("-1 * * * *", "failed to parse int from : strconv.Atoi: parsing \"\": invalid syntax"),
            (
                "99999999999999999999 * * * *",
                "failed to parse int from 99999999999999999999: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
            ),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
            ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
            ("@every 5x", "failed to parse duration @every 5x: time: unknown unit \"x\" in duration \"5x\""),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("TZ=Mars * * * * *", "provided bad location Mars: unknown time zone Mars"),
            ("TZ=0", "invalid schedule format: runtime error: slice bounds out of range [:-1]"),
        ];
        for (bad, wanted) in cases {
            assert_eq!(Schedule::parse(bad), Err(wanted.to_owned()), "{bad}");
        }
    }

    /// What Go's library says of the same.
    #[test]
    fn times_are_those_that_upstream_finds() {
        let cases = [
            ("*/15 * * * *", "2026-07-09T14:45:00Z", "2026-07-09T15:00:00Z"),
            ("*/15 * * * *", "2026-07-09T14:59:59.5Z", "2026-07-09T15:00:00Z"),
            ("20-35/15 * * * *", "2026-07-09T15:45:00Z", "2026-07-09T16:20:00Z"),
            ("*/2 */2 * * *", "2026-07-09T23:46:00Z", "2026-07-10T00:00:00Z"),
            ("0 0 1 4 *", "2026-12-31T23:59:59Z", "2027-04-01T00:00:00Z"),
            // Either the day or the day of the week; both where one is a star.
            ("0 0 13 * fri", "2026-11-01T00:00:00Z", "2026-11-06T00:00:00Z"),
            ("0 0 */2 * sun", "2026-11-01T00:00:00Z", "2026-11-03T00:00:00Z"),
            ("0 0 * * sun", "2026-11-01T00:00:00Z", "2026-11-08T00:00:00Z"),
            ("0 0 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("@every 90s", "2026-11-01T00:00:00.25Z", "2026-11-01T00:01:30Z"),
            ("@every 1ms", "2026-11-01T00:00:00Z", "2026-11-01T00:00:01Z"),
            ("@weekly", "2026-11-30T12:00:00Z", "2026-12-06T00:00:00Z"),
            ("@monthly", "2026-11-30T12:00:00Z", "2026-12-01T00:00:00Z"),
            ("@annually", "2026-11-30T12:00:00Z", "2027-01-01T00:00:00Z"),
            ("@hourly", "2026-11-30T12:00:00Z", "2026-11-30T13:00:00Z"),
            ("TZ=Asia/Tokyo 0 9 * * *", "2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"),
            // Clocks in New York go from 2:00 to 3:00 on 8 March, and from 2:00 back to 1:00 on 1 November.
            ("TZ=America/New_York 0 3 * * *", "2026-03-08T05:00:00Z", "2026-03-08T07:00:00Z"),
            ("TZ=America/New_York 30 2 8 3 *", "2026-03-08T05:00:00Z", "2027-03-08T07:30:00Z"),
            ("TZ=America/New_York 0 * * * *", "2026-03-08T06:59:59Z", "2026-03-08T07:00:00Z"),
            ("TZ=America/New_York 0 1 * * *", "2026-11-01T04:00:00Z", "2026-11-01T05:00:00Z"),
            ("TZ=America/New_York 0 1 * * *", "2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z"),
            // In Sao Paulo midnight did not exist that day.
            ("TZ=America/Sao_Paulo 0 9 4 11 *", "2018-11-03T12:00:00Z", "2018-11-04T11:00:00Z"),
        ];
        for (schedule, after, wanted) in cases {
            let next = Schedule::parse(schedule).unwrap().next(after.parse().unwrap());
            assert_eq!(next.map(|at| at.to_string()).as_deref(), Some(wanted), "{schedule} after {after}");
        }
        assert_eq!(Schedule::parse("59 23 31 2 *").unwrap().next(Timestamp::UNIX_EPOCH), None);
        assert_eq!(Schedule::parse(", * * * *").unwrap().next(Timestamp::UNIX_EPOCH), None, "no minute at all");
        assert_eq!(Schedule::parse("* * * * *").unwrap().next(Timestamp::MAX), None);
        let last = |schedule: &str, after: &str, until: &str| {
            let last = Schedule::parse(schedule).unwrap().last(after.parse().unwrap(), until.parse().unwrap());
            last.map(|at| at.to_string())
        };
        let until = "2026-11-30T12:00:30Z";
        assert_eq!(last("* * * * *", "0001-01-01T00:00:00Z", until).as_deref(), Some("2026-11-30T12:00:00Z"));
        assert_eq!(last("0 0 29 2 *", "0001-01-01T00:00:00Z", until).as_deref(), Some("2024-02-29T00:00:00Z"));
        assert_eq!(last("0 12 * * *", "2026-11-30T12:00:00Z", until), None);
        assert_eq!(last("@every 40s", "2026-11-30T11:59:00Z", until).as_deref(), Some("2026-11-30T12:00:20Z"));
        assert_eq!(last("@every 40s", "2026-11-30T12:00:00Z", until), None);
        let berlin = Schedule::parse("0 9 * * *").unwrap().within(zone::load("Europe/Berlin").unwrap());
        assert_eq!(berlin.next(Timestamp::UNIX_EPOCH).unwrap().to_string(), "1970-01-01T08:00:00Z");
    }
}
