//! A pod -> it runs where its namespace says (`scheduler.alpha.kubernetes.io/node-selector`), and asks for no node beyond what the configuration
//! allows the namespace. Source: `plugin/pkg/admission/podnodeselector`.

use std::collections::BTreeMap;

use api::Status;
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;
use serde_json::Value;

use super::{creates_pod, namespace_annotations};
use crate::common::{
    Read,
    edit::{self, make_child},
    name_rules, read,
};

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
const DEFAULT: &str = "clusterDefaultNodeSelector";

type Labels = BTreeMap<String, String>;

/// Selectors by namespace, as the configuration writes them.
#[derive(Default)]
pub struct PodNodeSelector(BTreeMap<String, String>);

impl PodNodeSelector {
    /// Of `podNodeSelectorPluginConfig`.
    pub fn configured(config: Option<&Value>) -> Self {
        let selectors = config.object("podNodeSelectorPluginConfig");
        let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
        Self(selectors.into_iter().flatten().filter_map(text).collect())
    }

    fn of(&self, name: &str) -> Result<Labels, Status> {
        labels(self.0.get(name).map_or("", String::as_str))
    }

    async fn of_namespace(&self, review: &Review<'_>) -> Result<Labels, Status> {
        match namespace_annotations(review).await?.get(ANNOTATION) {
            Some(selector) => labels(selector),
            None => self.of(DEFAULT),
        }
    }

    fn check(&self, review: &Review<'_>, pod: &Value, wanted: &Labels) -> Result<(), Status> {
        let refused = |why: &str| Status::forbidden(&review.ctx.kind.group_resource(), read::name(pod), why);
        let own = pod.at("spec").at("nodeSelector");
        let is_other = |key: &str, value: &str| own.at(key).is_some_and(|own| own.as_str() != Some(value));
        if wanted.iter().any(|(key, value)| is_other(key, value)) {
            return Err(refused("pod node label selector conflicts with its namespace node label selector"));
        }
        let allowed = self.of(review.ctx.namespace)?;
        let fits = |(key, value): (&str, &str)| allowed.get(key).is_some_and(|of| of == value);
        if allowed.is_empty() || pod.at("spec").entries("nodeSelector").all(fits) {
            return Ok(());
        }
        Err(refused("pod node label selector labels conflict with its namespace whitelist"))
    }
}

#[async_trait]
impl Admission for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !creates_pod(review) {
            return Ok(());
        }
        let wanted = self.of_namespace(review).await?;
        if let Some(pod) = review.object.as_deref() {
            self.check(review, pod, &wanted)?;
        }
        let Some(spec) = review.object.as_deref_mut().and_then(|pod| make_child(pod, "spec")).filter(|_| !wanted.is_empty()) else {
            return Ok(());
        };
        if let Some(selector) = make_child(spec, "nodeSelector") {
            wanted.into_iter().for_each(|(key, value)| edit::set(selector, &key, value));
        }
        match review.object.as_deref() {
            Some(pod) => self.check(review, pod, &Labels::new()),
            None => Ok(()),
        }
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let Some(pod) = review.object.as_deref().filter(|_| creates_pod(review)) else { return Ok(()) };
        self.check(review, pod, &self.of_namespace(review).await?)
    }
}

/// `labels.ConvertSelectorToLabelsMap`: `a=b,c=d`.
fn labels(selector: &str) -> Result<Labels, Status> {
    let wrong = |why: String| Status::new(500, "", why);
    let mut out = Labels::new();
    for part in selector.split(',').filter(|_| !selector.is_empty()) {
        let [key, value] = part.split('=').collect::<Vec<_>>()[..] else {
            return Err(wrong(format!("invalid selector: [{}]", part.replace('=', " "))));
        };
        let (key, value) = (key.trim(), value.trim());
        if let Some(why) = name_rules::qualified(key).first().or(name_rules::label_value(value).first()) {
            return Err(wrong(format!("invalid label of a node selector {key:?}={value:?}: {why}")));
        }
        out.insert(key.to_owned(), value.to_owned());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_lists_of_equalities() {
        let of = |text: &str| labels(text).map(|found| found.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","));
        assert_eq!(of("").unwrap(), "");
        assert_eq!(of("b=2, a = 1").unwrap(), "a=1,b=2");
        for bad in ["a", "a=b=c", "a b=c", "a=b c", ","] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let configured = PodNodeSelector::configured(Some(&json!({"podNodeSelectorPluginConfig": {DEFAULT: "a=1", "ns": "b=2"}})));
        assert_eq!(
            (configured.of(DEFAULT).unwrap().len(), configured.of("ns").unwrap().len(), configured.of("x").unwrap().len()),
            (1, 1, 0)
        );
    }
}
