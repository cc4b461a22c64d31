//! `skiff agent --hollow N` beside the real server: what `kubectl` sees of simulated nodes.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use e2e::{Backend, Kubectl, Options, Server, eventually};
use serde_json::{Value, json};

const REGISTER_BOUND: Duration = Duration::from_secs(60);
const BOUND: Duration = Duration::from_secs(60);
/// The control plane gives a node 50 s, and looks every 5 s (upstream's `--node-monitor-grace-period`).
const NOT_READY_BOUND: Duration = Duration::from_secs(90);

/// A process of hollow nodes; killed when dropped.
struct Hollow {
    child: Child,
    out: PathBuf,
    log: PathBuf,
}

impl Hollow {
    /// Resolves once all nodes are registered.
    async fn start(server: &Server, nodes: usize, prefix: &str, more: &[&str]) -> Self {
        let kubeconfig = server.kubeconfig();
        let mut hollow = Self::spawn(server, nodes, prefix, &[&["--kubeconfig", kubeconfig.to_str().unwrap()], more].concat());
        hollow.says(&format!("{nodes} hollow nodes are registered")).await;
        hollow
    }

    fn spawn(server: &Server, nodes: usize, prefix: &str, more: &[&str]) -> Self {
        let (out, log) = (server.scratch().join(format!("{prefix}.out")), server.scratch().join(format!("{prefix}.log")));
        let mut command = Command::new(e2e::skiff());
        command.args(["agent", "--hollow", &nodes.to_string(), "--hollow-prefix", prefix]).args(more).stdin(Stdio::null());
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&log).unwrap());
        Self { child: command.spawn().expect("the binary starts"), out, log }
    }

    async fn says(&mut self, what: &str) {
        eventually(what, REGISTER_BOUND, async || {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", self.said());
            if self.said().contains(what) { Ok(()) } else { Err(self.said()) }
        })
        .await;
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default() + &fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// As when all machines lose their power.
    fn kill_9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Hollow {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the hollow nodes said ---\n{}", self.said());
        }
        self.kill_9();
    }
}

async fn server() -> Server {
    Server::start(Options { backend: Backend::Memory, ..Options::default() }).await
}

/// `skiff token create`: what machines join with.
fn token(server: &Server, more: &[&str]) -> String {
    let made = Command::new(e2e::skiff()).args(["token", "create", "--kubeconfig"]).arg(server.kubeconfig()).args(more).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// Names of nodes by the status of their condition Ready.
async fn nodes(server: &Server, ready: &str) -> Vec<String> {
    let list = server.api().get("/api/v1/nodes").await.expect(200);
    let is =
        |node: &&Value| node["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == ready);
    list["items"].as_array().unwrap().iter().filter(is).map(|n| n["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_on_two_hundred_nodes() {
    let server = server().await;
    let kubectl = Kubectl::newer(&server);
    let _hollow = Hollow::start(&server, 200, "hollow", &["--zones", "3", "--hollow-cpu", "4"]).await;
    assert_eq!(nodes(&server, "True").await.len(), 200);
    assert_eq!(kubectl.ok("get nodes -l topology.kubernetes.io/zone=zone-2 -o name").await.lines().count(), 66);
    eventually("the nodes have address ranges", BOUND, async || {
        let ranges = kubectl.ok("get nodes -o jsonpath='{.items[*].spec.podCIDR}'").await;
        if ranges.split_whitespace().count() == 200 { Ok(()) } else { Err(ranges.len()) }
    })
    .await;

    kubectl.ok("create deployment web --image=nothing --replicas=500").await;
    kubectl.ok("rollout status deployment/web --timeout=90s").await;
    let pods = server.api().get("/api/v1/namespaces/default/pods").await.expect(200);
    let pods = pods["items"].as_array().unwrap();
    let mut addresses: Vec<&str> = pods.iter().map(|p| p["status"]["podIP"].as_str().unwrap()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!((pods.len(), addresses.len()), (500, 500), "each pod has an address of its own");
    assert!(addresses.iter().all(|ip| ip.starts_with("10.244.") || ip.starts_with("10.245.")), "of the cluster's range: {}", addresses[0]);

    kubectl.ok("scale deployment/web --replicas=20").await;
    let left = async |wanted: usize| {
        let pods = kubectl.ok("get pods -o name").await;
        if pods.lines().count() == wanted { Ok(()) } else { Err(pods.lines().count()) }
    };
    eventually("pods go when it is scaled down", BOUND, async || left(20).await).await;
    kubectl.ok("delete deployment/web --wait=false").await;
    eventually("all pods go", BOUND, async || left(0).await).await;
    server.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_stop_renewing_are_not_ready() {
    let server = server().await;
    let _lives = Hollow::start(&server, 2, "lives", &[]).await;
    let mut dies = Hollow::start(&server, 2, "dies", &[]).await;
    assert_eq!(nodes(&server, "True").await.len(), 4);
    dies.kill_9();
    eventually("dead nodes are found out", NOT_READY_BOUND, async || {
        let unknown = nodes(&server, "Unknown").await;
        if unknown == ["dies-0", "dies-1"] { Ok(()) } else { Err(unknown) }
    })
    .await;
    assert_eq!(nodes(&server, "True").await, ["lives-0", "lives-1"]);
    let _again = Hollow::start(&server, 2, "dies", &[]).await;
    eventually("they are ready again", BOUND, async || {
        let ready = nodes(&server, "True").await;
        if ready.len() == 4 { Ok(()) } else { Err(ready) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_nodes_join_by_token_and_are_certified() {
    let server = server().await;
    let kubectl = Kubectl::newer(&server);
    let (url, token) = (format!("https://127.0.0.1:{}", server.port()), token(&server, &[]));
    let mut hollow = Hollow::spawn(&server, 100, "joins", &["--server", &url, "--token", &token]);
    hollow.says("100 hollow nodes are registered").await;
    hollow.says("100 hollow nodes are certified").await;
    assert_eq!(nodes(&server, "True").await.len(), 100);
    let requests = server.api().get("/apis/certificates.k8s.io/v1/certificatesigningrequests").await.expect(200);
    let of = |signer: &str, user: &str| {
        let is = |r: &&Value| {
            let spec = &r["spec"];
            spec["signerName"] == signer && spec["username"].as_str().unwrap().starts_with(user) && r["status"]["certificate"].is_string()
        };
        requests["items"].as_array().unwrap().iter().filter(is).count()
    };
    assert_eq!(of("kubernetes.io/kube-apiserver-client-kubelet", "system:bootstrap:"), 100, "each shows the token once");
    assert_eq!(of("kubernetes.io/kubelet-serving", "system:node:joins-"), 100, "each is itself after that");

    // They see their pods, and say how these are, each over its own certificate.
    kubectl.ok("create deployment web --image=nothing --replicas=200").await;
    kubectl.ok("rollout status deployment/web --timeout=90s").await;
    kubectl.ok("delete deployment/web --wait=false").await;
    eventually("all pods go", BOUND, async || {
        let pods = kubectl.ok("get pods -o name").await;
        if pods.is_empty() { Ok(()) } else { Err(pods.lines().count()) }
    })
    .await;

    // Names belong to the keys that joined under them: another process has others, and is told.
    let mut others = Hollow::spawn(&server, 2, "joins", &["--server", &url, "--token", &token]);
    eventually("it ends", BOUND, async || others.child.try_wait().unwrap().map(|ended| assert!(!ended.success())).ok_or(())).await;
    assert!(others.said().contains("node joins-") && others.said().contains("taken"), "{}", others.said());
    server.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn stage_files_decide_and_are_checked() {
    let server = server().await;
    let kubectl = Kubectl::newer(&server);
    let file = server.scratch().join("stages.yaml");
    let stages = "stages:\n- {name: broken, kind: Pod, when: {phase: [Pending]}, next: {phase: Failed, exitCode: 7, reason: Broken}}\n";
    fs::write(&file, stages).unwrap();
    let _hollow = Hollow::start(&server, 1, "hollow", &["--stages", file.to_str().unwrap()]).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    kubectl.ok_with("apply -f -", &pod.to_string()).await;
    kubectl.ok("wait pod/p --for=jsonpath={.status.reason}=Broken --timeout=60s").await;
    let code = kubectl.ok("get pod p -o jsonpath={.status.containerStatuses[0].state.terminated.exitCode}").await;
    assert_eq!(code, "7");

    fs::write(&file, stages.replace("reason", "raison")).unwrap();
    let mut command = Command::new(e2e::skiff());
    command.args(["agent", "--hollow", "1", "--stages"]).arg(&file).arg("--kubeconfig").arg(server.kubeconfig());
    let refused = command.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("raison"), "{said}");
}
