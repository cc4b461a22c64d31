//! Flags -> when and how far HorizontalPodAutoscalers scale.

use std::time::Duration;

use clap::Args;

use super::nodes::time;

/// When and how far HorizontalPodAutoscalers scale. Names and defaults are kube-controller-manager's.
#[derive(Args, Clone, Debug)]
pub struct AutoscalingFlags {
    /// How often each HorizontalPodAutoscaler is looked at
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = time)]
    pub horizontal_pod_autoscaler_sync_period: Duration,
    /// For so long after a higher number was wanted replicas are not taken away (where the autoscaler does not say itself)
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = time_or_none)]
    pub horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// By what part of its target a metric may differ before anything is scaled (where the autoscaler does not say itself)
    #[arg(long, value_name = "PART", default_value_t = 0.1, value_parser = part)]
    pub horizontal_pod_autoscaler_tolerance: f64,
    /// For so long after its start the CPU time of a pod that is not ready, or was not for a whole measurement, does not count
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = time_or_none)]
    pub horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// A pod that was not ready again after this time since its start is one that was ready before
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time_or_none)]
    pub horizontal_pod_autoscaler_initial_readiness_delay: Duration,
}

impl AutoscalingFlags {
    pub fn config(&self) -> controllers::AutoscalerConfig {
        controllers::AutoscalerConfig {
            sync_period: self.horizontal_pod_autoscaler_sync_period,
            downscale_stabilization: self.horizontal_pod_autoscaler_downscale_stabilization,
            tolerance: self.horizontal_pod_autoscaler_tolerance,
            cpu_initialization: self.horizontal_pod_autoscaler_cpu_initialization_period,
            initial_readiness_delay: self.horizontal_pod_autoscaler_initial_readiness_delay,
        }
    }
}

fn time_or_none(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") { Ok(Duration::ZERO) } else { time(text) }
}

fn part(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    number.ok_or_else(|| "it must be a number that is not negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoscalers_scale_as_the_flags_say() {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            flags: AutoscalingFlags,
        }
        let parsed = |args: &[&str]| {
            let all = ["skiff"].into_iter().map(str::to_owned).chain(args.iter().map(|arg| format!("--horizontal-pod-autoscaler-{arg}")));
            <Alone as clap::Parser>::try_parse_from(all).map(|alone| alone.flags.config())
        };
        assert_eq!(parsed(&[]).unwrap(), controllers::AutoscalerConfig::default());
        let other = parsed(&["sync-period=5s", "downscale-stabilization=0s", "tolerance=0", "initial-readiness-delay=1m"]).unwrap();
        assert_eq!((other.sync_period.as_secs(), other.downscale_stabilization.as_secs(), other.tolerance), (5, 0, 0.0));
        assert_eq!(other.initial_readiness_delay.as_secs(), 60);
        for bad in ["sync-period=0s", "sync-period=5", "tolerance=-1", "tolerance=NaN", "downscale-stabilization=-1s"] {
            assert!(parsed(&[bad]).is_err(), "{bad}");
        }
    }
}
