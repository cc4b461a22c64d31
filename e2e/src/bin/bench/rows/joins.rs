//! A token and N machines that are switched on at once -> all of them nodes with certificates: what that takes, and who pays.
//!
//! The machines are hollow, but for what joining is: each has a key, connections, requests for certificates and watches of its own.

use std::{path::Path, time::Instant};

use anyhow::{Context, ensure};
use tokio::process::Command;

use super::{Ctx, Found, hollow, hollow::Hollow, scale};
use crate::{
    report::less,
    subject::Subject,
    usage::{Meter, usage},
};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

pub async fn by_token(ctx: &Ctx<'_>) -> Found {
    let bin = ctx.binary()?;
    let subject = ctx.subject_with(&scale::WIDE).await?;
    let count = ctx.scale.of(50, 2000);
    let before = usage(&subject.pids);
    let token = token(&bin, &subject).await?;
    let (begun, meter) = (Instant::now(), Meter::start(&subject.pids));
    let mut hollow = Hollow::join(ctx, &subject, count, &token).await?;
    hollow.said("hollow nodes are registered").await?;
    let registered = begun.elapsed();
    hollow.said("hollow nodes are certified").await?;
    let (certified, spent) = (begun.elapsed(), meter.stop());
    let machines = usage(&[hollow.pid()?]);
    hollow::until_usable(&subject, count).await?;
    hollow::all_ready(&subject, count).await?;
    scale::check_nodes(&subject, count).await?;
    check_requests(&subject, count).await?;
    let both = spent.cpu_ms + machines.cpu_ms;
    Ok(vec![
        less("all registered", "s", registered.as_secs_f64()),
        less("all registered and certified", "s", certified.as_secs_f64()).goal(10.0),
        less("each node: server", "CPU-ms", spent.cpu_ms_each(count)),
        less("each node: the machine's own", "CPU-ms", machines.cpu_ms / count as f64),
        less("the machines' share of the time", "%", machines.cpu_ms / both * 100.0),
        less("server: resident before", "MiB", before.rss_kib as f64 / 1024.0),
        less("server: resident, with a connection and two watches of each", "MiB", usage(&subject.pids).rss_kib as f64 / 1024.0),
        less("server: peak", "MiB", spent.after.peak_kib as f64 / 1024.0),
        less("machines: resident", "MiB", machines.rss_kib as f64 / 1024.0),
    ])
}

/// A lasting one, with the hash of the CA.
async fn token(bin: &Path, subject: &Subject) -> anyhow::Result<String> {
    let done = Command::new(bin).args(["token", "create", "--kubeconfig"]).arg(&subject.kubeconfig).output().await?;
    ensure!(done.status.success(), "skiff token create: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}

/// Two certificates for each node, and none that was refused or asked for again.
async fn check_requests(subject: &Subject, count: usize) -> anyhow::Result<()> {
    let (mut pool, mut signed) = (subject.pool(1).await?, [0, 0]);
    scale::for_each(&mut pool, REQUESTS, |request| {
        let is_signed = request["status"]["certificate"].as_str().is_some_and(|text| !text.is_empty());
        ensure!(is_signed, "a request without a certificate: {request}");
        let signer = request["spec"]["signerName"].as_str().context("a signer")?;
        signed[usize::from(signer == "kubernetes.io/kubelet-serving")] += 1;
        Ok(())
    })
    .await?;
    ensure!(signed == [count, count], "{signed:?} certificates of clients and servers for {count} nodes");
    Ok(())
}
