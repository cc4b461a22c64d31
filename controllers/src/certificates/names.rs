//! A machine that would join under a node's name -> whether the name is free for it. Decision: docs/decisions/a-node-name-belongs-to-a-key.md.
//!
//! The key that first got a certificate in a node's name holds the name: a Secret in kube-system says which. Another key gets it once the
//! node is gone or silent, as kubeadm lets a name be taken whose node is not Ready (`cmd/kubeadm/app/phases/kubelet`).

use std::{sync::Arc, time::Duration};

use api::{
    bootstrap::{NAMESPACE, USER_PREFIX},
    csr::BACKDATE_SECONDS,
    k8s::{
        ByteString,
        api::core::v1::{Node, Secret},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    },
    selector::is_dns_subdomain,
    time::{Timestamp, parse, rfc3339},
};
use client::{Cache, Caches};
use reconcile::Action;

use crate::lasted::Lasted;

/// The type of these Secrets.
const SECRET_TYPE: &str = "skiff.local/node-key";
const SUFFIX: &str = ".node-key.skiff";
/// What a name has at most, so that the Secret's is one.
const NAME_LENGTH: usize = 253 - SUFFIX.len();
const KEY: &str = "key";
const CLAIMED: &str = "claimed";
/// When the name became this key's. Who keeps it keeps this; claims of an older skiff have none.
const SINCE: &str = "since";
/// Who asked for it: a bootstrap token is a user.
const BY: &str = "by";
/// The uid of the Node that its machine became.
const CAME: &str = "came";
/// As far as the clocks of two servers may differ, of which one wrote the claim and the other signed.
const CLOCKS_APART_SECONDS: i64 = 30;

/// A node comes within that time after its machine got the name. Until then nobody else gets it.
pub const COMES_WITHIN: Duration = Duration::from_secs(120);

/// Names that one user was given whose machines have not become nodes: as many as machines that join at once, and more.
pub const NAMES_PENDING_MAX: usize = 2500;

/// What is known of a name.
pub struct Known<'a> {
    pub name: &'a str,
    /// Who would have it: the digest of the machine's key.
    pub key: &'a str,
    pub node: Option<&'a Arc<Node>>,
    pub claim: Option<&'a Arc<Secret>>,
    /// Who asks.
    pub by: &'a str,
    /// How many names that user was given whose machines have not come.
    pub pending: usize,
    pub lasted: &'a Lasted,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It is the machine's, once this is written; what goes before is told.
    Free(Vec<Action>),
    /// In words for whoever runs the machine.
    Taken(String),
    /// The user was given enough of them. In words, likewise.
    TooMany(String),
}

/// Where a name's key is kept.
pub fn secret_name(node: &str) -> String {
    format!("{node}{SUFFIX}")
}

/// Whose key a Secret of that name keeps.
pub fn node_of(secret: &str) -> Option<&str> {
    secret.strip_suffix(SUFFIX).filter(|node| !node.is_empty())
}

/// All of them.
pub fn keys(caches: &Caches) -> Cache<Secret> {
    caches.filtered(&format!("metadata.namespace={NAMESPACE},type={SECRET_TYPE}"))
}

pub fn decide(known: &Known<'_>) -> Verdict {
    let name = known.name;
    // The machine chose it. No Node could have it, nor a Secret keep it, and the request would be tried for as long as it is there.
    if !is_dns_subdomain(name) {
        return Verdict::Taken(format!(
            "{name:?} is no name of a node: lower-case letters, digits, - and . are. Give this machine another (--node-name)"
        ));
    }
    if name.len() > NAME_LENGTH {
        return Verdict::Taken(format!("node name {name:?} is too long: {NAME_LENGTH} characters are the most"));
    }
    let Some(claim) = known.claim else {
        return match known.node {
            Some(node) if !is_silent(node) => Verdict::Taken(taken(name)),
            _ if known.pending >= NAMES_PENDING_MAX => Verdict::TooMany(too_many(known.by)),
            _ => Verdict::Free(vec![Action::create(&secret(known, ObjectMeta::default()))]),
        };
    };
    if text(claim, KEY) == known.key {
        // Where no node is heard of, the claim may go, or be another's, at any moment: it is written anew, so that of two that race one is refused.
        let is_open = known.node.is_none_or(|node| is_silent(node));
        let anew = is_open.then(|| Action::update(&secret(known, claim.metadata.clone())));
        return Verdict::Free(anew.into_iter().collect());
    }
    match known.node {
        Some(node) if !is_silent(node) => Verdict::Taken(taken(name)),
        None if !has_come(claim) && left(claim, known.lasted) > Duration::ZERO => {
            let seconds = left(claim, known.lasted).as_secs() + 1;
            Verdict::Taken(format!(
                "node name {name:?} is taken: another machine is joining under it. Give this machine another name (--node-name), or try again in {seconds} s"
            ))
        }
        _ if known.pending >= NAMES_PENDING_MAX => Verdict::TooMany(too_many(known.by)),
        node => {
            let update = Action::update(&secret(known, claim.metadata.clone()));
            let told = node.map(|node| {
                Action::warning(
                    &**node,
                    "NodeKeyReplaced",
                    format!("Another machine, or the same with a new disk, joins as the silent node {name}"),
                )
            });
            Verdict::Free(std::iter::once(update).chain(told).collect())
        }
    }
}

/// How long the machine that has the claim may still take to come.
pub fn left(claim: &Secret, lasted: &Lasted) -> Duration {
    claimed(claim).map_or(Duration::ZERO, |claimed| lasted.left(claimed, COMES_WITHIN))
}

/// When its machine got the name. A time that cannot be read is none.
pub fn claimed(claim: &Secret) -> Option<Timestamp> {
    parse(&text(claim, CLAIMED))
}

/// Whether its machine became a node. Once that node is gone, the name is nobody's.
pub fn has_come(claim: &Secret) -> bool {
    !text(claim, CAME).is_empty()
}

/// The same, of a machine that became this node.
pub fn come(claim: &Secret, node: &Node) -> Secret {
    let mut claim = claim.clone();
    let uid = node.metadata.uid.clone().unwrap_or_default();
    claim.data.get_or_insert_default().insert(CAME.into(), ByteString(uid.into_bytes()));
    claim
}

/// Whose machine has not come.
pub fn pending(claim: &Secret) -> Option<String> {
    (!has_come(claim)).then(|| text(claim, BY))
}

/// Why a node may not renew: the name became another key's after its certificate (good since that second) was signed. Nobody needs another machine's name by
/// what it was once given.
pub fn displaced(name: &str, claim: &Secret, certificate_since: i64) -> Option<String> {
    let since = parse(&text(claim, SINCE))?;
    let signed = certificate_since.saturating_add(i64::from(BACKDATE_SECONDS));
    (signed.saturating_add(CLOCKS_APART_SECONDS) < since.as_second()).then(|| {
        format!(
            "node name {name:?} is taken: another machine joined under it while this one was silent, and this one's certificate is older. Let this machine \
             join under another name (--node-name)"
        )
    })
}

/// Whether the node controller has given up hearing of it. One that has never said how it is may yet.
pub fn is_silent(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
}

fn taken(name: &str) -> String {
    format!(
        "node name {name:?} is taken: a node of that name is in the cluster, its machine is alive, and this machine has not the key that it joined with. \
         Give this machine another name (--node-name). If it is that machine with a new disk, it may join once the old node is NotReady, \
         or at once after `kubectl delete node {name}`"
    )
}

fn too_many(by: &str) -> String {
    let (who, mends) = match by.strip_prefix(USER_PREFIX) {
        Some(id) => (format!("bootstrap token {id:?}"), format!("`skiff token delete {id}`")),
        None => (format!("user {by:?}"), "`kubectl get clusterrolebindings -o wide` shows what lets it in".to_owned()),
    };
    format!(
        "{who} has let in {NAMES_PENDING_MAX} machines that have not become nodes. Try again in {} s, or when some of them have. If they are not yours, somebody \
         else has it: {mends}",
        COMES_WITHIN.as_secs()
    )
}

fn secret(known: &Known<'_>, metadata: ObjectMeta) -> Secret {
    let metadata = ObjectMeta { name: Some(secret_name(known.name)), namespace: Some(NAMESPACE.into()), ..metadata };
    let since = match known.claim {
        Some(claim) if text(claim, KEY) == known.key => text(claim, SINCE),
        _ => rfc3339(known.lasted.now),
    };
    // Who is silent and asks again is still the node that it was.
    let came = known.claim.filter(|claim| known.node.is_some() && text(claim, KEY) == known.key).map(|claim| text(claim, CAME));
    let entries = [
        ("node", known.name.to_owned()),
        (KEY, known.key.to_owned()),
        (CLAIMED, rfc3339(known.lasted.now)),
        (SINCE, since),
        (BY, known.by.to_owned()),
        (CAME, came.unwrap_or_default()),
    ];
    let data = entries
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())))
        .collect();
    Secret { metadata, type_: Some(SECRET_TYPE.into()), data: Some(data), ..Secret::default() }
}

fn text(secret: &Secret, key: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.map(|value| String::from_utf8_lossy(&value.0).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn node(ready: Option<&str>) -> Arc<Node> {
        let conditions: Vec<_> = ready.into_iter().map(|status| json!({"type": "Ready", "status": status})).collect();
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"conditions": conditions}})).unwrap())
    }

    fn claim(key: &str, claimed: i64) -> Arc<Secret> {
        let metadata = ObjectMeta { resource_version: Some("7".into()), ..ObjectMeta::default() };
        Arc::new(secret(
            &Known { name: "n", key, node: None, claim: None, by: "system:bootstrap:abcdef", pending: 0, lasted: &Lasted::at(at(claimed)) },
            metadata,
        ))
    }

    #[test]
    fn a_name_is_its_keys_while_its_machine_lives() {
        let (silent, alive, new) = (node(Some("Unknown")), node(Some("True")), node(None));
        let (mine, other, fresh) = (claim("mine", 0), claim("other", 0), claim("other", 940));
        let cases = [
            ("nobody has it", None, None, "create"),
            ("nobody has claimed it, and its node is silent", Some(&silent), None, "create"),
            ("a node of before there were keys", Some(&alive), None, "taken"),
            ("my own", Some(&alive), Some(&mine), "free"),
            ("my own, silent", Some(&silent), Some(&mine), "update"),
            ("my own, deleted", None, Some(&mine), "update"),
            ("another's, alive", Some(&alive), Some(&other), "taken"),
            ("another's, not ready but heard of", Some(&node(Some("False"))), Some(&other), "taken"),
            ("another's, that has not said how it is", Some(&new), Some(&other), "taken"),
            ("another's, silent", Some(&silent), Some(&other), "update"),
            ("another's, deleted", None, Some(&other), "update"),
            ("another's, about to come", None, Some(&fresh), "taken"),
        ];
        for (what, node, claim, wanted) in cases {
            let known =
                Known { name: "n", key: "mine", node, claim, by: "system:bootstrap:abcdef", pending: 0, lasted: &Lasted::at(at(1000)) };
            let found = match decide(&known) {
                Verdict::Taken(why) if why.contains("--node-name") => "taken",
                Verdict::Free(actions) => match &actions[..] {
                    [] => "free",
                    [Action::Create { object, .. }] if object["metadata"]["name"] == "n.node-key.skiff" => "create",
                    // The precondition: who was faster wins.
                    [Action::Update { object, .. }, ..] if object["metadata"]["resourceVersion"] == "7" => "update",
                    other => panic!("{what}: {other:?}"),
                },
                other => panic!("{what}: {other:?}"),
            };
            assert_eq!(found, wanted, "{what}");
        }
    }

    #[test]
    fn a_name_whose_node_was_deleted_is_free_at_once() {
        let (other, alive) = (claim("other", 990), node(Some("True")));
        let ask = |claim: &Arc<Secret>, node: Option<&Arc<Node>>, key: &str| {
            decide(&Known { name: "n", key, node, claim: Some(claim), by: "b", pending: 0, lasted: &Lasted::at(at(1000)) })
        };
        assert!(matches!(ask(&other, None, "mine"), Verdict::Taken(why) if why.contains("another machine is joining")));
        let came = Arc::new(come(&other, &alive));
        assert!(has_come(&came) && pending(&came).is_none());
        assert!(matches!(ask(&came, Some(&alive), "mine"), Verdict::Taken(_)), "not while it is there");
        let Verdict::Free(actions) = ask(&came, None, "mine") else { panic!("it was deleted") };
        let [Action::Update { object, .. }] = &actions[..] else { panic!("{actions:?}") };
        let taken: Arc<Secret> = Arc::new(serde_json::from_value(object.clone()).unwrap());
        assert!(!has_come(&taken), "the new machine has not come");
        assert!(matches!(ask(&taken, None, "third"), Verdict::Taken(_)), "and has its two minutes");
        // Who was silent is still the node that it was.
        let Verdict::Free(actions) = ask(&came, Some(&node(Some("Unknown"))), "other") else { panic!() };
        let [Action::Update { object, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert!(has_come(&serde_json::from_value(object.clone()).unwrap()));
    }

    /// Whoever holds a token gets no more names than machines could use; who has one keeps it.
    #[test]
    fn names_without_nodes_are_bounded() {
        let (silent, mine, old) = (node(Some("Unknown")), claim("mine", 0), claim("other", 0));
        let ask = |pending, node, claim| {
            decide(&Known { name: "n", key: "mine", node, claim, by: "system:bootstrap:abcdef", pending, lasted: &Lasted::at(at(1000)) })
        };
        for (node, claim) in [(None, None), (Some(&silent), None), (None, Some(&old)), (Some(&silent), Some(&old))] {
            assert!(matches!(ask(NAMES_PENDING_MAX - 1, node, claim), Verdict::Free(_)));
            let Verdict::TooMany(why) = ask(NAMES_PENDING_MAX, node, claim) else { panic!() };
            assert!(why.contains("skiff token delete abcdef") && why.contains("120 s"), "{why}");
        }
        assert!(matches!(ask(NAMES_PENDING_MAX, None, Some(&mine)), Verdict::Free(_)), "it counts already");
        assert_eq!(pending(&mine).as_deref(), Some("system:bootstrap:abcdef"));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let claim = claim("mine", 0);
        assert_eq!((text(&claim, KEY).as_str(), left(&claim, &Lasted::at(at(20)))), ("mine", Duration::from_secs(100)));
        assert_eq!(left(&claim, &Lasted::at(at(120))), Duration::ZERO);
        assert_eq!(left(&claim, &Lasted::at(at(-60))), COMES_WITHIN, "another server's clock");
        assert_eq!(left(&claim, &Lasted::at(at(-9999))), COMES_WITHIN, "a clock that was set back makes it no longer");
        assert_eq!(left(&Secret::default(), &Lasted::at(at(0))), Duration::ZERO);
    }

    #[test]
    fn who_lost_a_name_is_known_by_the_age_of_its_certificate() {
        let written = |key: &str, before: Option<&Arc<Secret>>, now: i64| {
            let silent = node(Some("Unknown"));
            match decide(&Known {
                name: "n",
                key,
                node: Some(&silent),
                claim: before,
                by: "system:bootstrap:abcdef",
                pending: 0,
                lasted: &Lasted::at(at(now)),
            }) {
                Verdict::Free(actions) => match &actions[..] {
                    [Action::Create { object, .. } | Action::Update { object, .. }, ..] => {
                        Arc::new(serde_json::from_value::<Secret>(object.clone()).unwrap())
                    }
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        };
        let signed = |second: i64| at(second).as_second() - i64::from(BACKDATE_SECONDS);
        let is_displaced =
            |claim: &Secret, second: i64| displaced("n", claim, signed(second)).is_some_and(|why| why.contains("--node-name"));
        let first = written("old", None, 1000);
        let again = written("old", Some(&first), 5000);
        assert!(!is_displaced(&again, 1000), "it has the name as before");
        let taken = written("new", Some(&again), 9000);
        assert!(is_displaced(&taken, 1000) && is_displaced(&taken, 8960));
        assert!(!is_displaced(&taken, 9000) && !is_displaced(&taken, 20_000), "whose it is now, and what it renewed");
        assert!(is_displaced(&written("new", Some(&taken), 10_000), 1000), "for good");
        let mut older = (*taken).clone();
        older.data.as_mut().unwrap().remove(SINCE);
        assert!(!is_displaced(&older, 0), "an older skiff's claim says nothing");
        assert!(!is_displaced(&written("new", Some(&Arc::new(older)), 30_000), 20_000), "nor does it begin to");
    }

    #[test]
    fn the_secret_has_a_name_as_well() {
        let name = "n".repeat(NAME_LENGTH);
        let known = |name: &str| {
            decide(&Known {
                name,
                key: "k",
                node: None,
                claim: None,
                by: "system:bootstrap:abcdef",
                pending: 0,
                lasted: &Lasted::at(at(0)),
            })
        };
        assert!(matches!(known(&name), Verdict::Free(_)) && secret_name(&name).len() == 253);
        assert!(matches!(known(&format!("{name}n")), Verdict::Taken(_)));
        for none in ["", "A", "a/b", "../a", "a b", "a.", "a\n", "ä"] {
            assert!(matches!(known(none), Verdict::Taken(why) if why.contains("no name of a node")), "{none:?}");
        }
    }
}
