//! Flags -> when nodes and their pods are given up.

use std::time::Duration;

use clap::Args;

/// Ten years, as the cluster's authority lasts: nothing that has a flag takes longer.
const TIME_MAX_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// When nodes and their pods are given up. Names and defaults are kube-controller-manager's.
#[derive(Args, Clone, Debug)]
pub struct NodesFlags {
    /// A node that is not heard of for so long is not ready
    #[arg(long, value_name = "TIME", default_value = "50s", value_parser = time)]
    pub node_monitor_grace_period: Duration,
    /// The same for a node that has never said how it is
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = time)]
    pub node_startup_grace_period: Duration,
    /// Nodes per second, in each zone, that are given up once they are not ready (their pods go after their tolerationSeconds)
    #[arg(long, value_name = "RATE", default_value_t = 0.1, value_parser = rate)]
    pub node_eviction_rate: f32,
    /// The same in a large zone most of whose nodes are not ready; in a small one it is none
    #[arg(long, value_name = "RATE", default_value_t = 0.01, value_parser = rate)]
    pub secondary_node_eviction_rate: f32,
    /// The part of a zone's nodes that has to be not ready (at least three) for the zone to be unhealthy
    #[arg(long, value_name = "PART", default_value_t = 0.55, value_parser = rate)]
    pub unhealthy_zone_threshold: f32,
    /// A zone of more nodes is large
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub large_cluster_size_threshold: usize,
    /// Terminated pods that may be kept; beyond that the oldest are deleted (0: all are kept)
    #[arg(long, value_name = "N", default_value_t = controllers::TERMINATED_PODS_MAX)]
    pub terminated_pod_gc_threshold: usize,
}

impl NodesFlags {
    pub fn config(&self) -> controllers::NodeConfig {
        controllers::NodeConfig {
            monitor_grace: self.node_monitor_grace_period,
            startup_grace: self.node_startup_grace_period,
            eviction_rate: self.node_eviction_rate,
            secondary_eviction_rate: self.secondary_node_eviction_rate,
            unhealthy_zone_threshold: self.unhealthy_zone_threshold,
            large_cluster_size: self.large_cluster_size_threshold,
        }
    }
}

/// A span of time as Go writes it: `50s`, `1m30s`, `1h`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "it must be a time, as in 50s or 1m30s".to_owned();
    let (mut rest, mut seconds) = (text, 0u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            _ => return Err(wrong()),
        };
        seconds = number.checked_mul(unit).and_then(|s| s.checked_add(seconds)).filter(|s| *s <= TIME_MAX_SECONDS).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    if seconds == 0 { Err("it must be longer than nothing".to_owned()) } else { Ok(Duration::from_secs(seconds)) }
}

fn rate(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    number.ok_or_else(|| "it must be a number that is not negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_given_up_as_the_flags_say() {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            nodes: NodesFlags,
        }
        let parsed = |args: &[&str]| {
            let all = ["skiff"].iter().chain(args);
            <Alone as clap::Parser>::try_parse_from(all).map(|alone| alone.nodes.config())
        };
        let (default, upstream) = (parsed(&[]).unwrap(), controllers::NodeConfig::default());
        assert_eq!(format!("{default:?}"), format!("{upstream:?}"));
        let args = ["--node-monitor-grace-period=1m30s", "--node-eviction-rate=0", "--large-cluster-size-threshold=3"];
        let other = parsed(&args).unwrap();
        assert_eq!((other.monitor_grace, other.large_cluster_size), (Duration::from_secs(90), 3));
        for bad in [
            "grace-period=50",
            "grace-period=",
            "grace-period=0s",
            "grace-period=-1s",
            "grace-period=1d",
            "grace-period=99999999999999999999h",
        ] {
            assert!(parsed(&[&format!("--node-monitor-{bad}")]).is_err(), "{bad}");
        }
        for bad in ["-1", "NaN", "inf", "much"] {
            assert!(parsed(&[&format!("--node-eviction-rate={bad}")]).is_err(), "{bad}");
        }
    }
}
