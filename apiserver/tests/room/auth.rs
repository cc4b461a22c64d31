//! Who may: tokens, impersonation, refusals.

use serde_json::json;

use crate::kit::{Room, THINGS};

#[tokio::test]
async fn refusals_are_in_upstreams_words() {
    let room = Room::new().await;
    let nobody = [("authorization", "Bearer token-nobody")];
    let status = room.raw("GET", THINGS, "", &nobody).await.refused(
        403,
        r#"things.test.io is forbidden: User "nobody" cannot list resource "things" in API group "test.io" in the namespace "default""#,
    );
    assert_eq!(status["details"], json!({"group": "test.io", "kind": "things"}));
    let path = room.raw("GET", "/secret", "", &nobody).await;
    path.refused(403, r#"forbidden: User "nobody" cannot get path "/secret""#);
    let sub = room.raw("PATCH", &format!("{THINGS}/a/status"), "", &nobody).await;
    sub.refused(403, r#"things.test.io "a" is forbidden: User "nobody" cannot patch resource "things/status""#);
    room.raw("GET", THINGS, "", &[("authorization", "Bearer forged")]).await.refused(401, "Unauthorized");
}

#[tokio::test]
async fn impersonation_needs_leave() {
    let room = Room::new().await;
    let as_nobody = room.raw("GET", THINGS, "", &[("impersonate-user", "nobody")]).await;
    as_nobody.refused(403, r#"User "nobody" cannot list"#);
    let ask = json!({"kind": "Ask"});
    let reply = room.raw("POST", "/apis/test.io/v1/asks", ask.to_string(), &[("impersonate-user", "alice")]).await.ok(201);
    assert_eq!(reply["status"]["user"], "alice");
    let by_nobody = [("authorization", "Bearer token-nobody"), ("impersonate-user", "alice")];
    room.raw("GET", THINGS, "", &by_nobody)
        .await
        .refused(403, r#"things.test.io is forbidden: User "nobody" cannot impersonate-on:user-info:list resource "things""#);
    room.raw("GET", THINGS, "", &[("impersonate-group", "g")]).await.refused(400, "without impersonating a user name");
}

/// Where an authorizer failed, nobody knows whether it is allowed; who would be somebody else is refused all the same.
#[tokio::test]
async fn an_authorizer_that_fails_is_no_refusal() {
    let room = Room::new().await;
    let lost = ("authorization", "Bearer token-lost");
    let status = room.raw("GET", THINGS, "", &[lost]).await.refused(500, "the webhook is lost");
    assert_eq!(status["reason"], "InternalError");
    let status = room.raw("GET", THINGS, "", &[lost, ("impersonate-user", "alice")]).await;
    status.refused(403, r#"in the namespace "default": the webhook is lost: who knows"#);
}

/// `--request-timeout` begins before anybody is asked who sends a request.
#[tokio::test(start_paused = true)]
async fn who_asks_is_found_out_in_time() {
    let room = Room::new().await;
    let path = format!("{THINGS}?timeout=3s");
    for headers in [&[("authorization", "Bearer hangs")][..], &[("impersonate-user", "hangs")]] {
        let began = tokio::time::Instant::now();
        let reply = room.raw("GET", &path, "", headers).await;
        reply.refused(504, "Timeout: request did not complete within the allotted timeout");
        assert_eq!(began.elapsed().as_secs(), 3, "{headers:?}");
    }
    // What is no time is told before.
    room.raw("GET", &format!("{THINGS}?timeout=soon"), "", &[("authorization", "Bearer hangs")]).await.refused(400, "invalid timeout");
    // Without a word the server's own bound holds; a watch has none.
    room.raw("GET", THINGS, "", &[("authorization", "Bearer hangs")]).await.refused(504, "Timeout");
    let path = format!("{THINGS}?watch=1&timeout=3s");
    let watch = room.raw("GET", &path, "", &[("authorization", "Bearer hangs")]);
    assert!(tokio::time::timeout(std::time::Duration::from_secs(600), watch).await.is_err());
}

#[tokio::test]
async fn unknown_paths_are_not_found() {
    let room = Room::new().await;
    for path in ["/nowhere", "/apis/test.io/v1/nothings", "/apis/test.io/v9/things", &format!("{THINGS}/a/nosub")] {
        assert_eq!(room.get(path).await.code, 404, "{path}");
    }
    room.raw("PUT", THINGS, "{}", &[]).await.refused(405, "the server does not allow this method on the requested resource");
}
