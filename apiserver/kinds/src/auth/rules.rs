//! The JSON of a rule -> its words, and back; rules -> as messages show them. Pure.
//!
//! Source: `pkg/apis/rbac/v1/evaluation_helpers.go`, `pkg/registry/rbac/validation/policy_compact.go`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::common::Read;

/// The fields of a `PolicyRule`.
pub const FIELDS: [&str; 5] = ["verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"];

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
        for (name, words) in FIELDS.into_iter().zip(self.fields()) {
            if !words.is_empty() {
                map.insert(name.into(), json!(words));
            }
        }
        map.entry("verbs").or_insert_with(|| json!([]));
        Value::Object(map)
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

    /// Its lists, in the order of `FIELDS`.
    pub fn fields(&self) -> [&Vec<String>; 5] {
        [&self.verbs, &self.groups, &self.resources, &self.names, &self.urls]
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

/// Whether a rule's URL is this path, or a start of it and stars.
pub fn url_covers(rule: &str, path: &str) -> bool {
    rule == path || rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}
