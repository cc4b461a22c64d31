//! A pod of a real containerd, made from our configs, seen through our server. Needs root, containerd, runc and a static busybox.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use base64::Engine as _;
use futures::FutureExt;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::{
    tests::{Ca, denying, get, started_with},
    *,
};
use crate::{
    Attempt, PodContext, cgroups,
    container_config::{self, testing},
    containerd::{self, Layout},
    labels,
    view::{ContainerView, PodView},
    volumes,
};

pub const IMAGE: &str = "skiff.test/busybox:1";

/// A docker archive with nothing but busybox.
pub fn image(dir: &Path) -> PathBuf {
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    let root = dir.join("rootfs");
    for sub in ["bin", "tmp", "etc", "proc", "dev", "sys"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "echo", "sleep", "nc", "ls", "id", "hostname", "env"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(dir.join("layer.tar")).arg("."));
    let digest = api::hex(Sha256::digest(fs::read(dir.join("layer.tar")).unwrap()));
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
    );
    fs::write(dir.join("config.json"), config).unwrap();
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{IMAGE}"],"Layers":["layer.tar"]}}]"#);
    fs::write(dir.join("manifest.json"), manifest).unwrap();
    let archive = dir.join("image.tar");
    run(Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(&archive).args(["manifest.json", "config.json", "layer.tar"]));
    archive
}

const POD: &str = r#"{"hostNetwork":true,"terminationGracePeriodSeconds":1,"securityContext":{"fsGroup":777},
    "volumes":[{"name":"e","emptyDir":{}},{"name":"m","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}},
        {"name":"d","downwardAPI":{"items":[{"path":"name","fieldRef":{"fieldPath":"metadata.name"}}]}}],
    "containers":[{"name":"a","image":"skiff.test/busybox:1","command":["sh","-c","echo hello $(WHO); cat /d/name; echo; while true; do sleep 1; done"],
        "terminationMessagePath":"/dev/termination-log",
        "env":[{"name":"WHO","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}],
        "resources":{"requests":{"cpu":"100m"},"limits":{"memory":"64Mi"}},
        "volumeMounts":[{"name":"e","mountPath":"/e"},{"name":"e","mountPath":"/sub","subPathExpr":"$(WHO)/x"},
            {"name":"m","mountPath":"/m"},{"name":"d","mountPath":"/d"}]}]}"#;

struct TestNode {
    dir: volumes::testing::Scratch,
    layout: Layout,
    runtime: Runtime,
    group: Group,
    cgroups: cgroups::Manager,
    volumes: volumes::Manager,
    context: PodContext,
}

impl TestNode {
    async fn new() -> Self {
        let dir = volumes::testing::Scratch::new();
        let layout = Layout::under(&dir.path().join("data"), &dir.path().join("run"));
        let group = Group::new();
        let runtime = containerd::start(layout.clone(), &group).await.unwrap();
        containerd::import_image(&layout, &image(dir.path())).await.unwrap();
        let cgroups = cgroups::Manager::detect(&format!("skiff-real-{}", std::process::id())).unwrap();
        cgroups.setup().unwrap();
        let mut context = testing::context(testing::pod(POD), dir.path());
        let node = Arc::get_mut(&mut context.node).unwrap();
        node.cgroup_root = format!("/skiff-real-{}", std::process::id());
        node.memory_capacity_bytes = 8 << 30;
        let volumes = volumes::testing::manager(node.root_dir.clone(), denying(), &group);
        Self { dir, layout, runtime, group, cgroups, volumes, context }
    }

    /// Sandbox and container, as the pod loop makes them.
    async fn start(&mut self) -> (String, String) {
        let pod = self.context.pod.clone();
        self.cgroups.create_pod(&pod).unwrap();
        self.context.volumes = Some(Arc::new(self.volumes.prepare(&pod).await.unwrap()));
        let log_dir = labels::log_directory(&self.context.node.log_dir, &pod);
        fs::create_dir_all(log_dir.join("a")).unwrap();
        let mut sandbox = container_config::sandbox(&self.context).unwrap();
        sandbox.metadata = Some(labels::sandbox_metadata(&pod, 0));
        sandbox.labels = labels::of_sandbox(&pod);
        sandbox.log_directory = log_dir.display().to_string();
        let request = cri::RunPodSandboxRequest { config: Some(sandbox.clone()), ..Default::default() };
        let pod_sandbox_id = self.runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
        let spec = cri::ImageSpec { image: IMAGE.into(), ..Default::default() };
        let image = self.runtime.image_status(cri::ImageStatusRequest { image: Some(spec), verbose: false }).await.unwrap().image.unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        let mut config = container_config::container(&self.context, &container, &image).await.unwrap();
        config.metadata = Some(cri::ContainerMetadata { name: "a".into(), attempt: Attempt(0).0 });
        config.labels = labels::of_container(&pod, &container);
        config.log_path = "a/0.log".into();
        let request =
            cri::CreateContainerRequest { pod_sandbox_id: pod_sandbox_id.clone(), config: Some(config), sandbox_config: Some(sandbox) };
        let container_id = self.runtime.create_container(request).await.unwrap().container_id;
        self.runtime.start_container(cri::StartContainerRequest { container_id: container_id.clone() }).await.unwrap();
        (pod_sandbox_id, container_id)
    }

    fn shown(&self, sandbox: &str, container: &str) -> Pods {
        let mut pod = (*self.context.pod).clone();
        pod.status = serde_json::from_str(&format!(
            r#"{{"containerStatuses":[{{"name":"a","image":"","imageID":"","ready":true,"restartCount":0,"containerID":"containerd://{container}","state":{{"running":{{}}}}}}]}}"#
        ))
        .unwrap();
        let log_path = labels::log_directory(&self.context.node.log_dir, &pod).join("a/0.log");
        let view = ContainerView { name: "a".into(), id: container.into(), attempt: 0, running: true, log_path };
        let pods = Pods::default();
        pods.put("u1", PodView { pod: Arc::new(pod), status: None, sandbox_id: Some(sandbox.into()), containers: vec![view] });
        pods
    }

    /// A log that has grown is put aside, and the container writes to a new one.
    async fn rotates(&self, pods: Pods, address: SocketAddr, connector: &TlsConnector) {
        let limits = LogLimits { bytes_max: 10_000, files_max: 3, pause: Duration::from_millis(50) };
        rotate(&self.context.node.log_dir, limits, pods, self.runtime.clone(), &self.group).unwrap();
        let dir = labels::log_directory(&self.context.node.log_dir, &self.context.pod).join("a");
        let script = "i=0; while [ $i -lt 400 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done > /proc/1/fd/1";
        let encoded: String = script.bytes().map(|b| format!("%{b:02x}")).collect();
        let path = format!("/exec/default/web/a?command=sh&command=-c&command={encoded}&output=1&error=1");
        let heard = talk(address, connector, &path, None, to_the_end).await;
        assert_eq!(on(2, &heard), "");
        let rotated = async {
            while fs::read_dir(&dir).unwrap().count() < 2 || !dir.join("0.log").exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), rotated).await.expect("a rotated log");
        let path = "/exec/default/web/a?command=sh&command=-c&command=echo%20last%20%3E%2Fproc%2F1%2Ffd%2F1&output=1";
        talk(address, connector, path, None, to_the_end).await;
        let shown = async {
            while !fs::read_to_string(dir.join("0.log")).is_ok_and(|text| text.ends_with("stdout F last\n")) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), shown).await.expect("the new log");
    }

    async fn stop(self, sandbox: String) {
        self.runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.unwrap();
        self.runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
        self.volumes.teardown("u1").await.unwrap();
        self.cgroups.remove_all().unwrap();
        self.group.drain(Duration::from_secs(5)).await;
        containerd::stop(&self.layout).await.unwrap();
        drop(self.dir);
    }
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

const WEBSOCKET: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n";

/// Asks for an upgrade and gets it; the answer's head is the second.
async fn upgraded(address: SocketAddr, connector: &TlsConnector, request: &str, headers: &str) -> (Stream, String) {
    let socket = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect(rustls_pki_types::ServerName::try_from("localhost").unwrap(), socket).await.unwrap();
    let key = base64::engine::general_purpose::STANDARD.encode([7; 16]);
    let head = format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nContent-Length: 0\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    (stream, answer)
}

/// A WebSocket conversation over v4.channel.k8s.io: all that came until `enough` or the end, by channel.
async fn talk(
    address: SocketAddr,
    connector: &TlsConnector,
    path: &str,
    say: Option<&str>,
    enough: impl Fn(&[(u8, Vec<u8>)]) -> bool,
) -> Vec<(u8, Vec<u8>)> {
    let (mut stream, _) = upgraded(address, connector, &format!("GET {path}"), WEBSOCKET).await;
    if let Some(say) = say {
        // One masked binary frame on channel 0; the mask is zero.
        let mut frame = vec![0x82, 0x80 | u8::try_from(say.len() + 1).unwrap(), 0, 0, 0, 0, 0];
        frame.extend_from_slice(say.as_bytes());
        stream.write_all(&frame).await.unwrap();
    }
    let mut heard = Vec::new();
    while !enough(&heard)
        && let Ok(first) = stream.read_u8().await
    {
        let length = match stream.read_u8().await.unwrap() {
            126 => usize::from(stream.read_u16().await.unwrap()),
            short => usize::from(short),
        };
        let mut data = vec![0; length];
        stream.read_exact(&mut data).await.unwrap();
        if first & 0x0f == 8 {
            break;
        }
        if let Some((channel, data)) = data.split_first().filter(|(_, d)| !d.is_empty()) {
            heard.push((*channel, data.to_vec()));
        }
    }
    heard
}

fn to_the_end(_: &[(u8, Vec<u8>)]) -> bool {
    false
}

/// One connection is taken and echoed to.
async fn echo(listener: tokio::net::TcpListener) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let (mut from, mut to) = socket.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

fn on(channel: u8, heard: &[(u8, Vec<u8>)]) -> String {
    let all: Vec<u8> = heard.iter().filter(|(c, _)| *c == channel).flat_map(|(_, d)| d.clone()).collect();
    String::from_utf8_lossy(&all).into_owned()
}

const BOUND: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_real_pod_is_what_it_was_asked_to_be() {
    assert!(Path::new("/bin/busybox").exists(), "apt-get install busybox-static");
    let mut test_node = TestNode::new().await;
    let (sandbox, container) = test_node.start().await;
    let ca = Ca::new();
    let pods = test_node.shown(&sandbox, &container);
    let node = Node {
        runtime: test_node.runtime.clone(),
        pods: pods.clone(),
        client: denying(),
        metrics: Metrics::default(),
        stats: Stats::new("n1", test_node.dir.path().to_owned(), test_node.cgroups.clone(), pods.clone(), &test_node.group),
    };
    let address = started_with(&ca, node, &test_node.group).await;
    let master = ca.connector(Some(("kube-apiserver-kubelet-client", "system:masters")));
    let checks = async {
        runs_as_asked(&test_node, address, &master).await;
        is_measured(&container, address, &master).await;
        streams(&test_node, address, &master).await;
        test_node.rotates(pods, address, &master).await;
        // Followed to the container's end.
        let follow = tokio::time::timeout(BOUND, get(address, &master, "/containerLogs/default/web/a?follow=true&tailLines=1"));
        let end = async { test_node.runtime.stop_container(&container, 1).await.unwrap() };
        let (followed, ()) = tokio::join!(follow, end);
        assert_eq!(followed.expect("the log ends with its container").unwrap().1, "last\n");
    };
    let checked = std::panic::AssertUnwindSafe(Box::pin(checks)).catch_unwind().await;
    let pod_dir = test_node.context.node.root_dir.join("pods/u1");
    assert!(pod_dir.exists());
    test_node.stop(sandbox).await;
    assert!(!pod_dir.exists());
    checked.unwrap();
}

async fn runs_as_asked(test_node: &TestNode, address: SocketAddr, master: &TlsConnector) {
    let logs = async {
        loop {
            let (_, text) = get(address, master, "/containerLogs/default/web/a").await.unwrap();
            if text == "hello web\nweb\n" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(BOUND, logs).await.expect("the log");
    let script = "id -G; echo $WHO; echo x>/e/f; echo y>/sub/g; echo z>/m/h; ls /e/web/x; cat /etc/hosts; cat /proc/self/cgroup; echo err >&2; exit 3";
    let encoded: String = script.bytes().map(|b| format!("%{b:02x}")).collect();
    let path = format!("/exec/default/web/a?command=sh&command=-c&command={encoded}&output=1&error=1");
    let heard = tokio::time::timeout(BOUND, talk(address, master, &path, None, to_the_end)).await.expect("exec");
    let out = on(1, &heard);
    assert!(out.starts_with("0 777\nweb\n") || out.starts_with("0 10 777\nweb\n"), "{out}");
    assert!(out.contains("\ng\n"), "the subPath is below the volume: {out}");
    assert!(out.contains("# Kubernetes-managed hosts file (host network)."), "{out}");
    assert!(out.contains(&format!("/skiff-real-{}/burstable/podu1/", std::process::id())), "{out}");
    assert_eq!(on(2, &heard), "err\n");
    assert!(on(3, &heard).contains(r#""ExitCode","message":"3""#), "{}", on(3, &heard));
    let volumes = test_node.context.volumes.clone().unwrap();
    assert_eq!(fs::read_to_string(volumes.get("e").unwrap().path.join("f")).unwrap(), "x\n");
    assert_eq!(fs::read_to_string(volumes.get("e").unwrap().path.join("web/x/g")).unwrap(), "y\n");
}

/// What a busybox uses: some memory below its limit, some CPU time, and a rate of it from the second time on.
async fn is_measured(container: &str, address: SocketAddr, master: &TlsConnector) {
    let (_, text) = get(address, master, "/metrics/resource").await.unwrap();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.split(' ').nth(1).and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    let memory = value("container_memory_working_set_bytes{container=\"a\",namespace=\"default\",pod=\"web\"}");
    assert!(memory > 0.0 && memory < f64::from(64 << 20), "{memory}");
    assert!(value("container_cpu_usage_seconds_total{container=\"a\",") > 0.0);
    assert!(value("pod_memory_working_set_bytes{") >= memory, "the sandbox is in it");
    assert!(value("node_memory_working_set_bytes ") > memory);
    let summary = async || serde_json::from_str::<serde_json::Value>(&get(address, master, "/stats/summary").await.unwrap().1).unwrap();
    let rated = async {
        loop {
            let summary = summary().await;
            if summary["pods"][0]["containers"][0]["cpu"]["usageNanoCores"].is_u64() {
                return summary;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let summary = tokio::time::timeout(BOUND, rated).await.expect("a rate");
    let (node, pod) = (&summary["node"], &summary["pods"][0]);
    assert_eq!((&node["nodeName"], node["systemContainers"][0]["name"].as_str()), (&"n1".into(), Some("pods")), "{summary}");
    assert!(node["fs"]["capacityBytes"].as_u64() > Some(0) && node["rlimit"]["curproc"].as_i64() > Some(0), "{summary}");
    assert_eq!(pod["podRef"], serde_json::json!({"name": "web", "namespace": "default", "uid": "u1"}));
    assert!(pod["memory"]["availableBytes"].as_u64() < Some(64 << 20) && pod["network"].is_null(), "it has the node's: {summary}");
    assert!(pod["process_stats"]["process_count"].as_u64() > Some(1) && pod["containers"][0]["logs"]["usedBytes"].as_u64() > Some(0));
    let (_, text) = get(address, master, "/stats/summary?only_cpu_and_memory=true").await.unwrap();
    assert!(!text.contains("\"fs\"") && text.contains("usageCoreNanoSeconds"), "{text}");
    let (_, text) = get(address, master, "/metrics/cadvisor").await.unwrap();
    assert!(text.contains(&format!("name=\"{container}\",namespace=\"default\",pod=\"web\"")), "{text}");
}

async fn streams(test_node: &TestNode, address: SocketAddr, master: &TlsConnector) {
    let path = "/exec/default/web/a?command=sh&input=1&output=1";
    let said = talk(address, master, path, Some("echo said $((6*7)); exit\n"), to_the_end);
    assert_eq!(on(1, &tokio::time::timeout(BOUND, said).await.expect("stdin")), "said 42\n");

    let spdy = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
    for path in ["/exec/default/web/a?command=ls&output=1", "/attach/default/web/a?output=1"] {
        let (_, head) = upgraded(address, master, &format!("POST {path}"), spdy).await;
        assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io") && head.contains("upgrade: spdy/3.1"), "{head}");
    }
    let spdy = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n";
    let (_, head) = upgraded(address, master, "POST /portForward/default/web", spdy).await;
    assert!(head.contains("x-stream-protocol-version: portforward.k8s.io"), "{head}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let path = format!("/portForward/default/web?port={}", listener.local_addr().unwrap().port());
    test_node.group.spawn(echo(listener));
    let forwarded = talk(address, master, &path, Some("through"), |heard| on(0, heard).contains("through"));
    assert!(on(0, &tokio::time::timeout(BOUND, forwarded).await.expect("port-forward")).ends_with("through"));

    let (code, text) = get(address, master, "/exec/default/web/a?command=ls&output=1").await.unwrap();
    assert_eq!((code, text.as_str()), (400, "Upgrade request required"));
}
