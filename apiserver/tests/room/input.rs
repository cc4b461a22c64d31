//! Bad input: the right status, nothing stored, no panic.

use proptest::prelude::*;
use serde_json::json;

use crate::kit::{Room, THINGS, thing};

#[tokio::test]
async fn nonsense_is_refused_and_nothing_is_stored() {
    let room = Room::new().await;
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let cases: [(&str, &str, u16); 9] = [
        ("{", "application/json", 400),
        ("", "application/json", 400),
        ("[]", "application/json", 400),
        (&deep, "application/json", 400),
        ("{\"metadata\": 5}", "application/json", 400),
        ("{\"metadata\": {\"name\": \"a\", \"labels\": {\"a\": 5}}}", "application/json", 400),
        ("a: [", "application/yaml", 400),
        ("k8s\u{0}", "application/vnd.kubernetes.protobuf", 415),
        ("{\"kind\": \"Place\", \"apiVersion\": \"test.io/v1\", \"metadata\": {\"name\": \"a\"}}", "application/json", 400),
    ];
    for (body, kind, code) in cases {
        let reply = room.raw("POST", THINGS, body.to_owned(), &[("content-type", kind)]).await;
        let shown: String = body.chars().take(40).collect();
        assert_eq!(reply.code, code, "{shown}: {:?}", reply.body);
    }
    let wrong = json!({"kind": "Thing", "apiVersion": "test.io/v2", "metadata": {"name": "a"}});
    room.post(THINGS, &wrong)
        .await
        .refused(400, "the API version in the data (test.io/v2) does not match the expected API version (test.io/v1)");
    let huge = vec![b' '; 4 << 20];
    room.raw("POST", THINGS, huge, &[]).await.refused(413, "Request entity too large: limit is 3145728");
    let mut noted = thing("a", &json!({}));
    noted["metadata"]["annotations"] = json!({"big": "x".repeat(300 << 10)});
    room.post(THINGS, &noted).await.refused(422, "metadata.annotations: Too long: may not be more than 262144 bytes");
    room.post(&format!("{THINGS}?fieldValidation=Sloppy"), &thing("a", &json!({}))).await.refused(422, "fieldValidation");
    let twice = r#"{"metadata":{"name":"a","name":"a"}}"#;
    room.raw("POST", &format!("{THINGS}?fieldValidation=Strict"), twice, &[]).await.refused(400, "duplicate field");
    assert_eq!(room.get(THINGS).await.ok(200)["items"], json!([]));
}

#[tokio::test]
async fn yaml_is_taken() {
    let room = Room::new().await;
    let body = "kind: Thing\napiVersion: test.io/v1\nmetadata:\n  name: a\nspec:\n  size: 3\n";
    let made = room.raw("POST", THINGS, body, &[("content-type", "application/yaml")]).await.ok(201);
    assert_eq!(made["spec"]["size"], 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, the reply is a refusal or a success, never a failure of the server.
    #[test]
    fn no_request_breaks_the_server(
        method in prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]),
        path in "/(api|apis/test.io)/v1(/namespaces/[a-z%./]{0,6})?/(things|places)(/[a-zA-Z%.2F]{0,6}){0,3}",
        query in "(limit|continue|resourceVersion|labelSelector|fieldSelector|dryRun|resourceVersionMatch|gracePeriodSeconds|pretty)=[a-zA-Z0-9%=,!(-]{0,12}",
        kind in prop::sample::select(vec!["application/json", "application/yaml", "application/merge-patch+json", "application/json-patch+json", "x/y"]),
        body in prop_oneof![".{0,40}", r#"\{"metadata":\{"(name|labels|finalizers|ownerReferences)":["\[{]?[a-z0-9]{0,5}["\]}]?\}\}"#],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let target = format!("{path}?{query}");
        prop_assume!(target.parse::<http::Uri>().is_ok());
        let code = runtime.block_on(async {
            let room = Room::new().await;
            room.thing("a", &json!({})).await;
            room.raw(method, &target, body.clone(), &[("content-type", kind)]).await.code
        });
        // 504: a revision that has not happened yet was asked for.
        prop_assert!(code < 500 || code == 504, "{code} for {method} {target} {body:?}");
    }
}
