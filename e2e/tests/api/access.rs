//! Who may do what: nobody, bearers of tokens, roles, and the reviews that tell in advance.

use e2e::{Api, Patch, eventually, object};
use serde_json::{Value, json};

use crate::world::{CONFIGMAPS, SOON, World, message};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A service account's token, and a client that bears it.
async fn account(w: &World, name: &str) -> Api {
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    w.api.post(accounts, &object("v1", "ServiceAccount", name, json!({}))).await.expect(201);
    let token = token(w, name, json!({})).await;
    Api::with_token(&w.server.kubeconfig(), &token).unwrap()
}

async fn token(w: &World, name: &str, spec: Value) -> String {
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{name}/token");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let made = w.api.post(&path, &request).await.expect(201);
    assert!(made["status"]["expirationTimestamp"].is_string(), "{made}");
    made["status"]["token"].as_str().unwrap().to_owned()
}

pub async fn nobody_and_anybody(w: &World) {
    let nobody = Api::anonymous(&w.server.kubeconfig()).unwrap();
    let refused = nobody.get(CONFIGMAPS).await.refused(403, "Forbidden");
    assert_eq!(
        message(&refused),
        "configmaps is forbidden: User \"system:anonymous\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let refused = nobody.get("/metrics").await.refused(403, "Forbidden");
    assert_eq!(message(&refused), "forbidden: User \"system:anonymous\" cannot get path \"/metrics\"");
    for open in ["/version", "/healthz", "/livez", "/readyz"] {
        assert_eq!(nobody.get(open).await.status, 200, "{open}");
    }
    let forged = Api::with_token(&w.server.kubeconfig(), "not.a.token").unwrap();
    forged.get(CONFIGMAPS).await.refused(401, "Unauthorized");
}

pub async fn roles_allow(w: &World) {
    let reader = account(w, "reader").await;
    let user = "system:serviceaccount:default:reader";
    let refused = reader.get("/api/v1/nodes/n").await.refused(403, "Forbidden");
    assert_eq!(
        message(&refused),
        format!("nodes \"n\" is forbidden: User \"{user}\" cannot get resource \"nodes\" in API group \"\" at the cluster scope")
    );
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"], "resourceNames": []}]);
    let role = object("rbac.authorization.k8s.io/v1", "Role", "read", json!({"rules": rules}));
    w.api.post(&format!("{RBAC}/namespaces/default/roles"), &role).await.expect(201);
    let binding = object(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        "read",
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "read"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}]}),
    );
    w.api.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding).await.expect(201);
    eventually("the binding is heard of", SOON, async || reader.get(CONFIGMAPS).await.status == 200).await;
    let refused = reader.post(CONFIGMAPS, &object("v1", "ConfigMap", "x", json!({}))).await.refused(403, "Forbidden");
    assert!(message(&refused).contains("cannot create resource \"configmaps\""), "{refused}");
    reader.get("/api/v1/namespaces/kube-system/configmaps").await.refused(403, "Forbidden");
    // Nobody gives what he has not got.
    let path = format!("{RBAC}/namespaces/default/rolebindings/read");
    let other = json!({"roleRef": {"name": "other"}});
    w.api.patch(&path, Patch::Merge, &other).await.refused(422, "Invalid");
    w.api.delete(&path).await.expect(200);
    eventually("the binding is forgotten", SOON, async || reader.get(CONFIGMAPS).await.status == 403).await;
}

pub async fn tokens(w: &World) {
    let bearer = account(w, "bearer").await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let who = bearer.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await;
    if who.status != 404 {
        let who = who.expect(201);
        assert_eq!(who["status"]["userInfo"]["username"], "system:serviceaccount:default:bearer");
    }
    let audience = token(w, "bearer", json!({"audiences": ["elsewhere"]})).await;
    let stranger = Api::with_token(&w.server.kubeconfig(), &audience).unwrap();
    stranger.get(CONFIGMAPS).await.refused(401, "Unauthorized");
    let spec = json!({"token": token(w, "bearer", json!({"expirationSeconds": 600})).await});
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
    let reviewed = w.api.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.expect(201);
    assert_eq!(
        (&reviewed["status"]["authenticated"], &reviewed["status"]["user"]["username"]),
        (&json!(true), &json!("system:serviceaccount:default:bearer"))
    );
    // With its account a token ends.
    w.api.delete("/api/v1/namespaces/default/serviceaccounts/bearer").await.expect(200);
    eventually("the token has ended", SOON, async || bearer.get(CONFIGMAPS).await.status == 401).await;
}

pub async fn reviews(w: &World) {
    let base = "/apis/authorization.k8s.io/v1";
    let own = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "delete", "resource": "nodes"}}});
    assert_eq!(w.api.post(&format!("{base}/selfsubjectaccessreviews"), &own).await.expect(201)["status"]["allowed"], true);
    let other = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "jane", "resourceAttributes": {"verb": "delete", "resource": "nodes"}}});
    assert_eq!(w.api.post(&format!("{base}/subjectaccessreviews"), &other).await.expect(201)["status"]["allowed"], false);
    let rules = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let rules = w.api.post(&format!("{base}/selfsubjectrulesreviews"), &rules).await.expect(201);
    assert!(rules["status"]["resourceRules"].as_array().is_some_and(|r| !r.is_empty()), "{rules}");
    let jane = [("impersonate-user", "jane")];
    let refused = w.api.send("GET", CONFIGMAPS, &jane, vec![]).await.unwrap();
    assert!([403, 501].contains(&refused.status), "impersonation must act or be refused: {}", refused.text());
}
