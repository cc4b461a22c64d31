//! etcd that is full, killed, paused, cut off, or without its leader: what was acknowledged is there, and watchers hear of it once.

use std::{collections::BTreeMap, time::Duration};

use e2e::{Api, Backend, Etcd, Options, Server, Watch, eventually, object};
use serde_json::{Value, json};

use crate::{CONFIGMAPS, SOON, line::Line};

const LABELLED: &str = "/api/v1/namespaces/default/configmaps?labelSelector=ours";
/// etcd's leader is found to be gone, another elected, and our attempts at the old one given up.
const LONG: Duration = Duration::from_secs(120);

async fn over(urls: String) -> Server {
    Server::start(Options { backend: Backend::Etcd(urls), ..Options::default() }).await
}

fn ours(name: &str, data: &str) -> Value {
    object("v1", "ConfigMap", name, json!({"metadata": {"labels": {"ours": ""}}, "data": {"a": data}}))
}

fn rev(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse().ok()).unwrap_or_else(|| panic!("no revision: {object}"))
}

async fn watch_from_now(api: &Api) -> Watch {
    let from = rev(&api.get(LABELLED).await.expect(200));
    api.watch(&format!("{LABELLED}&watch=1&resourceVersion={from}")).await.expect("a watch from a list's revision opens")
}

/// What was acknowledged, by name, with its revision.
#[derive(Default)]
struct Ledger(BTreeMap<String, u64>);

impl Ledger {
    /// Creates, and takes note if that is acknowledged. A refusal must be one of those that leave the outcome open.
    async fn create(&mut self, api: &Api, name: &str) -> u16 {
        let reply = api.post(CONFIGMAPS, &ours(name, "1")).await;
        match reply.status {
            201 => drop(self.0.insert(name.to_owned(), rev(&reply.json()))),
            503 | 504 => {}
            other => panic!("{other} for {name}: {}", reply.text()),
        }
        reply.status
    }

    /// Writes until a write is acknowledged that was begun after this call.
    async fn goes_on(&mut self, api: &Api, what: &str) {
        let mut tries = 0;
        eventually("writes are taken again", LONG, async || {
            tries += 1;
            self.create(api, &format!("{what}-{tries}")).await == 201
        })
        .await;
    }

    /// All of it stands, and the watch tells all of it in order, once; what was refused may be there as well.
    async fn check(&self, api: &Api, watch: &mut Watch) {
        let list =
            eventually("the list is answered", LONG, async || Some(api.get(LABELLED).await).filter(|r| r.status == 200)).await.json();
        let standing: BTreeMap<&str, u64> =
            list["items"].as_array().unwrap().iter().map(|item| (item["metadata"]["name"].as_str().unwrap(), rev(item))).collect();
        for (name, at) in &self.0 {
            assert_eq!(standing.get(name.as_str()), Some(at), "{name}");
        }
        let (mut told, mut last) = (BTreeMap::new(), 0);
        while told.len() < standing.len() {
            let event = watch.next(SOON).await.expect("the watch goes on").expect("the watch goes on");
            let (name, at) = (event["object"]["metadata"]["name"].as_str().unwrap().to_owned(), rev(&event["object"]));
            assert_eq!(event["type"], "ADDED", "{event}");
            assert!(at > last && told.insert(name, at).is_none(), "{event}");
            last = at;
        }
        assert!(told.iter().all(|(name, at)| standing.get(name.as_str()) == Some(at)), "{told:?} is not {standing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_message_of_objects() {
    let etcd = Etcd::start().await;
    let mut server = over(etcd.url()).await;
    let text = "x".repeat(1_000_000);
    for n in 0..12 {
        server.api().post(CONFIGMAPS, &ours(&format!("big-{n}"), &text)).await.expect(201);
    }
    server.kill_9();
    server.restart().await;
    let list = server.api().get(LABELLED).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 12);
    assert!(list["items"].as_array().unwrap().iter().all(|item| item["data"]["a"].as_str().is_some_and(|a| a.len() == text.len())));
    server.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_etcd_is_waited_for() {
    let etcd = Etcd::start().await;
    let server = over(etcd.url()).await;
    let (api, mut ledger) = (server.api(), Ledger::default());
    let mut watch = watch_from_now(&api).await;
    ledger.goes_on(&api, "before").await;
    etcd.pause();
    // Some are on their way when it stops, and more come.
    let names: Vec<String> = (0..8).map(|n| format!("paused-{n}")).collect();
    let pausing = async {
        eventually("health says so", SOON, async || api.get("/livez").await.status == 500).await;
        etcd.resume();
    };
    let bodies: Vec<Value> = names.iter().map(|name| ours(name, "1")).collect();
    let writing = futures::future::join_all(bodies.iter().map(|body| api.post(CONFIGMAPS, body)));
    let ((), replies) = tokio::join!(pausing, writing);
    for (name, reply) in names.iter().zip(&replies) {
        match reply.status {
            201 => drop(ledger.0.insert(name.clone(), rev(&reply.json()))),
            503 | 504 => {}
            other => panic!("{other} for {name}: {}", reply.text()),
        }
    }
    ledger.goes_on(&api, "after").await;
    eventually("health heals", SOON, async || api.get("/livez").await.status == 200).await;
    ledger.check(&api, &mut watch).await;
    server.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_while_history_is_forgotten() {
    let etcd = Etcd::start().await;
    let line = Line::to(etcd.port()).await;
    let server = over(line.url()).await;
    let (api, mut ledger) = (server.api(), Ledger::default());
    ledger.goes_on(&api, "before").await;
    let kept = api.post(CONFIGMAPS, &ours("kept", "1")).await.expect(201);
    let mut watch = watch_from_now(&api).await;

    line.die();
    eventually("health says so", SOON, async || api.get("/livez").await.status == 500).await;
    let cut = ledger.create(&api, "cut").await;
    assert!(cut >= 500, "nothing can be acknowledged: {cut}");
    // Somebody else writes what the server has not seen, and all history goes.
    let mut theirs = kept.clone();
    theirs["data"]["a"] = "2".into();
    theirs["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    etcd.put("/registry/configmaps/default/kept", &theirs.to_string()).await.unwrap();
    let last = etcd.put("/registry/configmaps/default/theirs", &ours_stored("theirs")).await.unwrap();
    etcd.compact(last).await.unwrap();
    line.live();

    let told = async || api.get(&format!("{CONFIGMAPS}/theirs")).await.status == 200 && api.get("/readyz").await.status == 200;
    eventually("it is followed again", LONG, told).await;
    let list = eventually("the list is answered", LONG, async || Some(api.get(LABELLED).await).filter(|r| r.status == 200)).await.json();
    let item = |name: &str| list["items"].as_array().unwrap().iter().find(|i| i["metadata"]["name"] == name).cloned();
    assert_eq!(item("kept").unwrap()["data"]["a"], "2");
    assert!(item("theirs").is_some() && item("before-1").is_some(), "{list}");
    // What was missed cannot be told: the watcher must list, and can then go on.
    let end = watch.next(SOON).await.expect("an answer").expect("a last event");
    assert_eq!((&end["type"], &end["object"]["code"]), (&json!("ERROR"), &json!(410)), "{end}");
    let mut watch = watch_from_now(&api).await;
    ledger.goes_on(&api, "after").await;
    let (typ, object) = watch.event().await;
    assert_eq!((typ.as_str(), object["metadata"]["name"].as_str().map(|name| name.starts_with("after-"))), ("ADDED", Some(true)));
    server.assert_sound();
}

/// As it stands in the store.
fn ours_stored(name: &str) -> String {
    let mut object = ours(name, "1");
    object["metadata"]["namespace"] = "default".into();
    object["metadata"]["uid"] = "6f3a1d8e-3a51-4f4b-9b9c-0a5d9c1e7f10".into();
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    object.to_string()
}

async fn leader(members: &[Etcd], but: Option<usize>) -> usize {
    eventually("there is a leader", LONG, async || {
        for (n, member) in members.iter().enumerate().filter(|(n, _)| Some(*n) != but) {
            if member.leads().await.unwrap_or(false) {
                return Some(n);
            }
        }
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_its_leaders() {
    let mut members = Etcd::cluster(3).await;
    leader(&members, None).await;
    let urls: Vec<String> = members.iter().map(Etcd::url).collect();
    let server = over(urls.join(",")).await;
    let (api, mut ledger) = (server.api(), Ledger::default());
    let mut watch = watch_from_now(&api).await;
    ledger.goes_on(&api, "whole").await;

    let first = leader(&members, None).await;
    members[first].kill_9();
    ledger.goes_on(&api, "killed").await;
    members[first].restart().await;

    let second = leader(&members, None).await;
    members[second].pause();
    ledger.goes_on(&api, "paused").await;
    let third = leader(&members, Some(second)).await;
    assert_ne!(third, second);
    members[second].resume();
    ledger.goes_on(&api, "resumed").await;

    // Two of three are gone: nothing is acknowledged, and what is refused may not be there as if it were.
    let alone = leader(&members, None).await;
    for (n, member) in members.iter().enumerate() {
        if n != alone {
            member.pause();
        }
    }
    let refused = ledger.create(&api, "minority").await;
    assert!(refused >= 500, "{refused} by a minority");
    members.iter().for_each(Etcd::resume);
    ledger.goes_on(&api, "healed").await;
    ledger.check(&api, &mut watch).await;
    server.assert_sound();
}
