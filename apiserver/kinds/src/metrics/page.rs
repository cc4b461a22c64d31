//! An agent's `/metrics/resource` -> readings. What it says beyond them, or not well, is passed over. Source: metrics-server
//! `pkg/scraper/client/resource/decode.go`.

use std::collections::{BTreeMap, HashMap};

use api::Key;

/// Containers that one node is heard about.
const CONTAINERS_MAX: usize = 8192;

/// One reading of a node's or a container's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Milliseconds since 1970, as is `at_ms`.
    pub start_ms: Option<i64>,
    pub at_ms: i64,
    pub cpu_nano: u64,
    /// The working set.
    pub memory_bytes: u64,
}

#[derive(Debug, Default)]
pub struct Page {
    pub node: Option<Point>,
    /// By the container's name.
    pub pods: HashMap<Key, BTreeMap<Box<str>, Point>>,
}

#[derive(Clone, Copy)]
enum Number {
    Cpu,
    Memory,
    Start,
}

const FAMILIES: [(&str, Number); 3] = [
    ("container_cpu_usage_seconds_total", Number::Cpu),
    ("container_memory_working_set_bytes", Number::Memory),
    ("container_start_time_seconds", Number::Start),
];

/// `is_here` says whether a pod is the node's own: others are left out. `now_ms` is when a reading without a time was made.
pub fn parse(text: &str, now_ms: i64, is_here: impl Fn(&Key) -> bool) -> Page {
    let (mut page, mut node, mut count) = (Page::default(), Point::default(), 0);
    // Pods that were asked about.
    let mut known: HashMap<Key, bool> = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value, at_ms)) = split(line, now_ms) else { continue };
        match series {
            "node_cpu_usage_seconds_total" => node.take(Number::Cpu, value, at_ms),
            "node_memory_working_set_bytes" => node.take(Number::Memory, value, at_ms),
            _ => {}
        }
        let Some((labels, number)) =
            FAMILIES.iter().find_map(|(name, number)| Some((series.strip_prefix(name)?.strip_prefix('{')?, *number)))
        else {
            continue;
        };
        let Some((key, container)) = named(labels) else { continue };
        if known.len() >= CONTAINERS_MAX || !*known.entry(key.clone()).or_insert_with_key(&is_here) {
            continue;
        }
        let containers = page.pods.entry(key).or_default();
        if let Some(point) = containers.get_mut(container) {
            point.take(number, value, at_ms);
        } else if count < CONTAINERS_MAX {
            containers.entry(container.into()).or_default().take(number, value, at_ms);
            count += 1;
        }
    }
    page.node = Some(node).filter(Point::is_whole);
    // One container of which not all is known makes the sum of its pod wrong (`checkContainerMetrics`).
    page.pods.retain(|_, containers| containers.values().all(Point::is_whole));
    page
}

impl Point {
    fn take(&mut self, number: Number, value: f64, at_ms: i64) {
        // What is no number or out of range becomes the nearest that is.
        match number {
            Number::Cpu => (self.cpu_nano, self.at_ms) = ((value * 1e9) as u64, at_ms),
            Number::Memory => self.memory_bytes = value as u64,
            Number::Start => self.start_ms = Some((value * 1e3) as i64),
        }
    }

    fn is_whole(&self) -> bool {
        self.cpu_nano > 0 && self.memory_bytes > 0 && self.at_ms > 0
    }
}

/// `name{labels} value [milliseconds]`; no value of a label that is a name has a space in it.
fn split(line: &str, now_ms: i64) -> Option<(&str, f64, i64)> {
    let mut words = line.split(' ');
    let (series, value) = (words.next()?, words.next()?.parse().ok()?);
    let at_ms = match words.next() {
        Some(at) => at.parse().ok()?,
        None => now_ms,
    };
    Some((series, value, at_ms))
}

/// `container="c",namespace="ns",pod="p"}` in any order -> pod and container.
fn named(labels: &str) -> Option<(Key, &str)> {
    let (mut container, mut namespace, mut pod) = ("", "", "");
    for label in labels.strip_suffix('}')?.split(',') {
        let (name, value) = label.split_once('=')?;
        let value = value.strip_prefix('"')?.strip_suffix('"')?;
        match name {
            "container" => container = value,
            "namespace" => namespace = value,
            "pod" => pod = value,
            _ => {}
        }
    }
    let is_named = !container.is_empty() && !namespace.is_empty() && !pod.is_empty();
    is_named.then(|| (Key::new(namespace, pod), container))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"p\"} 1.5e+00 1700000000123
container_cpu_usage_seconds_total{pod=\"p\",container=\"b\",namespace=\"ns\"} 2 1700000000124
container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"elsewhere\"} 2 1700000000124
container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"half\"} 2 1700000000124
container_memory_working_set_bytes{container=\"a\",namespace=\"ns\",pod=\"p\"} 4096 1700000000123
container_memory_working_set_bytes{container=\"b\",namespace=\"ns\",pod=\"p\"} 1e+06 1700000000124
container_memory_working_set_bytes{container=\"a\",namespace=\"ns\",pod=\"elsewhere\"} 4096 1700000000123
container_start_time_seconds{container=\"a\",namespace=\"ns\",pod=\"p\"} 1.6999990005e+09
node_cpu_usage_seconds_total 99 1700000000125
node_memory_working_set_bytes 1.073741824e+09 1700000000125
pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 3.5 1700000000123
resource_scrape_error 0
";

    fn here(key: &Key) -> bool {
        key.name != "elsewhere"
    }

    #[test]
    fn a_page_is_read() {
        let page = parse(PAGE, 7, here);
        let wanted = Point { start_ms: None, at_ms: 1_700_000_000_125, cpu_nano: 99_000_000_000, memory_bytes: 1 << 30 };
        assert_eq!(page.node, Some(wanted));
        let a = Point { start_ms: Some(1_699_999_000_500), at_ms: 1_700_000_000_123, cpu_nano: 1_500_000_000, memory_bytes: 4096 };
        let b = Point { start_ms: None, at_ms: 1_700_000_000_124, cpu_nano: 2_000_000_000, memory_bytes: 1_000_000 };
        assert_eq!(page.pods, [(Key::new("ns", "p"), [("a".into(), a), ("b".into(), b)].into())].into());
    }

    #[test]
    fn what_is_not_well_formed_is_passed_over() {
        for bad in [
            "node_cpu_usage_seconds_total",
            "node_cpu_usage_seconds_total x 1",
            "node_cpu_usage_seconds_total NaN 1\nnode_memory_working_set_bytes -1 1",
            "container_cpu_usage_seconds_total{ 1 1",
            "container_cpu_usage_seconds_total{container=a,namespace=b,pod=c} 1 1",
            "container_cpu_usage_seconds_total{container=\"\",namespace=\"b\",pod=\"c\"} 1 1",
            "\u{0}{}\u{fffd}",
        ] {
            let page = parse(bad, 1, here);
            assert!(page.node.is_none() && page.pods.is_empty(), "{bad}: {page:?}");
        }
    }

    #[test]
    fn a_node_is_heard_about_so_many_containers() {
        let line = |n: usize| {
            format!(
                "container_cpu_usage_seconds_total{{container=\"c{n}\",namespace=\"ns\",pod=\"p\"}} 1 1\ncontainer_memory_working_set_bytes{{container=\"c{n}\",namespace=\"ns\",pod=\"p\"}} 1 1\n"
            )
        };
        let many: String = (0..CONTAINERS_MAX + 5).map(line).collect();
        assert_eq!(parse(&many, 1, here).pods[&Key::new("ns", "p")].len(), CONTAINERS_MAX);
    }
}
