//! A pod -> the account it runs as, with the volume that proves it.
//!
//! Source: `plugin/pkg/admission/serviceaccount/admission.go`.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api::{GroupResource, Key, Status, annotations::CONFIG_MIRROR};
use apiserver::{
    engine::Object,
    identity::{Admission, Operation, Review},
};
use async_trait::async_trait;
use rand::Rng;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{creates_pod, forbidden, is};
use crate::{
    auth::node::names_secret,
    common::{Read, read},
};

const DEFAULT: &str = "default";
const VOLUME: &str = "kube-api-access";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A year in practice: see the token's `warnafter`.
const TOKEN_SECONDS: i64 = 3607;
const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
/// The default account is made by a controller right after its namespace: it is waited for, this often, this long each.
const TRIES: usize = 10;
const TRY_EVERY: Duration = Duration::from_millis(150);

pub struct ServiceAccount;

#[async_trait]
impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !creates_pod(review) || review.object.as_deref().is_none_or(is_mirror) {
            return Ok(());
        }
        let Some(pod) = review.object.as_deref_mut() else { return Ok(()) };
        if pod.at("spec").text("serviceAccountName").is_empty() {
            pod["spec"]["serviceAccountName"] = DEFAULT.into();
        }
        // The deprecated name says the same (conversion of core/v1).
        pod["spec"]["serviceAccount"] = pod["spec"]["serviceAccountName"].clone();
        let account = account(review).await?.value();
        let Some(pod) = review.object.as_deref_mut() else { return Ok(()) };
        if automounts(pod, &account) {
            mount(pod, &random_name());
        }
        pull_with(pod, &account);
        Ok(())
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let ephemeral =
            review.ctx.operation == Operation::Update && is(review, "", "pods") && review.ctx.subresource == "ephemeralcontainers";
        let Some(pod) = review.object.as_deref().filter(|_| ephemeral || creates_pod(review)) else { return Ok(()) };
        if is_mirror(pod) && !ephemeral {
            return mirror_stands_alone(pod).map_err(|why| forbidden(review, why));
        }
        if pod.at("spec").text("serviceAccountName").is_empty() {
            let (namespace, name) = (review.ctx.namespace, read::name(pod));
            return Err(forbidden(review, &format!("no service account specified for pod {namespace}/{name}")));
        }
        let account = account(review).await?;
        if !is_enforced(&account) {
            return Ok(());
        }
        let account = account.value();
        let lists: &[(&str, &str)] = if ephemeral {
            &[("ephemeralContainers", "ephemeral container")]
        } else {
            &[("initContainers", "init container"), ("containers", "container")]
        };
        only_mountable(pod, &account, lists).map_err(|why| forbidden(review, &why))
    }
}

fn is_mirror(pod: &Value) -> bool {
    pod.at("metadata").at("annotations").at(CONFIG_MIRROR).is_some()
}

fn mirror_stands_alone(pod: &Value) -> Result<(), &'static str> {
    if !pod.at("spec").text("serviceAccountName").is_empty() {
        return Err("a mirror pod may not reference service accounts");
    }
    if names_secret(pod) {
        return Err("a mirror pod may not reference secrets");
    }
    let mut sources = pod.at("spec").list("volumes").iter().flat_map(|volume| volume.at("projected").list("sources"));
    if sources.any(|source| source.at("serviceAccountToken").is_some()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Whether pods of the account may use only the secrets that it lists.
fn is_enforced(account: &Object) -> bool {
    #[derive(Deserialize)]
    struct Account {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        annotations: Option<BTreeMap<String, Option<String>>>,
    }
    // One that cannot be read trusts its pods with nothing.
    let Ok(account) = account.part::<Account>() else { return true };
    let annotations = account.metadata.annotations.unwrap_or_default();
    let said = annotations.get(MOUNTABLE).and_then(Option::as_deref);
    matches!(said, Some("true" | "True" | "TRUE" | "t" | "T" | "1"))
}

/// The account the pod names.
async fn account(review: &Review<'_>) -> Result<Arc<Object>, Status> {
    let (engine, namespace) = (review.ctx.engine, review.ctx.namespace);
    let name = review.object.as_deref().at("spec").text("serviceAccountName").to_owned();
    let (gr, key) = (GroupResource::new("", "serviceaccounts"), Key::new(namespace, &name));
    let tries = if name == DEFAULT { TRIES } else { 1 };
    for attempt in 0..tries {
        if attempt > 0 {
            tokio::time::sleep(TRY_EVERY).await;
        }
        let found = match engine.cached(&gr, &key) {
            Some(found) => Ok(found),
            None => engine.get(&gr, &key).await,
        };
        match found {
            Ok(found) => return Ok(found),
            Err(status) if status.reason == "NotFound" => {}
            Err(status) => return Err(status),
        }
    }
    let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
    Err(forbidden(review, &why))
}

fn automounts(pod: &Value, account: &Value) -> bool {
    const FIELD: &str = "automountServiceAccountToken";
    pod.at("spec").and_then(|s| s.flag(FIELD)).or(account.flag(FIELD)).unwrap_or(true)
}

/// Mounts the token where nothing is mounted yet; adds the volume if it is needed.
fn mount(pod: &mut Value, fresh: &str) {
    let prefix = format!("{VOLUME}-");
    let known = pod.at("spec").list("volumes").iter().map(|v| v.text("name")).find(|n| n.starts_with(&prefix)).map(str::to_owned);
    let name = known.clone().unwrap_or_else(|| fresh.to_owned());
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if container.list("volumeMounts").iter().any(|m| m.text("mountPath") == MOUNT_PATH) {
                continue;
            }
            needed = true;
            push(container, "volumeMounts", json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
        }
    }
    if known.is_none() && needed {
        let spec = &mut pod["spec"];
        push(spec, "volumes", json!({"name": name, "projected": projection()}));
    }
}

fn projection() -> Value {
    json!({"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]})
}

fn pull_with(pod: &mut Value, account: &Value) {
    if !pod.at("spec").list("imagePullSecrets").is_empty() {
        return;
    }
    let secrets: Vec<Value> = account.list("imagePullSecrets").iter().map(|s| json!({"name": s.text("name")})).collect();
    if !secrets.is_empty() {
        pod["spec"]["imagePullSecrets"] = secrets.into();
    }
}

/// An account may say that its pods use only the secrets it lists.
fn only_mountable(pod: &Value, account: &Value, lists: &[(&str, &str)]) -> Result<(), String> {
    let (spec, name) = (pod.at("spec"), read::name(account));
    let named = |list: &str| account.list(list).iter().map(|s| s.text("name")).collect::<HashSet<_>>();
    let (secrets, pull_secrets) = (named("secrets"), named("imagePullSecrets"));
    let allowed = |secret: &str| secrets.contains(secret);
    let refused = |what: String| Err(format!("{what} is not allowed because service account {name} does not reference that secret"));
    let ephemeral = lists.iter().any(|(list, _)| *list == "ephemeralContainers");
    for volume in spec.list("volumes").iter().filter(|v| !ephemeral && v.at("secret").is_some()) {
        let secret = volume.at("secret").text("secretName");
        if !allowed(secret) {
            return refused(format!("volume with secret.secretName=\"{secret}\""));
        }
    }
    for (list, what) in lists {
        for container in spec.list(list) {
            let of = container.text("name");
            for env in container.list("env").iter().filter(|e| e.at("valueFrom").at("secretKeyRef").is_some()) {
                let secret = env.at("valueFrom").at("secretKeyRef").text("name");
                if !allowed(secret) {
                    let variable = env.text("name");
                    return refused(format!("{what} {of} with envVar {variable} referencing secret.secretName=\"{secret}\""));
                }
            }
            for source in container.list("envFrom").iter().filter(|e| e.at("secretRef").is_some()) {
                let secret = source.at("secretRef").text("name");
                if !allowed(secret) {
                    return refused(format!("{what} {of} with envFrom referencing secret.secretName=\"{secret}\""));
                }
            }
        }
    }
    for (i, pull) in spec.list("imagePullSecrets").iter().enumerate().filter(|_| !ephemeral) {
        let secret = pull.text("name");
        if !pull_secrets.contains(secret) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{secret}\" is not allowed because service account {name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

fn push(object: &mut Value, field: &str, value: Value) {
    match object.get_mut(field).and_then(Value::as_array_mut) {
        Some(list) => list.push(value),
        None => object[field] = json!([value]),
    }
}

/// `kube-api-access-xxxxx`, with the letters of generated names (`apimachinery/pkg/util/rand`).
fn random_name() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    let end: String = (0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect();
    format!("{VOLUME}-{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"name": "web"}, "spec": {
            "serviceAccountName": "robot",
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}],
        }})
    }

    #[test]
    fn the_token_is_mounted_where_nothing_is() {
        let mut pod = pod();
        mount(&mut pod, "kube-api-access-abcde");
        assert_eq!(pod["spec"]["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(pod["spec"]["volumes"][0]["projected"]["sources"].as_array().unwrap().len(), 3);
        assert_eq!(pod["spec"]["initContainers"][0]["volumeMounts"][0]["mountPath"], MOUNT_PATH);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["readOnly"], true);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let before = pod.clone();
        mount(&mut pod, "kube-api-access-other");
        assert_eq!(pod, before, "a second time changes nothing");
    }

    #[test]
    fn the_pods_word_on_mounting_wins() {
        let (yes, no, silent) = (json!({"automountServiceAccountToken": true}), json!({"automountServiceAccountToken": false}), json!({}));
        for (pod, account, mounts) in [(&silent, &silent, true), (&silent, &no, false), (&yes, &no, true), (&no, &yes, false)] {
            assert_eq!(automounts(&json!({"spec": pod}), account), mounts);
        }
    }

    #[test]
    fn accounts_can_limit_secrets() {
        let account = json!({"metadata": {"name": "robot"}, "secrets": [{"name": "good"}]});
        let lists = [("containers", "container")];
        let with = |spec: Value| only_mountable(&json!({"spec": spec}), &account, &lists);
        assert!(with(json!({"volumes": [{"secret": {"secretName": "good"}}]})).is_ok());
        let bad = json!({"containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "bad"}}}]}]});
        assert_eq!(
            with(bad).unwrap_err(),
            "container c with envVar E referencing secret.secretName=\"bad\" is not allowed because service account robot does not reference that secret"
        );
    }

    #[test]
    fn mirror_pods_stand_alone() {
        assert!(mirror_stands_alone(&json!({"spec": {"volumes": [{"hostPath": {"path": "/x"}}]}})).is_ok());
        assert!(mirror_stands_alone(&json!({"spec": {"serviceAccountName": "x"}})).is_err());
        assert!(mirror_stands_alone(&json!({"spec": {"volumes": [{"secret": {"secretName": "x"}}]}})).is_err());
        let token = json!({"spec": {"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}});
        assert!(mirror_stands_alone(&token).is_err());
    }

    #[test]
    fn names_have_the_letters_of_generated_names() {
        let name = random_name();
        assert_eq!(name.len(), "kube-api-access-".len() + 5);
        assert!(api::selector::is_dns_label(&name));
    }
}
