//! A request -> its flow schema, its level and its flow. Source: apiserver `pkg/util/flowcontrol/rule.go`.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use http::HeaderValue;

use super::{
    config::{CATCH_ALL, Distinguisher, Level, Paths, Resources, Response, Rule, Schema, Subject},
    counts::Counts,
    levels::Slot,
};
use crate::identity::User;

/// What of a request decides where it belongs.
#[derive(Clone, Copy)]
pub struct RequestDigest<'a> {
    pub user: &'a User,
    pub resource_request: bool,
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub path: &'a str,
}

/// Where a request belongs: for as long as anybody has it, its level stays, whatever becomes of the objects.
#[derive(Clone, Debug)]
pub struct Classification {
    pub(super) of: Arc<Matched>,
    /// Requests of equal flow wait in the same few queues.
    pub(super) flow: u64,
}

/// A flow schema, as requests are matched with it.
#[derive(Debug)]
pub(crate) struct Matched {
    pub schema: Arc<Schema>,
    pub level: Arc<OfLevel>,
    pub counts: Arc<Counts>,
    uid: HeaderValue,
    /// The part of its flows' hashes that is of the schema.
    seed: u64,
}

/// A level, as schemas name it.
#[derive(Debug)]
pub(crate) struct OfLevel {
    pub name: Cow<'static, str>,
    pub is_exempt: bool,
    pub slot: Arc<Slot>,
    uid: HeaderValue,
}

/// All flow schemas, in the order in which they are asked.
#[derive(Default)]
pub(crate) struct Matcher {
    /// By precedence, then by name.
    pub schemas: Vec<Arc<Matched>>,
    pub levels: Vec<Arc<OfLevel>>,
    rest: usize,
}

impl Classification {
    /// The level's and the schema's name.
    pub fn names(&self) -> (&str, &str) {
        (&self.of.level.name, &self.of.schema.name)
    }

    /// The uids of the level's and the schema's objects.
    pub fn uids(&self) -> [&HeaderValue; 2] {
        [&self.of.level.uid, &self.of.uid]
    }

    /// Requests of equal flow wait in the same few queues.
    pub fn flow(&self) -> u64 {
        self.flow
    }

    pub(crate) fn is_exempt(&self) -> bool {
        self.of.level.is_exempt
    }

    pub(crate) fn slot(&self) -> u32 {
        self.of.level.slot.at
    }

    /// What tells a request's flow from the others of its schema.
    pub(crate) fn distinguisher<'a>(&self, user: &'a User, namespace: &'a str) -> &'a str {
        match self.of.schema.by {
            Some(Distinguisher::User) => &user.name,
            Some(Distinguisher::Namespace) => namespace,
            None => "",
        }
    }
}

impl Matcher {
    /// What comes after `self`. A schema whose level does not exist is left out; what has not changed is kept as it is, with its counts.
    pub fn next(&self, levels: &[Level], slots: &[Arc<Slot>], schemas: &[Arc<Schema>], hasher: &RandomState) -> Self {
        let known: HashMap<&str, &Arc<OfLevel>> = self.levels.iter().map(|level| (&*level.name, level)).collect();
        let of = |(level, slot): (&Level, &Arc<Slot>)| match known.get(&*level.name) {
            Some(known) if known.is_same(level, slot) => (*known).clone(),
            _ => Arc::new(OfLevel::new(level, slot.clone())),
        };
        let levels: Vec<Arc<OfLevel>> = levels.iter().zip(slots).map(of).collect();
        let by_name: HashMap<&str, &Arc<OfLevel>> = levels.iter().map(|level| (&*level.name, level)).collect();
        let known: HashMap<&str, &Arc<Matched>> = self.schemas.iter().map(|matched| (&*matched.schema.name, matched)).collect();
        let of = |schema: &Arc<Schema>| {
            let level = *by_name.get(&*schema.level)?;
            let before = known.get(&*schema.name);
            let same = before.filter(|before| Arc::ptr_eq(&before.schema, schema) && Arc::ptr_eq(&before.level, level));
            Some(same.map_or_else(|| Arc::new(Matched::new(schema, level, before.copied(), hasher)), |same| (*same).clone()))
        };
        let mut schemas: Vec<Arc<Matched>> = schemas.iter().filter_map(of).collect();
        schemas.sort_by(|a, b| (a.schema.precedence, &a.schema.name).cmp(&(b.schema.precedence, &b.schema.name)));
        let rest = schemas.iter().position(|matched| matched.schema.name == CATCH_ALL).unwrap_or(schemas.len().saturating_sub(1));
        Self { schemas, levels, rest }
    }

    /// `None`: there is no schema at all.
    pub fn classify(&self, asked: &RequestDigest<'_>, hasher: &RandomState) -> Option<Classification> {
        let found = self.schemas.iter().position(|matched| matched.schema.rules.iter().any(|rule| rule.takes(asked)));
        // Whoever is in none of the two groups of everyone: upstream falls back to the last schema, too.
        let of = self.schemas.get(found.unwrap_or(self.rest))?.clone();
        let mut class = Classification { of, flow: 0 };
        class.flow = hasher.hash_one((class.of.seed, class.distinguisher(asked.user, asked.namespace)));
        Some(class)
    }
}

impl Matched {
    fn new(schema: &Arc<Schema>, level: &Arc<OfLevel>, before: Option<&Arc<Self>>, hasher: &RandomState) -> Self {
        let counts = before.filter(|before| before.level.name == level.name).map(|before| before.counts.clone());
        Self {
            counts: counts.unwrap_or_default(),
            uid: uid(&schema.uid),
            seed: hasher.hash_one(&schema.name),
            schema: schema.clone(),
            level: level.clone(),
        }
    }
}

impl OfLevel {
    fn new(level: &Level, slot: Arc<Slot>) -> Self {
        Self { name: level.name.clone(), is_exempt: level.response == Response::Exempt, slot, uid: uid(&level.uid) }
    }

    fn is_same(&self, level: &Level, slot: &Arc<Slot>) -> bool {
        let is_exempt = level.response == Response::Exempt;
        Arc::ptr_eq(&self.slot, slot) && self.is_exempt == is_exempt && self.uid.as_bytes() == level.uid.as_bytes()
    }
}

/// Empty where it is not fit for a header: another server wrote it.
fn uid(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

impl Rule {
    fn takes(&self, asked: &RequestDigest<'_>) -> bool {
        // The cheaper question first: most rules are about resources, or about other verbs.
        let about = if asked.resource_request {
            self.resources.iter().any(|resources| resources.take(asked))
        } else {
            self.paths.iter().any(|paths| paths.take(asked))
        };
        about && self.subjects.iter().any(|subject| subject.is(asked.user))
    }
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.groups.iter().any(|group| group == name),
            Self::Account { namespace, name } => {
                let rest = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.strip_prefix(&**namespace));
                rest.and_then(|rest| rest.strip_prefix(':')).is_some_and(|account| name == "*" || account == name)
            }
        }
    }
}

impl Resources {
    fn take(&self, asked: &RequestDigest<'_>) -> bool {
        let namespace = if asked.namespace.is_empty() { self.cluster } else { has(&self.namespaces, asked.namespace) };
        namespace && has(&self.verbs, asked.verb) && has(&self.groups, asked.group) && self.has_resource(asked)
    }

    fn has_resource(&self, asked: &RequestDigest<'_>) -> bool {
        let is = |listed: &str| match (listed.split_once('/'), asked.subresource) {
            (None, "") => listed == asked.resource,
            (Some((resource, subresource)), wanted) => resource == asked.resource && subresource == wanted,
            (None, _) => false,
        };
        is_any(&self.resources) || self.resources.iter().any(|listed| is(listed))
    }
}

impl Paths {
    fn take(&self, asked: &RequestDigest<'_>) -> bool {
        has(&self.verbs, asked.verb) && self.paths.iter().any(|path| path == "*" || path == asked.path || is_below(asked.path, path))
    }
}

/// Whether `path` is below `listed`, which may end with a star.
fn is_below(path: &str, listed: &str) -> bool {
    let prefix = listed.strip_suffix('*').unwrap_or(listed);
    path.strip_prefix(prefix).is_some_and(|rest| prefix.ends_with('/') || rest.starts_with('/'))
}

fn is_any(list: &[Cow<'static, str>]) -> bool {
    matches!(list, [one] if one == "*")
}

fn has(list: &[Cow<'static, str>], wanted: &str) -> bool {
    is_any(list) || list.iter().any(|one| one == wanted)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Config, Fairness, Limits},
        *,
    };

    fn asked<'a>(user: &'a User, verb: &'a str, resource: &'a str, subresource: &'a str, namespace: &'a str) -> RequestDigest<'a> {
        RequestDigest { user, resource_request: true, verb, group: "g", resource, subresource, namespace, path: "" }
    }

    fn rule(subject: Subject) -> Rule {
        let one = |text: &'static str| vec![Cow::Borrowed(text)];
        let resources = Resources {
            verbs: vec!["get".into(), "list".into()],
            groups: one("g"),
            resources: vec!["xs".into(), "xs/status".into()],
            namespaces: one("n"),
            cluster: false,
        };
        let paths = Paths { verbs: one("get"), paths: vec!["/healthz".into(), "/a/*".into()] };
        Rule { subjects: vec![subject], resources: vec![resources], paths: vec![paths] }
    }

    #[test]
    fn rules_take_what_they_say() {
        let user = User { name: "system:serviceaccount:a:b".into(), groups: vec!["g1".into()], ..User::default() };
        let everyone = rule(Subject::User("*".into()));
        for (verb, resource, subresource, namespace, taken) in [
            ("get", "xs", "", "n", true),
            ("get", "xs", "status", "n", true),
            ("get", "xs", "scale", "n", false),
            ("get", "ys", "", "n", false),
            ("create", "xs", "", "n", false),
            ("get", "xs", "", "m", false),
            ("get", "xs", "", "", false),
        ] {
            assert_eq!(everyone.takes(&asked(&user, verb, resource, subresource, namespace)), taken, "{verb} {resource} {namespace}");
        }
        let account = |namespace: &'static str, name: &'static str| Subject::Account { namespace: namespace.into(), name: name.into() };
        for (subject, is) in [
            (Subject::Group("g1".into()), true),
            (Subject::Group("g2".into()), false),
            (account("a", "*"), true),
            (account("a", "b"), true),
            (account("a", "c"), false),
            (account("system", "*"), false),
        ] {
            assert_eq!(rule(subject.clone()).takes(&asked(&user, "get", "xs", "", "n")), is, "{subject:?}");
        }
    }

    #[test]
    fn paths_are_matched_as_upstream_matches_them() {
        let user = User::default();
        let rule = rule(Subject::User("*".into()));
        for (path, taken) in [("/healthz", true), ("/healthz/etcd", true), ("/healthzz", false), ("/a/b", true), ("/ab", false)] {
            let asked = RequestDigest { resource_request: false, path, ..asked(&user, "get", "", "", "") };
            assert_eq!(rule.takes(&asked), taken, "{path}");
        }
    }

    #[test]
    fn whoever_is_in_no_group_is_of_the_last_schema() {
        let fairness = Fairness::new(&Config::mandatory(Limits::default()));
        let (ann, bob) = (User { name: "ann".into(), ..User::default() }, User { name: "bob".into(), ..User::default() });
        let classes = [&ann, &bob].map(|user| fairness.classify(&asked(user, "get", "xs", "", "n")));
        assert!(classes.iter().all(|class| class.names() == ("catch-all", "catch-all")));
        assert_ne!(classes[0].flow, classes[1].flow);
        let master = User { groups: vec!["system:masters".into()], ..User::default() };
        assert_eq!(fairness.classify(&asked(&master, "get", "xs", "", "n")).names().0, "exempt");
    }
}
