//! Rights that one request may need more than one of, under the real authorizers and admission: roles, creating on update, streams, impersonation, audiences.

use api::GroupResource;
use apiserver::identity::User;
use kinds::auth;
use serde_json::{Value, json};

use crate::stock::{Headers, Stock, body};

const RBAC: &str = "rbac.authorization.k8s.io/v1";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

struct House {
    stock: Stock,
}

fn user(name: &str) -> User {
    User { name: name.into(), ..User::default() }
}

/// `verbs | groups | resources | names`, `core` being the group without a name.
fn rule(text: &str) -> Value {
    let part = |at: usize| -> Vec<&str> {
        let words = text.split('|').nth(at).unwrap_or_default().split_whitespace();
        words.map(|word| if word == "core" { "" } else { word }).collect()
    };
    json!({"verbs": part(0), "apiGroups": part(1), "resources": part(2), "resourceNames": part(3)})
}

impl House {
    async fn new() -> Self {
        let stock = Stock::new(auth::chain).await;
        auth::bootstrap(&stock.engine).await.unwrap();
        let house = Self { stock };
        house
            .make("", "serviceaccounts", "default", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}))
            .await;
        house
    }

    async fn make(&self, group: &str, plural: &str, namespace: &str, object: Value) {
        self.stock.engine.create(&GroupResource::new(group, plural), namespace, object, &auth::system_user()).await.unwrap();
    }

    /// Lets `user` do what the rules say, everywhere.
    async fn grant(&self, user: &str, rules: &[&str]) {
        let name = format!("of-{}", user.replace(':', "-"));
        let rules: Vec<Value> = rules.iter().map(|text| rule(text)).collect();
        let role = json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
        let binding = json!({
            "apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
        });
        self.make("rbac.authorization.k8s.io", "clusterroles", "", role).await;
        self.make("rbac.authorization.k8s.io", "clusterrolebindings", "", binding).await;
    }

    async fn ask(&self, who: &str, method: &str, target: &str, sent: Value) -> (u16, String) {
        let answer = self.stock.ask(&user(who), method, target, Some(&sent).filter(|sent| !sent.is_null())).await.unwrap();
        let message = serde_json::from_str::<Value>(&answer.body).ok().and_then(|body| body["message"].as_str().map(str::to_owned));
        (answer.code, message.unwrap_or(answer.body))
    }

    /// As whom a request of `sender` with these headers runs, or why it does not.
    async fn acts(&self, sender: &User, headers: Headers<'_>) -> Result<Value, (u16, String)> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let answer = self.stock.ask_with(sender, "POST", WHO, headers, Some(&review)).await.unwrap();
        let reply: Value = serde_json::from_str(&answer.body).unwrap();
        match answer.code {
            201 => Ok(reply["status"]["userInfo"].clone()),
            code => Err((code, reply["message"].as_str().unwrap_or_default().to_owned())),
        }
    }
}

#[tokio::test]
async fn whoever_updates_what_is_missing_creates_it() {
    let house = House::new().await;
    house.grant("updater", &["update get|*|*"]).await;
    house.grant("creator", &["update create|core coordination.k8s.io|*"]).await;
    house.grant("named", &["update create|core|configmaps services|mine"]).await;
    let creates: Vec<_> = house.stock.kinds.iter().filter(|kind| kind.strategy.create_on_update()).cloned().collect();
    let plurals: Vec<&str> = creates.iter().map(|kind| kind.plural.as_ref()).collect();
    for plural in ["services", "endpoints", "leases", "limitranges", "events", "roles", "clusterrolebindings"] {
        assert!(plurals.contains(&plural), "{plurals:?}");
    }
    for kind in &creates {
        let place = if kind.scope == apiserver::kind::Scope::Cluster { "" } else { "namespaces/default/" };
        let target = format!("{}/{place}{}/mine", crate::stock::root(kind), kind.plural);
        let object = body(kind, "default", "mine");
        let gr = kind.group_resource();
        let (code, why) = house.ask("updater", "PUT", &target, object.clone()).await;
        let words = format!("{gr} \"mine\" is forbidden: User \"updater\" cannot create resource \"{}\"", kind.plural);
        assert!(code == 403 && why.starts_with(&words), "{code} {why}");
        assert_eq!(house.ask("updater", "GET", &target, Value::Null).await.0, 404, "{target}");
        if ["services", "leases", "limitranges"].contains(&kind.plural.as_ref()) {
            assert_eq!(house.ask("creator", "PUT", &target, object.clone()).await.0, 201, "{target}");
            let version = house.ask("updater", "PUT", &target, object).await.0;
            // A lease must say which version it follows.
            assert!(version == 200 || (version == 422 && kind.plural == "leases"), "what is there is only updated: {target}");
        }
    }
    let service = creates.iter().find(|kind| kind.plural == "services").unwrap();
    let at = |name: &str| format!("/api/v1/namespaces/kube-public/services/{name}");
    assert_eq!(house.ask("named", "PUT", &at("mine"), body(service, "kube-public", "mine")).await.0, 201);
    assert_eq!(house.ask("named", "PUT", &at("other"), body(service, "kube-public", "other")).await.0, 403);
}

#[tokio::test]
async fn nobody_gives_away_by_a_label_what_he_does_not_hold() {
    let house = House::new().await;
    house.grant("editor", &["update patch get create|rbac.authorization.k8s.io|*", "get list|core|pods"]).await;
    let aggregate = json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}});
    let role = |name: &str| format!("{ROLES}/clusterroles/{name}");
    let (code, why) = house.ask("editor", "PATCH", &role("cluster-admin"), aggregate.clone()).await;
    assert!(code == 403 && why.contains("is attempting to grant RBAC permissions not currently held"), "{code} {why}");
    // An aggregated role stores no rules of its own: what it gathers is everything it may yet gather.
    let selectors = json!([{"matchLabels": {"any": "thing"}}]);
    let gathers = json!({
        "apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": "gathers"},
        "aggregationRule": {"clusterRoleSelectors": selectors}, "rules": [],
    });
    house.make("rbac.authorization.k8s.io", "clusterroles", "", gathers).await;
    let privileged = "must have cluster-admin privileges to use the aggregationRule";
    for patch in [aggregate.clone(), json!({"aggregationRule": null}), json!({"metadata": {"annotations": {"a": "b"}}})] {
        let (code, why) = house.ask("editor", "PATCH", &role("gathers"), patch).await;
        assert!(code == 403 && why.ends_with(privileged), "{code} {why}");
    }
    let garbage =
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}], "finalizers": ["a.b/c"]}});
    assert_eq!(house.ask("editor", "PATCH", &role("cluster-admin"), garbage).await.0, 200);
    // What one holds one may label.
    let own = json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": "pods"}, "rules": [rule("get|core|pods")]});
    assert_eq!(house.ask("editor", "POST", &format!("{ROLES}/clusterroles"), own).await.0, 201);
    assert_eq!(house.ask("editor", "PATCH", &role("pods"), aggregate).await.0, 200);
    let (code, _) = house
        .ask("editor", "PATCH", &format!("{ROLES}/clusterrolebindings/cluster-admin"), json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    assert_eq!(code, 403, "a binding of what is not held");
    let to_none = json!({
        "apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": "x"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "none"},
    });
    let (code, why) = house.ask("editor", "POST", &format!("{ROLES}/clusterrolebindings"), to_none).await;
    assert_eq!((code, why.as_str()), (404, "clusterroles.rbac.authorization.k8s.io \"none\" not found"));
}

#[tokio::test]
async fn streams_into_pods_need_create_besides_get() {
    let house = House::new().await;
    house.grant("reader", &["get|core|pods/exec pods/attach pods/portforward pods/log"]).await;
    house.grant("both", &["get create|core|pods/exec pods/attach pods/portforward"]).await;
    house.grant("putter", &["*|core|pods/exec"]).await;
    let kind = house.stock.kinds.iter().find(|kind| kind.plural == "pods").unwrap().clone();
    house.make("", "pods", "default", body(&kind, "default", "x")).await;
    for stream in ["exec", "attach", "portforward"] {
        let target = format!("/api/v1/namespaces/default/pods/x/{stream}?command=id");
        assert_eq!(house.ask("reader", "GET", &target, Value::Null).await, (403, "pods \"x\" is forbidden: ".into()), "{stream}");
        let (code, why) = house.ask("both", "GET", &target, Value::Null).await;
        assert_eq!((code, why.as_str()), (400, "pod x does not have a host assigned"), "{stream}");
    }
    let log = house.ask("reader", "GET", "/api/v1/namespaces/default/pods/x/log", Value::Null).await;
    assert_eq!(log.0, 400, "{log:?}");
    for method in ["PUT", "PATCH", "DELETE", "HEAD"] {
        assert_eq!(house.ask("putter", method, "/api/v1/namespaces/default/pods/x/exec", Value::Null).await.0, 405, "{method}");
    }
}

#[tokio::test]
async fn nodes_that_lead_to_ourselves_are_not_called() {
    let house = House::new().await;
    let kinds = &house.stock.kinds;
    let (node, pod) = ["nodes", "pods"].map(|plural| kinds.iter().find(|kind| kind.plural == plural).unwrap().clone()).into();
    let addresses = [("Hostname", "localhost"), ("InternalIP", "127.0.0.1"), ("InternalIP", "::ffff:127.0.0.1"), ("InternalDNS", "127.1")];
    for (at, (typ, address)) in addresses.into_iter().enumerate() {
        let (name, pod_name) = (format!("n{at}"), format!("p{at}"));
        let mut object = body(&node, "", &name);
        object["status"] = json!({"addresses": [{"type": typ, "address": address}]});
        house.make("", "nodes", "", object.clone()).await;
        let status = |value: &mut Value| {
            value["status"] = object["status"].clone();
            Ok(())
        };
        let key = api::Key::new("", &name);
        house.stock.engine.update(&GroupResource::new("", "nodes"), &key, "status", &auth::system_user(), &status).await.unwrap();
        let mut object = body(&pod, "default", &pod_name);
        object["spec"]["nodeName"] = name.as_str().into();
        house.make("", "pods", "default", object).await;
        house.grant(&format!("u{at}"), &["*|core|*"]).await;
        let targets = [
            format!("/api/v1/nodes/{name}/proxy/healthz"),
            format!("/api/v1/nodes/{name}:6443/proxy/healthz"),
            format!("/api/v1/nodes/https:{name}:6443/proxy/healthz"),
            format!("/api/v1/namespaces/default/pods/{pod_name}/exec?command=id"),
            format!("/api/v1/namespaces/default/pods/{pod_name}/log"),
            format!("/api/v1/namespaces/default/pods/{pod_name}/portforward"),
        ];
        for target in targets {
            assert_eq!(
                house.ask(&format!("u{at}"), "GET", &target, Value::Null).await,
                (400, "address not allowed".into()),
                "{address} {target}"
            );
        }
    }
}

#[tokio::test]
async fn collections_of_all_namespaces_are_not_deleted() {
    let house = House::new().await;
    house.grant("deleter", &["*|*|*"]).await;
    house.grant("reader", &["get list|*|*"]).await;
    let kind = house.stock.kinds.iter().find(|kind| kind.plural == "configmaps").unwrap().clone();
    house.make("", "configmaps", "default", body(&kind, "default", "stays")).await;
    let words = "the server does not allow this method on the requested resource";
    for kind in house.stock.kinds.iter().filter(|kind| kind.scope == apiserver::kind::Scope::Namespaced && kind.serves("list")) {
        let target = format!("{}/{}", crate::stock::root(kind), kind.plural);
        assert_eq!(house.ask("reader", "DELETE", &target, Value::Null).await.0, 403, "{target}");
        assert_eq!(house.ask("deleter", "DELETE", &target, Value::Null).await, (405, words.into()), "{target}");
    }
    assert_eq!(house.ask("reader", "GET", "/api/v1/namespaces/default/configmaps/stays", Value::Null).await.0, 200);
    let nameless = house.ask("deleter", "DELETE", "/api/v1/namespaces//configmaps", Value::Null).await;
    assert_eq!(nameless, (400, "Namespace parameter required.".into()));
}

#[tokio::test]
async fn a_request_that_impersonates_is_never_its_senders() {
    let house = House::new().await;
    house.grant("boss", &["impersonate|core authentication.k8s.io|*"]).await;
    let boss = user("boss");
    let name = |headers: Result<Value, (u16, String)>| headers.map(|info| info["username"].as_str().unwrap_or_default().to_owned());
    assert_eq!(name(house.acts(&boss, &[]).await), Ok("boss".into()));
    let sharp = "stra\u{df}e".as_bytes();
    let info = house.acts(&boss, &[("impersonate-user", sharp), ("impersonate-group", "gr\u{fc}n".as_bytes())]).await.unwrap();
    assert_eq!((&info["username"], &info["groups"]), (&json!("stra\u{df}e"), &json!(["gr\u{fc}n", "system:authenticated"])));
    let refused: [Headers; 7] = [
        &[("impersonate-user", b"")],
        &[("impersonate-user", b"\xff")],
        &[("impersonate-user", b""), ("impersonate-group", b"g")],
        &[("impersonate-group", b"")],
        &[("impersonate-uid", b"u")],
        &[("impersonate-extra-x", b"\xff")],
        &[("impersonate-user", b"jane"), ("impersonate-group", b"\xff")],
    ];
    for headers in refused {
        assert_eq!(name(house.acts(&boss, headers).await).map_err(|(code, _)| code), Err(400), "{headers:?}");
    }
    // Who may not be him is told of the first way he tried.
    let (code, why) = house.acts(&user("jane"), &[("impersonate-user", sharp)]).await.unwrap_err();
    let words = "selfsubjectreviews.authentication.k8s.io is forbidden: User \"jane\" cannot impersonate-on:user-info:create resource";
    assert!(code == 403 && why.starts_with(words), "{code} {why}");
}

#[tokio::test]
async fn impersonation_can_be_for_one_verb_only() {
    let house = House::new().await;
    let on = "impersonate-on:user-info:create|authentication.k8s.io|selfsubjectreviews";
    house
        .grant(
            "agent",
            &[on, "impersonate:user-info|authentication.k8s.io|users|jane", "impersonate:user-info|authentication.k8s.io|groups|*"],
        )
        .await;
    let agent = user("agent");
    let who = async |headers: Headers<'_>| house.acts(&agent, headers).await;
    assert_eq!(who(&[("impersonate-user", b"jane")]).await.unwrap()["username"], "jane");
    let get = house.stock.ask_with(&agent, "GET", "/api/v1/namespaces", &[("impersonate-user", b"jane")], None).await.unwrap();
    assert!(get.code == 403 && get.body.contains("cannot impersonate-on:user-info:list"), "{}", get.body);
    let cases: [(Headers, &str); 4] = [
        (&[("impersonate-user", b"joe")], "users.authentication.k8s.io \"joe\" is forbidden: User \"agent\" cannot impersonate:user-info"),
        (
            &[("impersonate-user", b"jane"), ("impersonate-group", b"system:masters")],
            "impersonating the system:masters group is not allowed",
        ),
        (&[("impersonate-user", b"jane"), ("impersonate-group", b"")], "impersonating the empty string group is not allowed"),
        (&[("impersonate-user", b"system:serviceaccount:default:default")], "cannot impersonate-on:serviceaccount:create"),
    ];
    for (headers, why) in cases {
        let (code, message) = who(headers).await.unwrap_err();
        assert!(code == 403 && message.contains(why), "{message}");
    }
    // A pod's account is its own node, and no other.
    let account = "system:serviceaccount:kube-system:cni";
    let node = [
        "impersonate-on:associated-node:create|authentication.k8s.io|selfsubjectreviews",
        "impersonate:associated-node|authentication.k8s.io|nodes",
    ];
    house.grant(account, &node).await;
    let mut sender = user(account);
    sender.extra.insert("authentication.kubernetes.io/node-name".into(), vec!["n1".into()]);
    let info = house.acts(&sender, &[("impersonate-user", b"system:node:n1")]).await.unwrap();
    assert_eq!((&info["username"], &info["groups"]), (&json!("system:node:n1"), &json!(["system:nodes", "system:authenticated"])));
    assert_eq!(house.acts(&sender, &[("impersonate-user", b"system:node:n2")]).await.unwrap_err().0, 403);
}

#[tokio::test]
async fn a_token_is_for_the_audiences_it_has() {
    let house = House::new().await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["a", "c"]}});
    let boss = User { groups: vec!["system:masters".into()], ..user("boss") };
    let made = house.stock.ask(&boss, "POST", "/api/v1/namespaces/default/serviceaccounts/default/token", Some(&request)).await.unwrap();
    let token = serde_json::from_str::<Value>(&made.body).unwrap()["status"]["token"].clone();
    let review = async |audiences: Value| {
        let spec = json!({"token": token, "audiences": audiences});
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
        let answer = house.stock.ask(&boss, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", Some(&review)).await.unwrap();
        serde_json::from_str::<Value>(&answer.body).unwrap()["status"].clone()
    };
    for (asked, answered) in [(json!(["a", "b"]), json!(["a"])), (json!(["c", "b", "a"]), json!(["c", "a"])), (json!(["c"]), json!(["c"]))]
    {
        let status = review(asked.clone()).await;
        assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &answered), "{asked}");
    }
    for asked in [json!(["b"]), json!([]), json!([auth::ISSUER])] {
        let status = review(asked.clone()).await;
        assert!(
            status["authenticated"] != json!(true) && status["audiences"].is_null() && status["error"].is_string(),
            "{asked}: {status}"
        );
    }
}

#[tokio::test]
async fn a_node_sees_what_its_pods_name_and_no_more() {
    let house = House::new().await;
    let kinds = &house.stock.kinds;
    let [secret, pod] = ["secrets", "pods"].map(|plural| kinds.iter().find(|kind| kind.plural == plural).unwrap().clone());
    for name in ["mine", "theirs"] {
        house.make("", "secrets", "default", body(&secret, "default", name)).await;
    }
    for (name, node) in [("here", "n1"), ("there", "n2")] {
        let mut object = body(&pod, "default", name);
        object["spec"]["nodeName"] = node.into();
        object["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": if node == "n1" { "mine" } else { "theirs" }}}]);
        house.make("", "pods", "default", object).await;
    }
    let node = User { groups: vec!["system:nodes".into()], ..user("system:node:n1") };
    let secrets = "/api/v1/namespaces/default/secrets";
    let watched = "/api/v1/watch/namespaces/default";
    let allowed = [
        format!("{secrets}/mine"),
        format!("{secrets}?fieldSelector=metadata.name%3Dmine"),
        format!("{secrets}?watch=1&fieldSelector=metadata.name%3Dmine"),
        format!("{watched}/secrets/mine"),
        format!("{watched}/secrets/mine?fieldSelector="),
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1".into(),
        "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1,metadata.name!%3Dx".into(),
        format!("{watched}/pods/here"),
    ];
    let refused = [
        (format!("{watched}/secrets/mine?fieldSelector=metadata.name!%3Dx"), 400),
        (format!("{watched}/secrets/mine?fieldSelector=metadata.name%3Dtheirs"), 400),
        (format!("{secrets}?fieldSelector=metadata.name!%3Dx"), 403),
        (format!("{secrets}?fieldSelector=&fieldSelector=metadata.name%3Dmine"), 403),
        (format!("{secrets}?fieldSelector=metadata.name%3Dtheirs,metadata.name%3Dmine"), 403),
        (format!("{watched}/secrets?fieldSelector=metadata.name%3Dmine"), 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName!%3Dn2".into(), 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1%5C".into(), 403),
        ("/api/v1/watch/pods?fieldSelector=spec.nodeName%3Dn1".into(), 403),
        (format!("{watched}/pods/here?fieldSelector=spec.nodeName%3Dn2"), 400),
    ];
    for target in allowed {
        let answer = house.stock.ask(&node, "GET", &target, None).await.unwrap();
        let (own, foreign) = (answer.body.contains("\"mine\"") || answer.body.contains("\"here\""), ["theirs", "there"]);
        assert!(
            answer.code == 200 && own && !foreign.iter().any(|name| answer.body.contains(&format!("\"{name}\""))),
            "{target}: {}",
            answer.body
        );
    }
    for (target, code) in refused {
        let answer = house.stock.ask(&node, "GET", &target, None).await.unwrap();
        assert_eq!(answer.code, code, "{target}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_service_leads_to_pods_of_its_own_namespace() {
    let house = House::new().await;
    let pod = house.stock.kinds.iter().find(|kind| kind.plural == "pods").unwrap().clone();
    house
        .make("", "serviceaccounts", "kube-system", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}))
        .await;
    house.make("", "pods", "kube-system", body(&pod, "kube-system", "theirs")).await;
    let status = |value: &mut Value| {
        value["status"]["podIP"] = "192.0.2.9".into();
        value["status"]["podIPs"] = json!([{"ip": "192.0.2.9"}]);
        Ok(())
    };
    let (pods, key) = (GroupResource::new("", "pods"), api::Key::new("kube-system", "theirs"));
    house.stock.engine.update(&pods, &key, "status", &auth::system_user(), &status).await.unwrap();
    house.grant("tenant", &["*|core|*"]).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    assert_eq!(house.ask("tenant", "POST", "/api/v1/namespaces/default/services", service).await.0, 201);
    let target = json!({"kind": "Pod", "namespace": "kube-system", "name": "theirs"});
    let subsets = json!([{"addresses": [{"ip": "192.0.2.9", "targetRef": target}], "ports": [{"port": 80}]}]);
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s"}, "subsets": subsets});
    assert_eq!(house.ask("tenant", "POST", "/api/v1/namespaces/default/endpoints", endpoints).await.0, 201);
    let answer = house.ask("tenant", "GET", "/api/v1/namespaces/default/services/s/proxy/", Value::Null).await;
    assert_eq!(answer, (503, "no endpoints available for service \"s\"".into()));
}
