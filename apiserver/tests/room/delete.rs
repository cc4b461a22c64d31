//! Deletions: at once, held by finalizers, with grace, by selection.

use serde_json::json;

use crate::kit::{Room, THINGS, thing};

#[tokio::test]
async fn a_deletion_tells_what_went() {
    let room = Room::new().await;
    let made = room.thing("a", &json!({})).await;
    let status = room.delete(&format!("{THINGS}/a"), &json!({"propagationPolicy": "Background"})).await.ok(200);
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"], json!({"name": "a", "group": "test.io", "kind": "things", "uid": made["metadata"]["uid"]}));
    assert_eq!(room.get(&format!("{THINGS}/a")).await.code, 404);
    room.delete(&format!("{THINGS}/a"), &json!({})).await.refused(404, "not found");
}

#[tokio::test]
async fn preconditions_are_kept() {
    let room = Room::new().await;
    let made = room.thing("a", &json!({})).await;
    let path = format!("{THINGS}/a");
    room.delete(&path, &json!({"preconditions": {"uid": "x"}})).await.refused(409, "the UID in the precondition (x) does not match");
    room.delete(&path, &json!({"preconditions": {"resourceVersion": "1000"}}))
        .await
        .refused(409, "the ResourceVersion in the precondition");
    let uid = &made["metadata"]["uid"];
    room.delete(&path, &json!({"preconditions": {"uid": uid, "resourceVersion": made["metadata"]["resourceVersion"]}})).await.ok(200);
}

#[tokio::test]
async fn finalizers_hold_until_the_last_is_gone() {
    let room = Room::new().await;
    let path = format!("{THINGS}/a");
    let mut object = thing("a", &json!({}));
    object["metadata"]["finalizers"] = json!(["test.io/wait"]);
    room.post(THINGS, &object).await.ok(201);
    let marked = room.delete(&path, &json!({"propagationPolicy": "Foreground"})).await.ok(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["test.io/wait", "foregroundDeletion"]));
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!((&marked["metadata"]["deletionGracePeriodSeconds"], &marked["metadata"]["generation"]), (&json!(0), &json!(2)));
    room.post(THINGS, &thing("a", &json!({}))).await.refused(409, "object is being deleted");
    let more = json!({"metadata": {"finalizers": ["test.io/wait", "foregroundDeletion", "test.io/new"]}});
    room.patch(&path, "merge-patch", &more).await.refused(422, "no new finalizers can be added if the object is being deleted");
    room.patch(&path, "merge-patch", &json!({"metadata": {"finalizers": ["test.io/wait"]}})).await.ok(200);
    room.patch(&path, "merge-patch", &json!({"metadata": {"finalizers": null}})).await.ok(200);
    assert_eq!(room.get(&path).await.code, 404);
}

#[tokio::test]
async fn grace_can_only_be_shortened() {
    let room = Room::new().await;
    let path = format!("{THINGS}/a");
    let mut object = thing("a", &json!({}));
    object["spec"]["grace"] = json!(30);
    room.post(THINGS, &object).await.ok(201);
    let grace = |value: serde_json::Value| value["metadata"]["deletionGracePeriodSeconds"].clone();
    assert_eq!(grace(room.delete(&path, &json!({})).await.ok(200)), 30);
    assert_eq!(grace(room.delete(&path, &json!({"gracePeriodSeconds": 60})).await.ok(200)), 30);
    assert_eq!(grace(room.delete(&path, &json!({"gracePeriodSeconds": 5})).await.ok(200)), 5);
    room.delete(&format!("{path}?gracePeriodSeconds=0"), &json!({"gracePeriodSeconds": 0})).await.ok(200);
    assert_eq!(room.get(&path).await.code, 404);
}

#[tokio::test]
async fn options_come_in_the_query_too_and_are_checked() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    let path = format!("{THINGS}/a");
    room.raw("DELETE", &format!("{path}?propagationPolicy=Nope"), "", &[]).await.refused(422, "propagationPolicy");
    room.raw("DELETE", &format!("{path}?dryRun=All"), "", &[]).await.ok(200);
    let orphaned = room.raw("DELETE", &format!("{path}?propagationPolicy=Orphan"), "", &[]).await.ok(200);
    assert_eq!(orphaned["metadata"]["finalizers"], json!(["orphan"]));
    room.delete(&path, &json!({"kind": "Thing"})).await.refused(400, "cannot be converted to DeleteOptions");
}

#[tokio::test]
async fn a_collection_goes_by_selector() {
    let room = Room::new().await;
    for (name, app) in [("a", "x"), ("b", "y"), ("c", "x")] {
        room.thing(name, &json!({"app": app})).await;
    }
    let list = room.raw("DELETE", &format!("{THINGS}?labelSelector=app%3Dx"), "", &[]).await.ok(200);
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("ThingList"), Some(2)));
    let left = room.get(THINGS).await.ok(200);
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
}
