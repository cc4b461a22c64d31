//! FlowSchemas and PriorityLevelConfigurations drive the server. `requests_are_classified_by_objects_that_are_added` is the counterpart of upstream's
//! `test/e2e/apimachinery/flowcontrol.go`, "should ensure that requests can be classified by adding FlowSchema and PriorityLevelConfiguration".

use std::{sync::Arc, time::Duration};

use apiserver::identity::{Auth, Peer, User};
use http::Request;
use http_body_util::Full;
use kinds::{auth::system_user, flow};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::room::Room;

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const BOUND: Duration = Duration::from_secs(30);

/// A server whose objects drive it, as `skiff server` has it.
async fn room() -> Room {
    let room = Room::new(kinds::table(&kinds::Config::default()), Auth::default()).await;
    flow::keep::ensure(&room.engine, &system_user()).await.unwrap();
    let driven = Arc::new(Notify::new());
    let drive = flow::drive(room.engine.clone(), room.front.fairness().clone(), driven.clone());
    room.group.spawn_loop("flow control", drive);
    room.group.spawn_loop("flow schemas", flow::keep::keep(room.engine.clone(), system_user(), driven, true));
    room
}

/// The uids of the schema and of the level that a request of `user` had.
async fn uids(room: &Room, user: &str) -> [String; 2] {
    let user = User { name: user.into(), groups: vec!["system:authenticated".into()], ..User::default() };
    let request = Request::builder().uri("/api/v1/nodes").extension(Peer::local(user)).body(Full::<bytes::Bytes>::default()).unwrap();
    let reply = room.front.clone().oneshot(request).await.unwrap();
    ["x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"]
        .map(|name| reply.headers().get(name).map(|uid| uid.to_str().unwrap().to_owned()).unwrap_or_default())
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, looking).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

fn level(name: &str) -> Value {
    let queuing = json!({"queues": 10, "handSize": 2, "queueLengthLimit": 1});
    json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "limitResponse": {"type": "Queue", "queuing": queuing}}}})
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
    });
    json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": 1000, "priorityLevelConfiguration": {"name": level},
        "distinguisherMethod": {"type": "ByUser"}, "rules": [rule]}})
}

async fn post(room: &Room, resource: &str, object: Value) -> String {
    let made = Room::ok(room.post(&format!("{GROUP}/{resource}"), object).await);
    made["metadata"]["uid"].as_str().unwrap().to_owned()
}

async fn dangling(room: &Room, schema: &str) -> Option<(String, String)> {
    let found = room.get(&format!("{GROUP}/flowschemas/{schema}")).await;
    let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let condition = conditions.into_iter().find(|condition| condition["type"] == "Dangling")?;
    Some((condition["status"].as_str()?.to_owned(), condition["message"].as_str()?.to_owned()))
}

#[tokio::test]
async fn requests_are_classified_by_objects_that_are_added() {
    let room = room().await;
    let level_uid = post(&room, "prioritylevelconfigurations", level("e2e-testing-prioritylevel")).await;
    let schema_uid = post(&room, "flowschemas", schema("e2e-testing-flowschema", "e2e-testing-prioritylevel", "noxu")).await;
    let is_steady = async || dangling(&room, "e2e-testing-flowschema").await.is_some_and(|(status, _)| status == "False");
    eventually("steady state", is_steady).await;
    assert_eq!(uids(&room, "noxu").await, [schema_uid.clone(), level_uid.clone()]);
    let others = uids(&room, "foo").await;
    assert!(others.iter().all(|uid| uid.len() == 36) && others[0] != schema_uid && others[1] != level_uid, "{others:?}");
    // What is changed counts, and what is deleted does not.
    let other = json!({"spec": {"rules": [{"subjects": [{"kind": "User", "user": {"name": "foo"}}],
        "resourceRules": schema("", "", "")["spec"]["rules"][0]["resourceRules"]}]}});
    Room::ok(room.patch(&format!("{GROUP}/flowschemas/e2e-testing-flowschema"), other).await);
    eventually("the change", async || uids(&room, "foo").await[0] == schema_uid && uids(&room, "noxu").await == others).await;
    room.delete(&format!("{GROUP}/prioritylevelconfigurations/e2e-testing-prioritylevel")).await;
    let start = "This FlowSchema references the PriorityLevelConfiguration object named \"e2e-testing-prioritylevel\"";
    let told = ("True".to_owned(), format!("{start} but there is no such object"));
    eventually("it dangles", async || dangling(&room, "e2e-testing-flowschema").await.as_ref() == Some(&told)).await;
    assert_eq!(uids(&room, "foo").await, others);
    room.delete(&format!("{GROUP}/flowschemas/e2e-testing-flowschema")).await;
}

#[tokio::test]
async fn what_is_mandatory_stays_in_force_and_comes_back() {
    let room = room().await;
    for name in
        ["flowschemas/catch-all", "flowschemas/exempt", "prioritylevelconfigurations/exempt", "prioritylevelconfigurations/catch-all"]
    {
        let before = room.get(&format!("{GROUP}/{name}")).await["metadata"]["uid"].clone();
        room.delete(&format!("{GROUP}/{name}")).await;
        let is_back = async || {
            let (code, found) = room.send("GET", &format!("{GROUP}/{name}"), Value::Null).await;
            code == 200 && found["metadata"]["uid"] != before
        };
        eventually(name, is_back).await;
    }
    eventually("they are in force", async || uids(&room, "nobody").await.iter().all(|uid| uid.len() == 36)).await;
    let seats = |name: &str| room.front.fairness().nominal_seats(name);
    eventually("all levels are in force", async || seats("exempt") == Some(0) && seats("catch-all") == Some(13)).await;
}

/// As an administrator may write them, and as another server may have.
#[tokio::test]
async fn odd_objects_stop_nobody() {
    let room = room().await;
    let mut greedy = level("greedy");
    greedy["spec"]["limited"]["nominalConcurrencyShares"] = json!(i32::MAX);
    greedy["spec"]["limited"]["limitResponse"]["queuing"] = json!({"queues": 10_000_000, "handSize": 1, "queueLengthLimit": i32::MAX});
    post(&room, "prioritylevelconfigurations", greedy).await;
    let mut jail = level("jail");
    jail["spec"]["limited"]["nominalConcurrencyShares"] = json!(0);
    jail["spec"]["limited"]["borrowingLimitPercent"] = json!(0);
    post(&room, "prioritylevelconfigurations", jail).await;
    post(&room, "flowschemas", schema("jailed", "jail", "mallory")).await;
    post(&room, "flowschemas", schema("lost", "nowhere", "mallory")).await;
    let seats = |name: &str| room.front.fairness().nominal_seats(name);
    eventually("they are in force", async || seats("greedy").is_some() && seats("jail") == Some(0)).await;
    assert_eq!(seats("catch-all"), Some(1), "its floor");
    let jailed = room.get(&format!("{GROUP}/flowschemas/jailed")).await["metadata"]["uid"].clone();
    eventually("the jail serves one at a time", async || json!(uids(&room, "mallory").await[0]) == jailed).await;
    eventually("it dangles", async || dangling(&room, "lost").await.is_some_and(|(status, _)| status == "True")).await;
    assert!(room.group.fault().is_none());
}
