//! `--server`, `--token` -> what stands between this machine and the cluster, each with the deed that helps.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use api::{
    k8s::api::{certificates::v1::CertificateSigningRequest, core::v1::Node},
    preflight::Finding,
    task::Group,
    time::Timestamp,
};
use client::{
    certificate::tls,
    kube::{self, Api, api::ListParams},
    transport::{Server, Transport, unchecked},
};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    flags::JoinFlags,
    machine::instance::NodeLock,
    node::{discover, join_token::JoinToken},
};

/// Until a server answers.
const ANSWER_BOUND: Duration = Duration::from_secs(5);
/// Clocks that differ by more are told about. Certificates are made for those that are five minutes behind.
const SKEW_SECONDS: i64 = 60;

/// Looks at each server, its clock, its CA, the token and the ports of this machine. Nothing is changed, and the token is shown to nobody who is not trusted.
/// `node`: the name under which this machine would join.
pub async fn look(flags: &JoinFlags, node: Option<&str>, kubelet_port: u16, group: &Group) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut there = Vec::new();
    for url in &flags.server {
        match Server::parse(url) {
            Ok(server) => {
                let (findings, answers) = Box::pin(one(&server, group)).await;
                found.extend(findings);
                there.extend(answers.then_some(server));
            }
            Err(error) => found.push(Finding::wrong(url.clone(), error.to_string(), "give --server a URL, as in https://10.0.0.5:6443")),
        }
    }
    match JoinToken::of_flags(flags) {
        Ok(Some(token)) if !there.is_empty() => found.extend(Box::pin(invited(&there, &token, node, group)).await),
        Ok(_) => {}
        Err(error) => found.push(Finding::wrong("token", format!("{error:#}"), "`skiff token create` on a server prints a new one")),
    }
    if NodeLock::holder().is_none() {
        found.extend(ports(kubelet_port));
    }
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

async fn invited(servers: &[Server], token: &JoinToken, node: Option<&str>, group: &Group) -> Vec<Finding> {
    let ca = match timeout(ANSWER_BOUND * 2, discover::authority(servers, token, group)).await {
        Ok(Ok(ca)) => ca,
        Ok(Err(error)) => {
            return vec![Finding::wrong("the cluster's CA", format!("{error:#}"), "skiff token create (on a server of this cluster)")];
        }
        Err(_) => return vec![Finding::wrong("the cluster's CA", "no answer in time", "look at the server's log")],
    };
    let trusted = Finding::fine("the cluster's CA is the one that the token is for");
    let transport = tls(&ca, None).map(|tls| Transport::new(servers.to_vec(), tls, group));
    let shown = match transport.map(|transport| transport.with_token(&token.token.text())) {
        Ok(Ok(shown)) => shown,
        Ok(Err(error)) => return vec![trusted, Finding::wrong("token", error.to_string(), "skiff token create (on a server)")],
        Err(error) => return vec![Finding::wrong("the cluster's CA", error, "restart the server, which makes whole what it publishes")],
    };
    let requests: Api<CertificateSigningRequest> = Api::all(shown.client());
    let answer = timeout(ANSWER_BOUND, requests.list(&ListParams::default().limit(1))).await;
    let mut found = vec![trusted, admitted(answer.map(|done| done.map(drop)))];
    // Who joins may read a node whose name it knows (kubeadm's `kubeadm:get-nodes`); where it may not, joining tells.
    let nodes: Api<Node> = Api::all(shown.client());
    if let Some(name) = node
        && let Ok(Ok(there)) = timeout(ANSWER_BOUND, nodes.get_opt(name)).await
    {
        found.push(named(name, there.as_ref()));
    }
    found
}

fn named(name: &str, there: Option<&Node>) -> Finding {
    let what = format!("node name {name}");
    let conditions = there.and_then(|node| node.status.as_ref()).and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_silent = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown");
    if there.is_none() || is_silent {
        return Finding::fine(what);
    }
    let mend = format!(
        "give this machine another name (--node-name); if it is that one with a new disk: kubectl delete node {name} (on a server)"
    );
    Finding::wrong(what, "it is taken: a node of that name is in the cluster, and its machine is alive", mend)
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

/// Those that the node will listen at.
fn ports(kubelet: u16) -> Vec<Finding> {
    let taken = |what: String, port: u16, kind: &str, bound: std::io::Result<()>| match bound {
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::wrong(
            what,
            "another program has it",
            format!("ss -{}np sport = :{port} (shows which: stop it, or give another port)", if kind == "tcp" { "lt" } else { "lu" }),
        ),
        _ => Finding::fine(what),
    };
    vec![taken(format!("port {kubelet}/tcp"), kubelet, "tcp", TcpListener::bind((Ipv4Addr::UNSPECIFIED, kubelet)).map(drop))]
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
            serde_json::from_value(serde_json::json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}})).unwrap()
        };
        assert_eq!((named("a", None).problem, named("a", Some(&node("Unknown"))).problem), (None, None));
        for alive in [node("True"), node("False"), Node::default()] {
            let Problem { what: why, mend, .. } = named("a", Some(&alive)).problem.unwrap();
            assert!(why.contains("is taken") && mend.contains("--node-name"), "{why} {mend}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_told() {
        let held = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let Problem { what: why, mend, .. } = ports(port).remove(0).problem.unwrap();
        assert!(why.contains("another program") && mend.contains(&port.to_string()), "{mend}");
    }
}
