//! A command line of a client -> its end within a bound, and what it said.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use e2e::{Server, root, tools};
use serde_json::json;
use tokio::process::{Child, Command};

/// A command that has not ended by then has failed.
const COMMAND_BOUND: Duration = Duration::from_secs(180);
/// Forty seconds on two idle cores.
const BUILD_BOUND: Duration = Duration::from_secs(900);

/// The programs, all of which talk to one server.
pub struct Clients {
    kubeconfig: PathBuf,
    home: PathBuf,
}

/// How a command ended.
pub struct Ended {
    line: String,
    ok: bool,
    said: String,
}

impl Clients {
    pub fn of(server: &Server) -> Self {
        Self { kubeconfig: server.kubeconfig(), home: server.scratch() }
    }

    /// `helm <line>`, in the folder of this test, where `chart` is.
    pub async fn helm(&self, line: &str) -> Ended {
        self.run("helm", line.split(' ')).await
    }

    /// One of the programs in Python of this folder; panics unless it ends with 0.
    pub async fn python(&self, program: &str, args: &[&str]) {
        let said = self.run("python", [program].iter().chain(args).copied()).await.ok();
        println!("{said}");
    }

    /// `kopf run` of the operator, until it is killed or dropped.
    pub fn operator(&self) -> Child {
        let args = ["-m", "kopf", "run", "--standalone", "--all-namespaces", "flocks.py"];
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.operator_log()).expect("a file of our own");
        let errors = log.try_clone().expect("a descriptor can be doubled");
        let mut command = self.command("python");
        command.args(args).stdout(log).stderr(errors).spawn().expect("python starts")
    }

    /// The program in Go, built from client-go as Debian has it. Nothing is compiled that was before.
    pub async fn gopher(&self) -> Command {
        let (go, ours) = (tools().join("go"), root().join("e2e/tests/clients/go"));
        assert!(go.join(".done").exists(), "{} is missing: run `deploy/setup.sh test`", go.display());
        let theirs = go.join("usr/share/gocode/src/k8s.io/client-go");
        let kept = ["kubernetes/clientset.go", "kubernetes/scheme/register.go"].map(|path| (theirs.join(path), ours.join(path)));
        // It would want all the groups.
        let left_out = (theirs.join("tools/leaderelection/leasecandidate.go"), PathBuf::new());
        let replace: BTreeMap<PathBuf, PathBuf> = kept.into_iter().chain([left_out]).collect();
        let (overlay, program) = (go.join("overlay.json"), go.join("drive"));
        std::fs::write(&overlay, json!({"Replace": replace}).to_string()).expect("a folder of our own");
        let root = go.join("usr/lib/go");
        let mut build = Command::new(root.join("bin/go"));
        build
            .args(["build", "-p", "2", "-gcflags=all=-N -l -dwarf=false", "-ldflags=-s -w", "-overlay"])
            .arg(overlay)
            .arg("-o")
            .arg(&program);
        build.arg(ours.join("drive.go")).env("GOROOT", root).env("GOPATH", go.join("usr/share/gocode")).env("GOCACHE", go.join("cache"));
        build.envs([("GO111MODULE", "off"), ("GOFLAGS", ""), ("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0")]).env("HOME", &self.home);
        let built = tokio::time::timeout(BUILD_BOUND, build.kill_on_drop(true).output()).await.expect("it is built in time");
        let built = built.expect("Go starts");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.kubeconfig).kill_on_drop(true);
        command
    }

    pub fn operator_log(&self) -> PathBuf {
        self.home.join("operator.log")
    }

    async fn run<'a>(&self, program: &str, args: impl Iterator<Item = &'a str>) -> Ended {
        let args: Vec<&str> = args.collect();
        let line = format!("{program} {}", args.join(" "));
        let mut command = self.command(program);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended = tokio::time::timeout(COMMAND_BOUND, command.output()).await;
        let out = ended.unwrap_or_else(|_| panic!("{line}: not within {} s", COMMAND_BOUND.as_secs())).expect("it starts");
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        Ended { line, ok: out.status.success(), said }
    }

    fn command(&self, program: &str) -> Command {
        let path = tools().join("clients/bin").join(program);
        assert!(path.is_file(), "{} is not there: run `deploy/setup.sh test`", path.display());
        let mut command = Command::new(path);
        command.current_dir(root().join("e2e/tests/clients")).env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home);
        // Nothing is written beside the programs of the tree.
        command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

impl Ended {
    /// What it said; panics unless it ended with 0.
    pub fn ok(self) -> String {
        assert!(self.ok, "{} failed:\n{}", self.line, self.said);
        self.said
    }

    /// What it said; panics if it ended with 0.
    pub fn failed(self) -> String {
        assert!(!self.ok, "{} should have failed:\n{}", self.line, self.said);
        self.said
    }
}
