//! A tenant with a Role of `*` in one namespace, at every path of the OpenAPI document: nothing outside the namespace is read or changed.

use std::collections::BTreeMap;

use apiserver::{discovery::Discovery, front::Front, identity::User, kind::Kind, openapi::OpenApi};
use kinds::auth;
use serde_json::{Value, json};

use crate::stock::{Item, Reach, State, Stock, body, named, part_body};

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const OWN: &str = "tenant";
const FOREIGN: &str = "victim";
/// The mark of all that is not the tenant's.
const SECRET: &str = "not-for-the-tenant";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

struct House {
    stock: Stock,
    before: State,
    tenant: User,
    codes: BTreeMap<u16, usize>,
    changed: usize,
}

impl House {
    async fn new() -> Self {
        let mut stock = Stock::new(auth::chain).await;
        let front = Front::builder(stock.engine.clone()).mount(Discovery::default().routes(stock.engine.clone()));
        stock.front = front.mount(OpenApi::default().routes(stock.engine.clone())).build();
        auth::bootstrap(&stock.engine).await.unwrap();
        for namespace in [OWN, FOREIGN] {
            make(&stock, "namespaces", "", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await;
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
            make(&stock, "serviceaccounts", namespace, account).await;
        }
        stock.fill(&[FOREIGN], &["theirs"], SECRET, Reach::All).await;
        stock.fill(&[OWN], &["mine"], "own", Reach::Namespaced).await;
        let star = json!(["*"]);
        let rules = json!([{"verbs": star, "apiGroups": star, "resources": star}]);
        let role = json!({"apiVersion": RBAC, "kind": "Role", "metadata": {"name": "all"}, "rules": rules});
        let subject = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "tenant"});
        let binding = json!({
            "apiVersion": RBAC, "kind": "RoleBinding", "metadata": {"name": "all"}, "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "all"},
        });
        make(&stock, "roles", OWN, role).await;
        make(&stock, "rolebindings", OWN, binding).await;
        let tenant = User { name: "tenant".into(), ..User::default() };
        Self { before: stock.state().await, stock, tenant, codes: BTreeMap::new(), changed: 0 }
    }

    async fn try_it(&mut self, method: &str, target: &str, sent: Option<&Value>) {
        let revision = self.stock.revision().await;
        let Some(answer) = self.stock.ask(&self.tenant, method, target, sent).await else { return };
        assert!(!answer.body.contains(SECRET), "{method} {target} tells what is foreign: {}", answer.body);
        *self.codes.entry(answer.code).or_default() += 1;
        if self.stock.revision().await == revision {
            return;
        }
        for change in self.stock.changes_undone(&self.before).await {
            let item = self.stock.item(change.key());
            assert!(is_own(&item), "{method} {target}: {} changed {change:?}", answer.code);
            self.changed += 1;
        }
        // The caches must know again what was undone before the next request is judged.
        self.stock.settle().await;
    }
}

/// What lies in the tenant's namespace, and that namespace.
fn is_own(item: &Item) -> bool {
    item.namespace == OWN || (item.plural == "namespaces" && item.name == OWN)
}

async fn make(stock: &Stock, plural: &str, namespace: &str, object: Value) {
    let group = if object["apiVersion"] == RBAC { "rbac.authorization.k8s.io" } else { "" };
    stock.engine.create(&api::GroupResource::new(group, plural), namespace, object, &auth::system_user()).await.unwrap();
}

/// A path of the document with a namespace and a name put in, and in the ways that may lead around a check.
fn ways(path: &str) -> Vec<String> {
    let mut out = Vec::new();
    let plural = if path.contains("/ipaddresses") { "ipaddresses" } else { "" };
    for namespace in [OWN, FOREIGN] {
        for name in ["mine", "theirs", FOREIGN].map(|name| named(plural, name)) {
            out.push(path.replace("{namespace}", namespace).replace("{name}", &name).replace("{path}", "x"));
        }
    }
    let root = path.split('/').take(if path.starts_with("/api/") { 3 } else { 4 }).collect::<Vec<_>>().join("/");
    let resources = path.strip_prefix(&root).unwrap_or_default().to_owned();
    for plain in out.clone() {
        let Some(tail) = plain.strip_prefix(&root).filter(|tail| tail.len() > 1) else { continue };
        out.push(format!("{root}/watch{tail}"));
        out.push(format!("{root}/proxy{tail}"));
        out.push(format!("{root}/namespaces/{OWN}{tail}"));
        out.push(format!("{root}/namespaces/{OWN}%2F..%2F{FOREIGN}{tail}"));
        out.push(format!("{root}/watch/namespaces/{OWN}{tail}"));
        out.push(format!("{root}/namespaces/{OWN}/../..{tail}"));
        out.push(format!("{root}//{}", tail.trim_start_matches('/')));
        out.push(format!("{root}/namespaces/{}", tail.trim_start_matches("/namespaces").trim_start_matches('/')));
    }
    if resources.contains("{namespace}") {
        let without = path.replace("/namespaces/{namespace}", "").replace("{name}", "theirs").replace("{path}", "x");
        out.extend([without.clone(), path.replace("{namespace}", "").replace("{name}", "theirs").replace("{path}", "x")]);
    }
    out.sort();
    out.dedup();
    out
}

fn queries(method: &str, path: &str) -> Vec<String> {
    let mut out = vec![path.to_owned()];
    if method == "GET" {
        out.extend(["watch=1", "fieldSelector=metadata.namespace%3Dvictim"].map(|query| format!("{path}?{query}")));
        out.extend(["fieldSelector=metadata.name!%3Dx", "fieldSelector=", "limit=1"].map(|query| format!("{path}?{query}")));
    }
    out
}

/// The kind that a path of the document is about, and the subresource.
fn about<'k>(kinds: &'k [std::sync::Arc<Kind>], path: &str) -> Option<(&'k Kind, String)> {
    let kind = kinds.iter().filter(|kind| path.starts_with(&format!("{}/", crate::stock::root(kind))));
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let found = kind.filter_map(|kind| parts.iter().rposition(|part| *part == kind.plural).map(|at| (at, kind)));
    let (at, kind) = found.max_by_key(|(at, _)| *at)?;
    Some((kind, parts.get(at + 2).map(|part| (*part).to_owned()).unwrap_or_default()))
}

fn sent(kinds: &[std::sync::Arc<Kind>], method: &str, path: &str, target: &str) -> Option<Value> {
    let (kind, sub) = about(kinds, path)?;
    let name =
        ["theirs", FOREIGN].into_iter().find(|name| target.ends_with(name) || target.contains(&format!("/{name}/"))).unwrap_or("mine");
    let namespace = if target.contains(&format!("namespaces/{FOREIGN}")) { FOREIGN } else { OWN };
    match method {
        "POST" | "PUT" if !sub.is_empty() => Some(part_body(kind, &sub, namespace, name)),
        "POST" => Some(body(kind, namespace, "made")),
        "PUT" => Some(body(kind, namespace, name)),
        "PATCH" => Some(json!({"metadata": {"labels": {"touched": "yes"}, "finalizers": null}})),
        _ => None,
    }
}

#[tokio::test]
async fn a_tenant_stays_in_its_namespace() {
    let mut house = House::new().await;
    let document = house.stock.ask(&auth::system_user(), "GET", "/openapi/v2", None).await.unwrap();
    let document: Value = serde_json::from_str(&document.body).unwrap();
    let kinds = house.stock.kinds.clone();
    let paths: Vec<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert!(paths.len() > 80, "{}", paths.len());
    for path in paths {
        for way in ways(&path) {
            for method in METHODS {
                let sent = sent(&kinds, method, &path, &way);
                for target in queries(method, &way) {
                    house.try_it(method, &target, sent.as_ref()).await;
                }
            }
        }
    }
    assert_eq!(house.stock.state().await, house.before);
    assert!(house.codes[&200] > 100 && house.codes[&201] > 10 && house.codes[&403] > 1000, "{:?}", house.codes);
    assert!(house.changed > 100, "the tenant could not do its own work: {}", house.changed);
}
