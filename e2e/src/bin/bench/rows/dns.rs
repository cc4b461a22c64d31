//! Questions to the cluster's DNS -> how many are answered each second.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context, ensure};
use proxy::dns::load;
use serde_json::Value;

use super::{Ctx, Found, up};
use crate::{
    report::{less, more},
    usage::Meter,
};

const ASKERS: usize = 4;
/// Questions in flight of each asker: less than a socket's buffer holds.
const WINDOW: usize = 32;
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
    ensure!(lost == 0, "{lost} of {count} questions were never answered");
    Ok(vec![
        more("answered", "queries/s", spent.per_second(count)).goal(80_000.0),
        less("each", "CPU-us", spent.cpu_ms_each(count) * 1000.0),
    ])
}

/// Asks so many times, each answer looked at; how many never came.
fn ask(dns: Ipv4Addr, wanted: Ipv4Addr, count: usize) -> io::Result<usize> {
    load::ask(SocketAddr::from((dns, 53)), &question(), count, WINDOW, |answer| check(answer, wanted).map_err(io::Error::other))
}

/// RFC 1035, 4.1: recursion desired, one question, type A, class IN.
fn question() -> Vec<u8> {
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
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
        let asked = question();
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
