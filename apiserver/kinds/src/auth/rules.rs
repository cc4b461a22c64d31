//! A rule and a request -> yes or no; rules and rules -> what is missing. Pure.
//!
//! Source: `pkg/apis/rbac/v1/evaluation_helpers.go`, `component-helpers/auth/rbac/validation/policy_comparator.go`.

use std::collections::{BTreeMap, HashSet};

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
}

/// A rule as it is compared with others: its lists may be long.
struct Held<'a> {
    verbs: Words<'a>,
    groups: Words<'a>,
    resources: Words<'a>,
    /// The `x` of each `*/x` among the resources.
    subresources: HashSet<&'a str>,
    /// Empty for any name.
    names: HashSet<&'a str>,
    urls: &'a [String],
}

struct Words<'a> {
    all: bool,
    words: HashSet<&'a str>,
}

impl<'a> Words<'a> {
    fn of(words: &'a [String]) -> Self {
        let words: HashSet<&str> = words.iter().map(String::as_str).collect();
        Self { all: words.contains("*"), words }
    }

    fn has(&self, word: &str) -> bool {
        self.all || self.words.contains(word)
    }
}

impl<'a> Held<'a> {
    fn of(rule: &'a Rule) -> Self {
        Self {
            verbs: Words::of(&rule.verbs),
            groups: Words::of(&rule.groups),
            resources: Words::of(&rule.resources),
            subresources: rule.resources.iter().filter_map(|r| r.strip_prefix("*/")).collect(),
            names: rule.names.iter().map(String::as_str).collect(),
            urls: &rule.urls,
        }
    }

    fn covers_resource(&self, resource: &str) -> bool {
        self.resources.has(resource) || resource.split_once('/').is_some_and(|(_, sub)| self.subresources.contains(sub))
    }

    /// `None` is any name.
    fn covers_name(&self, name: Option<&str>) -> bool {
        self.names.is_empty() || name.is_some_and(|name| self.names.contains(name))
    }

    fn covers_url(&self, url: &str) -> bool {
        self.urls.iter().any(|own| own == url || url_covers(own, url))
    }

    fn covers(&self, one: &One<'_>) -> bool {
        self.verbs.has(one.verb) && self.groups.has(one.group) && self.covers_resource(one.resource) && self.covers_name(one.name)
    }

    /// Whether it covers `rule` alone and as a whole.
    fn covers_all(&self, rule: &Rule) -> bool {
        let named = rule.names.iter().all(|name| self.covers_name(Some(name)));
        rule.verbs.iter().all(|verb| self.verbs.has(verb))
            && rule.groups.iter().all(|group| self.groups.has(group))
            && rule.resources.iter().all(|resource| self.covers_resource(resource))
            && rule.urls.iter().all(|url| self.covers_url(url))
            && (self.names.is_empty() || !rule.names.is_empty() && named)
    }
}

/// A rule of one verb, one resource and at most one name.
struct One<'a> {
    verb: &'a str,
    group: &'a str,
    resource: &'a str,
    name: Option<&'a str>,
}

impl One<'_> {
    fn rule(&self) -> Rule {
        let (verbs, groups, resources) = (vec![self.verb.to_owned()], vec![self.group.to_owned()], vec![self.resource.to_owned()]);
        Rule { verbs, groups, resources, names: self.name.map(str::to_owned).into_iter().collect(), urls: Vec::new() }
    }
}

/// How often two rules may be compared in one check, and how many of those that are missing are told: a rule is as many as its lists multiplied.
const COMPARISONS_MAX: usize = 4 << 20;
const MISSING_MAX: usize = 1000;

/// What of `wanted` the rules `held` do not cover, broken down.
///
/// # Errors
/// They are too many to be compared.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Result<Vec<Rule>, String> {
    let held: Vec<Held<'_>> = held.iter().map(Held::of).collect();
    let mut check = Check { held: &held, missing: Vec::new(), left: COMPARISONS_MAX };
    for rule in wanted {
        check.rule(rule)?;
    }
    Ok(check.missing)
}

struct Check<'a> {
    held: &'a [Held<'a>],
    missing: Vec<Rule>,
    left: usize,
}

impl Check<'_> {
    fn rule(&mut self, rule: &Rule) -> Result<(), String> {
        let words = rule.parts().iter().map(|(_, words)| words.len()).sum::<usize>();
        self.spend(words + 1)?;
        if self.held.iter().any(|own| own.covers_all(rule)) {
            return Ok(());
        }
        let names: Vec<Option<&str>> =
            if rule.names.is_empty() { vec![None] } else { rule.names.iter().map(|name| Some(name.as_str())).collect() };
        for group in &rule.groups {
            for resource in &rule.resources {
                for verb in &rule.verbs {
                    for name in &names {
                        if self.is_told() {
                            return Ok(());
                        }
                        self.one(&One { verb, group, resource, name: *name })?;
                    }
                }
            }
        }
        for url in &rule.urls {
            for verb in &rule.verbs {
                if self.is_told() {
                    return Ok(());
                }
                self.url(verb, url)?;
            }
        }
        Ok(())
    }

    fn one(&mut self, one: &One<'_>) -> Result<(), String> {
        self.spend(1)?;
        if !self.held.iter().any(|own| own.covers(one)) {
            self.missing.push(one.rule());
        }
        Ok(())
    }

    fn url(&mut self, verb: &str, url: &str) -> Result<(), String> {
        self.spend(self.held.iter().map(|own| own.urls.len()).max().unwrap_or_default() + 1)?;
        if !self.held.iter().any(|own| own.verbs.has(verb) && own.names.is_empty() && own.covers_url(url)) {
            self.missing.push(Rule { verbs: vec![verb.to_owned()], urls: vec![url.to_owned()], ..Rule::default() });
        }
        Ok(())
    }

    /// Whether as much is known to be missing as anybody is told.
    fn is_told(&self) -> bool {
        self.missing.len() >= MISSING_MAX
    }

    /// Each held rule is compared `times` times.
    fn spend(&mut self, times: usize) -> Result<(), String> {
        let rest = self.left.checked_sub(times.saturating_mul(self.held.len().max(1)));
        self.left = rest.ok_or("the rules are too many to be compared with those that are held")?;
        Ok(())
    }
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
        assert_eq!(missing(&held, &none).unwrap(), []);
        let wanted = [rule("get delete watch", "core", "pods", ""), rule("get", "apps", "deployments", "")];
        let texts: Vec<String> = compacted(missing(&held, &wanted).unwrap()).iter().map(Rule::compact).collect();
        assert_eq!(
            texts,
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#,
                r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}"#
            ]
        );
    }

    #[test]
    fn lists_that_multiply_are_refused_or_told_in_part() {
        let many = |letter: char| (0..1000).map(|i| format!("{letter}{i}")).collect::<Vec<_>>();
        let wide = Rule { verbs: many('v'), groups: many('g'), resources: many('r'), names: many('n'), urls: Vec::new() };
        assert_eq!(missing(&[], std::slice::from_ref(&wide)).unwrap().len(), MISSING_MAX, "none is held");
        assert_eq!(missing(std::slice::from_ref(&wide), std::slice::from_ref(&wide)).unwrap(), [], "one rule covers it");
        let halves =
            [Rule { verbs: wide.verbs[..500].to_vec(), ..wide.clone() }, Rule { verbs: wide.verbs[500..].to_vec(), ..wide.clone() }];
        assert!(missing(&halves, &[wide]).is_err(), "10^12 comparisons");
    }
}
