//! Flags -> how long requests may take, and how connections and the process end. Names and defaults are kube-apiserver's
//! (`pkg/server/options/server_run_options.go`).

use std::time::Duration;

use api::time::go_duration;
use apiserver::front::Timeouts;
use clap::Args;

/// How long requests may take, and how connections and the process end.
#[derive(Args, Clone, Debug)]
pub struct ProtectionFlags {
    /// How long a request may take, watches and other streams apart; one that says `?timeout=` itself gets no more
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = some_time)]
    pub request_timeout: Duration,
    /// Seconds that a watch lasts at least if it does not say how long; at most twice that
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub min_request_timeout: u32,
    /// Of the requests over HTTP/2, the part that ends its connection (GOAWAY), so that clients come to other servers behind a load balancer: 0 (none) to 0.02
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = goaway_chance)]
    pub goaway_chance: f64,
    /// For so long after the start /livez does not mind what is not finished yet
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time)]
    pub livez_grace_period: Duration,
    /// For so long after it was told to end the server goes on serving, while /readyz already fails
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time)]
    pub shutdown_delay_duration: Duration,
}

impl ProtectionFlags {
    pub fn timeouts(&self) -> Timeouts {
        Timeouts { request: self.request_timeout, watch: Duration::from_secs(self.min_request_timeout.into()) }
    }
}

/// A day is enough for each of them.
const DAY: Duration = Duration::from_secs(86_400);

fn time(text: &str) -> Result<Duration, String> {
    let nanos = u64::try_from(go_duration(text)?).map_err(|_| "can not be a negative value")?;
    Some(Duration::from_nanos(nanos)).filter(|time| *time <= DAY).ok_or_else(|| "at most a day (24h)".to_owned())
}

pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    time(text).and_then(|time| if time.is_zero() { Err("it must be positive".to_owned()) } else { Ok(time) })
}

fn goaway_chance(text: &str) -> Result<f64, String> {
    let chance: f64 = text.parse().map_err(|_| "it must be a number")?;
    if (0.0..=0.02).contains(&chance) { Ok(chance) } else { Err("can not be less than 0 or greater than 0.02".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_chances_are_bounded() {
        assert_eq!(some_time("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("0s"), Ok(Duration::ZERO));
        for bad in ["", "60", "-1s", "25h"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        assert!(some_time("0s").is_err());
        assert_eq!([goaway_chance("0"), goaway_chance("0.02")], [Ok(0.0), Ok(0.02)]);
        for bad in ["-0.001", "0.021", "NaN", "inf", "x"] {
            assert!(goaway_chance(bad).is_err(), "{bad}");
        }
    }
}
