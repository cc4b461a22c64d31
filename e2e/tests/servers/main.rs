//! Three servers over three etcd members: each of the six is killed, stands still or is cut off, and nothing is lost, doubled or late.

mod clients;
mod cluster;
mod recorders;
mod register;
mod rounds;
mod work;

use std::time::{Duration, Instant};

use clients::{CONFIGMAPS, Clients};
use cluster::{Cluster, HEALED, LONG, SERVERS, TOKEN, get, options};
use e2e::{Api, Etcd, Server, eventually, nodes::World, object};
use recorders::{Recorders, revision};
use rounds::{Rounds, led_by_one_at_a_time};
use serde_json::{Value, json};
use work::Work;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const CONTROLLERS: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";
/// Longer than a Lease lasts.
const STANDSTILL: Duration = Duration::from_secs(20);

fn others(but: usize) -> Vec<usize> {
    (0..SERVERS).filter(|n| *n != but).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn six_processes_are_killed_in_turn() {
    let world = World::alone();
    let mut cluster = Cluster::start(&world).await;
    let everybody: Vec<usize> = (0..SERVERS).collect();
    cluster.endpoints_are(&everybody, LONG).await;
    same_identity(&cluster).await;
    cluster.node_is_heard_of(&cluster.servers[0].api(), LONG).await;
    let mut work = Work::start(&cluster.servers[0].api()).await;
    work.grows(&cluster.servers[0].api(), LONG).await;
    let mut rounds = Rounds::new(&cluster.servers[0].api()).await;
    let told = Recorders::start(&cluster.servers, CONFIGMAPS, |object| object["data"].clone()).await;
    let leases = Recorders::start(&cluster.servers, LEASES, |object| object["spec"].clone()).await;
    let clients = Clients::start(&cluster.servers, 11).await;

    let mut doomed = cluster.leader(CONTROLLERS, &everybody, LONG).await;
    for _ in 0..SERVERS {
        let alive = others(doomed);
        cluster.servers[doomed].kill_9();
        let api = cluster.servers[alive[0]].api();
        // A Lease of a node is renewed each ten seconds.
        tokio::join!(cluster.endpoints_are(&alive, HEALED), work.grows(&api, HEALED), cluster.node_is_heard_of(&api, LONG));
        cluster.servers[doomed].restart().await;
        cluster.endpoints_are(&everybody, HEALED).await;
        doomed = (doomed + 1) % SERVERS;
    }
    for member in 0..cluster.etcd.len() {
        cluster.etcd[member].kill_9();
        work.grows(&cluster.servers[0].api(), HEALED).await;
        cluster.etcd[member].restart().await;
    }
    stand_still(&cluster, &mut work).await;
    rounds.run(&mut cluster, &mut work).await;
    leave(&mut cluster, &mut work).await;

    let (answered, acknowledged) = clients.end().await;
    assert!(answered > 1000, "{answered} requests were answered");
    all_were_told(&cluster, told, leases, &acknowledged).await;
    work.end(&cluster.servers[0].api()).await;
    cluster.assert_sound();
    cluster.assert_silent();
    drop(cluster);
    world.end();
}

/// Each acknowledged write, by each watch cache alike; and of the Leases, that nobody took one that was held.
async fn all_were_told(cluster: &Cluster<'_>, told: Recorders, leases: Recorders, acknowledged: &[u64]) {
    let api = cluster.servers[0].api();
    let last = api.put(rounds::PROBE, &object("v1", "ConfigMap", "probe", json!({"data": {"value": "last"}}))).await.expect(200);
    let told = told.end(revision(&last)).await;
    println!("{} events of {} writes, {} moves of watches, {} lists", told.events.len(), acknowledged.len(), told.moves, told.lists);
    let lost: Vec<&u64> = acknowledged.iter().filter(|rev| !told.events.contains_key(rev)).collect();
    assert!(lost.is_empty(), "acknowledged, and nobody was told: {lost:?}");
    assert!(told.moves > 0);
    let now = api.get(LEASES).await.expect(200);
    let terms = led_by_one_at_a_time(&leases.end(revision(&now)).await);
    assert!(terms > 0, "the Leases changed hands");
}

/// A leader and an etcd member stand still, and wake while others lead.
async fn stand_still(cluster: &Cluster<'_>, work: &mut Work) {
    let everybody: Vec<usize> = (0..SERVERS).collect();
    let stopped = cluster.leader(CONTROLLERS, &everybody, LONG).await;
    let alive = others(stopped);
    let since = Instant::now();
    cluster.servers[stopped].pause();
    cluster.etcd[stopped].pause();
    work.grows(&cluster.servers[alive[0]].api(), HEALED).await;
    cluster.leader(CONTROLLERS, &alive, HEALED).await;
    eventually("it stood still for long", LONG, async || since.elapsed() >= STANDSTILL).await;
    cluster.etcd[stopped].resume();
    cluster.servers[stopped].resume();
    // What it wanted to do before it fell asleep is not done by it now.
    work.grows(&cluster.servers[stopped].api(), HEALED).await;
    cluster.endpoints_are(&everybody, HEALED).await;
    eventually("it knows that it does not lead", HEALED, async || {
        cluster.servers[stopped].log().contains("failed to renew lease: leading no longer")
    })
    .await;
}

/// Who is asked to end gives back what it leads.
async fn leave(cluster: &mut Cluster<'_>, work: &mut Work) {
    let everybody: Vec<usize> = (0..SERVERS).collect();
    let leader = cluster.leader(CONTROLLERS, &everybody, LONG).await;
    let alive = others(leader);
    assert!(cluster.servers[leader].stop().await.success());
    cluster.leader(CONTROLLERS, &alive, Duration::from_secs(3)).await;
    cluster.leader(SCHEDULER, &alive, Duration::from_secs(3)).await;
    cluster.endpoints_are(&alive, Duration::from_secs(1)).await;
    work.grows(&cluster.servers[alive[0]].api(), Duration::from_secs(3)).await;
    cluster.servers[leader].restart().await;
}

/// One authority, one key of service accounts: who is known to one server is known to all. And what one has acknowledged all show.
async fn same_identity(cluster: &Cluster<'_>) {
    let authority = |server: &Server| std::fs::read_to_string(server.data_dir().join("tls/ca.crt")).unwrap();
    let first = authority(&cluster.servers[0]);
    assert!(cluster.servers.iter().all(|server| authority(server) == first));
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    let api = cluster.servers[0].api();
    eventually("the account is made", LONG, async || api.get(account).await.status == 200).await;
    let request = object("authentication.k8s.io/v1", "TokenRequest", "", json!({"spec": {"expirationSeconds": 600}}));
    let token = api.post(&format!("{account}/token"), &request).await.expect(201);
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    for server in &cluster.servers {
        let bearer = Api::with_token(&server.kubeconfig(), &token).unwrap();
        // Known, and not allowed: 403. A stranger's would be 401.
        assert_eq!(bearer.get("/api/v1/nodes").await.status, 403);
    }
    for round in 0..30 {
        let (writer, reader) = (cluster.servers[round % 3].api(), cluster.servers[(round + 1) % 3].api());
        let path = "/api/v1/namespaces/default/configmaps";
        let name = format!("seen-{round}");
        writer.post(path, &object("v1", "ConfigMap", &name, json!({}))).await.expect(201);
        assert_eq!(reader.get(&format!("{path}/{name}")).await.status, 200, "acknowledged by one, read from another");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_is_told_how_to_come_in() {
    let etcd = Etcd::start().await;
    let first = Server::start(options(&etcd.url(), 0, Some(TOKEN))).await;
    for (token, words) in [
        (None, "start this server with the --token that its first server was started with"),
        (Some("abcdef.0123456789abcdeX"), "of six and sixteen of a-z and 0-9"),
        (Some("abcdef.0123456789abcdee"), "--token is not the one that the cluster in etcd was begun with"),
    ] {
        let mut second = Server::spawn("server", options(&etcd.url(), 1, token));
        assert!(!second.ended().await.success());
        let log = second.log();
        assert!(log.contains(words), "{log}");
        assert!(!log.contains("0123456789abcde"), "a secret in the log");
    }
    let sealed = etcd.get("/skiff/bootstrap").await.unwrap().expect("the keys are there");
    assert!(!sealed.contains("PRIVATE KEY"));
    first.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_on_its_own_store_elects_nobody() {
    let server = Server::start(e2e::Options::default()).await;
    let api = server.api();
    eventually("controllers run", LONG, async || get(&api, "/api/v1/namespaces/default/serviceaccounts/default").await).await;
    let leases = api.get(LEASES).await.expect(200);
    assert_eq!(leases["items"], Value::Array(Vec::new()));
    let endpoints = api.get(cluster::ENDPOINTS).await.expect(200);
    assert_eq!(endpoints["subsets"][0]["addresses"].as_array().map(Vec::len), Some(1));
}
