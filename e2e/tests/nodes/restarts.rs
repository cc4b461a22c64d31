//! skiff is restarted on every machine, by SIGTERM and by kill -9, certificates rotated in between -> no request to a Service fails, no pod is touched.

use std::{collections::BTreeMap, time::Instant};

use e2e::{
    eventually,
    nodes::{Background, Machine, World},
};
use serde_json::{Value, json};

use crate::{
    cluster::{BOUND, Cluster},
    traffic::Told,
};

/// A certificate is renewed when 70 to 90 per cent of its life are over, and begins five minutes before it was signed: that is 1 s to 51 s after.
const SIGNED_FOR: &str = "cluster-signing-duration=90s";
const SIGNALS: [&str; 4] = ["TERM", "KILL", "TERM", "KILL"];
const ADDRESSES: [(&str, &str); 3] = [("server", "192.168.56.10"), ("agent1", "192.168.56.11"), ("agent2", "192.168.56.12")];
/// Whoever asks waits so long: an answer that comes later is none.
const PATIENCE: &str = "9";
/// Certificates that nodes were given, and the API server's; what it shows to nodes was asked for by nobody.
const OF_AGENT: [&str; 2] = ["node/kubelet-client.crt", "node/kubelet-server.crt"];
const OF_SERVER: [&str; 2] = ["tls/apiserver.crt", "tls/apiserver-kubelet-client.crt"];

#[tokio::test]
async fn no_request_fails_while_skiff_is_restarted_and_certificates_rotate() {
    let world = World::new();
    let cluster = Cluster::with(&world, &["--set", SIGNED_FOR]);
    let told = Told(&cluster);
    start(&world, &cluster);
    let clients = Clients::start(&cluster);
    let (pods, certificates) = (pods(&cluster), certificates(&cluster));
    let began = Instant::now();
    for signal in SIGNALS {
        for machine in cluster.all() {
            end(machine, signal);
            if machine.name() == "server" && signal == "TERM" {
                // As `kubeadm certs renew` does: what is missing is made at the start.
                machine.sh(
                    "cd /var/lib/skiff/tls && rm apiserver.crt apiserver.key apiserver-kubelet-client.crt apiserver-kubelet-client.key",
                );
            }
            let since = Instant::now();
            machine.provision(&["start"]);
            eprintln!("{} is Ready {:?} after SIG{signal}", machine.name(), since.elapsed());
        }
        for (node, _) in ADDRESSES {
            is_at_hand(&cluster, node).await;
            goes_on(&cluster, node).await;
        }
    }
    eprintln!("twelve restarts in {:?}", began.elapsed());
    let now = eventually("every certificate is another", BOUND, async || {
        let now = self::certificates(&cluster);
        let same: Vec<&String> = certificates.iter().filter(|(name, old)| now.get(*name) == Some(old)).map(|(name, _)| name).collect();
        if same.is_empty() { Ok(now) } else { Err(format!("{same:?}")) }
    })
    .await;
    assert_eq!(now.len(), certificates.len());
    for (node, _) in ADDRESSES {
        is_at_hand(&cluster, node).await;
    }
    let answered = clients.end(&cluster);
    eprintln!("{answered} requests were answered in {:?}", began.elapsed());
    assert_eq!(self::pods(&cluster), pods);
    told.end();
    world.end();
}

/// A web server and a client on each node, behind one Service.
fn start(world: &World, cluster: &Cluster<'_>) {
    let server = &cluster.server;
    let create = |name: &str, items: Vec<Value>| {
        let path = world.scratch().join(name);
        std::fs::write(&path, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()).unwrap();
        server.kubectl(&format!("create -f {}", path.display()));
    };
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "nodePort": 30080}]}});
    create("service.json", vec![service]);
    let pod = |name: String, node: &str, container: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"app": name}, "name": format!("{name}-{node}")},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container]}})
    };
    let web = json!({"name": "c", "image": "nginx:1.22", "readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1}});
    create("web.json", ADDRESSES.iter().map(|(node, _)| pod("web".into(), node, web.clone())).collect());
    server.kubectl("wait --for=condition=Ready pod --all --timeout=120s");
    let ip = service_ip(cluster);
    // Each answer is a line, and so is each failure.
    let line = format!(
        "while :; do for url in http://web.default.svc.cluster.local/ http://{ip}/; do if timeout {PATIENCE} wget -q -O /dev/null $url 2>/tmp/why; \
         then echo 200; else echo $url: $(cat /tmp/why); fi; done; sleep 0.1; done"
    );
    let client = json!({"name": "c", "image": "busybox:1.35", "command": ["sh", "-c", line]});
    create("clients.json", ADDRESSES.iter().map(|(node, _)| pod("client".into(), node, client.clone())).collect());
    server.kubectl("wait --for=condition=Ready pod --all --timeout=120s");
}

fn service_ip(cluster: &Cluster<'_>) -> String {
    cluster.server.kubectl("get service web -o jsonpath='{.spec.clusterIP}'")
}

/// What asks without pause, on every machine: the Service on one connection, and it and every NodePort on a new one each time.
struct Clients {
    lasting: Vec<(String, Background)>,
    fresh: Vec<(String, Background)>,
}

impl Clients {
    fn start(cluster: &Cluster<'_>) -> Self {
        let ip = service_ip(cluster);
        let ask = |machine: &Machine<'_>, url: &str, more: &str| {
            let says = "%{http_code} %{num_connects} %{errormsg}\\n";
            let line =
                format!("exec stdbuf -oL curl -s -m {PATIENCE} --rate 6/s -o /dev/null -w '{says}' {more} 'http://{url}/?[1-100000]'");
            (format!("{url} from {}", machine.name()), machine.background(&line))
        };
        let urls: Vec<String> = ADDRESSES.iter().map(|(_, address)| format!("{address}:30080")).chain([ip.clone()]).collect();
        let of = |machine: &Machine<'_>| urls.iter().map(|url| ask(machine, url, "-H 'Connection: close'")).collect::<Vec<_>>();
        Self { lasting: cluster.all().map(|machine| ask(machine, &ip, "")).into(), fresh: cluster.all().into_iter().flat_map(of).collect() }
    }

    /// How many requests were answered: all.
    fn end(self, cluster: &Cluster<'_>) -> usize {
        let mut all: Vec<(String, String)> = self.fresh.iter().map(|(name, client)| (name.clone(), client.said())).collect();
        for (name, client) in &self.lasting {
            let said = client.said();
            // How many connections each request took.
            let made: usize = said.lines().filter_map(|line| line.split(' ').nth(1)?.parse::<usize>().ok()).sum();
            assert_eq!(made, 1, "{name}: the connection was cut");
            all.push((name.clone(), said));
        }
        for (node, _) in ADDRESSES {
            all.push((format!("the pod on {node}"), cluster.server.kubectl(&format!("logs client-{node}"))));
        }
        let mut failed = Vec::new();
        for (name, said) in &all {
            let mut lines: Vec<&str> = said.lines().collect();
            // The one that is being written.
            lines.pop();
            assert!(lines.len() > 100, "{name}: {} requests", lines.len());
            failed.extend(
                lines.iter().enumerate().filter(|(_, line)| !line.starts_with("200")).map(|(n, line)| format!("{name}, {n}: {line}")),
            );
        }
        assert!(failed.is_empty(), "{} requests failed:\n{}", failed.len(), failed.join("\n"));
        all.iter().map(|(_, said)| said.lines().count()).sum()
    }
}

/// Until skiff is gone; containerd and the pods stay.
fn end(machine: &Machine<'_>, signal: &str) {
    let wait = "i=0; while kill -0 $pid 2>/dev/null; do i=$((i + 1)); [ $i -lt 300 ] || exit 1; sleep 0.1; done";
    machine.sh(&format!("pid=$(cat /run/skiff-provision.pid); kill -{signal} $pid; {wait}"));
}

/// exec and logs lead to pods there.
async fn is_at_hand(cluster: &Cluster<'_>, node: &str) {
    let server = &cluster.server;
    eventually(&format!("exec and logs of {node}"), BOUND, async || {
        let (exec, logs) = (
            server.try_kubectl(&format!("exec client-{node} -- echo inside")),
            server.try_kubectl(&format!("logs client-{node} --tail=1")),
        );
        if exec.ok && exec.out.contains("inside") && logs.ok && !logs.out.is_empty() { Ok(()) } else { Err(format!("{exec:?} {logs:?}")) }
    })
    .await;
}

/// The pod there is answered by name and by address again. A lookup that found skiff away is asked again by the resolver after five seconds: were
/// skiff restarted then as well, it would be the second of its two attempts that is lost.
async fn goes_on(cluster: &Cluster<'_>, node: &str) {
    let answered = || {
        let said = cluster.server.try_kubectl(&format!("logs client-{node}"));
        said.out.lines().filter(|line| line.starts_with("200")).count()
    };
    let before = answered();
    eventually(&format!("the pod on {node} is answered"), BOUND, async || answered() > before + 4).await;
}

/// What must not change, a line for each pod.
fn pods(cluster: &Cluster<'_>) -> String {
    let container = "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    let ready = "{.status.conditions[?(@.type==\"Ready\")].status} {.status.conditions[?(@.type==\"Ready\")].lastTransitionTime}";
    let line = format!("{{.metadata.name}} {{.metadata.uid}} {{.status.podIP}} {container} {ready}");
    cluster.server.kubectl(&format!("get pods -o jsonpath='{{range .items[*]}}{line}{{\"\\n\"}}{{end}}'"))
}

/// The certificates in use, by machine and what for.
fn certificates(cluster: &Cluster<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for machine in cluster.all() {
        let (files, ports): (&[&str], &[u16]) =
            if machine.name() == "server" { (&OF_SERVER, &[6443, 10250]) } else { (&OF_AGENT, &[10250]) };
        for file in files {
            found.insert(format!("{} {file}", machine.name()), machine.sh(&format!("cat /var/lib/skiff/{file}")));
        }
        for port in ports {
            let shown = machine.sh(&format!("curl -sk -o /dev/null -w '%{{certs}}' https://127.0.0.1:{port}/healthz"));
            let serial = shown.lines().find(|line| line.starts_with("Serial Number:")).unwrap_or_else(|| panic!("no certificate: {shown}"));
            found.insert(format!("{} :{port}", machine.name()), serial.to_owned());
        }
    }
    found
}
