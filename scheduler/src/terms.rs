//! Affinity terms and spread selectors -> which pods they mean. Source: kube-scheduler `framework/types.go` (`AffinityTerm`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use api::{
    k8s::{api::core::v1::PodAffinityTerm, apimachinery::pkg::apis::meta::v1::LabelSelector},
    selector::Labels,
};

type Map = BTreeMap<String, String>;

/// Labels of the namespaces that exist.
pub type Namespaces = HashMap<String, Map>;

/// Pods by namespace and labels. `id` is equal where the meaning is.
#[derive(Clone, Debug)]
pub struct Matcher {
    pub id: String,
    /// Pods that are being deleted do not count (spreading).
    skip_terminating: bool,
    /// All of them must match.
    terms: Vec<Selected>,
}

/// One term of a pod's (anti-)affinity.
#[derive(Clone, Debug)]
pub struct Term {
    pub topology_key: String,
    pub selected: Selected,
}

#[derive(Clone, Debug)]
pub struct Selected {
    namespaces: BTreeSet<String>,
    /// `None` selects no namespace beyond the named ones.
    namespace_selector: Option<Labels>,
    /// `None` selects no pod.
    pods: Option<Labels>,
}

impl Term {
    /// `own` is the namespace of the pod that has the term.
    pub fn new(term: &PodAffinityTerm, own: &str) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(own.to_owned());
        }
        let namespace_selector = selector(term.namespace_selector.as_ref());
        let selected = Selected { namespaces, namespace_selector, pods: selector(term.label_selector.as_ref()) };
        Self { topology_key: term.topology_key.clone(), selected }
    }
}

impl Selected {
    pub fn matches(&self, namespace: &str, labels: Option<&Map>, all: &Namespaces) -> bool {
        let here = self.namespaces.contains(namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| s.is_empty() || all.get(namespace).is_some_and(|l| s.matches(Some(l))));
        here && self.pods.as_ref().is_some_and(|s| s.matches(labels))
    }

    /// The namespaces it is limited to; `None` if a selector chooses them.
    pub fn limited_to(&self) -> Option<&BTreeSet<String>> {
        self.namespace_selector.is_none().then_some(&self.namespaces)
    }

    pub fn id(&self) -> String {
        format!("{:?}{:?}{:?}", self.namespaces, self.namespace_selector, self.pods)
    }
}

impl Matcher {
    /// Pods that match all of the terms; none if there are no terms.
    pub fn all_of<'a>(terms: impl IntoIterator<Item = &'a Term>) -> Self {
        let terms: Vec<Selected> = terms.into_iter().map(|t| t.selected.clone()).collect();
        Self { id: terms.iter().map(Selected::id).collect(), skip_terminating: false, terms }
    }

    /// Pods of one namespace, for spreading. An empty selector counts nothing there.
    pub fn spread(namespace: &str, pods: Labels) -> Self {
        let pods = Some(pods).filter(|p| !p.is_empty());
        let selected = Selected { namespaces: BTreeSet::from([namespace.to_owned()]), namespace_selector: None, pods };
        Self { id: format!("spread{}", selected.id()), skip_terminating: true, terms: vec![selected] }
    }

    pub fn matches(&self, namespace: &str, labels: Option<&Map>, terminating: bool, all: &Namespaces) -> bool {
        let passed_over = self.terms.is_empty() || (terminating && self.skip_terminating);
        !passed_over && self.terms.iter().all(|t| t.matches(namespace, labels, all))
    }

    /// A namespace that all matching pods are in, if there is just one that is known by name.
    pub fn home(&self) -> Option<&str> {
        let spaces = self.terms.first()?.limited_to()?;
        spaces.first().filter(|_| spaces.len() == 1).map(String::as_str)
    }

    pub fn reads_namespaces(&self) -> bool {
        self.terms.iter().any(|t| t.namespace_selector.is_some())
    }
}

/// What cannot be parsed selects nothing, as what is absent.
pub fn selector(selector: Option<&LabelSelector>) -> Option<Labels> {
    Labels::from_selector(selector).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms_choose_namespaces_by_name_or_labels() {
        let all = Namespaces::from([("prod".to_owned(), Map::from([("tier".to_owned(), "gold".to_owned())]))]);
        let labels = Map::from([("app".to_owned(), "web".to_owned())]);
        let web = json!({"matchLabels": {"app": "web"}});
        let snapshot = [
            (json!({"labelSelector": web}), "own", true),
            (json!({"labelSelector": web}), "prod", false),
            (json!({"labelSelector": web, "namespaces": ["prod"]}), "prod", true),
            (json!({"labelSelector": web, "namespaces": ["prod"]}), "own", false),
            (json!({"labelSelector": web, "namespaceSelector": {}}), "any", true),
            (json!({"labelSelector": web, "namespaceSelector": {"matchLabels": {"tier": "gold"}}}), "prod", true),
            (json!({"labelSelector": web, "namespaceSelector": {"matchLabels": {"tier": "gold"}}}), "own", false),
            (json!({"labelSelector": {"matchLabels": {"app": "db"}}}), "own", false),
            (json!({"labelSelector": {}}), "own", true),
            (json!({}), "own", false),
        ];
        for (mut term, namespace, want) in snapshot {
            term["topologyKey"] = "k".into();
            let parsed = Term::new(&serde_json::from_value(term.clone()).unwrap(), "own");
            assert_eq!(parsed.selected.matches(namespace, Some(&labels), &all), want, "{term} {namespace}");
        }
    }
}
