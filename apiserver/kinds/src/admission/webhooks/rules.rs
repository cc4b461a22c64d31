//! A rule of a webhook or a policy, and a write -> whether it is about it.
//!
//! Source: apiserver `pkg/admission/plugin/webhook/predicates/rules/rules.go`.

use apiserver::identity::{Operation, Review};
use serde::Deserialize;

/// `RuleWithOperations`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    operations: Option<Vec<String>>,
    api_groups: Option<Vec<String>>,
    api_versions: Option<Vec<String>>,
    resources: Option<Vec<String>>,
    scope: Option<String>,
}

/// What a write is about, as rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub operation: &'static str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Whether it lies in a namespace; a Namespace itself does not.
    pub is_namespaced: bool,
}

impl<'a> About<'a> {
    pub fn of(review: &'a Review<'_>) -> Self {
        let (ctx, kind) = (review.ctx, review.ctx.kind);
        let operation = word(ctx.operation);
        let is_namespaced = !ctx.namespace.is_empty();
        Self { operation, group: &kind.group, version: &kind.version, resource: &kind.plural, subresource: ctx.subresource, is_namespaced }
    }
}

pub(crate) fn word(operation: Operation) -> &'static str {
    operation.word()
}

impl Rule {
    pub fn everything() -> Self {
        let all = |word: &str| Some(vec![word.to_owned()]);
        Self { operations: all("*"), api_groups: all("*"), api_versions: all("*"), resources: all("*/*"), scope: None }
    }

    pub fn matches(&self, about: &About<'_>) -> bool {
        self.matches_in_any_version(about) && has(&self.api_groups, about.group) && has(&self.api_versions, about.version)
    }

    /// Resources as they are written: `pods`, `pods/status`, `*`.
    pub fn resources(&self) -> impl Iterator<Item = &str> {
        self.resources.iter().flatten().map(String::as_str)
    }

    /// Whether it would match but for group and version.
    pub fn matches_in_any_version(&self, about: &About<'_>) -> bool {
        let scope = match self.scope.as_deref() {
            None | Some("*") => true,
            Some("Namespaced") => about.is_namespaced,
            Some("Cluster") => !about.is_namespaced,
            Some(_) => false,
        };
        scope && has(&self.operations, about.operation) && self.resources.iter().flatten().any(|rule| is_about(rule, about))
    }
}

fn has(list: &Option<Vec<String>>, wanted: &str) -> bool {
    list.iter().flatten().any(|one| one == "*" || one == wanted)
}

/// `pods`, `pods/status`, `*`, `*/status`, `pods/*`, `*/*`; without a slash, no subresource.
fn is_about(rule: &str, about: &About<'_>) -> bool {
    let (resource, subresource) = rule.split_once('/').unwrap_or((rule, ""));
    (resource == "*" || resource == about.resource) && (subresource == "*" || subresource == about.subresource)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_match_as_upstream() {
        let pods = About { operation: "CREATE", group: "", version: "v1", resource: "pods", subresource: "", is_namespaced: true };
        let status = About { operation: "UPDATE", subresource: "status", ..pods };
        let node = About { resource: "nodes", is_namespaced: false, ..pods };
        let rule = |operations: &str, groups: &str, versions: &str, resources: &str, scope: Option<&str>| {
            let rule = json!({"operations": [operations], "apiGroups": [groups], "apiVersions": [versions], "resources": [resources], "scope": scope});
            serde_json::from_value::<Rule>(rule).unwrap()
        };
        let table = [
            (rule("*", "*", "*", "*", None), [true, false, true]),
            (rule("*", "*", "*", "*/*", Some("*")), [true, true, true]),
            (rule("CREATE", "", "v1", "pods", Some("Namespaced")), [true, false, false]),
            (rule("UPDATE", "", "v1", "pods/status", None), [false, true, false]),
            (rule("*", "", "v1", "*/status", None), [false, true, false]),
            (rule("*", "", "v1", "pods/*", None), [true, true, false]),
            (rule("*", "", "v1", "*", Some("Cluster")), [false, false, true]),
            (rule("*", "apps", "v1", "*", None), [false; 3]),
            (rule("*", "", "v2", "*", None), [false; 3]),
            (rule("*", "*", "*", "*/*", Some("Odd")), [false; 3]),
            (Rule::default(), [false; 3]),
        ];
        for (rule, wanted) in table {
            assert_eq!([pods, status, node].map(|about| rule.matches(&about)), wanted, "{rule:?}");
        }
    }
}
