//! Creates, updates and patches.

use serde_json::{Value, json};

use crate::kit::{PLACES, Room, THINGS, thing, version};

#[tokio::test]
async fn what_is_created_can_be_read() {
    let room = Room::new().await;
    let made = room.thing("a", &json!({"x": "1"})).await;
    assert_eq!(made["kind"], "Thing");
    assert_eq!(made["spec"]["colour"], "red");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["uid"].as_str().map(str::len), Some(36));
    assert!(made["metadata"]["creationTimestamp"].is_string());
    assert!(version(&made) > 0);
    assert_eq!(room.get(&format!("{THINGS}/a")).await.ok(200), made);
    assert_eq!(room.get(&format!("{THINGS}/a?resourceVersion=0")).await.ok(200), made);
    room.get(&format!("{THINGS}/b")).await.refused(404, r#"things.test.io "b" not found"#);
    room.post(THINGS, &thing("a", &json!({}))).await.refused(409, r#"things.test.io "a" already exists"#);
}

#[tokio::test]
async fn the_creator_cannot_set_what_is_the_systems() {
    let room = Room::new().await;
    let mut object = thing("a", &json!({}));
    object["metadata"]["uid"] = json!("mine");
    object["metadata"]["generation"] = json!(9);
    object["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    object["metadata"]["creationTimestamp"] = Value::Null;
    object["status"] = json!({"size": 4});
    let made = room.post(THINGS, &object).await.ok(201);
    assert_ne!(made["metadata"]["uid"], "mine");
    assert_eq!(made["metadata"]["generation"], 1);
    assert!(made.get("status").is_none());
    // Nobody can be made an owner who is no manager.
    assert_eq!(made["metadata"]["managedFields"].as_array().map(Vec::len), Some(1));
    assert_ne!(made["metadata"]["managedFields"][0]["manager"], "x");
    object["metadata"]["name"] = json!("b");
    object["metadata"]["resourceVersion"] = json!("3");
    room.post(THINGS, &object).await.refused(500, "resourceVersion should not be set on objects to be created");
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_leave_no_trace() {
    let room = Room::new().await;
    let object = json!({"metadata": {"generateName": "x-"}, "spec": {}});
    let made = room.post(THINGS, &object).await.ok(201);
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    let dry = room.post(&format!("{THINGS}?dryRun=All"), &thing("dry", &json!({}))).await.ok(201);
    assert!(dry["metadata"]["uid"].is_string() && dry["metadata"].get("resourceVersion").is_none());
    assert_eq!(room.get(&format!("{THINGS}/dry")).await.code, 404);
    room.post(&format!("{THINGS}?dryRun=Some"), &thing("dry", &json!({}))).await.refused(422, "dryRun");
}

#[tokio::test]
async fn all_causes_are_told() {
    let room = Room::new().await;
    let mut object = thing("Bad_Name", &json!({"bad key": "x", "ok": "bad value"}));
    object["spec"]["size"] = json!(-1);
    object["metadata"]["finalizers"] = json!(["no slash or dot!"]);
    let status = room.post(THINGS, &object).await.refused(422, r#"Thing.test.io "Bad_Name" is invalid: ["#);
    let fields: Vec<&str> = status["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["metadata.name", "metadata.labels", "metadata.labels", "metadata.finalizers", "spec.size"]);
}

#[tokio::test]
async fn stale_updates_conflict_and_equal_ones_write_nothing() {
    let room = Room::new().await;
    let path = format!("{THINGS}/a");
    let first = room.thing("a", &json!({})).await;
    assert_eq!(version(&room.put(&path, &first).await.ok(200)), version(&first));
    let mut changed = first.clone();
    changed["spec"]["size"] = json!(2);
    let second = room.put(&path, &changed).await.ok(200);
    assert!(version(&second) > version(&first));
    assert_eq!(second["metadata"]["generation"], 2);
    room.put(&path, &changed)
        .await
        .refused(409, "the object has been modified; please apply your changes to the latest version and try again");
    // Without a version the last writer wins; what is the system's stays.
    let third = room.put(&path, &thing("a", &json!({"l": "1"}))).await.ok(200);
    assert_eq!(third["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(third["metadata"]["labels"]["l"], "1");
    let mut foreign = thing("a", &json!({}));
    foreign["metadata"]["uid"] = json!("other");
    room.put(&path, &foreign).await.refused(409, "Precondition failed: UID in precondition: other");
    room.put(&path, &thing("b", &json!({}))).await.refused(400, "the name of the object (b) does not match the name on the URL (a)");
    room.put(&format!("{THINGS}/zz"), &thing("zz", &json!({}))).await.refused(404, "not found");
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let room = Room::new().await;
    let mut object = room.thing("a", &json!({})).await;
    object["spec"]["size"] = json!(7);
    object["status"] = json!({"size": 7});
    let after = room.put(&format!("{THINGS}/a/status"), &object).await.ok(200);
    assert_eq!((&after["spec"]["size"], &after["status"]["size"]), (&json!(1), &json!(7)));
    assert_eq!(after["metadata"]["generation"], 1);
    let after = room.patch(&format!("{THINGS}/a"), "merge-patch", &json!({"spec": {"size": 3}, "status": {"size": 9}})).await.ok(200);
    assert_eq!((&after["spec"]["size"], &after["status"]["size"]), (&json!(3), &json!(7)));
    assert_eq!(after["metadata"]["generation"], 2);
}

#[tokio::test]
async fn scales_are_read_and_written() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    let path = format!("{THINGS}/a/scale");
    let mut scale = room.get(&path).await.ok(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    scale["spec"]["replicas"] = json!(5);
    assert_eq!(room.put(&path, &scale).await.ok(200)["spec"]["replicas"], 5);
    room.put(&path, &scale).await.refused(409, "the object has been modified");
    assert_eq!(room.patch(&path, "merge-patch", &json!({"spec": {"replicas": 2}})).await.ok(200)["spec"]["replicas"], 2);
    let object = room.get(&format!("{THINGS}/a")).await.ok(200);
    assert_eq!((&object["spec"]["size"], &object["metadata"]["generation"]), (&json!(2), &json!(3)));
    scale["metadata"]["resourceVersion"] = json!("");
    scale["spec"]["replicas"] = json!(-1);
    room.put(&path, &scale).await.refused(422, "must be greater than or equal to 0");
}

#[tokio::test]
async fn patches_of_every_kind() {
    let room = Room::new().await;
    let path = format!("{THINGS}/a");
    room.thing("a", &json!({"x": "1"})).await;
    let merged = room.patch(&path, "merge-patch", &json!({"metadata": {"labels": {"x": null, "y": "2"}}})).await.ok(200);
    assert_eq!(merged["metadata"]["labels"], json!({"y": "2"}));
    let ops = json!([{"op": "test", "path": "/spec/size", "value": 1}, {"op": "replace", "path": "/spec/size", "value": 4}]);
    assert_eq!(room.patch(&path, "json-patch", &ops).await.ok(200)["spec"]["size"], 4);
    room.patch(&path, "json-patch", &ops).await.refused(422, "the server rejected our request");
    room.patch(&path, "json-patch", &json!({"op": "test"})).await.refused(400, "error decoding patch");
    room.patch(&path, "merge-patch", &json!([])).await.refused(400, "error decoding patch");
    room.patch(&path, "merge-patch", &json!({"metadata": {"resourceVersion": "1"}})).await.refused(409, "has been modified");
    room.patch(&path, "merge-patch", &json!({"metadata": {"name": "b"}}))
        .await
        .refused(400, "the name of the object (b) does not match the name on the URL (a)");
    for other in ["application/json", "application/apply-patch+cbor", "application/apply-patch+json"] {
        room.raw("PATCH", &path, "{}", &[("content-type", other)]).await.refused(415, "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml");
    }
    room.patch(&format!("{THINGS}/zz"), "merge-patch", &json!({})).await.refused(404, "not found");
}

#[tokio::test]
async fn patches_race_and_none_is_lost() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    let path = format!("{THINGS}/a");
    let patches = (0..20).map(|i| json!({"metadata": {"annotations": {format!("k{i}"): "v"}}}));
    let room = &room;
    let path = &path;
    let sent = patches.map(|patch| async move { room.patch(path, "merge-patch", &patch).await.ok(200) });
    futures::future::join_all(sent).await;
    let annotations = room.get(path).await.ok(200)["metadata"]["annotations"].clone();
    assert_eq!(annotations.as_object().map(serde_json::Map::len), Some(20));
}

#[tokio::test]
async fn warnings_come_as_headers_once() {
    let room = Room::new().await;
    let mut object = thing("a", &json!({}));
    object["spec"]["old"] = json!(true);
    let reply = room.post(THINGS, &object).await;
    let warnings: Vec<_> = reply.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(warnings, [r#"299 - "spec.old: is \"deprecated\"""#]);
}

#[tokio::test]
async fn two_versions_show_one_object() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    let path = "/apis/test.io/v2/namespaces/default/things";
    let second = room.get(&format!("{path}/a")).await.ok(200);
    assert_eq!((&second["apiVersion"], &second["spec"]), (&json!("test.io/v2"), &json!({"tint": "red"})));
    let made = json!({"kind": "Thing", "apiVersion": "test.io/v2", "metadata": {"name": "b"}, "spec": {"tint": "blue"}});
    assert_eq!(room.post(path, &made).await.ok(201)["spec"]["tint"], "blue");
    let first = room.get(&format!("{THINGS}/b")).await.ok(200);
    assert_eq!((&first["apiVersion"], &first["spec"]["colour"]), (&json!("test.io/v1"), &json!("blue")));
    let list = room.get(path).await.ok(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(list["items"][0]["spec"], json!({"tint": "red"}));
}

#[tokio::test]
async fn reviews_are_answered_and_not_kept() {
    let room = Room::new().await;
    let reply = room.post("/apis/test.io/v1/asks", &json!({"kind": "Ask", "spec": {}})).await.ok(201);
    assert_eq!(reply["status"]["user"], "tester");
    room.get("/apis/test.io/v1/asks").await.refused(405, "the server does not allow this method on the requested resource");
}

#[tokio::test]
async fn cluster_scoped_objects_live_outside_of_namespaces() {
    let room = Room::new().await;
    let object = json!({"metadata": {"name": "p"}});
    room.post(PLACES, &object).await.ok(201);
    assert_eq!(room.get(&format!("{PLACES}/p")).await.code, 200);
    assert_eq!(room.post("/apis/test.io/v1/namespaces/x/places", &object).await.code, 404);
    assert_eq!(room.get("/apis/test.io/v1/things/a").await.code, 404);
    room.post("/apis/test.io/v1/things", &thing("a", &json!({})))
        .await
        .refused(405, "the server does not allow this method on the requested resource");
    let mut other = thing("a", &json!({}));
    other["metadata"]["namespace"] = json!("elsewhere");
    room.post(THINGS, &other).await.refused(400, "the namespace of the provided object does not match the namespace sent on the request");
}
