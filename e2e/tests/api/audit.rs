//! Requests over HTTPS -> lines of the audit log.

use std::{fs, path::PathBuf};

use e2e::{Api, Options, Patch, Server, eventually, object};
use serde_json::{Value, json};

use crate::world::{CONFIGMAPS, SOON};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ["system:serviceaccounts", "system:nodes"]}
- {level: None, users: ["system:kube-scheduler", "system:kube-controller-manager", "system:apiserver"]}
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, resources: [{group: "", resources: [configmaps]}]}
- {level: Metadata}
"#;

pub struct Audited {
    pub server: Server,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Audited {
    pub async fn start(mode: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
        fs::write(&policy, POLICY).unwrap();
        let args = vec![
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", log.display()),
            format!("--audit-log-mode={mode}"),
        ];
        Self { server: Server::start(Options { args, ..Options::default() }).await, log, _dir: dir }
    }

    /// The events about `uri`, once there are `count`.
    pub async fn events(&self, uri: &str, count: usize) -> Vec<Value> {
        let mut found = Vec::new();
        eventually(uri, SOON, async || {
            let text = fs::read_to_string(&self.log).unwrap();
            let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            found = all.filter(|event| event["requestURI"].as_str().unwrap().starts_with(uri)).collect();
            if found.len() >= count { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
        found
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_did_what_is_told() {
    let w = Audited::start("blocking-strict").await;
    let api = w.server.api();
    let made = api.post(CONFIGMAPS, &object("v1", "ConfigMap", "told", json!({"data": {"k": "v"}}))).await.expect(201);
    let one = format!("{CONFIGMAPS}/told");
    api.patch(&one, Patch::Merge, &json!({"data": {"k": "w"}})).await.expect(200);
    let events = w.events(CONFIGMAPS, 2).await;
    let [create, patch] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(
        (&create["verb"], &create["stage"], &create["level"]),
        (&json!("create"), &json!("ResponseComplete"), &json!("RequestResponse"))
    );
    assert_eq!(create["objectRef"], json!({"resource": "configmaps", "namespace": "default", "name": "told", "apiVersion": "v1"}));
    assert_eq!((&create["requestObject"]["data"], &create["responseObject"]), (&json!({"k": "v"}), &made));
    assert_eq!(create["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(create["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(
        (&create["sourceIPs"], &create["user"]["groups"]),
        (&json!(["127.0.0.1"]), &json!(["system:masters", "system:authenticated"]))
    );
    assert_eq!((&patch["requestObject"], &patch["responseObject"]["data"]), (&json!({"data": {"k": "w"}}), &json!({"k": "w"})));

    let secrets = "/api/v1/namespaces/default/secrets";
    api.post(secrets, &object("v1", "Secret", "hidden", json!({"stringData": {"password": "geheim"}}))).await.expect(201);
    w.events(secrets, 1).await;
    assert!(!fs::read_to_string(&w.log).unwrap().contains("geheim"), "of secrets who and when is told");

    api.get("/api/v1/namespaces/default/pods/none").await.refused(404, "NotFound");
    let missing = w.events("/api/v1/namespaces/default/pods/none", 1).await;
    let status = &missing[0]["responseStatus"];
    assert_eq!((&status["code"], &status["reason"], &status["details"]["name"]), (&json!(404), &json!("NotFound"), &json!("none")));

    let headers = [("impersonate-user", "jane"), ("user-agent", "my-agent/1")];
    assert_eq!(api.send("GET", "/api/v1/namespaces/default/services", &headers, Vec::new()).await.unwrap().status, 403);
    let refused = w.events("/api/v1/namespaces/default/services", 1).await;
    assert_eq!((&refused[0]["impersonatedUser"]["username"], &refused[0]["userAgent"]), (&json!("jane"), &json!("my-agent/1")));
    assert_eq!(refused[0]["annotations"]["authorization.k8s.io/decision"], "forbid");

    let stranger = Api::with_token(&w.server.kubeconfig(), "nobodys").unwrap();
    stranger.get("/api/v1/namespaces/default/endpoints").await.refused(401, "Unauthorized");
    let failed = w.events("/api/v1/namespaces/default/endpoints", 1).await;
    assert_eq!((&failed[0]["stage"], &failed[0]["user"]), (&json!("ResponseStarted"), &json!({})));
    assert_eq!(failed[0]["responseStatus"]["message"], "Authentication failed, attempted: bearer");
    w.server.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_told_when_it_begins_and_when_it_is_over() {
    let w = Audited::start("batch").await;
    let uri = "/api/v1/namespaces?watch=true";
    let watch = w.server.api().watch(uri).await.unwrap();
    let begun = w.events(uri, 1).await;
    assert_eq!((begun.len(), &begun[0]["stage"], &begun[0]["verb"]), (1, &json!("ResponseStarted"), &json!("watch")));
    drop(watch);
    let over = w.events(uri, 2).await;
    assert_eq!((&over[1]["stage"], &over[0]["auditID"]), (&json!("ResponseComplete"), &over[1]["auditID"]));
    w.server.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_policy_ends_the_start_with_words() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: All}]").unwrap();
    let mut server =
        Server::spawn("server", Options { args: vec![format!("--audit-policy-file={}", policy.display())], ..Options::default() });
    assert!(!server.ended().await.success());
    assert!(server.log().contains("rules[0].level: Unsupported value"), "{}", server.log());
}
