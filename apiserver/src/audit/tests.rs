use std::net::SocketAddr;

use http::{HeaderValue, Request};
use serde_json::json;

use super::*;

/// Keeps what it is told; one that is full refuses.
struct Kept(Arc<Mutex<Vec<Value>>>, bool);

#[async_trait]
impl Sink for Kept {
    fn name(&self) -> &'static str {
        "kept"
    }

    fn is_strict(&self) -> bool {
        true
    }

    async fn take(&self, event: Bytes) -> Result<(), String> {
        self.take_now(event)
    }

    fn take_now(&self, event: Bytes) -> Result<(), String> {
        if self.1 {
            return Err("full".into());
        }
        let line = event.strip_suffix(b"\n").unwrap();
        assert!(!line.contains(&b'\n'), "an event is a line");
        self.0.lock().push(serde_json::from_slice(line).unwrap());
        Ok(())
    }
}

fn auditor(rule: &str, is_full: bool) -> (Arc<Auditor>, Arc<Mutex<Vec<Value>>>) {
    let policy = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{{{rule}}}]");
    let kept = Arc::new(Mutex::new(Vec::new()));
    (Auditor::new(Policy::read(&policy).unwrap(), vec![Box::new(Kept(kept.clone(), is_full))]), kept)
}

fn request() -> Parts {
    let mut request = Request::post("/api/v1/namespaces/a/configmaps?fieldManager=x")
        .header("user-agent", "x".repeat(2000))
        .header("x-forwarded-for", "10.0.0.1, nonsense, 10.0.0.2")
        .header("x-real-ip", "10.0.0.2")
        .body(())
        .unwrap();
    let address: SocketAddr = "[::ffff:10.0.0.3]:99".parse().unwrap();
    request.extensions_mut().insert(Peer { certificate: None, address: Some(address) });
    request.into_parts().0
}

fn begin(auditor: &Arc<Auditor>) -> Option<Audit> {
    let user = Arc::new(User { name: "u".into(), groups: vec!["g".into()], ..User::default() });
    let asked = Attributes {
        user: &user,
        verb: "create",
        resource_request: true,
        version: "v1",
        resource: "configmaps",
        namespace: "a",
        ..Attributes::default()
    };
    auditor.begin(&asked, &request(), &user, "id")
}

#[tokio::test]
async fn a_request_is_told_at_its_begin_and_its_end() {
    let (auditor, kept) = auditor("level: RequestResponse, omitManagedFields: true", false);
    let audit = begin(&auditor).unwrap();
    audit.received().await.unwrap();
    let object = json!({"metadata": {"name": "n", "uid": "7", "managedFields": [{}]}, "data": {"k": "v"}});
    audit.sent(&object);
    audit.impersonates(&Arc::new(User { name: "other".into(), ..User::default() }), "impersonate:user-info");
    audit.annotate([("a".to_owned(), "1".to_owned())]);
    audit.annotate([("a".to_owned(), "2".to_owned())]);
    let list = json!({"items": [object], "rows": [{"object": object}]}).to_string();
    let status = json!({"status": "Failure", "message": "m", "reason": "", "metadata": {"x": 1}});
    audit.complete(&Ended { code: 404, status: Some(&status), object: Some(list.as_bytes()) }).await;
    let events = kept.lock().clone();
    let [begin, end] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((&begin["stage"], begin.get("responseStatus"), begin.get("requestObject")), (&json!("RequestReceived"), None, None));
    assert_eq!((&end["stage"], &end["level"], &end["auditID"]), (&json!("ResponseComplete"), &json!("RequestResponse"), &json!("id")));
    assert_eq!(end["requestURI"], "/api/v1/namespaces/a/configmaps?fieldManager=x");
    assert_eq!(end["sourceIPs"], json!(["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    assert_eq!(end["userAgent"].as_str().unwrap(), "x".repeat(1024) + "...TRUNCATED");
    assert_eq!(end["user"], json!({"username": "u", "groups": ["g"]}));
    assert_eq!(end["impersonatedUser"], json!({"username": "other"}));
    assert_eq!(end["authenticationMetadata"], json!({"impersonationConstraint": "impersonate:user-info"}));
    assert_eq!(end["objectRef"], json!({"resource": "configmaps", "namespace": "a", "name": "n", "uid": "7", "apiVersion": "v1"}));
    assert_eq!(end["responseStatus"], json!({"metadata": {}, "status": "Failure", "message": "m", "code": 404}));
    let bare = json!({"metadata": {"name": "n", "uid": "7"}, "data": {"k": "v"}});
    assert_eq!(end["requestObject"], bare);
    assert_eq!(end["responseObject"], json!({"items": [bare], "rows": [{"object": bare}]}));
    assert_eq!(end["annotations"], json!({"a": "1"}));
    let at = |event: &Value, field: &str| api::time::parse(event[field].as_str().unwrap()).unwrap();
    assert!(at(end, "requestReceivedTimestamp") <= at(end, "stageTimestamp"));
    let mut text = String::new();
    auditor.text(&mut text);
    assert!(text.contains("apiserver_audit_event_total 2\n") && text.contains("level=\"RequestResponse\"} 1\n"), "{text}");
}

#[tokio::test]
async fn less_is_told_where_the_policy_says_so() {
    assert!(begin(&auditor("level: None", false).0).is_none());
    let (auditor, kept) = auditor("level: Metadata, omitStages: [RequestReceived]", false);
    let audit = begin(&auditor).unwrap();
    audit.received().await.unwrap();
    audit.sent(&json!({"metadata": {"name": "n"}}));
    audit.sent_patch(b"{}");
    assert!(!audit.wants_response());
    audit.complete_now(&Ended { code: 200, status: None, object: None });
    let events = kept.lock().clone();
    assert_eq!(events.len(), 1);
    assert!(events[0].get("requestObject").is_none() && events[0]["objectRef"]["name"] == "n");
    assert_eq!(events[0]["responseStatus"], json!({"metadata": {}, "code": 200}));
}

#[tokio::test]
async fn a_patch_is_told_as_it_was_sent_and_bad_bytes_are_not() {
    let (auditor, kept) = auditor("level: Request", false);
    let forged = b"{\"a\":\n{\"kind\":\"Event\"}\n}";
    for patch in [b"[{\"op\":\"test\"}]".as_slice(), b"{\"a\":", b"\xff", b"a: 1\n", forged] {
        let audit = begin(&auditor).unwrap();
        audit.sent_patch(patch);
        audit.complete(&Ended { code: 200, status: None, object: Some(b"{}") }).await;
    }
    let told: Vec<Value> = kept.lock().iter().map(|event| event["requestObject"].clone()).collect();
    assert_eq!(told[..1], [json!([{"op": "test"}])]);
    assert_eq!(told[3..], [json!({"a": 1}), json!({"a": {"kind": "Event"}})], "YAML too, and each event is one line");
}

#[tokio::test]
async fn a_request_is_refused_whose_begin_must_be_told_and_is_not() {
    let (auditor, _) = auditor("level: Metadata", true);
    let audit = begin(&auditor).unwrap();
    let status = audit.received().await.unwrap_err();
    assert_eq!(status.code, 500);
    audit.complete(&Ended { code: 200, status: None, object: None }).await;
    audit.complete_now(&Ended { code: 200, status: None, object: None });
    let mut text = String::new();
    auditor.text(&mut text);
    assert!(text.contains("apiserver_audit_requests_rejected_total 1\n") && text.contains("plugin=\"kept\"} 3\n"), "{text}");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_event() {
    let (auditor, kept) = auditor("level: Metadata, omitStages: [RequestReceived]", false);
    let audit = begin(&auditor).unwrap();
    audit.received().await.unwrap();
    drop(audit);
    let events = kept.lock().clone();
    assert_eq!((events.len(), &events[0]["responseStatus"]["code"]), (1, &json!(499)));
}

#[test]
fn headers_of_any_bytes_are_told() {
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_bytes(&[0xff; 3000]).unwrap());
    assert!(agent(&headers).ends_with(AGENT_CUT));
}
