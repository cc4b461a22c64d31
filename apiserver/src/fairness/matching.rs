//! A request -> its flow schema, its level and its flow. Source: apiserver `pkg/util/flowcontrol/rule.go`.

use std::{
    borrow::Cow,
    hash::{BuildHasher, RandomState},
};

use super::config::{CATCH_ALL, Config, Distinguisher, Paths, Resources, Rule, Schema, Subject};
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

/// Where a request belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classification {
    /// Places in the matcher's tables.
    pub schema: u16,
    pub level: u16,
    /// Requests of equal flow wait in the same few queues.
    pub flow: u64,
}

pub(crate) struct Matcher {
    /// By precedence, then by name.
    pub schemas: Vec<Schema>,
    pub levels: Vec<Cow<'static, str>>,
    level_of: Vec<u16>,
    rest: usize,
    /// Secret, so that nobody can choose names that share the queues of somebody else.
    hasher: RandomState,
}

impl Matcher {
    /// A schema whose level does not exist is left out.
    pub fn new(config: &Config) -> Self {
        let levels: Vec<Cow<'static, str>> = config.levels.iter().map(|level| level.name.clone()).collect();
        let place = |schema: &Schema| levels.iter().position(|name| *name == schema.level);
        let mut schemas: Vec<Schema> = config.schemas.iter().filter(|schema| place(schema).is_some()).cloned().collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let level_of = schemas.iter().filter_map(place).map(|at| u16::try_from(at).unwrap_or_default()).collect();
        let rest = schemas.iter().position(|schema| schema.name == CATCH_ALL).unwrap_or(schemas.len().saturating_sub(1));
        Self { schemas, levels, level_of, rest, hasher: RandomState::new() }
    }

    pub fn classify(&self, asked: &RequestDigest<'_>) -> Classification {
        let found = self.schemas.iter().position(|schema| schema.rules.iter().any(|rule| rule.takes(asked)));
        // Whoever is in none of the two groups of everyone: upstream falls back to the last schema, too.
        let at = found.unwrap_or(self.rest);
        let distinguisher = match self.schemas.get(at).and_then(|schema| schema.by) {
            Some(Distinguisher::User) => asked.user.name.as_str(),
            Some(Distinguisher::Namespace) => asked.namespace,
            None => "",
        };
        let level = self.level_of.get(at).copied().unwrap_or_default();
        Classification { schema: u16::try_from(at).unwrap_or_default(), level, flow: self.hasher.hash_one((at, distinguisher)) }
    }
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
    let prefix = listed.trim_end_matches('*');
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
    use super::*;

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
        let matcher = Matcher::new(&Config::mandatory(super::super::Limits::default()));
        let (ann, bob) = (User { name: "ann".into(), ..User::default() }, User { name: "bob".into(), ..User::default() });
        let classes = [&ann, &bob].map(|user| matcher.classify(&asked(user, "get", "xs", "", "n")));
        assert_eq!(classes.map(|class| matcher.schemas[usize::from(class.schema)].name.clone()), ["catch-all", "catch-all"]);
        assert_ne!(classes[0].flow, classes[1].flow);
        let master = User { groups: vec!["system:masters".into()], ..User::default() };
        let class = matcher.classify(&asked(&master, "get", "xs", "", "n"));
        assert_eq!(matcher.levels[usize::from(class.level)], "exempt");
    }
}
