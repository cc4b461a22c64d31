//! Against a whole server of this process, over its sockets: what is under test is who becomes a node, and what those hear who do not.

use api::k8s::api::core::v1::Node;
use client::{
    certificate::Life,
    kube::{Api, api::PostParams},
};
use serde_json::json;

use super::*;
use crate::{
    flags::{Cli, Verb},
    server::Control,
};

const TOKEN: &str = "abcdef.0123456789abcdef";

async fn server(dir: &std::path::Path) -> Control {
    let data = dir.join("server").display().to_string();
    let args =
        ["skiff", "server", "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1", "--secure-port=0", "--storage-backend=memory"];
    let args = args.iter().map(|arg| (*arg).to_owned()).chain(["--data-dir".into(), data, "--agent-token".into(), TOKEN.into()]);
    let Verb::Server(flags) = Cli::read(args.map(std::ffi::OsString::from).collect::<Vec<_>>()).unwrap().verb else { panic!("a server") };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Box::pin(Control::start(&flags, &Progress::default())).await.unwrap()
}

fn agent(server: Option<&str>, more: &[&str]) -> AgentVerbFlags {
    let args = ["skiff", "agent"].into_iter().chain(server.into_iter().flat_map(|url| ["--server", url])).chain(more.iter().copied());
    let Verb::Agent(flags) = Cli::read(args.map(std::ffi::OsString::from).collect::<Vec<_>>()).unwrap().verb else { panic!("an agent") };
    *flags
}

/// What it says that joins, or joins again.
async fn joins(flags: &AgentVerbFlags, dir: &std::path::Path, group: &Group) -> anyhow::Result<Member> {
    let kept = Kept::open(dir)?;
    Box::pin(member(flags, &kept, group, &Progress::default())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_by_token_and_is_a_node_from_then_on() {
    let (dir, group) = (tempfile::tempdir().unwrap(), Group::new());
    let control = server(dir.path()).await;
    let url = control.admin()["clusters"][0]["cluster"]["server"].as_str().unwrap().to_owned();
    let [hash, _] = apiserver::certs::request::fingerprints(control.certs.ca()).unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let whole = format!("K10{hash}::{TOKEN}");

    let other = format!("K10{}::{TOKEN}", "0".repeat(64));
    let error = format!("{:#}", joins(&agent(Some(&url), &["--token", &other]), &a, &group).await.err().unwrap());
    assert!(error.contains("not the one that is expected") && error.contains("skiff token create"), "{error}");
    let wrong = format!("K10{hash}::abcdef.fedcba9876543210");
    let error = format!("{:#}", joins(&agent(Some(&url), &["--token", &wrong, "--node-name=a"]), &a, &group).await.err().unwrap());
    assert!(error.contains("Unauthorized"), "{error}");
    let flags = agent(Some(&url), &["--token", &wrong]);
    let asked = |flags: &AgentVerbFlags| {
        let name = Some("a".to_owned());
        // Of this machine nothing is asked that others may have changed.
        Wish { name, node_ip: Some([127, 0, 0, 1].into()), kubelet_port: 0, vxlan_port: 0, ..wish(flags, None) }
    };
    let found = preflight::look(&flags.join, &asked(&flags), &group).await;
    assert!(in_the_way(&found).contains("its time is over"), "{found:?}");
    let error = joins(&agent(Some(&url), &[]), &a, &group).await.err().unwrap().to_string();
    assert!(error.contains("--token is missing"), "{error}");

    let flags = agent(Some(&url), &["--token", &whole, "--node-name=a"]);
    let mut found = preflight::look(&flags.join, &asked(&flags), &group).await;
    // A firewall, say.
    found.retain(|finding| finding.what != here::POD_NETWORK);
    assert_eq!(in_the_way(&found), "");
    let member = joins(&flags, &a, &group).await.unwrap();
    assert_eq!((member.node.as_str(), Kept::open(&a).unwrap().node().unwrap().as_deref()), ("a", Some("a")));
    let cluster = cluster(&flags, &member).await.unwrap();
    assert_eq!((cluster.cluster_dns.to_string(), cluster.cluster_domain), ("10.96.0.10".into(), "cluster.local".into()));
    let nodes: Api<Node> = Api::all(member.transport.client());
    let node = |name: &str| serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    nodes.create(&PostParams::default(), &node("a")).await.unwrap();
    assert!(nodes.create(&PostParams::default(), &node("b")).await.is_err(), "it is node a and no other");

    let before = Kept::open(&a).unwrap().client().unwrap().unwrap();
    member.renew(&member.transport.client()).await.unwrap();
    let after = Kept::open(&a).unwrap().client().unwrap().unwrap();
    assert!(before != after && before.key_pem != after.key_pem, "a new certificate has a new key");
    assert_eq!(nodes.get("a").await.unwrap().metadata.name.as_deref(), Some("a"), "what is shown now is taken");

    let error = format!("{:#}", joins(&agent(Some(&url), &["--token", TOKEN, "--node-name=a"]), &b, &group).await.err().unwrap());
    assert!(error.contains("is taken") && error.contains("--node-name"), "{error}");
    // The token alone: who signed with it is believed.
    let second = joins(&agent(Some(&url), &["--token", TOKEN, "--node-name=b"]), &b, &group).await.unwrap();
    assert_eq!((second.node.as_str(), second.ca.trim()), ("b", control.certs.ca().trim()));
    group.drain(Duration::from_secs(5)).await;
    control.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_again_under_its_name_whatever_it_has_lost() {
    let (dir, group) = (tempfile::tempdir().unwrap(), Group::new());
    let control = server(dir.path()).await;
    let url = control.admin()["clusters"][0]["cluster"]["server"].as_str().unwrap().to_owned();
    let [hash, _] = apiserver::certs::request::fingerprints(control.certs.ca()).unwrap();
    let (a, wrong) = (dir.path().join("a"), format!("K10{hash}::abcdef.fedcba9876543210"));
    let whole = format!("K10{hash}::{TOKEN}");
    let first = joins(&agent(Some(&url), &["--token", &whole, "--node-name=a"]), &a, &group).await.unwrap();
    let node = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
    Api::<Node>::all(first.transport.client()).create(&PostParams::default(), &node).await.unwrap();

    let again = joins(&agent(Some(&url), &[]), &a, &group).await.unwrap();
    assert_eq!(again.node, "a", "without a token, under the name it has");
    // A clock that is ahead takes the certificate for expired. The server does not, and no token is needed.
    let (ahead, late) =
        (Member { join_token: Some(JoinToken::parse(&wrong, None).unwrap()), ..again }, Life { from: Timestamp::MIN, to: Timestamp::MIN });
    ahead.renew_once(late).await.unwrap();
    // Its certificate is lost: it is the machine that the name belongs to all the same, while its node is alive.
    for file in ["kubelet-client.crt", "kubelet-client.key"] {
        std::fs::remove_file(a.join(file)).unwrap();
    }
    let rejoined = joins(&agent(Some(&url), &["--token", &whole, "--node-name=a"]), &a, &group).await.unwrap();
    assert_eq!(rejoined.node, "a");
    // Its key is another's: it joins again, under the name it had, where somebody lets it in.
    std::fs::write(a.join("kubelet-client.key"), client::certificate::new_key().unwrap()).unwrap();
    let error = format!("{:#}", joins(&agent(Some(&url), &[]), &a, &group).await.err().unwrap());
    assert!(error.contains("--token") && error.contains("kubelet-client"), "{error}");
    let rejoined = joins(&agent(Some(&url), &["--token", &whole]), &a, &group).await.unwrap();
    assert_eq!((rejoined.node.as_str(), Kept::open(&a).unwrap().node().unwrap().as_deref()), ("a", Some("a")));
    let error = joins(&agent(Some(&url), &["--node-name=c"]), &a, &group).await.err().unwrap().to_string();
    assert!(error.contains("skiff leave"), "{error}");
    let other = format!("K10{}::{TOKEN}", "0".repeat(64));
    let error = format!("{:#}", joins(&agent(None, &["--token", &other]), &a, &group).await.err().unwrap());
    assert!(error.contains("another cluster"), "{error}");
    group.drain(Duration::from_secs(5)).await;
    control.end().await;
}
