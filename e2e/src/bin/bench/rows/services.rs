//! The service proxy alone, in a network namespace of its own: all services from nothing, one change, a first packet.

use std::time::Duration;

use anyhow::{anyhow, bail, ensure};
use proxy::Mode;

use super::{Ctx, Found, Skip};
use crate::report::{Figure, less};

/// More of them take iptables minutes, if it ends at all.
const IPTABLES_MAX: usize = 10_000;

/// Not the server's: the proxy is the one this program was built with.
pub async fn alone(ctx: &Ctx<'_>) -> Found {
    if !rustix::process::geteuid().is_root() {
        bail!(Skip("needs root, for a network namespace".into()));
    }
    if !std::ptr::eq(ctx.side, &ctx.args.sides[0]) {
        bail!(Skip("measures the proxy of this checkout, which is no side".into()));
    }
    let sizes = [ctx.scale.of(20, 1000), ctx.scale.of(100, 10_000), ctx.scale.of(200, 30_000)];
    let mut figures = Vec::new();
    for (mode, name) in [(Mode::Nftables, "nftables"), (Mode::Iptables, "iptables")] {
        for (at, services) in sizes.into_iter().enumerate() {
            if mode == Mode::Iptables && services > IPTABLES_MAX {
                figures.push(less(format!("{name}, {services}: left out, it takes minutes"), "times", 1.0));
                continue;
            }
            let measured = tokio::task::spawn_blocking(move || proxy::bench::measure(mode, services)).await?;
            let measured = match measured.map_err(|error| error.to_string()) {
                // Too slow is no wrong result; with more services it would be slower still.
                Err(text) if text.contains("no end after") => {
                    figures.push(less(format!("{name}, {services}: not done within its bound"), "times", 1.0));
                    break;
                }
                other => other.map_err(|error| anyhow!("{name}, {services} services: {error}"))?,
            };
            ensure!(measured.services == services && !measured.change.is_empty() && !measured.first_packet.is_empty(), "{measured:?}");
            let named = |what: &str| format!("{name}, {services}: {what}");
            let mut cold = less(named("cold"), "ms", millis(measured.cold));
            let mut change = less(named("one change, p50"), "ms", middle(&measured.change));
            match (mode, at) {
                (Mode::Nftables, 1) => (cold.goal, change.goal) = (Some(1500.0), Some(5.0)),
                (Mode::Iptables, 0) => change.goal = Some(50.0),
                _ => {}
            }
            let packet: Figure = less(named("first packet, p50"), "ms", middle(&measured.first_packet));
            figures.extend([cold, change, packet]);
        }
    }
    Ok(figures)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Of a sorted list that is not empty.
fn middle(sorted: &[Duration]) -> f64 {
    sorted.get(sorted.len() / 2).copied().map_or(0.0, millis)
}
