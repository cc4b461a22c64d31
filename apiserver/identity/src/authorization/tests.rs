use std::{path::PathBuf, time::Duration};

use apiserver::identity::Auth;

use super::*;
use crate::{
    file::Reload,
    testing::{Outside, eventually, json_response, status},
};

/// Allows what a user of that name asks.
struct Only(&'static str);

impl Authorizer for Only {
    fn authorize(&self, a: &Attributes<'_>) -> Decision {
        if a.user.name == self.0 { Decision::Allow(format!("{} is let", self.0)) } else { Decision::NoOpinion(String::new()) }
    }
}

fn built_in() -> BuiltIn {
    BuiltIn { privileged: Arc::new(Only("root")), node: Arc::new(Only("node")), rbac: Arc::new(Only("rbac")) }
}

async fn outside() -> Outside {
    Outside::start(|asked| async move {
        let spec = &asked.body["spec"];
        match spec["user"].as_str().unwrap_or_default() {
            "jane" => json_response(&json!({"status": {"allowed": true, "reason": "it is jane"}})),
            "mallory" => json_response(&json!({"status": {"allowed": false, "denied": true, "reason": "not you"}})),
            "both" => json_response(&json!({"status": {"allowed": true, "denied": true}})),
            "broken" => status(403),
            "hangs" => std::future::pending().await,
            _ => json_response(&json!({"status": {"allowed": false, "reason": "who?"}})),
        }
    })
    .await
}

fn text(outside: &Outside, more: &str) -> String {
    let file = outside.kubeconfig("/authorize");
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- type: Webhook\n  name: hook\n  webhook:\n    timeout: 1s\n    subjectAccessReviewVersion: v1\n    matchConditionSubjectAccessReviewVersion: v1\n    connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {}}}\n{more}- {{type: RBAC, name: rbac}}\n",
        file.display()
    )
}

async fn chain(outside: &Outside, more: &str) -> Arc<Chain> {
    let config = AuthorizationConfig::parse(&text(outside, more)).unwrap();
    Chain::new(&config, built_in(), &outside.group).await.unwrap()
}

fn user(name: &str) -> User {
    User { name: name.into(), groups: vec!["g".into()], ..User::default() }
}

async fn verdict(chain: &Chain, name: &str) -> Verdict {
    let user = user(name);
    let asked = Attributes { user: &user, verb: "list", resource_request: true, resource: "pods", namespace: "a", ..Attributes::default() };
    chain.ask(&asked).unwrap().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_that_decides_has_the_word() {
    let outside = outside().await;
    let chain = chain(&outside, "    failurePolicy: NoOpinion\n").await;
    let allowed = |reason: &str| Verdict::from(Decision::Allow(reason.into()));
    assert_eq!(verdict(&chain, "root").await, allowed("root is let"));
    assert_eq!(outside.calls(), 0, "who may do anything is not asked about");
    assert_eq!(verdict(&chain, "jane").await, allowed("it is jane"));
    assert_eq!(verdict(&chain, "mallory").await, Decision::Deny("not you".into()).into());
    assert_eq!(verdict(&chain, "rbac").await, allowed("rbac is let"));
    assert_eq!(verdict(&chain, "joe").await, Decision::NoOpinion("who?".into()).into());
    let both = verdict(&chain, "both").await;
    assert!(matches!(both.decision, Decision::Deny(_)) && both.error.contains("both allow and deny"), "{both:?}");
    let asked = outside.asked.lock()[0].body.clone();
    assert_eq!(
        asked["spec"],
        json!({"resourceAttributes": {"namespace": "a", "verb": "list", "resource": "pods"}, "user": "jane", "groups": ["g"]})
    );
    let calls = outside.calls();
    verdict(&chain, "jane").await;
    verdict(&chain, "joe").await;
    assert_eq!(outside.calls(), calls, "answers hold for a while");
    let user = user("jane");
    let path = Attributes { user: &user, verb: "get", path: "/metrics", ..Attributes::default() };
    assert_eq!(chain.authorize(&path), Decision::Allow("it is jane".into()), "also for who cannot wait");
    assert_eq!(outside.asked.lock().last().unwrap().body["spec"]["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
    let rules = chain.rules(&user, "a");
    assert!(rules.incomplete && rules.error == "webhook authorizer does not support user rule resolution");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_fails_decides_as_its_policy_says() {
    let outside = outside().await;
    let open = chain(&outside, "    failurePolicy: NoOpinion\n").await;
    for name in ["broken", "hangs"] {
        let failed = verdict(&open, name).await;
        assert!(failed.decision == Decision::NoOpinion(String::new()) && !failed.error.is_empty(), "{failed:?}");
    }
    let closed = chain(&outside, "    failurePolicy: Deny\n").await;
    let failed = verdict(&closed, "broken").await;
    assert!(failed.decision == Decision::Deny(String::new()) && failed.error.starts_with("403"), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_say_what_the_webhook_is_asked_about() {
    let outside = outside().await;
    let conditions = "    failurePolicy: NoOpinion\n    matchConditions:\n    - expression: has(request.resourceAttributes)\n    - expression: \"request.resourceAttributes.namespace != 'kube-system'\"\n    - expression: \"!('system:masters' in request.groups)\"\n";
    let chain = chain(&outside, conditions).await;
    assert!(matches!(verdict(&chain, "jane").await.decision, Decision::Allow(_)));
    let jane = user("jane");
    let skipped = [
        Attributes { user: &jane, verb: "get", path: "/x", ..Attributes::default() },
        Attributes { user: &jane, verb: "get", resource_request: true, namespace: "kube-system", ..Attributes::default() },
    ];
    for asked in skipped {
        assert_eq!(chain.ask(&asked).unwrap().await, Decision::NoOpinion(String::new()).into());
    }
    assert_eq!(outside.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_taken_and_a_broken_one_is_not() {
    let outside = outside().await;
    let first = text(&outside, "    failurePolicy: NoOpinion\n");
    let chain = chain(&outside, "    failurePolicy: NoOpinion\n").await;
    let file: PathBuf = outside.file("authorization.yaml", &first);
    let reload = Reload { file: file.clone(), text: first.clone(), take: chain.take() };
    outside.group.spawn(reload.follow_each(Duration::from_millis(20)));
    let write = |text: &str| {
        let next = outside.file("next", text);
        std::fs::rename(next, &file).unwrap();
    };
    let head = first.split("authorizers:").next().unwrap().to_owned();
    write(&format!("{head}authorizers: [{{type: AlwaysAllow, name: a}}]"));
    let joe = user("joe");
    let asked = Attributes { user: &joe, verb: "get", path: "/x", ..Attributes::default() };
    eventually(|| matches!(chain.authorize(&asked), Decision::Allow(_))).await;
    for broken in ["authorizers: [", "authorizers: []", "authorizers: [{type: ABAC, name: a}]", "authorizers: [{type: Node, name: n}]"] {
        write(&format!("{head}{broken}"));
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(matches!(chain.authorize(&asked), Decision::Allow(_)), "{broken}: what was read before holds");
    }
    write(&format!("{head}authorizers: [{{type: AlwaysDeny, name: d}}]"));
    eventually(|| chain.authorize(&asked) == Decision::NoOpinion("Everything is forbidden.".into())).await;
}

#[tokio::test]
async fn what_is_wrong_is_said_in_upstreams_words() {
    let outside = outside().await;
    let wrong = |text: &str| {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n{text}");
        AuthorizationConfig::parse(&text).err().unwrap_or_default()
    };
    let file = outside.kubeconfig("/");
    let webhook = |more: &str| {
        format!(
            "authorizers: [{{type: Webhook, name: w, webhook: {{connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {}}}, {more}}}}}]",
            file.display()
        )
    };
    let good = "timeout: 3s, failurePolicy: Deny, subjectAccessReviewVersion: v1";
    assert_eq!(wrong(&webhook(good)), "");
    assert_eq!(wrong("authorizers: [{type: Node, name: node}, {type: RBAC, name: rbac}]"), "");
    let cases = [
        (String::new(), "authorizers: Required value: at least one authorization mode must be defined"),
        ("authorizers: [{name: x}]".into(), "authorizers[0].type: Required value"),
        ("authorizers: [{type: ABAC, name: x}]".into(), "authorizers[0].type: Unsupported value: \"ABAC\""),
        ("authorizers: [{type: RBAC, name: a}, {type: RBAC, name: b}]".into(), "authorizers[1].type: Duplicate value: \"RBAC\""),
        ("authorizers: [{type: RBAC, name: a}, {type: Node, name: a}]".into(), "authorizers[1].name: Duplicate value: \"a\""),
        ("authorizers: [{type: RBAC, name: A}]".into(), "authorizer name is invalid"),
        ("authorizers: [{type: RBAC, name: a, webhook: {}}]".into(), "may only be specified when type=Webhook"),
        ("authorizers: [{type: Webhook, name: a}]".into(), "required when type=Webhook"),
        (webhook("failurePolicy: Deny"), "authorizers[0].timeout: Required value"),
        (webhook("timeout: 31s"), "must be > 0s and <= 30s"),
        (webhook("timeout: 1"), "strict decoding error"),
        (webhook("failurePolicy: Open"), "supported values: \"Deny\", \"NoOpinion\""),
        (webhook("subjectAccessReviewVersion: v2"), "supported values: \"v1\", \"v1beta1\""),
        (webhook("matchConditions: [{expression: 'true'}]"), "required if match conditions are specified"),
        (webhook("matchConditions: [{expression: 'request.user'}]"), "must evaluate to bool but got string"),
        (webhook("matchConditions: [{expression: 'true'}, {expression: 'true'}]"), "matchConditions[1].expression: Duplicate value"),
        (
            "authorizers: [{type: Webhook, name: w, webhook: {connectionInfo: {type: InClusterConfig}}}]".into(),
            "the API server runs in no pod",
        ),
        (
            "authorizers: [{type: Webhook, name: w, webhook: {connectionInfo: {type: KubeConfigFile, kubeConfigFile: x}}}]".into(),
            "must be an absolute path",
        ),
        (
            "authorizers: [{type: Webhook, name: w, webhook: {connectionInfo: {type: KubeConfigFile, kubeConfigFile: /none}}}]".into(),
            "error loading file",
        ),
    ];
    for (text, why) in cases {
        let found = wrong(&text);
        assert!(found.contains(why), "{text}: {found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_asks_the_chain() {
    let outside = outside().await;
    let chain = chain(&outside, "    failurePolicy: NoOpinion\n").await;
    let auth = Auth { authorizers: vec![chain], ..Auth::default() };
    let engine = Engine::new(Arc::new(store::memory::Memory::new()), Vec::new(), auth, outside.group.clone());
    let broken = user("broken");
    let asked = Attributes { user: &broken, verb: "get", path: "/x", ..Attributes::default() };
    let verdict = engine.verdict(&asked).await;
    assert!(matches!(verdict.decision, Decision::NoOpinion(_)) && verdict.error.starts_with("403"), "{verdict:?}");
    assert_eq!(engine.verdict_at_once(&asked), verdict, "who cannot wait is told as much");
}
