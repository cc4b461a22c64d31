//! What happens -> `/metrics`, in Prometheus' text form under upstream's names (`apiserver/pkg/endpoints/metrics`).

pub mod admission;
pub(crate) mod store;
mod stored;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    fs,
    future::ready,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use api::metrics::{self, Family};
use http::StatusCode;
use parking_lot::{Mutex, RwLock};

use crate::{
    body::full,
    engine::Engine,
    non_resource::{Router, non_resource_routes},
    wire,
};

/// Counters of the server. One per process, shared.
#[derive(Default)]
pub struct Metrics {
    /// By a hash of what they count: a request looks its series up without writing the labels out.
    series: Mutex<HashMap<u64, Series>>,
    inflight: [AtomicI64; 2],
    gauges: RwLock<Vec<Gauge>>,
    parts: RwLock<Vec<Part>>,
}

/// One finished request.
#[derive(Clone, Debug, Default)]
pub struct Observed<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// `cluster`, `namespace`, `resource` or empty.
    pub scope: &'a str,
    pub code: u16,
    pub dry_run: bool,
    /// Length of the reply, where it is known before it is sent.
    pub bytes: Option<u64>,
}

/// The requests of one set of labels and one code.
struct Series {
    names: [Box<str>; 6],
    code: u16,
    dry_run: bool,
    count: u64,
    /// Empty for watches, which are counted and not timed.
    took: Histogram,
    /// Of what is read.
    sizes: Sizes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    ReadOnly,
    Mutating,
}

/// By the result: the good one, and the other.
struct Often {
    authenticated: [Counted; 2],
    authorized: [Counted; 2],
}

/// Something that happens, and how long it takes.
struct Counted {
    total: Arc<metrics::Series>,
    took: Arc<metrics::Series>,
}

/// Counts a request as in flight until dropped.
pub struct InFlight(Arc<Metrics>, RequestKind);

/// Prometheus' text form.
pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Writes some lines of the page.
type Part = Box<dyn Fn(&mut String) + Send + Sync>;

struct Gauge {
    name: &'static str,
    help: &'static str,
    read: Box<dyn Fn() -> f64 + Send + Sync>,
}

#[derive(Clone, Copy, Default)]
struct Sizes {
    buckets: [u64; SIZES.len()],
    count: u64,
    sum: u64,
}

#[derive(Clone, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

/// Seconds; upstream's `apiserver_request_duration_seconds`.
const BUCKETS: [f64; 23] =
    [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
/// `apiserver_request_sli_duration_seconds` has all but so many.
const SLI_SKIPS: usize = 2;
/// Seconds (`ExponentialBuckets(0.001, 2, 15)`).
const AUTH_BUCKETS: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
static AUTHENTICATED_USERS: Family =
    Family::counter("authenticated_user_requests", "[ALPHA] Counter of authenticated requests broken out by username.", &["username"]);
static AUTHENTICATED: Family = Family::counter("authentication_attempts", "[ALPHA] Counter of authenticated attempts.", &["result"]);
static AUTHENTICATION: Family = Family::times(
    "authentication_duration_seconds",
    "[ALPHA] Authentication duration in seconds broken out by result.",
    &["result"],
    AUTH_BUCKETS,
);
static AUTHORIZED: Family = Family::counter(
    "authorization_attempts_total",
    "[ALPHA] Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
    &["result"],
);
static AUTHORIZATION: Family = Family::times(
    "authorization_duration_seconds",
    "[ALPHA] Authorization duration in seconds broken out by result.",
    &["result"],
    AUTH_BUCKETS,
);
/// What every request counts in is looked up once.
static OFTEN: LazyLock<Often> = LazyLock::new(|| Often {
    authenticated: ["success", "error"]
        .map(|result| Counted { total: AUTHENTICATED.with(&[result]), took: AUTHENTICATION.with(&[result]) }),
    authorized: ["allowed", "no-opinion"].map(|result| Counted { total: AUTHORIZED.with(&[result]), took: AUTHORIZATION.with(&[result]) }),
});
static TERMINATIONS: Family = Family::counter(
    "apiserver_request_terminations_total",
    "[ALPHA] Number of requests which apiserver terminated in self-defense.",
    &["component", "group", "resource", "scope", "subresource", "verb", "version", "code"],
);
/// Bytes; upstream's `apiserver_response_sizes`.
const SIZES: [u64; 7] = [1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

impl Metrics {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Serves `/metrics`.
    pub fn routes(self: &Arc<Self>) -> Router {
        let metrics = self.clone();
        non_resource_routes(&["/metrics"], move |_| {
            let page = wire::reply(StatusCode::OK, TEXT, full(metrics.text()));
            ready(Some(page))
        })
    }

    /// Counts a finished request. Watches are counted, not timed.
    pub fn observe(&self, seen: &Observed<'_>, took: Duration) {
        let names = seen.names();
        let mut hasher = DefaultHasher::new();
        (names, seen.code, seen.dry_run).hash(&mut hasher);
        let mut at = hasher.finish();
        if matches!(seen.code, 429 | 504) {
            // That has a lock of its own, and writes labels out.
            seen.terminated();
        }
        let mut all = self.series.lock();
        while all.get(&at).is_some_and(|series| !series.is_of(seen)) {
            at = at.wrapping_add(1);
        }
        let series = all.entry(at).or_insert_with(|| Series::new(seen));
        series.count += 1;
        if seen.verb != "WATCH" {
            series.took.add(took.as_secs_f64());
        }
        if let ("GET" | "LIST", Some(bytes)) = (seen.verb, seen.bytes) {
            series.sizes.add(bytes);
        }
    }

    /// Who it is was found out, or not (`recordAuthenticationMetrics`); `None` where it was not.
    pub(crate) fn authenticated(user: Option<&str>, took: Duration) {
        if let Some(user) = user {
            AUTHENTICATED_USERS.count(&[compressed(user)]);
        }
        OFTEN.authenticated[usize::from(user.is_none())].add(took);
    }

    /// A request may be made, or not (`recordAuthorizationMetrics`).
    pub(crate) fn authorized(is_allowed: bool, took: Duration) {
        OFTEN.authorized[usize::from(!is_allowed)].add(took);
    }

    /// What `engine` keeps is on the page.
    pub(crate) fn tell_of(&self, engine: &Arc<Engine>) {
        // It is not kept alive by its own page.
        let engine = Arc::downgrade(engine);
        self.part(move |out| {
            if let Some(engine) = engine.upgrade() {
                stored::text(&engine, out);
            }
        });
    }

    pub fn enter(self: &Arc<Self>, kind: RequestKind) -> InFlight {
        self.inflight[kind as usize].fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone(), kind)
    }

    /// A number read when asked for.
    pub fn gauge(&self, name: &'static str, help: &'static str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.gauges.write().push(Gauge { name, help, read: Box::new(read) });
    }

    /// A part of the page, written when asked for.
    pub fn part(&self, write: impl Fn(&mut String) + Send + Sync + 'static) {
        self.parts.write().push(Box::new(write));
    }

    /// The whole page.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.inflight_text(&mut out);
        self.durations_text(&mut out);
        self.sizes_text(&mut out);
        head(
            &mut out,
            "apiserver_request_total",
            "counter",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        let counts: BTreeMap<String, u64> =
            self.series.lock().values().map(|s| (format!("{},code=\"{}\"", s.labels(), s.code), s.count)).collect();
        for (labels, count) in counts {
            line(&mut out, &format!("apiserver_request_total{{{labels}}}"), count as f64);
        }
        for gauge in self.gauges.read().iter() {
            head(&mut out, gauge.name, "gauge", gauge.help);
            line(&mut out, gauge.name, (gauge.read)());
        }
        self.parts.read().iter().for_each(|write| write(&mut out));
        api::metrics::text("", &mut out);
        head(
            &mut out,
            "kubernetes_build_info",
            "gauge",
            "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
        );
        let (major, minor, git) = (crate::version::MAJOR, crate::version::MINOR, crate::version::GIT_VERSION);
        line(&mut out, &format!("kubernetes_build_info{{git_version=\"{git}\",major=\"{major}\",minor=\"{minor}\"}}"), 1.0);
        out.push_str(&api::faults::metrics());
        process_text(&mut out);
        out
    }

    fn inflight_text(&self, out: &mut String) {
        let name = "apiserver_current_inflight_requests";
        head(
            out,
            name,
            "gauge",
            "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
        );
        for (kind, word) in [(RequestKind::Mutating, "mutating"), (RequestKind::ReadOnly, "readOnly")] {
            let count = self.inflight[kind as usize].load(Ordering::Relaxed);
            line(out, &format!("{name}{{request_kind=\"{word}\"}}"), count as f64);
        }
    }

    fn durations_text(&self, out: &mut String) {
        let name = "apiserver_request_duration_seconds";
        head(
            out,
            name,
            "histogram",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        );
        let mut durations: BTreeMap<String, Histogram> = BTreeMap::new();
        let mut slis: BTreeMap<String, Histogram> = BTreeMap::new();
        for series in self.series.lock().values().filter(|series| series.took.count > 0) {
            durations.entry(series.labels()).or_default().add_all(&series.took);
            slis.entry(series.place()).or_default().add_all(&series.took);
        }
        for (labels, histogram) in durations {
            histogram.text(out, name, &labels, 0);
        }
        let name = "apiserver_request_sli_duration_seconds";
        head(
            out,
            name,
            "histogram",
            "Response latency distribution in seconds for each verb, group, version, resource, subresource, scope and component.",
        );
        for (labels, histogram) in slis {
            histogram.text(out, name, &labels, SLI_SKIPS);
        }
    }

    fn sizes_text(&self, out: &mut String) {
        let name = "apiserver_response_sizes";
        head(
            out,
            name,
            "histogram",
            "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
        );
        let mut sizes: BTreeMap<String, Sizes> = BTreeMap::new();
        for series in self.series.lock().values().filter(|series| series.sizes.count > 0) {
            sizes.entry(series.place()).or_default().add_all(&series.sizes);
        }
        for (labels, sizes) in sizes {
            for (bound, count) in SIZES.iter().zip(sizes.buckets) {
                line(out, &format!("{name}_bucket{{{labels},le=\"{}\"}}", bound_text(*bound)), count as f64);
            }
            line(out, &format!("{name}_bucket{{{labels},le=\"+Inf\"}}"), sizes.count as f64);
            line(out, &format!("{name}_sum{{{labels}}}"), sizes.sum as f64);
            line(out, &format!("{name}_count{{{labels}}}"), sizes.count as f64);
        }
    }
}

impl<'a> Observed<'a> {
    fn names(&self) -> [&'a str; 6] {
        [self.group, self.resource, self.scope, self.subresource, self.verb, self.version]
    }
}

impl Counted {
    fn add(&self, took: Duration) {
        self.total.add(1);
        self.took.took(took);
    }
}

impl Observed<'_> {
    /// There were too many, or it took too long (`RecordRequestTermination`).
    fn terminated(&self) {
        let Self { group, resource, scope, subresource, verb, version, code, .. } = *self;
        TERMINATIONS.count(&["apiserver", group, resource, scope, subresource, verb, version, &code.to_string()]);
    }
}

impl Series {
    fn new(seen: &Observed<'_>) -> Self {
        let names = seen.names().map(Box::from);
        Self { names, code: seen.code, dry_run: seen.dry_run, count: 0, took: Histogram::default(), sizes: Sizes::default() }
    }

    fn is_of(&self, seen: &Observed<'_>) -> bool {
        (self.code, self.dry_run) == (seen.code, seen.dry_run) && self.names.iter().zip(seen.names()).all(|(own, other)| **own == *other)
    }

    /// Neither code nor dry run.
    fn place(&self) -> String {
        let [group, resource, scope, subresource, verb, version] = &self.names;
        format!(
            "component=\"apiserver\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
        )
    }

    /// All but the code.
    fn labels(&self) -> String {
        let dry_run = if self.dry_run { "All" } else { "" };
        let [group, resource, scope, subresource, verb, version] = &self.names;
        format!(
            "component=\"apiserver\",dry_run=\"{dry_run}\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
        )
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.inflight[self.1 as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sizes {
    fn add(&mut self, bytes: u64) {
        for (bound, count) in SIZES.iter().zip(self.buckets.iter_mut()) {
            *count += u64::from(bytes <= *bound);
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(bytes);
    }

    fn add_all(&mut self, other: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(other.buckets) {
            *count += more;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
    }
}

impl Histogram {
    /// Without the first buckets.
    fn text(&self, out: &mut String, name: &str, labels: &str, skipped: usize) {
        for (bound, count) in BUCKETS.iter().zip(self.buckets).skip(skipped) {
            line(out, &format!("{name}_bucket{{{labels},le=\"{bound}\"}}"), count as f64);
        }
        line(out, &format!("{name}_bucket{{{labels},le=\"+Inf\"}}"), self.count as f64);
        line(out, &format!("{name}_sum{{{labels}}}"), self.sum);
        line(out, &format!("{name}_count{{{labels}}}"), self.count as f64);
    }

    fn add_all(&mut self, other: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(other.buckets) {
            *count += more;
        }
        self.count += other.count;
        self.sum += other.sum;
    }

    fn add(&mut self, seconds: f64) {
        for (bound, count) in BUCKETS.iter().zip(self.buckets.iter_mut()) {
            *count += u64::from(seconds <= *bound);
        }
        self.count += 1;
        self.sum += seconds;
    }
}

/// `compressUsername`: a few words for all names.
fn compressed(user: &str) -> &str {
    match user {
        "admin" | "client" | "kube_proxy" | "kubelet" | "system:serviceaccount:kube-system:default" => user,
        user if user.contains('@') => "email_id",
        _ => "other",
    }
}

pub(crate) fn head(out: &mut String, name: &str, typ: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {typ}");
}

/// As Go writes a large number.
fn bound_text(bound: u64) -> String {
    if bound < 1_000_000 { bound.to_string() } else { format!("1e+{:02}", bound.ilog10()) }
}

fn line(out: &mut String, name: &str, value: f64) {
    let _ = writeln!(out, "{name} {value}");
}

/// What the kernel says of this process; what cannot be read is left out.
fn process_text(out: &mut String) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the command, may hold spaces; what follows its closing parenthesis does not.
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|w| w.parse().unwrap_or_default()).collect();
    // Linux reports these in units of 1/100 s whatever the kernel's own tick is (USER_HZ).
    let ticks = |i: usize| fields.get(i).copied().unwrap_or_default() / 100.0;
    let boot: f64 = number(&fs::read_to_string("/proc/stat").unwrap_or_default(), "btime ");
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let fds = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let limit = number(&fs::read_to_string("/proc/self/limits").unwrap_or_default(), "Max open files");
    let lines = [
        ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", ticks(11) + ticks(12)),
        ("process_max_fds", "gauge", "Maximum number of open file descriptors.", limit),
        ("process_open_fds", "gauge", "Number of open file descriptors.", fds as f64),
        ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", number(&status, "VmRSS:") * 1024.0),
        ("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", boot + ticks(19)),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", number(&status, "VmSize:") * 1024.0),
    ];
    for (name, typ, help, value) in lines {
        head(out, name, typ, help);
        line(out, name, value);
    }
}

/// The first number after `label` at the start of a line.
fn number(text: &str, label: &str) -> f64 {
    let line = text.lines().find_map(|l| l.strip_prefix(label)).unwrap_or_default();
    line.split_whitespace().next().and_then(|w| w.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_counts_what_was_seen() {
        let metrics = Metrics::new();
        let named = Observed { verb: "GET", version: "v1", resource: "things", scope: "resource", ..Default::default() };
        let seen = Observed { code: 200, bytes: Some(2000), ..named };
        metrics.observe(&seen, Duration::from_millis(30));
        metrics.observe(&seen, Duration::from_millis(70));
        metrics.gauge("skiff_test", "A test.", || 4.0);
        let guard = metrics.enter(RequestKind::Mutating);
        metrics.observe(&Observed { code: 429, ..named }, Duration::ZERO);
        Metrics::authenticated(None, Duration::from_millis(3));
        Metrics::authenticated(Some("a@b.test"), Duration::ZERO);
        Metrics::authorized(true, Duration::from_millis(3));
        let text = metrics.text();
        let place = r#"component="apiserver",group="",resource="things",scope="resource",subresource="",verb="GET",version="v1""#;
        let labels =
            r#"component="apiserver",dry_run="",group="",resource="things",scope="resource",subresource="",verb="GET",version="v1""#;
        for line in [
            format!("apiserver_request_total{{{labels},code=\"200\"}} 2"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"0.05\"}} 2"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 3"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 1"),
            format!("apiserver_request_sli_duration_seconds_bucket{{{place},le=\"0.05\"}} 2"),
            format!("apiserver_request_sli_duration_seconds_count{{{place}}} 3"),
            format!("apiserver_response_sizes_bucket{{{place},le=\"1000\"}} 0"),
            format!("apiserver_response_sizes_bucket{{{place},le=\"1e+06\"}} 2"),
            format!("apiserver_response_sizes_sum{{{place}}} 4000"),
            format!("apiserver_request_terminations_total{{{place},code=\"429\"}} 1"),
            "apiserver_current_inflight_requests{request_kind=\"mutating\"} 1".into(),
            "skiff_test 4".into(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        // Other tests count in the same series.
        for name in [
            "authentication_attempts{result=\"error\"} ",
            "authentication_duration_seconds_bucket{result=\"error\",le=\"0.004\"} ",
            "authenticated_user_requests{username=\"email_id\"} ",
            "authorization_attempts_total{result=\"allowed\"} ",
            "authorization_duration_seconds_count{result=\"allowed\"} ",
        ] {
            let count = text.lines().find_map(|line| line.strip_prefix(name));
            assert!(count.is_some_and(|count| count != "0"), "{name}\n{text}");
        }
        assert!(!text.contains("sli_duration_seconds_bucket{component=\"apiserver\",group=\"\",resource=\"things\",scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"v1\",le=\"0.005\"}"));
        let memory = text.lines().find_map(|l| l.strip_prefix("process_resident_memory_bytes ")).unwrap();
        assert!(memory.parse::<f64>().unwrap() > 1e5, "{memory}");
        drop(guard);
        assert!(metrics.text().contains("{request_kind=\"mutating\"} 0"));
    }
}
