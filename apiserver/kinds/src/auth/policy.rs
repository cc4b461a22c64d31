//! `policy.txt` -> the roles and bindings of a fresh cluster, as objects. Pure.

use serde_json::{Map, Value, json};

use super::{rbac::GROUP, rules::Rule};

/// One object to be there, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`.
    pub resource: &'static str,
    pub namespace: String,
    pub object: Value,
}

const TEXT: &str = include_str!("policy.txt");

/// All default roles and bindings. The text is ours, so a wrong line is a bug: a test reads all of it.
pub fn wanted() -> Vec<Wanted> {
    let mut out: Vec<Wanted> = Vec::new();
    for line in TEXT.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.strip_prefix("  ") {
            None => begin(line, &mut out),
            Some(rule) => add_rule(rule, &mut out),
        }
    }
    out
}

fn begin(line: &str, out: &mut Vec<Wanted>) {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["clusterrole", name, rest @ ..] => out.push(cluster_role(name, rest)),
        ["controller", name] => {
            let long = format!("system:controller:{name}");
            // The binding first: rules are added to what stands last.
            out.push(binding("", &long, ("ClusterRole", &long), &[&format!("sa:kube-system/{name}")]));
            out.push(cluster_role(&long, &[]));
        }
        ["role", namespace, name] => {
            let object = json!({"apiVersion": api_version(), "kind": "Role", "metadata": metadata(namespace, name), "rules": []});
            out.push(Wanted { resource: "roles", namespace: (*namespace).into(), object });
        }
        ["clusterbinding", name, role, subjects @ ..] => out.push(binding("", name, ("ClusterRole", role), subjects)),
        ["binding", namespace, name, role, subjects @ ..] => out.push(binding(namespace, name, ("Role", role), subjects)),
        _ => tracing::error!(line, "policy line is not understood"),
    }
}

fn cluster_role(name: &str, marks: &[&str]) -> Wanted {
    let mut object = json!({"apiVersion": api_version(), "kind": "ClusterRole", "metadata": metadata("", name), "rules": []});
    for mark in marks {
        let label = |target: &str| format!("rbac.authorization.k8s.io/aggregate-to-{target}");
        if let Some(target) = mark.strip_prefix('+') {
            object["metadata"]["labels"][label(target)] = "true".into();
        }
        if let Some(target) = mark.strip_prefix('=') {
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label(target): "true"}}]});
        }
    }
    Wanted { resource: "clusterroles", namespace: String::new(), object }
}

fn binding(namespace: &str, name: &str, role: (&str, &str), subjects: &[&str]) -> Wanted {
    let (resource, kind) =
        if namespace.is_empty() { ("clusterrolebindings", "ClusterRoleBinding") } else { ("rolebindings", "RoleBinding") };
    let mut object = json!({
        "apiVersion": api_version(), "kind": kind, "metadata": metadata(namespace, name),
        "roleRef": {"apiGroup": GROUP, "kind": role.0, "name": role.1},
    });
    if !subjects.is_empty() {
        object["subjects"] = subjects.iter().filter_map(|s| subject(s)).collect();
    }
    Wanted { resource, namespace: namespace.into(), object }
}

fn subject(text: &str) -> Option<Value> {
    let (kind, name) = text.split_once(':')?;
    Some(match kind {
        "user" => json!({"kind": "User", "apiGroup": GROUP, "name": name}),
        "group" => json!({"kind": "Group", "apiGroup": GROUP, "name": name}),
        "sa" => {
            let (namespace, name) = name.split_once('/')?;
            json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        }
        _ => return None,
    })
}

fn add_rule(line: &str, out: &mut [Wanted]) {
    let words = |text: &str| text.split(' ').map(|w| if w == "core" { String::new() } else { w.to_owned() }).collect::<Vec<_>>();
    let parts: Vec<&str> = line.split(" | ").collect();
    let rule = match parts.as_slice() {
        [verbs, "url", urls] => Rule { verbs: words(verbs), urls: words(urls), ..Rule::default() },
        [verbs, groups, resources, names @ ..] => Rule {
            verbs: words(verbs),
            groups: words(groups),
            resources: words(resources),
            names: names.first().map(|n| words(n)).unwrap_or_default(),
            urls: Vec::new(),
        },
        _ => return tracing::error!(line, "policy line is not understood"),
    };
    if let Some(Value::Array(rules)) = out.last_mut().and_then(|w| w.object.get_mut("rules")) {
        rules.push(rule.json());
    }
}

fn metadata(namespace: &str, name: &str) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".into(), name.into());
    if !namespace.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
    }
    metadata.insert("labels".into(), json!({"kubernetes.io/bootstrapping": "rbac-defaults"}));
    metadata.insert("annotations".into(), json!({"rbac.authorization.kubernetes.io/autoupdate": "true"}));
    Value::Object(metadata)
}

fn api_version() -> String {
    format!("{GROUP}/v1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::{Read, read};

    fn find(wanted: &[Wanted], resource: &str, name: &str) -> Value {
        wanted.iter().find(|w| w.resource == resource && read::name(&w.object) == name).unwrap().object.clone()
    }

    #[test]
    fn every_line_is_understood() {
        let wanted = wanted();
        let heads = TEXT.lines().filter(|l| !l.is_empty() && !l.starts_with(['#', ' ']));
        let controllers = TEXT.lines().filter(|l| l.starts_with("controller ")).count();
        assert_eq!(wanted.len(), heads.count() + controllers);
        let rules: usize = wanted.iter().map(|w| w.object.list("rules").len()).sum();
        assert_eq!(rules, TEXT.lines().filter(|l| l.starts_with("  ")).count());
    }

    #[test]
    fn roles_read_as_upstream_has_them() {
        let wanted = wanted();
        let admin = find(&wanted, "clusterroles", "cluster-admin");
        assert_eq!(admin["rules"][0], json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        assert_eq!(admin["rules"][1], json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        let edit = find(&wanted, "clusterroles", "edit");
        assert_eq!(edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
        let selector = &edit["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"];
        assert_eq!(selector["rbac.authorization.k8s.io/aggregate-to-edit"], "true");
    }

    #[test]
    fn every_binding_names_a_role_that_is_there() {
        let wanted = wanted();
        for one in wanted.iter().filter(|w| w.object.get("roleRef").is_some()) {
            let role = &one.object["roleRef"];
            let resource = if role["kind"] == "Role" { "roles" } else { "clusterroles" };
            find(&wanted, resource, role["name"].as_str().unwrap());
        }
        let gc = find(&wanted, "clusterrolebindings", "system:controller:generic-garbage-collector");
        assert_eq!(gc["subjects"][0]["name"], "generic-garbage-collector");
    }
}
