//! Questions to the cluster's DNS -> how many are answered each second.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Ctx, Found, up};
use crate::{
    report::{less, more},
    usage::Meter,
};

const ASKERS: usize = 4;
/// Questions in flight of each asker: less than a socket's buffer holds.
const WINDOW: usize = 32;
const ANSWER_BOUND: Duration = Duration::from_secs(2);
const NAME: &str = "kubernetes.default.svc.cluster.local";

pub async fn queries(ctx: &Ctx<'_>) -> Found {
    let node = up::node(ctx).await?;
    let mut pool = node.subject.pool(1).await?;
    let address = async |pool: &mut crate::load::Pool, path: &str| -> anyhow::Result<Ipv4Addr> {
        let service = pool.must("GET", path, &Value::Null).await?;
        Ok(service["spec"]["clusterIP"].as_str().context("the service has an address")?.parse()?)
    };
    let dns = address(&mut pool, "/api/v1/namespaces/kube-system/services/kube-dns").await?;
    let wanted = address(&mut pool, "/api/v1/namespaces/default/services/kubernetes").await?;
    let count = ctx.scale.of(20_000, 1_000_000);
    ask(dns, wanted, 100)?;
    let meter = Meter::start(&node.subject.pids);
    let mut askers = Vec::new();
    for _ in 0..ASKERS {
        askers.push(std::thread::spawn(move || ask(dns, wanted, count / ASKERS)));
    }
    let mut lost = 0;
    for asker in askers {
        lost += asker.join().map_err(|_| anyhow::anyhow!("an asker panicked"))??;
    }
    let spent = meter.stop();
    ensure!(lost < count / 1000, "{lost} of {count} questions were never answered");
    Ok(vec![
        more("answered", "queries/s", spent.per_second(count)).goal(80_000.0),
        less("each", "CPU-us", spent.cpu_ms_each(count) * 1000.0),
        less("never answered", "queries", lost as f64),
    ])
}

/// Asks so many times, each answer looked at; how many never came.
fn ask(dns: Ipv4Addr, wanted: Ipv4Addr, count: usize) -> anyhow::Result<usize> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(SocketAddr::from((dns, 53)))?;
    socket.set_read_timeout(Some(ANSWER_BOUND))?;
    let (mut answer, mut sent, mut answered, mut lost) = ([0_u8; 512], 0_usize, 0, 0);
    let begun = Instant::now();
    while answered + lost < count {
        while sent < count && sent - answered - lost < WINDOW {
            socket.send(&question(sent as u16))?;
            sent += 1;
        }
        match socket.recv(&mut answer) {
            Ok(length) => {
                check(&answer[..length], wanted)?;
                answered += 1;
            }
            Err(error) => {
                lost = sent - answered;
                ensure!(answered > 0, "no answer of {dns} after {:?}: {error}", begun.elapsed());
            }
        }
    }
    Ok(lost)
}

/// RFC 1035, 4.1: recursion desired, one question, type A, class IN.
fn question(id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in NAME.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// No error, one answer, and it ends with the address.
fn check(answer: &[u8], wanted: Ipv4Addr) -> anyhow::Result<()> {
    let whole = answer.len() > 12 && answer[3] & 0x0f == 0 && answer[7] == 1;
    let address = memchr::memmem::find(answer, &wanted.octets());
    ensure!(whole && address.is_some(), "a wrong answer: {answer:02x?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_answer_is_seen() {
        let asked = question(7);
        assert_eq!(asked.len(), 12 + NAME.len() + 2 + 4);
        let wanted = Ipv4Addr::new(10, 96, 0, 1);
        let mut answer = asked.clone();
        (answer[2], answer[7]) = (0x85, 1);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 96, 0, 1]);
        check(&answer, wanted).unwrap();
        assert!(check(&answer, Ipv4Addr::new(10, 96, 0, 2)).is_err());
        answer[3] = 3;
        assert!(check(&answer, wanted).is_err());
    }
}
