//! Questions in flight -> what the DNS server alone answers, and at what price: `cargo run --profile bench -p proxy --example dns -- 1000000`.

use std::{
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    time::Instant,
};

use proxy::dns::load;

const SERVER: &str = "127.53.0.10:15353";
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const ASKERS: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: usize| args.get(at).and_then(|word| word.parse().ok()).unwrap_or(or);
    if args.first().is_some_and(|word| word == "serve") {
        return serve();
    }
    let (count, window) = (number(0, 1_000_000), number(1, 32));
    let mut server = Command::new(std::env::current_exe()?).arg("serve").stdout(Stdio::piped()).stdin(Stdio::piped()).spawn()?;
    BufReader::new(server.stdout.take().ok_or("no output")?).read_line(&mut String::new())?;
    let (before, begun) = (cpu(server.id())?, Instant::now());
    let askers: Vec<_> = (0..ASKERS).map(|_| std::thread::spawn(move || ask(count / ASKERS, window))).collect();
    let mut lost = 0;
    for asker in askers {
        lost += asker.join().map_err(|_| "an asker panicked")??;
    }
    let (after, elapsed) = (cpu(server.id())?, begun.elapsed());
    let own = cpu(std::process::id())?;
    let each = |ticks: u64| ticks as f64 * 10_000.0 / count as f64;
    println!(
        "{:.0} queries/s, {lost} lost; server {:.2} CPU-us each ({:.2} user), askers {:.2}",
        count as f64 / elapsed.as_secs_f64(),
        each(after.0 + after.1 - before.0 - before.1),
        each(after.0 - before.0),
        each(own.0 + own.1)
    );
    drop(server.stdin.take());
    server.wait()?;
    Ok(())
}

/// Until its input ends.
fn serve() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let runtime = tokio::runtime::Runtime::new()?;
    let group = api::task::Group::new();
    runtime.block_on(load::serve(SERVER.parse()?, SERVICE.into(), &group))?;
    println!("{}", std::process::id());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    group.stop();
    Ok(())
}

fn ask(count: usize, window: usize) -> io::Result<usize> {
    let server: SocketAddr = SERVER.parse().map_err(io::Error::other)?;
    load::ask(server, &question(), count, window, |answer| {
        let right = answer.len() > 12 && answer.get(7) == Some(&1) && answer.ends_with(&SERVICE.octets());
        if right { Ok(()) } else { Err(io::Error::other(format!("a wrong answer: {answer:02x?}"))) }
    })
}

fn question() -> Vec<u8> {
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in "kubernetes.default.svc.cluster.local".split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// User and system time, in ticks of 10 ms.
fn cpu(pid: u32) -> io::Result<(u64, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let mut fields = stat.rsplit(") ").next().unwrap_or("").split(' ').skip(11).filter_map(|f| f.parse().ok());
    Ok((fields.next().unwrap_or(0), fields.next().unwrap_or(0)))
}
