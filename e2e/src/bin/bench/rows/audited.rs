//! What requests cost whose events are written (level Metadata), by the administrator, who is exempt from fairness, and by an account, which has its turn
//! among others.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{Ctx, Found, objects};
use crate::{
    door::{Door, JSON},
    load::{Pool, status},
    report::{Figure, less, more},
    subject::Subject,
    usage::Meter,
    watch::revision,
};

const CONNECTIONS: usize = 64;
/// As upstream's example has it: a request is told of when it is done.
const POLICY: &str =
    r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}"#;

pub async fn requests(ctx: &Ctx<'_>) -> Found {
    ctx.binary()?;
    let dir = tempfile::tempdir()?;
    let policy = dir.path().join("policy.yaml");
    fs::write(&policy, POLICY)?;
    let mut figures = Vec::new();
    for mode in ["blocking", "batch"] {
        let log = dir.path().join(format!("{mode}.log"));
        let [policy, log] = [&policy, &log].map(|path| path.display().to_string());
        let flags = ["--audit-policy-file", &policy, "--audit-log-path", &log, "--audit-log-mode", mode, "--audit-log-maxsize", "1000"];
        let subject = ctx.subject_with(&flags).await?;
        let account = account(&subject, dir.path()).await?;
        for (who, door) in [("administrator", &subject.door), ("account", &account)] {
            let asked = of_one(ctx, &subject, door, &format!("{mode}, {who}"), &mut figures).await?;
            ensure!(told(&log)? >= asked, "fewer than {asked} events are in the log ({mode}, {who})");
        }
    }
    Ok(figures)
}

/// How many requests were made.
async fn of_one(ctx: &Ctx<'_>, subject: &Subject, door: &Arc<Door>, named: &str, figures: &mut Vec<Figure>) -> anyhow::Result<usize> {
    let (creates, gets) = (ctx.scale.of(500, 20_000), ctx.scale.of(1000, 60_000));
    let mut pool = Pool::open(door, CONNECTIONS).await?;
    let namespace = subject.namespace(&mut pool, "audited").await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    pool.create(&path, creates / 10, |n| objects::config_map(&format!("warm{n}"), 1024)).await?;
    let meter = Meter::start(&subject.pids);
    pool.create(&path, creates, |n| objects::config_map(&format!("c{n}"), 1024)).await?;
    let created = meter.stop();
    let request = door.bare("GET", &format!("{path}/c0"), JSON);
    let make = Arc::new(move |_, out: &mut Vec<u8>| out.clone_from(&request));
    let meter = Meter::start(&subject.pids);
    pool.run(gets, make, status(200)).await?;
    let got = meter.stop();
    let list = pool.must("GET", &format!("{path}?limit=1"), &Value::Null).await?;
    ensure!(revision(list.to_string().as_bytes()).is_some(), "no list: {list}");
    figures.extend([
        less(format!("{named}: create"), "CPU-ms", created.cpu_ms_each(creates)).goal(0.10),
        more(format!("{named}: create, rate"), "/s", created.per_second(creates)),
        less(format!("{named}: get"), "CPU-ms", got.cpu_ms_each(gets)).goal(0.03),
        more(format!("{named}: get, rate"), "/s", got.per_second(gets)),
    ]);
    Ok(creates + gets)
}

/// The door as a service account sees it that may do everything.
async fn account(subject: &Subject, dir: &Path) -> anyhow::Result<Arc<Door>> {
    let mut pool = subject.pool(1).await?;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    subject.object(&mut pool, accounts, &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bench"}})).await?;
    let (api, binding) = ("rbac.authorization.k8s.io", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings");
    let role = json!({"apiGroup": api, "kind": "ClusterRole", "name": "cluster-admin"});
    let subjects = json!([{"kind": "ServiceAccount", "namespace": "default", "name": "bench"}]);
    let body = json!({"apiVersion": format!("{api}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "bench"}, "roleRef": role, "subjects": subjects});
    subject.object(&mut pool, binding, &body).await?;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = pool.must("POST", &format!("{accounts}/bench/token"), &request).await?;
    let token = token["status"]["token"].as_str().context("no token")?.to_owned();
    let mut config: Value = serde_yaml::from_str(&fs::read_to_string(&subject.kubeconfig)?)?;
    for user in config["users"].as_array_mut().into_iter().flatten() {
        user["user"] = json!({"token": token});
    }
    let file = dir.join("account.kubeconfig");
    fs::write(&file, config.to_string())?;
    let door = Arc::new(Door::open(&file)?);
    let mut pool = Pool::open(&door, 1).await?;
    // The binding may be heard of a moment later.
    pool.until("the account may do what it wants", "/api/v1/namespaces", std::time::Duration::from_secs(30), |_| true).await?;
    Ok(door)
}

/// How many events are in the log.
fn told(log: &str) -> anyhow::Result<usize> {
    Ok(memchr::memchr_iter(b'\n', &fs::read(log)?).count())
}
