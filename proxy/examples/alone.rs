//! Services and a mode -> the proxy's figures, printed: `cargo run --profile bench -p proxy --example alone -- nftables 10000`.

fn main() {
    let mut args = std::env::args().skip(1);
    let mode = args.next().and_then(|word| word.parse().ok()).unwrap_or_default();
    let services = args.next().and_then(|word| word.parse().ok()).unwrap_or(1000);
    match proxy::bench::measure(mode, services) {
        Ok(f) => {
            let middle = |all: &[std::time::Duration]| all.get(all.len() / 2).copied().unwrap_or_default();
            let (change, worst) = (middle(&f.change), f.change.last().copied().unwrap_or_default());
            println!(
                "{mode} {services} services: cold {:?}, change p50 {change:?} max {worst:?}, connect p50 {:?}",
                f.cold,
                middle(&f.first_packet)
            );
        }
        Err(error) => {
            eprintln!("{mode}: {error}");
            std::process::exit(1);
        }
    }
}
