//! A request for a node's client certificate -> approved or denied. Source: `pkg/controller/certificates/approver/sarapprove.go`.
//!
//! Who renews its own certificate may as upstream lets it. Who joins may, besides, only under a name that is free for its machine, and with a
//! token of one use only if no other machine has used it: both are written down before the approval, each write refused where somebody was faster.

use std::{sync::Arc, time::Duration};

use api::{
    Key, bootstrap, csr,
    k8s::api::{
        certificates::v1::CertificateSigningRequest,
        core::v1::{Node, Secret},
    },
    time::{Timestamp, rfc3339},
};
use client::{Cache, Caches, kube};
use http::Request;
use kube::ResourceExt;
use reconcile::{Action, Controller, Plan, Wake};
use serde_json::{Value, json};

use super::{
    Authority, approve, deny, is_decided, is_issued,
    names::{self, Known, Verdict},
    pending::Pending,
    usages,
};
use crate::{
    Config,
    bootstrap::{USED_AT, USED_BY_KEY, USED_BY_NODE, tokens},
    lasted::{Ages, Lasted},
};

/// Until a review is answered.
const REVIEW_BOUND: Duration = Duration::from_secs(30);
/// After no answer, and where a token is not known yet.
const AGAIN: Duration = Duration::from_secs(1);
/// What was not allowed is asked about again: roles change.
const ASK_AGAIN: Duration = Duration::from_secs(1000);
/// The Secret of a token is heard of within that time.
const HEARD_WITHIN: Duration = Duration::from_secs(30);

/// Before there is a certificate, in the order in which they are asked for.
const RENEWAL: (&str, &str) = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
const JOIN: (&str, &str) = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");

pub struct Approving {
    requests: Cache<CertificateSigningRequest>,
    nodes: Cache<Node>,
    /// Whose each name is.
    keys: Cache<Secret>,
    pending: Pending,
    tokens: Cache<Secret>,
    authority: Arc<dyn Authority>,
    client: kube::Client,
    ages: Ages,
}

pub struct World {
    request: Arc<CertificateSigningRequest>,
    way: Way,
    lasted: Lasted,
}

enum Way {
    Renews,
    /// Its name is another's now, in words.
    Displaced(String),
    Joins(Joining),
    /// It may neither.
    Refused,
    /// There was no answer.
    Unknown,
}

/// What is known of a machine that joins.
struct Joining {
    name: String,
    key: String,
    node: Option<Arc<Node>>,
    claim: Option<Arc<Secret>>,
    /// Who asks, and how many names it was given whose machines have not come.
    by: String,
    pending: usize,
    token: Shown,
}

/// What the machine has shown.
enum Shown {
    /// A certificate, or anything else that is no bootstrap token.
    Other,
    Token(Arc<Secret>),
    /// A token by this id, whose Secret is not there.
    Gone(String),
}

impl Approving {
    pub fn new(caches: &Caches, config: &Config, client: kube::Client) -> Self {
        let (authority, ages) = (config.authority.clone(), Ages::new(&config.clock));
        let keys = names::keys(caches);
        let pending = Pending::of(&keys);
        Self { requests: caches.of(), nodes: caches.of(), keys, pending, tokens: tokens(caches), authority, client, ages }
    }

    fn joining(&self, request: &CertificateSigningRequest, name: &str, key: &str) -> Joining {
        let user = request.spec.username.as_deref().unwrap_or_default();
        let kept = |name: &str| Key::new(bootstrap::NAMESPACE, name);
        let token = match user.strip_prefix(bootstrap::USER_PREFIX) {
            None => Shown::Other,
            Some(id) => {
                let found = self.tokens.get(&kept(&format!("{}{id}", bootstrap::SECRET_PREFIX)));
                found.map_or_else(|| Shown::Gone(id.to_owned()), Shown::Token)
            }
        };
        let claim = self.keys.get(&kept(&names::secret_name(name)));
        let (node, pending) = (self.nodes.get(&Key::new("", name)), self.pending.count(user));
        Joining { name: name.into(), key: key.into(), node, claim, by: user.into(), pending, token }
    }

    fn renewing(&self, request: &CertificateSigningRequest, name: &str) -> Way {
        let claim = self.keys.get(&Key::new(bootstrap::NAMESPACE, &names::secret_name(name)));
        let displaced = claim.zip(certificate_since(request)).and_then(|(claim, since)| names::displaced(name, &claim, since));
        displaced.map_or(Way::Renews, Way::Displaced)
    }

    async fn way(&self, request: &CertificateSigningRequest) -> Option<Way> {
        let asked = match self.authority.look(&request.spec.request.0) {
            Ok(asked) => asked,
            Err(why) => {
                tracing::debug!(name = request.name_any(), why, "a request for a certificate cannot be read");
                return None;
            }
        };
        csr::kubelet_client(&asked, usages(request)).ok()?;
        let name = asked.node()?;
        if request.spec.username.as_deref() == Some(&asked.common_name) {
            match may(&self.client, request, RENEWAL.0).await {
                None => return Some(Way::Unknown),
                Some(true) => return Some(self.renewing(request, name)),
                Some(false) => {}
            }
        }
        Some(match may(&self.client, request, JOIN.0).await {
            None => Way::Unknown,
            Some(false) => Way::Refused,
            Some(true) => Way::Joins(self.joining(request, name, &asked.key)),
        })
    }
}

impl Controller for Approving {
    type World = World;

    fn name(&self) -> &'static str {
        "certificatesigningrequest-approving-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.requests);
        wake.needs(&self.nodes);
        wake.needs(&self.keys);
        wake.needs(&self.tokens);
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let is_open = |request: &Arc<CertificateSigningRequest>| {
            request.spec.signer_name == csr::KUBELET_CLIENT && !is_decided(request) && !is_issued(request)
        };
        let request = self.requests.get(key).filter(is_open);
        let lasted = self.ages.of(key, request.as_ref().and_then(|request| made(request)), Timestamp::now());
        let request = request?;
        let way = self.way(&request).await?;
        Some(World { request, way, lasted })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        let (request, now) = (&world.request, world.lasted.now);
        match &world.way {
            Way::Renews => Plan::act(vec![approve(request, RENEWAL.1, now)]),
            Way::Displaced(why) => Plan::act(vec![deny(request, "NodeNameTaken", why.clone(), now)]),
            Way::Joins(joining) => joins(request, joining, &world.lasted),
            Way::Refused => Plan::rest().again_in(ASK_AGAIN),
            Way::Unknown => Plan::rest().again_in(AGAIN),
        }
    }
}

fn joins(request: &CertificateSigningRequest, joining: &Joining, lasted: &Lasted) -> Plan {
    let now = lasted.now;
    let used = match &joining.token {
        Shown::Other => Vec::new(),
        Shown::Token(token) => match use_of(token, joining, now) {
            Ok(used) => used,
            Err(why) => return Plan::act(vec![deny(request, "BootstrapTokenUsed", why, now)]),
        },
        // It may be one that has just been made, or one of one use that is no more.
        Shown::Gone(_) if made(request).is_some_and(|made| lasted.since(made) < HEARD_WITHIN) => return Plan::rest().again_in(AGAIN),
        Shown::Gone(id) => {
            let why = format!("bootstrap token {id:?} has been deleted. Make another with `skiff token create`");
            return Plan::act(vec![deny(request, "BootstrapTokenGone", why, now)]);
        }
    };
    let (node, claim) = (joining.node.as_ref(), joining.claim.as_ref());
    let known = Known { name: &joining.name, key: &joining.key, node, claim, by: &joining.by, pending: joining.pending, lasted };
    match names::decide(&known) {
        Verdict::Taken(why) => Plan::act(vec![deny(request, "NodeNameTaken", why, now)]),
        Verdict::TooMany(why) => Plan::act(vec![deny(request, "TooManyPendingNodes", why, now)]),
        Verdict::Free(claimed) => {
            let approval = approve(request, JOIN.1, now);
            Plan::act(used.into_iter().chain(claimed).chain([approval]).collect())
        }
    }
}

/// The token is this machine's from here on, if it is good for one.
fn use_of(token: &Arc<Secret>, joining: &Joining, now: Timestamp) -> Result<Vec<Action>, String> {
    let data = crate::bootstrap::data(token);
    if !bootstrap::is_for(&data, bootstrap::USAGE_ONE_TIME) {
        return Ok(Vec::new());
    }
    let noted = |key: &str| token.annotations().get(key).map(String::as_str);
    match noted(USED_BY_KEY) {
        Some(key) if key == joining.key && noted(USED_BY_NODE) == Some(joining.name.as_str()) => Ok(Vec::new()),
        Some(_) => {
            let (id, node) = (data.get(bootstrap::ID).map(String::as_str).unwrap_or_default(), noted(USED_BY_NODE).unwrap_or_default());
            Err(format!("bootstrap token {id:?} is for one node, and {node:?} has joined with it. Make another with `skiff token create`"))
        }
        None => {
            let mut used = (**token).clone();
            let notes = [(USED_BY_KEY, joining.key.clone()), (USED_BY_NODE, joining.name.clone()), (USED_AT, rfc3339(now))];
            used.annotations_mut().extend(notes.map(|(key, value)| (key.to_owned(), value)));
            Ok(vec![Action::update(&used)])
        }
    }
}

/// Since when the certificate is good that the node showed, as the API server saw it.
fn certificate_since(request: &CertificateSigningRequest) -> Option<i64> {
    request.spec.extra.as_ref()?.get(csr::CERTIFICATE_SINCE)?.first()?.parse().ok()
}

fn made(request: &CertificateSigningRequest) -> Option<Timestamp> {
    Some(request.metadata.creation_timestamp.as_ref()?.0)
}

/// Asks whether the requestor may `create` this part of requests for certificates; `None` without an answer.
async fn may(client: &kube::Client, request: &CertificateSigningRequest, subresource: &str) -> Option<bool> {
    let spec = &request.spec;
    let attributes = json!({
        "group": "certificates.k8s.io", "version": "*", "resource": "certificatesigningrequests", "subresource": subresource, "verb": "create",
    });
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra, "resourceAttributes": attributes},
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let asked = Request::post(path).header("content-type", "application/json").body(review.to_string().into_bytes()).ok()?;
    match tokio::time::timeout(REVIEW_BOUND, client.request::<Value>(asked)).await {
        Ok(Ok(answer)) => Some(answer["status"]["allowed"] == true),
        Ok(Err(error)) => {
            tracing::warn!(name = request.name_any(), %error, "no answer whether a certificate may be approved; trying again");
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::tests::{request, written};

    fn now() -> Timestamp {
        api::time::parse("2026-01-01T00:01:00Z").unwrap()
    }

    fn csr() -> CertificateSigningRequest {
        request("r", csr::KUBELET_CLIENT, "system:bootstrap:abcdef", &json!({}), &[])
    }

    fn joining(key: &str, token: Shown) -> Joining {
        Joining { name: "n".into(), key: key.into(), node: None, claim: None, by: "system:bootstrap:abcdef".into(), pending: 0, token }
    }

    fn token(one_time: bool, used_by: Option<&str>) -> Arc<Secret> {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let text = |text: &str| BASE64_STANDARD.encode(text);
        let mut token = json!({"metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system", "resourceVersion": "3"},
            "data": {"token-id": text("abcdef"), "usage-bootstrap-one-time": text(&one_time.to_string())}});
        if let Some(key) = used_by {
            token["metadata"]["annotations"] = json!({USED_BY_KEY: key, USED_BY_NODE: "first"});
        }
        Arc::new(serde_json::from_value(token).unwrap())
    }

    #[tokio::test]
    async fn who_lost_its_name_renews_nothing() {
        let allows = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": {"allowed": true}});
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(review.to_string().into_bytes())))
        });
        let (group, client) = (api::task::Group::new(), kube::Client::new(allows, "default"));
        let caches = Caches::unfollowed(client.clone(), group.clone());
        let approving = Approving::new(&caches, &Config::of_tests(), client);
        let claim = |since: &str| {
            use base64::{Engine as _, prelude::BASE64_STANDARD};
            let since = BASE64_STANDARD.encode(since);
            let metadata = json!({"name": names::secret_name("n"), "namespace": "kube-system", "resourceVersion": "5"});
            serde_json::from_value::<Secret>(json!({"metadata": metadata, "data": {"since": since}})).unwrap()
        };
        approving.keys.feed(claim("2026-01-01T00:00:00Z"), false);
        let node = "system:node:n";
        let usages = &["digital signature", "client auth"];
        let asked = |since: Option<&str>| {
            let mut asked = request("r", csr::KUBELET_CLIENT, node, &json!({"cn": node, "o": ["system:nodes"]}), usages);
            asked.spec.extra = since
                .map(|since| [(csr::CERTIFICATE_SINCE.to_owned(), vec![api::time::parse(since).unwrap().as_second().to_string()])].into());
            asked
        };
        for (since, wanted) in [
            (Some("2025-12-31T00:00:00Z"), ("Denied", "NodeNameTaken")),
            (Some("2025-12-31T23:55:00Z"), ("Approved", "AutoApproved")),
            (Some("2026-06-01T00:00:00Z"), ("Approved", "AutoApproved")),
            (None, ("Approved", "AutoApproved")),
        ] {
            let asked = asked(since);
            let world = World { way: approving.way(&asked).await.unwrap(), request: Arc::new(asked), lasted: Lasted::at(now()) };
            let plan = approving.plan(&world, &Key::new("", "r"));
            let (kinds, reason, _) = written(&plan.actions[0]);
            assert_eq!((kinds.concat().as_str(), reason.as_str()), wanted, "{since:?}");
        }
        group.stop();
    }

    fn verbs(plan: &Plan) -> Vec<String> {
        let word = |action: &Action| match action {
            Action::Create { path, .. } => format!("create {path}"),
            Action::Update { path, .. } => format!("update {path}"),
            other => format!("{other:?}"),
        };
        plan.actions.iter().map(word).collect()
    }

    const APPROVAL: &str = "update /apis/certificates.k8s.io/v1/certificatesigningrequests/r/approval";
    const CLAIM: &str = "create /api/v1/namespaces/kube-system/secrets";
    const USE: &str = "update /api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef";

    #[test]
    fn a_machine_claims_before_it_is_let_in() {
        let crowd = Joining { pending: names::NAMES_PENDING_MAX, ..joining("k", Shown::Token(token(false, None))) };
        let plan = joins(&csr(), &crowd, &Lasted::at(now()));
        let (kinds, reason, message) = written(&plan.actions[0]);
        assert_eq!((kinds.concat().as_str(), reason.as_str(), plan.actions.len()), ("Denied", "TooManyPendingNodes", 1), "{message}");
        let lasting = joins(&csr(), &joining("k", Shown::Token(token(false, None))), &Lasted::at(now()));
        assert_eq!(verbs(&lasting), [CLAIM, APPROVAL]);
        let once = joins(&csr(), &joining("k", Shown::Token(token(true, None))), &Lasted::at(now()));
        assert_eq!(verbs(&once), [USE, CLAIM, APPROVAL]);
        let Action::Update { object, .. } = &once.actions[0] else { panic!() };
        assert_eq!(object["metadata"]["resourceVersion"], "3", "of two that race, one is refused");
        assert_eq!(object["metadata"]["annotations"][USED_BY_KEY], "k");
        let mut same = joining("k", Shown::Token(token(true, Some("k"))));
        assert_eq!(verbs(&joins(&csr(), &same, &Lasted::at(now()))), [APPROVAL], "under another name it is denied");
        same.name = "first".into();
        assert_eq!(verbs(&joins(&csr(), &same, &Lasted::at(now()))), [CLAIM, APPROVAL], "the same machine may try again");
    }

    #[test]
    fn a_token_of_one_use_is_used_once() {
        let plan = joins(&csr(), &joining("other", Shown::Token(token(true, Some("k")))), &Lasted::at(now()));
        assert_eq!(verbs(&plan), [APPROVAL]);
        let (kinds, reason, message) = written(&plan.actions[0]);
        assert_eq!((kinds, reason.as_str()), (vec!["Denied".to_owned()], "BootstrapTokenUsed"));
        assert!(message.contains("\"first\" has joined with it"), "{message}");
    }

    #[test]
    fn a_token_that_is_gone_lets_nobody_in() {
        let plan = joins(&csr(), &joining("k", Shown::Gone("abcdef".into())), &Lasted::at(now()));
        assert_eq!(written(&plan.actions[0]).1, "BootstrapTokenGone");
        let young = api::time::parse("2026-01-01T00:00:29Z").unwrap();
        assert_eq!(joins(&csr(), &joining("k", Shown::Gone("abcdef".into())), &Lasted::at(young)), Plan::rest().again_in(AGAIN));
    }

    #[test]
    fn a_taken_name_is_refused_in_words() {
        let node = json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let taken = Joining { node: Some(Arc::new(serde_json::from_value(node).unwrap())), ..joining("k", Shown::Other) };
        let plan = joins(&csr(), &taken, &Lasted::at(now()));
        let (_, reason, message) = written(&plan.actions[0]);
        assert!(reason == "NodeNameTaken" && message.contains("\"n\" is taken"), "{reason} {message}");
        assert_eq!(plan.actions.len(), 1, "nothing is claimed");
    }
}
