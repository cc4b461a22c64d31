//! Role, ClusterRole and their bindings: the strategy of who may do what. Source: `pkg/apis/rbac/validation`, `pkg/apis/rbac/v1/defaults.go`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Scope, Strategy};
use serde_json::Value;

use crate::{
    common::{self, Path, Read, edit, name_rules, not_supported, read, selector, table, well_formed},
    schema::internal,
};

const GROUP: &str = "rbac.authorization.k8s.io";
const PACKAGE: &str = "io.k8s.api.rbac.v1";
const ROLE_COLUMNS: &[Column] = &[table::NAME_COLUMN, table::column("Created At", "date", "When the role was made.")];
const BINDING_COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Role", "string", "The role that is bound."),
    table::AGE_COLUMN,
    table::wide("Users", "string", "Users that the role is bound to."),
    table::wide("Groups", "string", "Groups that the role is bound to."),
    table::wide("ServiceAccounts", "string", "Service accounts that the role is bound to."),
];

pub fn role() -> Kind {
    let kind = common::kind(GROUP, "v1", "Role", "roles", PACKAGE, Roles { scope: Scope::Namespaced });
    Kind { columns: Cow::Borrowed(ROLE_COLUMNS), ..kind }
}

pub fn cluster_role() -> Kind {
    let kind = common::kind(GROUP, "v1", "ClusterRole", "clusterroles", PACKAGE, Roles { scope: Scope::Cluster });
    Kind { columns: Cow::Borrowed(ROLE_COLUMNS), scope: Scope::Cluster, ..kind }
}

pub fn role_binding() -> Kind {
    let kind = common::kind(GROUP, "v1", "RoleBinding", "rolebindings", PACKAGE, Bindings { scope: Scope::Namespaced });
    Kind { columns: Cow::Borrowed(BINDING_COLUMNS), ..kind }
}

pub fn cluster_role_binding() -> Kind {
    let kind = common::kind(GROUP, "v1", "ClusterRoleBinding", "clusterrolebindings", PACKAGE, Bindings { scope: Scope::Cluster });
    Kind { columns: Cow::Borrowed(BINDING_COLUMNS), scope: Scope::Cluster, ..kind }
}

struct Roles {
    scope: Scope,
}

struct Bindings {
    scope: Scope,
}

impl Strategy for Roles {
    fn create_on_update(&self) -> bool {
        true
    }

    fn name_error(&self, name: &str) -> Option<String> {
        apiserver::names::path_segment_error(name)
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let rules = Path::new("rules");
        for (i, item) in object.list("rules").iter().enumerate() {
            rule(item, self.scope, rules.index(i), causes);
        }
        let aggregation = Path::new("aggregationRule");
        if let Some(found) = object.at("aggregationRule") {
            let path = aggregation.field("clusterRoleSelectors");
            let selectors = found.list("clusterRoleSelectors");
            if selectors.is_empty() {
                causes.required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
            }
            for (i, item) in selectors.iter().enumerate() {
                if !selector::is_readable(Some(item), path.index(i), causes) {
                    causes.invalid(path.index(i), Value::Null, "invalid label selector.");
                }
            }
        }
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, _: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), object.at("metadata").text("creationTimestamp").into()]
    }
}

impl Strategy for Bindings {
    fn create_on_update(&self) -> bool {
        true
    }

    fn name_error(&self, name: &str) -> Option<String> {
        apiserver::names::path_segment_error(name)
    }

    fn default(&self, object: &mut Value) {
        if let Some(reference) = edit::make_child(object, "roleRef") {
            edit::default_text(reference, "apiGroup", GROUP);
        }
        for subject in edit::each(object, "subjects") {
            let group = if subject.text("kind") == "ServiceAccount" { "" } else { GROUP };
            if !group.is_empty() {
                edit::default_text(subject, "apiGroup", group);
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (path, reference) = (Path::new("roleRef"), object.at("roleRef"));
        if reference.text("apiGroup") != GROUP {
            not_supported(reference.text("apiGroup"), &[GROUP], path.field("apiGroup"), causes);
        }
        let allowed: &[&str] = if self.scope == Scope::Namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        if !allowed.contains(&reference.text("kind")) {
            not_supported(reference.text("kind"), allowed, path.field("kind"), causes);
        }
        match reference.text("name") {
            "" => causes.required(path.field("name"), ""),
            name => well_formed(name, apiserver::names::path_segment_error(name).into_iter().collect(), path.field("name"), causes),
        }
        let subjects = Path::new("subjects");
        for (i, item) in object.list("subjects").iter().enumerate() {
            subject(item, self.scope, subjects.index(i), causes);
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        if !read::same(new.at("roleRef"), old.at("roleRef")) {
            causes.invalid("roleRef", internal::shown("rbac.RoleRef", new.at("roleRef")), "cannot change roleRef");
        }
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let reference = object.at("roleRef");
        let role = format!("{}/{}", reference.text("kind"), reference.text("name"));
        let of = |kind: &str| -> Value {
            let named = object.list("subjects").iter().filter(|s| s.text("kind") == kind);
            let names = named.map(|s| {
                if kind == "ServiceAccount" { format!("{}/{}", s.text("namespace"), s.text("name")) } else { s.text("name").into() }
            });
            names.collect::<Vec<_>>().join(", ").into()
        };
        vec![read::name(object).into(), role.into(), table::age(object, now), of("User"), of("Group"), of("ServiceAccount")]
    }
}

fn rule(rule: &Value, scope: Scope, path: Path<'_>, causes: &mut FieldErrors) {
    if rule.list("verbs").is_empty() {
        causes.required(path.field("verbs"), "verbs must contain at least one value");
    }
    let urls = rule.at("nonResourceURLs").cloned().unwrap_or_default();
    if !rule.list("nonResourceURLs").is_empty() {
        if scope == Scope::Namespaced {
            causes.invalid(path.field("nonResourceURLs"), urls.clone(), "namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !rule.list(f).is_empty()) {
            causes.invalid(path.field("nonResourceURLs"), urls, "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if rule.list("apiGroups").is_empty() {
        causes.required(path.field("apiGroups"), "resource rules must supply at least one api group");
    }
    if rule.list("resources").is_empty() {
        causes.required(path.field("resources"), "resource rules must supply at least one resource");
    }
}

fn subject(subject: &Value, scope: Scope, path: Path<'_>, causes: &mut FieldErrors) {
    let (name, group) = (subject.text("name"), subject.text("apiGroup"));
    if name.is_empty() {
        causes.required(path.field("name"), "");
    }
    match subject.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                well_formed(name, name_rules::dns_subdomain(name), path.field("name"), causes);
            }
            if !group.is_empty() {
                not_supported(group, &[""], path.field("apiGroup"), causes);
            }
            if scope == Scope::Cluster && subject.text("namespace").is_empty() {
                causes.required(path.field("namespace"), "");
            }
        }
        "User" | "Group" if group != GROUP => not_supported(group, &[GROUP], path.field("apiGroup"), causes),
        "User" | "Group" => {}
        other => not_supported(other, &["ServiceAccount", "User", "Group"], path.field("kind"), causes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn causes(strategy: &dyn Strategy, object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        strategy.validate(object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn a_selector_that_is_none_is_told_of_twice() {
        let role = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}, {"matchLabels": {"a": "b d"}}]}});
        let found = causes(&Roles { scope: Scope::Cluster }, &role);
        assert!(found[0].starts_with("aggregationRule.clusterRoleSelectors[1].matchLabels: Invalid value: \"b d\""), "{found:?}");
        assert_eq!(found[1..], ["aggregationRule.clusterRoleSelectors[1]: Invalid value: null: invalid label selector."]);
    }

    #[test]
    fn rules_name_verbs_groups_and_resources() {
        let strategy = Roles { scope: Scope::Namespaced };
        let found = causes(&strategy, &json!({"rules": [{}, {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}]}));
        assert_eq!(found.len(), 5, "{found:?}");
        assert_eq!(found[0], "rules[0].verbs: Required value: verbs must contain at least one value");
        let fine = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        assert!(causes(&strategy, &fine).is_empty());
    }

    #[test]
    fn bindings_are_defaulted_and_checked() {
        let strategy = Bindings { scope: Scope::Cluster };
        let mut binding = json!({"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "ann"}]});
        strategy.default(&mut binding);
        assert!(causes(&strategy, &binding).is_empty());
        let bad =
            json!({"roleRef": {"kind": "Role", "name": "a/b", "apiGroup": GROUP}, "subjects": [{"kind": "ServiceAccount", "name": "x"}]});
        assert_eq!(causes(&strategy, &bad).len(), 3);
        let mut causes = FieldErrors::default();
        strategy.validate_update(&bad, &binding, &mut causes);
        assert!(causes.0[0].text().ends_with("cannot change roleRef"));
    }
}
