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
    let kept = Arc::new(Mutex::new(Vec::new()));
    (with_sinks(rule, vec![Box::new(Kept(kept.clone(), is_full))]), kept)
}

fn with_sinks(rule: &str, sinks: Vec<Box<dyn Sink>>) -> Arc<Auditor> {
    let policy = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{{{rule}}}]");
    Auditor::new(Policy::read(&policy).unwrap(), sinks)
}

/// Takes lines up to so many bytes, and keeps them as they are.
fn truncated(bytes_max: usize) -> (Truncate, Arc<Mutex<Vec<Bytes>>>) {
    struct Lines(Arc<Mutex<Vec<Bytes>>>);
    #[async_trait]
    impl Sink for Lines {
        fn name(&self) -> &'static str {
            "lines"
        }
        fn is_strict(&self) -> bool {
            false
        }
        async fn take(&self, event: Bytes) -> Result<(), String> {
            self.take_now(event)
        }
        fn take_now(&self, event: Bytes) -> Result<(), String> {
            self.0.lock().push(event);
            Ok(())
        }
    }
    let lines = Arc::<Mutex<Vec<Bytes>>>::default();
    (Truncate { sink: Box::new(Lines(lines.clone())), event_bytes_max: bytes_max }, lines)
}

/// `{"a":[[[...]]]}`, so many levels deep.
fn deep(levels: usize) -> String {
    format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1))
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

#[tokio::test]
async fn an_event_is_told_however_deep_its_objects_are() {
    // Of what is parsed here, and of what was answered or sent as it is.
    for levels in [2, 100, 126, 127, 128, 129, 200, 1000] {
        for (bytes_max, is_shortened) in [(usize::MAX, false), (2000, true)] {
            let (sink, lines) = truncated(bytes_max);
            let auditor =
                with_sinks("level: RequestResponse, omitStages: [RequestReceived], omitManagedFields: true", vec![Box::new(sink)]);
            let audit = begin(&auditor).unwrap();
            audit.sent_patch(deep(levels).as_bytes());
            audit.annotate([("z", "1"), ("a", "2")]);
            let answered = format!("{{\"items\":\n[{},\"{}\"]}}", deep(levels), "x".repeat(2000));
            audit.complete(&Ended { code: 200, status: None, object: Some(answered.as_bytes()) }).await;
            let lines = lines.lock().clone();
            assert_eq!(lines.len(), 1, "{levels} levels are lost");
            let text = std::str::from_utf8(&lines[0]).unwrap();
            assert_eq!(text.matches('\n').count(), 1, "an event is a line");
            let told = [deep(levels), answered.replace('\n', "")].map(|object| text.contains(&object));
            assert_eq!(told, [!is_shortened; 2], "{levels}: {text}");
            assert_eq!(text.contains(r#""annotations":{"a":"2","audit.k8s.io/truncated":"true","z":"1"}"#), is_shortened, "{text}");
            assert!(text.contains("\"level\":\"RequestResponse\"") && text.contains("\"requestURI\""), "{text}");
        }
    }
}

#[tokio::test]
async fn what_is_too_large_all_the_same_is_counted() {
    for (rule, bytes_max) in [("level: Metadata", 1200), ("level: Request", 1200)] {
        let (sink, lines) = truncated(bytes_max);
        let auditor = with_sinks(rule, vec![Box::new(sink)]);
        // Its agent alone is longer.
        begin(&auditor).unwrap().complete_now(&Ended { code: 200, status: None, object: None });
        let mut text = String::new();
        auditor.text(&mut text);
        assert!(lines.lock().is_empty() && text.contains("apiserver_audit_error_total{plugin=\"truncate\"} 1\n"), "{text}");
    }
}

#[tokio::test]
async fn each_sink_gets_what_is_small_enough_for_it() {
    let ((small, short), (large, whole)) = (truncated(2500), truncated(1 << 20));
    let auditor = with_sinks("level: Request, omitStages: [RequestReceived]", vec![Box::new(small), Box::new(large)]);
    let audit = begin(&auditor).unwrap();
    audit.sent(&json!({"data": "x".repeat(3000)}));
    audit.complete(&Ended { code: 200, status: None, object: None }).await;
    let has_object = |lines: &Mutex<Vec<Bytes>>| serde_json::from_slice::<Value>(&lines.lock()[0]).unwrap().get("requestObject").is_some();
    assert_eq!((has_object(&short), has_object(&whole)), (false, true));
}

#[tokio::test]
async fn who_goes_away_while_one_sink_takes_an_event_keeps_it_from_no_other() {
    /// Never comes to an end.
    struct Slow;
    #[async_trait]
    impl Sink for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }
        fn is_strict(&self) -> bool {
            false
        }
        async fn take(&self, _: Bytes) -> Result<(), String> {
            std::future::pending().await
        }
        fn take_now(&self, _: Bytes) -> Result<(), String> {
            Err("never".into())
        }
    }
    let kept = Arc::new(Mutex::new(Vec::new()));
    let auditor = with_sinks("level: Metadata", vec![Box::new(Slow), Box::new(Kept(kept.clone(), false))]);
    let audit = begin(&auditor).unwrap();
    let ended = Ended { code: 200, status: None, object: None };
    {
        let mut telling = std::pin::pin!(audit.complete(&ended));
        assert!(futures::poll!(&mut telling).is_pending());
        assert!(kept.lock().is_empty());
    }
    assert_eq!(kept.lock().len(), 1);
    drop(audit);
    assert_eq!(kept.lock().len(), 1, "once");
}
