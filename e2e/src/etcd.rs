//! A real etcd on a folder and ports of its own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    eventually, free_port,
    nodes::Net,
    process::{append_to, kill, signal},
};

const READY_BOUND: Duration = Duration::from_secs(30);
const ASK_BOUND: Duration = Duration::from_secs(10);

/// Files (PEM) of an etcd that speaks TLS only, and only to holders of certificates by `client_ca`.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: PathBuf,
}

/// An etcd server, alone or a member of a cluster; killed and removed when dropped.
pub struct Etcd {
    child: Child,
    place: Place,
    // After its server.
    _dir: TempDir,
}

/// Where a server stands, and with whom.
struct Place {
    path: PathBuf,
    client_port: u16,
    peer_port: u16,
    name: String,
    /// `name=url,...` of all members.
    cluster: String,
    tls: Option<EtcdTls>,
    /// 127.0.0.1 where there is none.
    net: Option<Net>,
}

impl Etcd {
    /// Resolves once it accepts connections.
    pub async fn start() -> Self {
        Self::alone(None).await
    }

    /// The same over TLS, on 127.0.0.1.
    pub async fn start_tls(tls: EtcdTls) -> Self {
        Self::alone(Some(tls)).await
    }

    /// A cluster of so many.
    pub async fn cluster(members: usize) -> Vec<Self> {
        Self::members(vec![None; members]).await
    }

    /// A cluster with a member in each of these networks.
    pub async fn cluster_in(nets: Vec<Net>) -> Vec<Self> {
        Self::members(nets.into_iter().map(Some).collect()).await
    }

    async fn members(nets: Vec<Option<Net>>) -> Vec<Self> {
        let places: Vec<(u16, Option<Net>)> = nets.into_iter().map(|net| (free_port(), net)).collect();
        let name = |(n, (port, net)): (usize, &(u16, Option<Net>))| format!("m{n}={}", url(host(net.as_ref()), *port, None));
        let cluster = places.iter().enumerate().map(name).collect::<Vec<_>>().join(",");
        let member = |(n, (port, net)): (usize, (u16, Option<Net>))| Self::spawn(&format!("m{n}"), port, &cluster, None, net);
        let started: Vec<Self> = places.into_iter().enumerate().map(member).collect();
        for member in &started {
            member.ready().await;
        }
        started
    }

    async fn alone(tls: Option<EtcdTls>) -> Self {
        let port = free_port();
        let etcd = Self::spawn("default", port, &format!("default={}", url(host(None), port, None)), tls, None);
        etcd.ready().await;
        etcd
    }

    fn spawn(name: &str, peer_port: u16, cluster: &str, tls: Option<EtcdTls>, net: Option<Net>) -> Self {
        let dir = tempfile::Builder::new().prefix("skiff-etcd-").tempdir().expect("a temporary folder");
        let path = dir.path().to_path_buf();
        let place = Place { path, client_port: free_port(), peer_port, name: name.into(), cluster: cluster.into(), tls, net };
        let child = place.command().spawn().expect("etcd is installed: apt-get install etcd-server");
        Self { child, place, _dir: dir }
    }

    /// For `--etcd-servers`.
    pub fn url(&self) -> String {
        url(host(self.place.net.as_ref()), self.place.client_port, self.place.tls.as_ref())
    }

    pub fn port(&self) -> u16 {
        self.place.client_port
    }

    pub fn kill_9(&mut self) {
        kill(&mut self.child);
    }

    /// It stands still, and its connections with it: nobody is told.
    pub fn pause(&self) {
        signal(&self.child, Signal::STOP);
    }

    pub fn resume(&self) {
        signal(&self.child, Signal::CONT);
    }

    /// Starts it again on what it had.
    pub async fn restart(&mut self) {
        kill(&mut self.child);
        self.child = self.place.command().spawn().expect("etcd started before");
        self.ready().await;
    }

    /// The network it was started in.
    pub fn net(&self) -> Option<&Net> {
        self.place.net.as_ref()
    }

    /// Writes past everybody, and returns the revision.
    pub async fn put(&self, key: &str, value: &str) -> anyhow::Result<u64> {
        let reply = self.ask("kv/put", &json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)})).await?;
        number(&reply["header"]["revision"])
    }

    /// What stands under a key, as text.
    pub async fn get(&self, key: &str) -> anyhow::Result<Option<String>> {
        let reply = self.ask("kv/range", &json!({"key": STANDARD.encode(key)})).await?;
        let Some(value) = reply["kvs"][0]["value"].as_str() else { return Ok(None) };
        Ok(Some(String::from_utf8(STANDARD.decode(value)?)?))
    }

    /// Forgets the history below `rev`.
    pub async fn compact(&self, rev: u64) -> anyhow::Result<()> {
        self.ask("kv/compaction", &json!({"revision": rev.to_string(), "physical": true})).await.map(drop)
    }

    /// Whether this member leads, as far as it knows.
    pub async fn leads(&self) -> anyhow::Result<bool> {
        let status = self.ask("maintenance/status", &json!({})).await?;
        Ok(number(&status["leader"])? == number(&status["header"]["member_id"])?)
    }

    /// etcd's JSON over HTTP.
    async fn ask(&self, what: &str, body: &Value) -> anyhow::Result<Value> {
        let exchange = async {
            let stream = TcpStream::connect((host(self.place.net.as_ref()), self.place.client_port)).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let request = http::Request::post(format!("/v3/{what}")).header("host", "etcd").body(Full::<Bytes>::from(body.to_string()))?;
            // The connection ends with its sender.
            let asking = async move {
                let reply = sender.send_request(request).await?;
                anyhow::Ok((reply.status(), reply.into_body().collect().await?.to_bytes()))
            };
            let (_, answer) = tokio::join!(connection, asking);
            let (status, text) = answer?;
            ensure!(status.is_success(), "etcd: {what}: {status} {}", String::from_utf8_lossy(&text));
            anyhow::Ok(serde_json::from_slice(&text)?)
        };
        tokio::time::timeout(ASK_BOUND, exchange).await.context("etcd does not answer")?
    }

    async fn ready(&self) {
        let address = (host(self.place.net.as_ref()), self.place.client_port);
        eventually("etcd accepts connections", READY_BOUND, async || TcpStream::connect(address).await).await;
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

impl Place {
    fn command(&self) -> Command {
        let host = host(self.net.as_ref());
        let (client, peer) = (url(host, self.client_port, self.tls.as_ref()), url(host, self.peer_port, None));
        let mut command = self.net.as_ref().map_or_else(|| Command::new("etcd"), |net| net.command("etcd".as_ref()));
        command.arg("--data-dir").arg(self.path.join("data")).args(["--name", &self.name]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &self.cluster, "--log-level", "warn"]);
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.client_ca);
        }
        let log = append_to(&self.path.join("log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }
}

fn host(net: Option<&Net>) -> &str {
    net.map_or("127.0.0.1", Net::address)
}

fn url(host: &str, port: u16, tls: Option<&EtcdTls>) -> String {
    format!("{}://{host}:{port}", if tls.is_some() { "https" } else { "http" })
}

/// etcd writes 64-bit numbers as strings.
fn number(value: &Value) -> anyhow::Result<u64> {
    value.as_str().and_then(|text| text.parse().ok()).with_context(|| format!("no number: {value}"))
}
