//! `--server`, `--token` -> what stands between this machine and the cluster, each with the deed that helps.

pub mod here;
pub mod programs;

use std::{io::ErrorKind, time::Duration};

use api::{
    k8s::api::{certificates::v1::CertificateSigningRequest, core::v1::Node},
    preflight::Finding,
    task::Group,
    time::Timestamp,
};
use client::{
    certificate::tls,
    kube::{self, Api, Client, api::ListParams},
    transport::{Server, Transport, unchecked},
};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    flags::{ClusterFlags, JoinFlags},
    node::{cluster_config::ClusterConfig, discover, join_token::JoinToken},
};
pub use here::{Needs, Wish};

/// Until a server answers.
const ANSWER_BOUND: Duration = Duration::from_secs(5);
/// Clocks that differ by more are told about. Certificates are made for those that are five minutes behind.
const SKEW_SECONDS: i64 = 60;
/// A page of them: a node is some kilobytes.
const NODES_AT_ONCE: u32 = 500;

/// Looks at each server, its clock, its CA, the token, and at this machine as it would be a node. Nothing is changed, and the token is shown to nobody who
/// is not trusted.
pub async fn look(flags: &JoinFlags, wish: &Wish, group: &Group) -> Vec<Finding> {
    let mut found = Vec::new();
    let (mut named, mut there, mut told) = (Vec::new(), Vec::new(), None);
    for url in &flags.server {
        match Server::parse(url) {
            Ok(server) => {
                let (findings, answers) = Box::pin(one(&server, group)).await;
                found.extend(findings);
                there.extend(answers.then(|| server.clone()));
                named.push(server);
            }
            Err(error) => found.push(Finding::wrong(url.clone(), error.to_string(), "give --server a URL, as in https://10.0.0.5:6443")),
        }
    }
    match JoinToken::of_flags(flags) {
        Ok(Some(token)) if !there.is_empty() => {
            let (findings, client) = Box::pin(invited(&there, &token, wish.name.as_deref(), group)).await;
            found.extend(findings);
            if let Some(client) = client.filter(|_| wish.cluster_cidrs.is_empty()) {
                told = timeout(ANSWER_BOUND, ClusterConfig::ask(&client, &ClusterFlags::default())).await.ok().and_then(Result::ok);
            }
        }
        Ok(_) => {}
        Err(error) => found.push(Finding::wrong("token", format!("{error:#}"), "`skiff token create` on a server prints a new one")),
    }
    let needs = if flags.tunnel { Needs::Nobody } else { Needs::Others(wish.kubelet_port) };
    let wish = match told {
        Some(cluster) => Wish { cluster_cidrs: cluster.cluster_cidrs, ..wish.clone() },
        None => wish.clone(),
    };
    found.extend(Box::pin(here::look(&wish, &named, needs, group)).await);
    found
}

/// What is found, and whether it answers.
async fn one(server: &Server, group: &Group) -> (Vec<Finding>, bool) {
    let (host, port) = (server.host(), server.port());
    let connected = timeout(ANSWER_BOUND, TcpStream::connect((host, port))).await;
    if let Some(finding) = unreached(server, connected.map(|done| done.map(drop))) {
        return (vec![finding], false);
    }
    let transport = match unchecked() {
        Ok(tls) => Transport::new(vec![server.clone()], tls, group),
        Err(error) => return (vec![Finding::wrong(server.to_string(), error.to_string(), "this is a fault of skiff: report it")], false),
    };
    match timeout(ANSWER_BOUND, transport.clock()).await {
        Ok(Ok(clock)) => (vec![Finding::fine(format!("{server} answers")), skew(server, clock, Timestamp::now())], true),
        Ok(Err(error)) => {
            let mend = "is it the API server's port (6443)? A proxy in between must let TLS and HTTP/2 through";
            (vec![Finding::wrong(server.to_string(), format!("it answers, but not as an API server: {error}"), mend)], false)
        }
        Err(_) => (vec![Finding::wrong(server.to_string(), "it takes connections and does not answer", "look at the server's log")], false),
    }
}

fn unreached(server: &Server, connected: Result<std::io::Result<()>, tokio::time::error::Elapsed>) -> Option<Finding> {
    let (host, port) = (server.host(), server.port());
    let (why, mend) = match connected {
        Ok(Ok(())) => return None,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => (
            format!("nobody listens at port {port} of {host}"),
            format!("start `skiff server` there, or correct the port; there, `ss -ltn sport = :{port}` shows who listens"),
        ),
        Ok(Err(error)) if error.raw_os_error().is_none() => {
            (format!("the name {host} is not known: {error}"), format!("name the server by its address, or put {host} into /etc/hosts"))
        }
        Ok(Err(error)) => (error.to_string(), format!("`ip route get {host}` shows the way there: do the two machines share a network?")),
        Err(_) => (
            format!("no answer within {} s", ANSWER_BOUND.as_secs()),
            format!(
                "a firewall may be in between: on the server, `ufw allow {port}/tcp` or `firewall-cmd --add-port={port}/tcp`; `ip route get {host}` shows the way there"
            ),
        ),
    };
    Some(Finding::wrong(server.to_string(), why, mend))
}

/// What is said of a clock that is not the servers', before certificates fail by it; nothing where no server says the time.
pub async fn clock_warning(transport: &Transport) -> Option<String> {
    let theirs = timeout(ANSWER_BOUND, transport.clock()).await.ok()?.ok()?;
    let finding = skew(transport.servers().first()?, theirs, Timestamp::now());
    finding.problem.map(|problem| format!("{}. {}", problem.what, problem.mend))
}

fn skew(server: &Server, theirs: Option<Timestamp>, ours: Timestamp) -> Finding {
    let what = format!("clock of {server}");
    let Some(theirs) = theirs else { return Finding::fine(format!("{what} (not told)")) };
    let seconds = ours.as_second() - theirs.as_second();
    if seconds.abs() <= SKEW_SECONDS {
        return Finding::fine(what);
    }
    let side = if seconds > 0 { "ahead of" } else { "behind" };
    let why = format!("this machine's clock is {} s {side} the server's: certificates count as expired, or as not good yet", seconds.abs());
    Finding::wrong(what, why, "timedatectl set-ntp true (on both machines; `date -u` shows the time)")
}

/// What is found, and how the cluster is asked for more, where the token is taken.
async fn invited(servers: &[Server], token: &JoinToken, node: Option<&str>, group: &Group) -> (Vec<Finding>, Option<Client>) {
    let ca = match timeout(ANSWER_BOUND * 2, discover::authority(servers, token, group)).await {
        Ok(Ok(ca)) => ca,
        Ok(Err(error)) => {
            let mend = "skiff token create (on a server of this cluster)";
            return (vec![Finding::wrong("the cluster's CA", format!("{error:#}"), mend)], None);
        }
        Err(_) => return (vec![Finding::wrong("the cluster's CA", "no answer in time", "look at the server's log")], None),
    };
    let trusted = Finding::fine("the cluster's CA is the one that the token is for");
    let transport = tls(&ca, None).map(|tls| Transport::new(servers.to_vec(), tls, group));
    let shown = match transport.map(|transport| transport.with_token(&token.token.text())) {
        Ok(Ok(shown)) => shown,
        Ok(Err(error)) => return (vec![trusted, Finding::wrong("token", error.to_string(), "skiff token create (on a server)")], None),
        Err(error) => {
            return (vec![Finding::wrong("the cluster's CA", error, "restart the server, which makes whole what it publishes")], None);
        }
    };
    let requests: Api<CertificateSigningRequest> = Api::all(shown.client());
    let answer = timeout(ANSWER_BOUND, requests.list(&ListParams::default().limit(1))).await;
    let mut found = vec![trusted, admitted(answer.map(|done| done.map(drop)))];
    // A machine that is a node already is asked for neither.
    let Some(name) = node else { return (found, Some(shown.client())) };
    // Who joins may read a node whose name it knows (kubeadm's `kubeadm:get-nodes`); where it may not, joining tells.
    let (nodes, id): (Api<Node>, _) = (Api::all(shown.client()), Some(kubelet::machine_id()).filter(|id| !id.is_empty()));
    if let Ok(Ok(there)) = timeout(ANSWER_BOUND, nodes.get_opt(name)).await {
        found.push(called(name, there.as_ref(), id.as_deref()));
    }
    if let Some(id) = id {
        found.push(Box::pin(identified(&nodes, name, &id)).await);
    }
    (found, Some(shown.client()))
}

/// Whether another node has this machine's id, as far as the token may see them.
async fn identified(nodes: &Api<Node>, name: &str, id: &str) -> Finding {
    let mut page = ListParams::default().limit(NODES_AT_ONCE);
    loop {
        let Ok(Ok(list)) = timeout(ANSWER_BOUND, nodes.list(&page)).await else {
            let command = "kubectl get nodes -o custom-columns=NAME:.metadata.name,MACHINE-ID:.status.nodeInfo.machineID";
            return Finding::fine(format!(
                "machine-id {id} (the token does not see those of nodes: `{command}` on a server shows whether one has it)"
            ));
        };
        let same = |node: &&Node| node.metadata.name.as_deref() != Some(name) && has_id(node, id);
        if let Some(other) = list.items.iter().find(same) {
            return here::cloned(&format!("node {}", other.metadata.name.as_deref().unwrap_or_default()));
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Finding::fine(format!("machine-id {id}")),
        }
    }
}

fn has_id(node: &Node, id: &str) -> bool {
    node.status.as_ref().and_then(|status| status.node_info.as_ref()).is_some_and(|info| info.machine_id == id)
}

/// `id`: of this machine.
fn called(name: &str, there: Option<&Node>, id: Option<&str>) -> Finding {
    let what = format!("node name {name}");
    let conditions = there.and_then(|node| node.status.as_ref()).and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_silent = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown");
    if there.is_none() || is_silent {
        return Finding::fine(what);
    }
    let mend = format!(
        "give this machine another name (--node-name); if it is that one with a new disk: kubectl delete node {name} (on a server)"
    );
    let why = "it is taken: a node of that name is in the cluster, and its machine is alive";
    let is_twin = there.zip(id).is_some_and(|(node, id)| has_id(node, id));
    let twin = if is_twin { "; it has this machine's machine-id, too: it is this one, or one was cloned from the other" } else { "" };
    Finding::wrong(what, format!("{why}{twin}"), mend)
}

fn admitted(answer: Result<Result<(), kube::Error>, tokio::time::error::Elapsed>) -> Finding {
    let anew = "skiff token create (on a server); `skiff token list` shows those there are";
    match answer {
        Ok(Ok(())) => Finding::fine("the token lets this machine in"),
        Ok(Err(kube::Error::Api(status))) if status.code == 401 => {
            Finding::wrong("token", "the server does not take it: it is wrong, deleted, used up, or its time is over", anew)
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            Finding::wrong("token", format!("it lets nobody join: {}", status.message), anew)
        }
        Ok(Err(error)) if error.to_string().contains("certificate") => Finding::wrong(
            "the server's certificate",
            error.to_string(),
            "start the server with --tls-san and the name or address that --server has here; if it is about time, set the clocks",
        ),
        Ok(Err(error)) => Finding::wrong("token", error.to_string(), "look at the server's log"),
        Err(_) => Finding::wrong("token", "no answer in time", "look at the server's log"),
    }
}

#[cfg(test)]
mod tests {
    use api::preflight::Problem;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn server(url: &str) -> Server {
        Server::parse(url).unwrap()
    }

    #[test]
    fn clocks_may_differ_by_a_minute() {
        let a = server("https://a:6443");
        let off = |theirs: i64, ours: i64| skew(&a, Some(at(theirs)), at(ours)).problem.map(|problem| problem.what);
        assert_eq!((off(1000, 1060), off(1000, 940)), (None, None));
        assert!(off(1000, 4600).unwrap().contains("3600 s ahead of"));
        assert!(off(4600, 1000).unwrap().contains("3600 s behind"));
        assert_eq!(skew(&a, None, at(0)).problem, None);
    }

    #[test]
    fn each_fault_has_its_deed() {
        let refused = unreached(&server("https://10.0.0.5:6443"), Ok(Err(ErrorKind::ConnectionRefused.into()))).unwrap();
        assert!(refused.blocks());
        let Problem { what: why, mend, .. } = refused.problem.unwrap();
        assert!(why.contains("port 6443 of 10.0.0.5") && mend.contains("skiff server"), "{why} {mend}");
        assert_eq!(unreached(&server("https://10.0.0.5:6443"), Ok(Ok(()))), None);
        let api = |code: u16| kube::Error::Api(Box::new(kube::core::Status::failure("so", "Because").with_code(code)));
        assert_eq!(admitted(Ok(Ok(()))).problem, None);
        for (error, word) in [
            (api(401), "its time is over"),
            (api(403), "lets nobody join"),
            (kube::Error::Service("invalid peer certificate".into()), "certificate"),
        ] {
            assert!(admitted(Ok(Err(error))).problem.unwrap().what.contains(word), "{word}");
        }
    }

    #[test]
    fn a_name_is_taken_while_its_machine_lives() {
        let node = |ready: &str| -> Node {
            let info = serde_json::json!({
                "machineID": "abc", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "",
                "kubeProxyVersion": "", "operatingSystem": "", "architecture": "",
            });
            serde_json::from_value(serde_json::json!({"status": {"conditions": [{"type": "Ready", "status": ready}], "nodeInfo": info}}))
                .unwrap()
        };
        assert_eq!((called("a", None, None).problem, called("a", Some(&node("Unknown")), None).problem), (None, None));
        for alive in [node("True"), node("False"), Node::default()] {
            let Problem { what: why, mend, .. } = called("a", Some(&alive), Some("xyz")).problem.unwrap();
            assert!(why.ends_with("is alive") && mend.contains("--node-name"), "{why} {mend}");
        }
        assert!(called("a", Some(&node("True")), Some("abc")).problem.unwrap().what.contains("cloned"));
    }
}
