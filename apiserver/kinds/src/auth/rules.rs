//! A rule and a request -> yes or no; rules and rules -> what is missing. Pure.
//!
//! Source: `pkg/apis/rbac/v1/evaluation_helpers.go`, `component-helpers/auth/rbac/validation/policy_comparator.go`.

use std::collections::BTreeMap;

use apiserver::identity::Attributes;
use serde_json::{Map, Value, json};

use crate::common::Read;

/// `rbac/v1.PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub urls: Vec<String>,
}

impl Rule {
    /// From the JSON of a `PolicyRule`.
    pub fn parse(value: &Value) -> Self {
        let words = |name: &str| value.list(name).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        Self {
            verbs: words("verbs"),
            groups: words("apiGroups"),
            resources: words("resources"),
            names: words("resourceNames"),
            urls: words("nonResourceURLs"),
        }
    }

    /// The rules of a role.
    pub fn parse_all(role: &Value) -> Vec<Self> {
        role.list("rules").iter().map(Self::parse).collect()
    }

    /// The JSON of a `PolicyRule`; empty lists are left out.
    pub fn json(&self) -> Value {
        let mut map = Map::new();
        for (name, words) in self.parts() {
            if !words.is_empty() {
                map.insert(name.into(), json!(words));
            }
        }
        map.entry("verbs").or_insert_with(|| json!([]));
        Value::Object(map)
    }

    pub fn allows(&self, a: &Attributes) -> bool {
        if !has(&self.verbs, &a.verb) {
            return false;
        }
        if !a.resource_request {
            return self.urls.iter().any(|url| url_covers(url, &a.path));
        }
        has(&self.groups, &a.group) && self.matches_resource(&a.resource, &a.subresource) && self.matches_name(&a.name)
    }

    /// As escalation messages show it.
    pub fn compact(&self) -> String {
        let named = [("APIGroups", &self.groups), ("Resources", &self.resources), ("NonResourceURLs", &self.urls)];
        let more = [("ResourceNames", &self.names), ("Verbs", &self.verbs)];
        let parts: Vec<String> = named
            .iter()
            .chain(&more)
            .filter(|(_, words)| !words.is_empty())
            .map(|(name, words)| format!("{name}:{}", quoted(words)))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }

    fn parts(&self) -> [(&'static str, &Vec<String>); 5] {
        [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ]
    }

    fn matches_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| match rule.split_once('/') {
            _ if rule == "*" => true,
            None => subresource.is_empty() && rule == resource,
            Some((left, right)) => right == subresource && !subresource.is_empty() && (left == "*" || left == resource),
        })
    }

    fn matches_name(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|n| n == name)
    }

    /// Into rules of one verb, one resource and one name each.
    fn break_down(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        let names: Vec<Vec<String>> =
            if self.names.is_empty() { vec![vec![]] } else { self.names.iter().map(|n| vec![n.clone()]).collect() };
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    for names in &names {
                        let (verbs, groups, resources) = (vec![verb.clone()], vec![group.clone()], vec![resource.clone()]);
                        out.push(Rule { verbs, groups, resources, names: names.clone(), urls: Vec::new() });
                    }
                }
            }
        }
        for url in &self.urls {
            for verb in &self.verbs {
                out.push(Rule { verbs: vec![verb.clone()], urls: vec![url.clone()], ..Rule::default() });
            }
        }
        out
    }

    /// Whether this covers `small`, which has been broken down.
    fn covers(&self, small: &Rule) -> bool {
        small.verbs.iter().all(|v| has(&self.verbs, v))
            && small.groups.iter().all(|g| has(&self.groups, g))
            && small.resources.iter().all(|r| self.covers_resource(r))
            && small.urls.iter().all(|url| self.urls.iter().any(|own| own == url || url_covers(own, url)))
            && (self.names.is_empty() || (!small.names.is_empty() && small.names.iter().all(|n| self.names.contains(n))))
    }

    fn covers_resource(&self, resource: &str) -> bool {
        has(&self.resources, resource)
            || resource.split_once('/').is_some_and(|(_, sub)| self.resources.iter().any(|r| r.strip_prefix("*/") == Some(sub)))
    }
}

/// What of `wanted` the rules `held` do not cover, broken down.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(Rule::break_down).filter(|small| !held.iter().any(|own| own.covers(small))).collect()
}

/// Joins the verbs of broken-down rules about one resource.
pub fn compacted(rules: Vec<Rule>) -> Vec<Rule> {
    let mut simple = BTreeMap::<_, Rule>::new();
    let mut out = Vec::new();
    for rule in rules {
        if !rule.urls.is_empty() {
            out.push(rule);
            continue;
        }
        let key = (rule.groups.clone(), rule.resources.clone(), rule.names.clone());
        match simple.get_mut(&key) {
            Some(known) => known.verbs.extend(rule.verbs),
            None => drop(simple.insert(key, rule)),
        }
    }
    out.extend(simple.into_values());
    out
}

/// Go's `%q` of a list: `["a" "b"]`.
pub fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    format!("[{}]", words.join(" "))
}

fn has(words: &[String], word: &str) -> bool {
    words.iter().any(|w| w == "*" || w == word)
}

fn url_covers(rule: &str, path: &str) -> bool {
    rule == path || rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let groups = words(groups).iter().map(|g| if g == "core" { String::new() } else { g.clone() }).collect();
        Rule { verbs: words(verbs), groups, resources: words(resources), names: words(names), urls: Vec::new() }
    }

    fn ask(verb: &str, group: &str, resource: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            resource_request: true,
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Default::default()
        }
    }

    #[test]
    fn resources_match_as_upstream_matches_them() {
        let cases = [
            (rule("get", "core", "pods", ""), ask("get", "", "pods", "a"), true),
            (rule("get", "core", "pods", ""), ask("get", "", "pods/log", "a"), false),
            (rule("get", "core", "pods/log", ""), ask("get", "", "pods/log", "a"), true),
            (rule("get", "core", "pods/log", ""), ask("get", "", "pods", "a"), false),
            (rule("get", "core", "*/scale", ""), ask("get", "", "x/scale", "a"), true),
            (rule("get", "core", "*/scale", ""), ask("get", "", "x/status", "a"), false),
            (rule("get", "core", "*/scale", ""), ask("get", "", "x", "a"), false),
            (rule("*", "*", "*", ""), ask("impersonate", "x.io", "y/z", ""), true),
            (rule("get", "apps", "pods", ""), ask("get", "", "pods", ""), false),
            (rule("list", "core", "pods", ""), ask("get", "", "pods", ""), false),
            (rule("get", "core", "pods", "a b"), ask("get", "", "pods", "b"), true),
            (rule("get", "core", "pods", "a b"), ask("get", "", "pods", ""), false),
        ];
        for (rule, ask, yes) in cases {
            assert_eq!(rule.allows(&ask), yes, "{rule:?} {ask:?}");
        }
    }

    #[test]
    fn paths_match_with_a_star_at_the_end() {
        let rule = Rule { verbs: words("get"), urls: words("/healthz /api/*"), ..Rule::default() };
        for (path, yes) in [("/healthz", true), ("/healthz/x", false), ("/api/v1", true), ("/api", false), ("/", false)] {
            let ask = Attributes { verb: "get".into(), path: path.into(), ..Default::default() };
            assert_eq!(rule.allows(&ask), yes, "{path}");
        }
    }

    #[test]
    fn what_is_missing_is_told_compactly() {
        let held = [rule("get list", "core", "pods */status", ""), rule("*", "apps", "*", "x")];
        let none: [Rule; 4] = [
            rule("get", "core", "pods nodes/status", ""),
            rule("delete", "apps", "deployments", "x"),
            rule("list", "core", "pods", "one"),
            Rule::default(),
        ];
        assert_eq!(missing(&held, &none), []);
        let wanted = [rule("get delete watch", "core", "pods", ""), rule("get", "apps", "deployments", "")];
        let texts: Vec<String> = compacted(missing(&held, &wanted)).iter().map(Rule::compact).collect();
        assert_eq!(
            texts,
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#,
                r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}"#
            ]
        );
    }
}
