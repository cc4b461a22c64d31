//! Authentication, authorization and admission over a real engine: what a fresh cluster lets whom do, and tokens that end with what they are bound to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use api::{GroupResource, Key, task::Group};
use apiserver::{
    engine::Engine,
    identity::{Attributes, Authenticator, User},
};
use kinds::auth::{self, Tokens, system_user};
use serde_json::json;
use store::{
    Store,
    faulty::{Faults, Faulty},
};

async fn house() -> (Arc<Engine>, Arc<Tokens>, Arc<dyn Store>, Group) {
    let store: Arc<dyn Store> = Arc::new(store::memory::Memory::new());
    let (engine, tokens, group) = house_over(store.clone()).await;
    (engine, tokens, store, group)
}

async fn house_over(store: Arc<dyn Store>) -> (Arc<Engine>, Arc<Tokens>, Group) {
    let group = Group::new();
    let key = apiserver::certs::issue::key().unwrap();
    let public = apiserver::certs::issue::public(&key).unwrap();
    let tokens = Arc::new(Tokens::new(auth::ISSUER, &key, &public).unwrap());
    let kinds = kinds::all(&kinds::Config::default(), &tokens);
    let engine = Engine::new(store, kinds, auth::chain(&tokens), group.clone());
    engine.ready().await;
    auth::bootstrap(&engine).await.unwrap();
    (engine, tokens, group)
}

fn may(engine: &Engine, user: &str, groups: &[&str], verb: &str, what: &str, namespace: &str) -> bool {
    let (group, resource) = what.split_once(':').unwrap_or(("", what));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let user = User { name: user.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..User::default() };
    let asked = Attributes { user: &user, verb, resource_request: true, group, resource, subresource, namespace, ..Attributes::default() };
    engine.verdict_at_once(&asked).is_allowed()
}

#[tokio::test]
async fn a_fresh_cluster_lets_everybody_do_their_work_and_no_more() {
    let (engine, _, store, group) = house().await;
    assert!(may(&engine, "root", &["system:masters"], "delete", "x.io:anything", ""));
    assert!(may(&engine, "system:kube-scheduler", &[], "create", "pods/binding", "a"));
    assert!(!may(&engine, "system:kube-scheduler", &[], "create", "apps:deployments", "a"));
    assert!(may(&engine, "system:serviceaccount:kube-system:deployment-controller", &[], "create", "apps:replicasets", "a"));
    assert!(!may(&engine, "system:serviceaccount:a:deployment-controller", &[], "create", "apps:replicasets", "a"));
    assert!(may(&engine, "jane", &["system:authenticated"], "create", "authorization.k8s.io:selfsubjectaccessreviews", ""));
    assert!(!may(&engine, "jane", &["system:authenticated"], "get", "pods", "a"));
    assert!(!may(&engine, "system:node:n", &["system:nodes"], "get", "secrets", "a"));
    let before = store.revision().await.unwrap();
    auth::bootstrap(&engine).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before, "a second start writes nothing");
    group.stop();
}

#[tokio::test]
async fn what_was_taken_from_a_default_role_comes_back() {
    let (engine, _, _, group) = house().await;
    let (gr, key) = (GroupResource::new("rbac.authorization.k8s.io", "clusterroles"), Key::new("", "system:kube-scheduler"));
    let empty = |object: &mut serde_json::Value| {
        object["rules"] = json!([]);
        Ok(())
    };
    engine.update(&gr, &key, "", &system_user(), &empty).await.unwrap();
    assert!(!may(&engine, "system:kube-scheduler", &[], "create", "pods/binding", "a"));
    auth::bootstrap(&engine).await.unwrap();
    assert!(may(&engine, "system:kube-scheduler", &[], "create", "pods/binding", "a"));
    group.stop();
}

#[tokio::test]
async fn system_namespaces_come_back() {
    let (engine, _, store, group) = house().await;
    let (gr, key) = (GroupResource::new("", "namespaces"), Key::new("", "kube-node-lease"));
    let uid = async || Some(engine.get(&gr, &key).await.ok()?.value()["metadata"]["uid"].clone());
    let first = uid().await;
    let before = store.revision().await.unwrap();
    auth::bootstrap::make_namespaces(&engine).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before, "what is there is left alone");
    engine.delete(&gr, &key, json!({}), &system_user()).await.unwrap();
    let emptied = |object: &mut serde_json::Value| {
        object["spec"]["finalizers"] = json!([]);
        Ok(())
    };
    engine.update(&gr, &key, "finalize", &system_user(), &emptied).await.unwrap();
    assert_eq!(uid().await, None);
    auth::bootstrap::make_namespaces(&engine).await.unwrap();
    assert!(uid().await.is_some() && uid().await != first);
    group.stop();
}

#[tokio::test]
async fn a_token_ends_with_its_account() {
    let (engine, tokens, _, group) = house().await;
    let accounts = GroupResource::new("", "serviceaccounts");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    let made = engine.create(&accounts, "default", account.clone(), &system_user()).await.unwrap();
    let now = api::time::Timestamp::now().as_second();
    let claims = auth::tokens::Claims {
        aud: auth::audiences::Audiences(vec![auth::ISSUER.into()]),
        exp: now + 600,
        iat: now,
        iss: auth::ISSUER.into(),
        bound: auth::tokens::Bound {
            namespace: "default".into(),
            serviceaccount: auth::tokens::Reference { name: "robot".into(), uid: made.uid().to_owned() },
            ..Default::default()
        },
        ..Default::default()
    };
    let token = tokens.sign(&claims).unwrap();
    let user = tokens.token(&engine, &token, &[]).await.unwrap().unwrap().user;
    assert_eq!(user.name, "system:serviceaccount:default:robot");
    engine.delete(&accounts, &Key::new("default", "robot"), json!({}), &system_user()).await.unwrap();
    assert_eq!(tokens.token(&engine, &token, &[]).await.unwrap_err().code, 401);
    engine.create(&accounts, "default", account, &system_user()).await.unwrap();
    let error = tokens.token(&engine, &token, &[]).await.unwrap_err();
    assert!(error.message.contains("does not match claim"), "an account of the same name is another: {}", error.message);
    group.stop();
}

async fn eventually<T>(find: impl AsyncFn() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(found) = find().await {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("it did not come true");
}

#[tokio::test]
async fn a_secret_of_a_token_is_filled_and_its_token_taken_until_it_is_marked_or_gone() {
    let (engine, tokens, _, group) = house().await;
    group.spawn(auth::keep_token_secrets(engine.clone(), tokens.clone(), "the ca".into()));
    let (accounts, secrets, system) = (GroupResource::new("", "serviceaccounts"), GroupResource::new("", "secrets"), system_user());
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    let account = engine.create(&accounts, "default", account, &system).await.unwrap();
    let secret = |name: &str, of: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": of}}})
    };
    engine.create(&secrets, "default", secret("robot-token", "robot"), &system).await.unwrap();
    let key = Key::new("default", "robot-token");
    let now = async || engine.cached(&secrets, &key).map(|secret| secret.value());
    let decoded = |text: &serde_json::Value| {
        String::from_utf8(base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text.as_str().unwrap()).unwrap()).unwrap()
    };
    let data = eventually(async || now().await.map(|secret| secret["data"].clone()).filter(|data| data["token"].is_string())).await;
    assert_eq!((decoded(&data["ca.crt"]).as_str(), decoded(&data["namespace"]).as_str()), ("the ca", "default"));
    assert_eq!(now().await.unwrap()["metadata"]["annotations"]["kubernetes.io/service-account.uid"], account.uid());
    let token = decoded(&data["token"]);
    let known = async |token: &str| tokens.token(&engine, token, &[]).await;
    let user = known(&token).await.unwrap().unwrap().user;
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:default:robot", account.uid()));
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:default"]);
    // Nobody waits for that.
    let used = eventually(async || {
        let secret = now().await?;
        secret["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"].as_str().map(str::len)
    });
    assert_eq!(used.await, "2026-01-01".len());
    assert!(tokens.token(&engine, &token, &["vault".into()]).await.is_err(), "it is for the API server alone");
    let same = tokens.sign(&auth::legacy::Claims::new("default", "robot", account.uid(), "robot-token")).unwrap();
    assert_eq!(known(&same).await.unwrap_err().message, "Token does not match server's copy");
    let mark = |object: &mut serde_json::Value| {
        object["metadata"]["labels"]["kubernetes.io/legacy-token-invalid-since"] = "2026-01-01".into();
        Ok(())
    };
    engine.update(&secrets, &key, "", &system, &mark).await.unwrap();
    assert!(known(&token).await.unwrap_err().message.contains("has been marked invalid"));
    // With the account goes the secret; one of nobody goes at once.
    engine.delete(&accounts, &Key::new("default", "robot"), json!({}), &system).await.unwrap();
    eventually(async || now().await.is_none().then_some(())).await;
    assert_eq!(known(&token).await.unwrap_err().message, "Token has been invalidated");
    engine.create(&secrets, "default", secret("nobodys", "nobody"), &system).await.unwrap();
    eventually(async || engine.cached(&secrets, &Key::new("default", "nobodys")).is_none().then_some(())).await;
    group.stop();
}

#[tokio::test]
async fn an_account_limits_its_pods_to_its_secrets_where_it_says_so() {
    const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
    let (engine, _, _, group) = house().await;
    let (accounts, pods) = (GroupResource::new("", "serviceaccounts"), GroupResource::new("", "pods"));
    // The values that Go's ParseBool takes for true.
    let said = [("true", true), ("T", true), ("1", true), ("false", false), ("yes", false), ("", false)];
    for (n, (annotation, refused)) in said.into_iter().enumerate() {
        let name = format!("robot-{n}");
        let metadata = json!({"name": name, "annotations": {MOUNTABLE: annotation, "other": "true"}});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "secrets": [{"name": "good"}]});
        engine.create(&accounts, "default", account, &system_user()).await.unwrap();
        for (secret, allowed) in [("good", true), ("bad", !refused)] {
            let spec = json!({"serviceAccountName": name, "containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "v", "secret": {"secretName": secret}}]});
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{name}-{secret}")}, "spec": spec});
            let made = engine.create(&pods, "default", pod, &system_user()).await;
            assert_eq!(
                made.as_ref().err().map(|status| status.code),
                (!allowed).then_some(403),
                "{annotation:?} {secret}: {made:?}",
                made = made.as_ref().err()
            );
        }
    }
    group.stop();
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_asked_for_one_secret_in_a_round() {
    const SECRETS: usize = 20;
    let writes = Arc::<AtomicUsize>::default();
    let count = writes.clone();
    // A number is drawn for each write while writes are lost, and never else.
    let random = Box::new(move || count.fetch_add(1, Ordering::Relaxed) as u64 % 1000);
    let faulty = Arc::new(Faulty::new(Arc::new(store::memory::Memory::new()), random));
    let (engine, tokens, group) = house_over(faulty.clone()).await;
    let (accounts, secrets, system) = (GroupResource::new("", "serviceaccounts"), GroupResource::new("", "secrets"), system_user());
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    engine.create(&accounts, "default", account, &system).await.unwrap();
    for at in 0..SECRETS {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": format!("s{at}"), "annotations": {"kubernetes.io/service-account.name": "robot"}}});
        engine.create(&secrets, "default", secret, &system).await.unwrap();
    }
    eventually(async || (engine.cached_list(&secrets, None).len() == SECRETS).then_some(())).await;
    faulty.set(Faults { lost: 1000, ..Faults::default() });
    group.spawn(auth::keep_token_secrets(engine.clone(), tokens.clone(), "the ca".into()));
    eventually(async || (writes.load(Ordering::Relaxed) >= 2).then_some(())).await;
    assert!(writes.load(Ordering::Relaxed) < SECRETS / 2, "{writes:?}");
    faulty.set(Faults::default());
    let is_whole = |secret: &Arc<apiserver::engine::Object>| secret.value()["data"]["token"].is_string();
    eventually(async || engine.cached_list(&secrets, None).iter().all(is_whole).then_some(())).await;
    group.stop();
}
