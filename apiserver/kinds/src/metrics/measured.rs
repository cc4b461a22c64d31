//! Two readings of a counter -> what is used per second. Pure. Source: metrics-server `pkg/storage/{node,pod,types}.go`.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use api::{Key, quantity::Quantity};

use super::page::{Page, Point};

/// Readings that are further apart say little of now.
const APART_MS_MAX: i64 = 120_000;
/// A container that is so old and no older has its start for a first reading (`freshContainerMinMetricsResolution`, and metrics-server's resolution).
const YOUNG_MS: Range<i64> = 10_000..60_000;

/// What a node's agent has said, with what it said before.
#[derive(Debug, Default)]
pub struct Measured {
    pub node: Option<Series>,
    /// By the container's name.
    pub pods: HashMap<Key, BTreeMap<Box<str>, Series>>,
}

/// The last reading and the one that it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    last: Point,
    before: Option<Point>,
}

/// What was used on average in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Its end, in milliseconds since 1970.
    pub at_ms: i64,
    pub window_ms: i64,
    pub nano_cores: u64,
    pub memory_bytes: u64,
}

impl Measured {
    /// `page` after `old`.
    pub fn after(old: Option<&Self>, page: Page) -> Self {
        let node = page.node.map(|point| Series::after(old.and_then(|old| old.node.as_ref()), point));
        let pods = page.pods.into_iter().map(|(key, containers)| {
            let known = old.and_then(|old| old.pods.get(&key));
            let series = |(name, point): (Box<str>, Point)| {
                let series = Series::after(known.and_then(|known| known.get(&name)), point);
                (name, series)
            };
            (key, containers.into_iter().map(series).collect())
        });
        Self { node, pods: pods.collect() }
    }

    /// Whether one more page is needed before rates can be told.
    pub fn is_first(&self) -> bool {
        self.node.is_none_or(|node| node.before.is_none())
    }
}

impl Series {
    fn after(old: Option<&Self>, last: Point) -> Self {
        // One that has started since counts from nothing.
        let old = old.filter(|old| last.start_ms.is_none_or(|start| start <= old.last.at_ms));
        let before = old.and_then(|old| if last.at_ms > old.last.at_ms { Some(old.last) } else { old.before });
        Self { last, before: before.filter(|before| last.is_fit_after(before)).or_else(|| last.start_if_young()) }
    }

    pub fn rate(&self) -> Option<Rate> {
        let before = self.before?;
        let window_ms = self.last.at_ms.checked_sub(before.at_ms).filter(|window| *window > 0)?;
        let used = u128::from(self.last.cpu_nano.checked_sub(before.cpu_nano)?);
        let nano_cores = used * 1000 / u128::from(window_ms.unsigned_abs());
        let nano_cores = u64::try_from(nano_cores).unwrap_or(u64::MAX);
        Some(Rate { at_ms: self.last.at_ms, window_ms, nano_cores, memory_bytes: self.last.memory_bytes })
    }
}

impl Point {
    fn is_fit_after(&self, before: &Self) -> bool {
        let apart = self.at_ms.saturating_sub(before.at_ms);
        (1..=APART_MS_MAX).contains(&apart) && self.cpu_nano >= before.cpu_nano
    }

    fn start_if_young(&self) -> Option<Self> {
        let start_ms = self.start_ms.filter(|start| YOUNG_MS.contains(&self.at_ms.saturating_sub(*start)))?;
        Some(Self { at_ms: start_ms, cpu_nano: 0, ..*self })
    }
}

impl Rate {
    pub fn cpu(&self) -> Quantity {
        Quantity::parse(&format!("{}n", self.nano_cores)).unwrap_or(Quantity::from_units(0))
    }

    /// As Go writes a duration.
    pub fn window(&self) -> String {
        let (minutes, ms) = (self.window_ms / 60_000, self.window_ms % 60_000);
        let fraction = format!("{:03}", ms % 1000);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() { "" } else { "." };
        match self.window_ms {
            ..1000 => format!("{}ms", self.window_ms),
            1000..60_000 => format!("{}{dot}{fraction}s", ms / 1000),
            3_600_000.. => format!("{}h{}m{}{dot}{fraction}s", minutes / 60, minutes % 60, ms / 1000),
            _ => format!("{minutes}m{}{dot}{fraction}s", ms / 1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_ms: i64, cpu_nano: u64, start_ms: Option<i64>) -> Point {
        Point { start_ms, at_ms, cpu_nano, memory_bytes: 1 }
    }

    fn series(points: &[Point]) -> Series {
        let all = points.iter().fold(None, |old: Option<Series>, point| Some(Series::after(old.as_ref(), *point)));
        all.expect("at least one")
    }

    #[test]
    fn a_rate_is_of_the_last_two_readings() {
        let nano_cores = |points: &[Point]| series(points).rate().map(|rate| (rate.window_ms, rate.nano_cores));
        let (a, b) = (point(100_000, 5_000_000_000, Some(0)), point(115_000, 8_000_000_000, Some(0)));
        assert_eq!(nano_cores(&[a]), None, "one reading is none");
        assert_eq!(nano_cores(&[a, b]), Some((15_000, 200_000_000)));
        assert_eq!(nano_cores(&[a, b, b]), Some((15_000, 200_000_000)), "what is told twice is one reading");
        assert_eq!(nano_cores(&[a, b, a]), None, "time goes back");
        assert_eq!(nano_cores(&[a, point(100_000 + APART_MS_MAX + 1, 9_000_000_000, Some(0))]), None, "long ago");
        assert_eq!(nano_cores(&[a, point(101_000, 1, Some(0))]), None, "a counter that fell");
        assert_eq!(nano_cores(&[a, point(115_000, 9_000_000_000, Some(110_000))]), None, "another container of that name");
        let young = point(130_000, 3_000_000_000, Some(115_000));
        assert_eq!(nano_cores(&[a, young]), Some((15_000, 200_000_000)), "from its start");
        assert_eq!(nano_cores(&[point(i64::MAX, u64::MAX, Some(i64::MIN)), point(i64::MIN, 0, Some(i64::MAX))]), None);
    }

    #[test]
    fn windows_are_gos_durations() {
        let window = |window_ms| Rate { at_ms: 0, window_ms, nano_cores: 0, memory_bytes: 0 }.window();
        let cases = [(1, "1ms"), (1000, "1s"), (15_020, "15.02s"), (60_000, "1m0s"), (62_500, "1m2.5s"), (3_600_000, "1h0m0s")];
        for (ms, wanted) in cases {
            assert_eq!(window(ms), wanted);
        }
    }
}
