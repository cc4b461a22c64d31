//! A sample -> Prometheus' text form. Names, labels and units of `pkg/kubelet/metrics/collectors/resource_metrics.go` and of cAdvisor's
//! `metrics/prometheus.go`.

use std::fmt::Write as _;

use api::time::Timestamp;

use super::{
    network,
    sample::{ContainerSample, Measured, PodSample, Sample},
};

/// A value, and when it was read where that is said.
type Reading = (String, Option<Timestamp>);

/// One family: its name, what kind of number it is, and what it says (upstream's registry begins with how stable it is, cAdvisor does not).
struct Family {
    name: &'static str,
    typ: &'static str,
    help: &'static str,
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, typ: "gauge", help }
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, typ: "counter", help }
}

/// `/metrics/resource`. `None`: nothing could be read.
pub fn resource(sample: Option<&Sample>) -> String {
    let mut out = String::new();
    if let Some(sample) = sample {
        containers_part(&mut out, sample);
        node_part(&mut out, sample);
        pods_part(&mut out, sample);
    }
    let failed = u64::from(sample.is_none());
    let families = [
        gauge("resource_scrape_error", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise"),
        gauge("scrape_error", "[ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container metrics, 0 otherwise"),
    ];
    for family in families {
        family.lines(&mut out, std::iter::once((String::new(), failed.to_string(), None)));
    }
    out
}

fn containers_part(out: &mut String, sample: &Sample) {
    let each = |out: &mut String, family: &Family, value: &dyn Fn(&ContainerSample) -> Option<Reading>| {
        let all = sample.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
        let lines = all.filter_map(|(pod, container)| {
            let (value, at) = value(container)?;
            let (namespace, pod, name) = (&pod.namespace, &pod.name, &container.name);
            Some((format!("container=\"{name}\",namespace=\"{namespace}\",pod=\"{pod}\""), value, at))
        });
        family.lines(out, lines);
    };
    each(
        out,
        &counter("container_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the container in core-seconds"),
        &|c| Some((seconds(&c.usage), Some(c.usage.at))),
    );
    each(out, &gauge("container_memory_working_set_bytes", "[STABLE] Current working set of the container in bytes"), &|c| {
        Some((c.usage.usage.memory.working_set_bytes.to_string(), Some(c.usage.at)))
    });
    each(out, &gauge("container_start_time_seconds", "[STABLE] Start time of the container since unix epoch in seconds"), &|c| {
        Some((c.started?.as_second().to_string(), None))
    });
    let swap = "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems";
    each(out, &gauge("container_swap_usage_bytes", swap), &|c| Some((c.usage.usage.memory.swap_bytes?.to_string(), Some(c.usage.at))));
}

fn node_part(out: &mut String, sample: &Sample) {
    let node = &sample.node;
    let memory = node.usage.memory;
    let one = |value: String| [(String::new(), value, Some(node.at))].into_iter();
    counter("node_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the node in core-seconds")
        .lines(out, one(seconds(node)));
    gauge("node_memory_working_set_bytes", "[STABLE] Current working set of the node in bytes")
        .lines(out, one(memory.working_set_bytes.to_string()));
    if let Some(swap) = memory.swap_bytes {
        let help = "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems";
        gauge("node_swap_usage_bytes", help).lines(out, one(swap.to_string()));
    }
}

fn pods_part(out: &mut String, sample: &Sample) {
    let each = |out: &mut String, family: &Family, value: &dyn Fn(&Measured) -> Option<String>| {
        let lines = sample.pods.iter().filter_map(|pod| {
            let usage = pod.usage.as_ref()?;
            Some((format!("namespace=\"{}\",pod=\"{}\"", pod.namespace, pod.name), value(usage)?, Some(usage.at)))
        });
        family.lines(out, lines);
    };
    each(out, &counter("pod_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds"), &|m| {
        Some(seconds(m))
    });
    each(out, &gauge("pod_memory_working_set_bytes", "[STABLE] Current working set of the pod in bytes"), &|m| {
        Some(m.usage.memory.working_set_bytes.to_string())
    });
    let swap = "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems";
    each(out, &gauge("pod_swap_usage_bytes", swap), &|m| Some(m.usage.memory.swap_bytes?.to_string()));
}

/// `/metrics/cadvisor`: of each family one line for each container, each pod (without a container's name) and the node (`id="/"`).
pub fn cadvisor(sample: &Sample) -> String {
    type Value = fn(&Measured) -> Option<String>;
    let families: [(Family, Value); 8] = [
        (counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds."), |m| Some(seconds(m))),
        (
            gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed"),
            |m| Some(m.usage.memory.usage_bytes.to_string()),
        ),
        (gauge("container_memory_working_set_bytes", "Current working set in bytes."), |m| {
            Some(m.usage.memory.working_set_bytes.to_string())
        }),
        (gauge("container_memory_rss", "Size of RSS in bytes."), |m| Some(m.usage.memory.rss_bytes.to_string())),
        (gauge("container_memory_swap", "Container swap usage in bytes."), |m| Some(m.usage.memory.swap_bytes?.to_string())),
        (gauge("container_spec_memory_limit_bytes", "Memory limit for the container."), |m| {
            Some(m.usage.memory.limit_bytes.unwrap_or_default().to_string())
        }),
        (counter("container_memory_major_page_faults_total", "Cumulative count of major page faults."), |m| {
            Some(m.usage.memory.major_page_faults.to_string())
        }),
        (gauge("container_processes", "Number of processes running inside the container."), |m| Some(m.usage.processes?.to_string())),
    ];
    let mut out = String::new();
    for (family, value) in families {
        let lines = places(sample).filter_map(|(labels, measured)| Some((labels, value(measured)?, Some(measured.at))));
        family.lines(&mut out, lines);
    }
    networks(&mut out, sample);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    gauge("machine_cpu_cores", "Number of logical CPU cores.").lines(&mut out, [(String::new(), cpus.to_string(), None)].into_iter());
    out
}

/// Labels as cAdvisor has them, with those of upstream's node agent (`containerPrometheusLabelsFunc` in `pkg/kubelet/server/server.go`).
fn places(sample: &Sample) -> impl Iterator<Item = (String, &Measured)> {
    let of = |container: &str, id: &str, image: &str, name: &str, pod: Option<&PodSample>| {
        let (namespace, pod) = pod.map_or(("", ""), |pod| (pod.namespace.as_str(), pod.name.as_str()));
        let image = escaped(image);
        format!("container=\"{container}\",id=\"{id}\",image=\"{image}\",name=\"{name}\",namespace=\"{namespace}\",pod=\"{pod}\"")
    };
    let node = std::iter::once((of("", "/", "", "", None), &sample.node));
    let pods =
        sample.pods.iter().filter_map(move |pod| Some((of("", &format!("/pod{}", pod.uid), "", "", Some(pod)), pod.usage.as_ref()?)));
    let containers = sample.pods.iter().flat_map(move |pod| {
        let one = move |c: &ContainerSample| of(&c.name, &format!("/pod{}/{}", pod.uid, c.id), &c.image, &c.id, Some(pod));
        pod.containers.iter().map(move |container| (one(container), &container.usage))
    });
    node.chain(pods).chain(containers)
}

fn networks(out: &mut String, sample: &Sample) {
    let with_network = sample.pods.iter().filter_map(|pod| Some((pod, network::interfaces(Some(pod.network_process?)))));
    let pods: Vec<_> = with_network.collect();
    type Value = fn(&network::Interface) -> u64;
    let families: [(Family, Value); 4] = [
        (counter("container_network_receive_bytes_total", "Cumulative count of bytes received"), |i| i.rx_bytes),
        (counter("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving"), |i| i.rx_errors),
        (counter("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted"), |i| i.tx_bytes),
        (counter("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting"), |i| i.tx_errors),
    ];
    for (family, value) in families {
        let each = pods.iter().flat_map(|(pod, interfaces)| interfaces.iter().map(move |interface| (pod, interface)));
        let lines = each.map(|(pod, interface)| {
            let (id, namespace, name) = (&pod.uid, &pod.namespace, &pod.name);
            let labels = format!(
                "container=\"\",id=\"/pod{id}\",image=\"\",interface=\"{}\",name=\"\",namespace=\"{namespace}\",pod=\"{name}\"",
                escaped(&interface.name)
            );
            (labels, value(interface).to_string(), None)
        });
        family.lines(out, lines);
    }
}

impl Family {
    fn head(&self, out: &mut String) {
        let Self { name, typ, help } = self;
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {typ}");
    }

    /// Labels, value and time of each; nothing at all where there are none.
    fn lines(&self, out: &mut String, lines: impl Iterator<Item = (String, String, Option<Timestamp>)>) {
        let mut is_begun = false;
        for (labels, value, at) in lines {
            if !is_begun {
                self.head(out);
                is_begun = true;
            }
            out.push_str(self.name);
            if !labels.is_empty() {
                let _ = write!(out, "{{{labels}}}");
            }
            let _ = write!(out, " {value}");
            if let Some(at) = at {
                let _ = write!(out, " {}", at.as_millisecond());
            }
            out.push('\n');
        }
    }
}

fn seconds(measured: &Measured) -> String {
    let nano = measured.usage.cpu_nano;
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

/// Names of objects need none of this: they are DNS labels.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::{Memory, Usage};

    fn sample() -> Sample {
        let at = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        let measured = |cpu_nano, working_set_bytes| Measured {
            at,
            usage: Usage { cpu_nano, memory: Memory { working_set_bytes, ..Memory::default() }, processes: Some(2) },
        };
        let container = ContainerSample {
            name: "c".into(),
            id: "abc".into(),
            image: "nginx:\"1\"".into(),
            started: Some(Timestamp::from_second(1_699_999_000).unwrap()),
            log_path: "/nowhere".into(),
            usage: measured(1_500_000_000, 4096),
        };
        let pod = PodSample {
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u".into(),
            started: None,
            usage: Some(measured(1_600_000_001, 8192)),
            network_process: None,
            containers: vec![container],
        };
        Sample { node: measured(99_000_000_000, 1 << 30), all_pods: None, pods: vec![pod] }
    }

    #[test]
    fn lines_are_upstreams() {
        let text = resource(Some(&sample()));
        for line in [
            "# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds",
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.500000000 1700000000123",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 4096 1700000000123",
            "container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 1699999000",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 1.600000001 1700000000123",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 8192 1700000000123",
            "node_cpu_usage_seconds_total 99.000000000 1700000000123",
            "node_memory_working_set_bytes 1073741824 1700000000123",
            "resource_scrape_error 0",
            "scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("swap"), "it is not counted: {text}");
        assert!(resource(None).contains("\nresource_scrape_error 1\n"));
        assert!(!resource(None).contains("cpu"));
    }

    #[test]
    fn cadvisors_lines_say_whose_they_are() {
        let text = cadvisor(&sample());
        for line in [
            "container_memory_working_set_bytes{container=\"\",id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\"} 1073741824 1700000000123",
            "container_memory_working_set_bytes{container=\"\",id=\"/podu\",image=\"\",name=\"\",namespace=\"ns\",pod=\"p\"} 8192 1700000000123",
            "container_processes{container=\"c\",id=\"/podu/abc\",image=\"nginx:\\\"1\\\"\",name=\"abc\",namespace=\"ns\",pod=\"p\"} 2 1700000000123",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
