//! What rooms count and time of themselves -> lines of a `/metrics` page, in Prometheus' text form.
//!
//! Source: component-base `metrics`, of which only what is counted here is needed: families that are statics where they are used, and are on the page once
//! something was counted. An observation of a set of labels that is known takes a look-up and three additions, and no memory; who counts often keeps the
//! [`Series`]. One page for the process, as there is one for the panics ([`crate::faults`]).

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};

/// Sets of labels of one family; further ones are not on the page.
const SERIES_MAX: usize = 2000;
/// Of a label's value.
const VALUE_BYTES_MAX: usize = 256;

static FAMILIES: Mutex<BTreeMap<&'static str, &'static Family>> = Mutex::new(BTreeMap::new());
static READERS: Mutex<Vec<Reader>> = Mutex::new(Vec::new());

/// Sets gauges just before they are read; false where it is to be asked no more.
type Reader = Box<dyn Fn() -> bool + Send + Sync>;

/// All of one name.
pub struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    shape: Shape,
    /// By a hash of the labels' values.
    series: RwLock<BTreeMap<u64, Arc<Series>>>,
    /// What is over [`SERIES_MAX`].
    spare: OnceLock<Arc<Series>>,
    is_listed: AtomicBool,
}

#[derive(Clone, Copy)]
enum Shape {
    Counter,
    Gauge,
    /// Upper bounds, and how many of what is added up make one.
    Histogram(&'static [f64], f64),
}

/// One set of labels.
pub struct Series {
    values: Box<[Box<str>]>,
    bounds: &'static [f64],
    per_one: f64,
    /// Each without those below it; the last is what is above all bounds.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// Of a counter or a gauge.
    value: AtomicI64,
}

impl Family {
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self::of(name, help, labels, Shape::Counter)
    }

    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self::of(name, help, labels, Shape::Gauge)
    }

    /// A histogram of times; the bounds are seconds.
    pub const fn times(name: &'static str, help: &'static str, labels: &'static [&'static str], bounds: &'static [f64]) -> Self {
        Self::of(name, help, labels, Shape::Histogram(bounds, 1e9))
    }

    /// A histogram of whole numbers (bytes, objects, long times).
    pub const fn sizes(name: &'static str, help: &'static str, labels: &'static [&'static str], bounds: &'static [f64]) -> Self {
        Self::of(name, help, labels, Shape::Histogram(bounds, 1.0))
    }

    const fn of(name: &'static str, help: &'static str, labels: &'static [&'static str], shape: Shape) -> Self {
        Self { name, help, labels, shape, series: RwLock::new(BTreeMap::new()), spare: OnceLock::new(), is_listed: AtomicBool::new(false) }
    }

    /// The series of these values, in the order of the family's labels.
    pub fn with(&'static self, values: &[&str]) -> Arc<Series> {
        let at = hash(values);
        match self.find(at, values) {
            Some(found) => found,
            None => self.make(at, values),
        }
    }

    /// One more.
    pub fn count(&'static self, values: &[&str]) {
        self.with(values).add(1);
    }

    pub fn took(&'static self, values: &[&str], time: Duration) {
        self.with(values).took(time);
    }

    pub fn set(&'static self, values: &[&str], value: i64) {
        self.with(values).set(value);
    }

    /// Forgets a series: what it was about is gone.
    pub fn forget(&self, values: &[&str]) {
        self.series.write().retain(|_, series| !series.is_of(values));
    }

    fn find(&self, mut at: u64, values: &[&str]) -> Option<Arc<Series>> {
        let all = self.series.read();
        loop {
            let found = all.get(&at)?;
            if found.is_of(values) {
                return Some(found.clone());
            }
            at = at.wrapping_add(1);
        }
    }

    fn make(&'static self, mut at: u64, values: &[&str]) -> Arc<Series> {
        if !self.is_listed.swap(true, Ordering::Relaxed) {
            FAMILIES.lock().insert(self.name, self);
        }
        let mut all = self.series.write();
        while let Some(found) = all.get(&at) {
            if found.is_of(values) {
                return found.clone();
            }
            at = at.wrapping_add(1);
        }
        if all.len() >= SERIES_MAX {
            return self.spare.get_or_init(|| Arc::new(Series::new(self.shape, &[]))).clone();
        }
        let new = Arc::new(Series::new(self.shape, values));
        all.insert(at, new.clone());
        new
    }

    fn text(&self, out: &mut String) {
        let (name, help) = (self.name, self.help);
        let word = match self.shape {
            Shape::Counter => "counter",
            Shape::Gauge => "gauge",
            Shape::Histogram(..) => "histogram",
        };
        // Writing to a string does not fail, here and below.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {word}");
        let all = self.series.read();
        let mut all: Vec<_> = all.values().map(|series| (self.labelled(series), series)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        for (labels, series) in all {
            match self.shape {
                Shape::Histogram(..) => series.text(out, name, &labels),
                _ => {
                    let _ = writeln!(out, "{name}{} {}", braced(&labels), series.value.load(Ordering::Relaxed));
                }
            }
        }
    }

    fn labelled(&self, series: &Series) -> String {
        let mut out = String::new();
        for (label, value) in self.labels.iter().zip(&series.values) {
            let comma = if out.is_empty() { "" } else { "," };
            let _ = write!(out, "{comma}{label}=\"{}\"", escaped(value));
        }
        out
    }
}

impl Series {
    fn new(shape: Shape, values: &[&str]) -> Self {
        let (bounds, per_one): (&'static [f64], f64) = match shape {
            Shape::Histogram(bounds, per_one) => (bounds, per_one),
            _ => (&[], 1.0),
        };
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        let values = values.iter().map(|value| cut(value).into()).collect();
        Self { values, bounds, per_one, buckets, sum: AtomicU64::new(0), value: AtomicI64::new(0) }
    }

    fn is_of(&self, values: &[&str]) -> bool {
        self.values.len() == values.len() && self.values.iter().zip(values).all(|(own, other)| **own == *cut(other))
    }

    pub fn add(&self, by: i64) {
        self.value.fetch_add(by, Ordering::Relaxed);
    }

    pub fn set(&self, value: i64) {
        self.value.store(value, Ordering::Relaxed);
    }

    pub fn took(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Of a family of [`Family::sizes`].
    pub fn size(&self, size: u64) {
        self.observe(size);
    }

    #[expect(clippy::cast_precision_loss, reason = "a bucket is found by it, and nothing is added up")]
    fn observe(&self, amount: u64) {
        let shown = amount as f64 / self.per_one;
        let at = self.bounds.partition_point(|bound| *bound < shown);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(amount, Ordering::Relaxed);
    }

    #[expect(clippy::cast_precision_loss, reason = "as Prometheus keeps it")]
    fn text(&self, out: &mut String, name: &str, labels: &str) {
        let (mut below, comma) = (0, if labels.is_empty() { "" } else { "," });
        let bounds = self.bounds.iter().map(|bound| shortest(*bound)).chain(["+Inf".to_owned()]);
        for (bound, bucket) in bounds.zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}");
        }
        let (sum, braced) = (self.sum.load(Ordering::Relaxed) as f64 / self.per_one, braced(labels));
        let _ = writeln!(out, "{name}_sum{braced} {sum}\n{name}_count{braced} {below}");
    }
}

/// `read` is called before each page, until it says false.
pub fn before_page(read: impl Fn() -> bool + Send + Sync + 'static) {
    READERS.lock().push(Box::new(read));
}

/// All families whose names begin so (with nothing: all), in the order of their names.
pub fn text(prefix: &str, out: &mut String) {
    // None of them asks for a page.
    READERS.lock().retain(|read| read());
    let all: Vec<&'static Family> = FAMILIES.lock().values().copied().filter(|family| family.name.starts_with(prefix)).collect();
    all.iter().for_each(|family| family.text(out));
}

fn cut(value: &str) -> &str {
    value.get(..value.floor_char_boundary(VALUE_BYTES_MAX)).unwrap_or(value)
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// FNV-1a, which needs no state; those of one hash stand beside each other.
fn hash(values: &[&str]) -> u64 {
    let bytes = values.iter().flat_map(|value| cut(value).bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// As Go writes a number in its shortest form: `1e-08`, `0.005`, `1.048576e+06`.
fn shortest(number: f64) -> String {
    let written = format!("{number:e}");
    match written.split_once('e').and_then(|(mantissa, power)| Some((mantissa, power.parse::<i32>().ok()?))) {
        Some((mantissa, power)) if !(-4..=5).contains(&power) => {
            format!("{mantissa}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TIMES: Family = Family::times("test_seconds", "How long.", &["who", "what"], &[1e-8, 0.005, 1.0]);
    static COUNTS: Family = Family::counter("test_total", "How many.", &["who"]);
    static PLAIN: Family = Family::sizes("test_bytes", "How large.", &[], &[1000.0, 1_048_576.0]);
    static DEPTH: Family = Family::gauge("test_depth", "How deep.", &[]);

    #[test]
    fn a_page_has_what_was_counted() {
        TIMES.took(&["a", "b\"\n"], Duration::from_millis(5));
        TIMES.took(&["a", "b\"\n"], Duration::from_millis(1500));
        COUNTS.count(&["x"]);
        COUNTS.with(&["x"]).add(2);
        COUNTS.count(&["gone"]);
        COUNTS.forget(&["gone"]);
        PLAIN.with(&[]).size(1001);
        before_page(|| {
            DEPTH.set(&[], 7);
            true
        });
        let mut page = String::new();
        text("test_", &mut page);
        let wanted = "# HELP test_bytes How large.\n# TYPE test_bytes histogram\n\
            test_bytes_bucket{le=\"1000\"} 0\ntest_bytes_bucket{le=\"1.048576e+06\"} 1\ntest_bytes_bucket{le=\"+Inf\"} 1\n\
            test_bytes_sum 1001\ntest_bytes_count 1\n\
            # HELP test_depth How deep.\n# TYPE test_depth gauge\ntest_depth 7\n\
            # HELP test_seconds How long.\n# TYPE test_seconds histogram\n\
            test_seconds_bucket{who=\"a\",what=\"b\\\"\\n\",le=\"1e-08\"} 0\n\
            test_seconds_bucket{who=\"a\",what=\"b\\\"\\n\",le=\"0.005\"} 1\n\
            test_seconds_bucket{who=\"a\",what=\"b\\\"\\n\",le=\"1\"} 1\n\
            test_seconds_bucket{who=\"a\",what=\"b\\\"\\n\",le=\"+Inf\"} 2\n\
            test_seconds_sum{who=\"a\",what=\"b\\\"\\n\"} 1.505\ntest_seconds_count{who=\"a\",what=\"b\\\"\\n\"} 2\n\
            # HELP test_total How many.\n# TYPE test_total counter\ntest_total{who=\"x\"} 3\n";
        assert_eq!(page, wanted);
    }

    static MANY: Family = Family::counter("many_total", "Many.", &["name"]);

    #[test]
    fn labels_have_a_bound() {
        for at in 0..SERIES_MAX + 10 {
            MANY.count(&[&at.to_string()]);
        }
        MANY.count(&[&"x".repeat(10_000)]);
        let mut page = String::new();
        text("many_", &mut page);
        assert_eq!(page.lines().count(), SERIES_MAX + 2);
        assert_eq!(MANY.series.read().values().map(|series| series.value.load(Ordering::Relaxed)).sum::<i64>(), 2000);
    }
}
