//! Typed clients, informers and locks of client-go, all in protobuf -> what they are told on any cluster, also by a server that was killed.

use std::{fs, process::Stdio, time::Duration};

use e2e::Server;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::run::Clients;

const MAPS: &str = "/api/v1/namespaces/gophers/configmaps";
/// All that it does at once, each wait of which has a bound of its own.
const BOUND: Duration = Duration::from_secs(300);

pub async fn walk(server: &mut Server, clients: &Clients) {
    let mut command = clients.gopher().await;
    // As client-go has it by default from 1.35 on: a list of an informer is a watch that begins with what there is.
    command.env("KUBE_FEATURE_WatchListClient", "true");
    let log = server.scratch().join("gopher.log");
    let errors = fs::File::create(&log).expect("a folder of our own");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn().expect("it was built");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut input = child.stdin.take().expect("it is piped");
    let driven = async {
        while let Some(line) = lines.next_line().await.expect("it prints text") {
            println!("{line}");
            if line == "restart" {
                server.kill_9();
                server.restart().await;
                let api = server.api();
                api.post(MAPS, &json!({"metadata": {"name": "away"}})).await.expect(201);
                api.delete(&format!("{MAPS}/doomed")).await.expect(200);
                input.write_all(b"\n").await.expect("it reads on");
            }
        }
        child.wait().await.expect("it was started")
    };
    let ended = tokio::time::timeout(BOUND, driven).await.expect("it ends");
    assert!(ended.success(), "{ended}:\n{}", fs::read_to_string(log).unwrap_or_default());
}
