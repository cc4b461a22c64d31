//! Names of a quota -> how many objects of which kind there are in the namespace, as the server says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{names::segment, quantity::Quantity};
use client::kube;
use podspec::{
    names::{Of as MeasuredBy, measured_by},
    quota::{Evaluator, Usage},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::ledger::Of;
use crate::{
    catalog::{self, Collection},
    census::{self, Census},
};

/// Objects of which more is read than how many there are, at a time.
const PAGE: usize = 500;
const LIST_BOUND: Duration = Duration::from_secs(30);

/// A collection, and the names that it is counted by.
pub struct Counted {
    pub collection: Arc<Collection>,
    evaluator: Evaluator,
    names: Vec<String>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMeta,
    items: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    #[serde(rename = "continue")]
    token: Option<String>,
    remaining_item_count: Option<i64>,
}

/// The collections that a quota's names count. What is not served is not among them.
pub fn counted<'n>(names: impl Iterator<Item = &'n String>, census: &Census) -> Vec<Counted> {
    let mut by_count: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names {
        if let Some(count) = count_name(name) {
            by_count.entry(count).or_default().push(name.clone());
        }
    }
    let one = |(count, names): (String, Vec<String>)| {
        let collection = census.collection(&count)?;
        let evaluator = Evaluator::of(&collection.group, &collection.plural);
        Some(Counted { collection, evaluator, names })
    };
    by_count.into_iter().filter_map(one).collect()
}

/// How a quota names the number of those objects that this name is about: `secrets` -> `count/secrets`. Nothing for what is measured otherwise.
pub fn count_name(name: &str) -> Option<String> {
    if Of::ALL.iter().any(|of| of.evaluator().counts(name)) {
        return None;
    }
    if Evaluator::DeviceClaims.counts(name) {
        return Some(census::name("resource.k8s.io", "resourceclaims"));
    }
    if measured_by(name) == Some(MeasuredBy::Objects) {
        return Some(census::name("", name));
    }
    name.starts_with("count/").then(|| name.to_owned())
}

impl Counted {
    /// Nothing of any.
    pub fn nothing(&self) -> Usage {
        self.names.iter().map(|name| (name.clone(), Quantity::from_units(0))).collect()
    }

    /// Nothing where the collection is no more served.
    ///
    /// # Errors
    /// Why it is not known.
    pub async fn used(&self, client: &kube::Client, namespace: &str) -> Result<Usage, String> {
        let path = self.collection.path(Some(namespace));
        if self.evaluator == Evaluator::DeviceClaims && self.names.iter().any(|name| !name.starts_with("count/")) {
            return self.measured(client, &path).await;
        }
        let Some(page) = within(catalog::list_metadata::<Page>(client, &format!("{path}?limit=1"))).await? else { return Ok(Usage::new()) };
        let count = match page.whole() {
            Some(count) => count,
            // Not every server says how many there are beyond a page.
            None => {
                let Some(all) = within(catalog::list_metadata::<Page>(client, &path)).await? else { return Ok(Usage::new()) };
                all.whole().ok_or("a list that does not end")?
            }
        };
        Ok(self.names.iter().map(|name| (name.clone(), Quantity::from_units(count))).collect())
    }

    /// Page by page: no more of them than a page's are held at a time.
    async fn measured(&self, client: &kube::Client, path: &str) -> Result<Usage, String> {
        let (mut sum, mut token) = (self.nothing(), String::new());
        loop {
            let page = format!("{path}?limit={PAGE}&continue={}", segment(&token));
            let Some(list) = within(catalog::get(client, &page)).await? else { return Ok(Usage::new()) };
            self.add(&list, &mut sum)?;
            match list.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(next) if !next.is_empty() => next.clone_into(&mut token),
                _ => return Ok(sum),
            }
        }
    }

    fn add(&self, list: &Value, sum: &mut Usage) -> Result<(), String> {
        let items = list.get("items").ok_or("a list without items")?.as_array();
        for item in items.into_iter().flatten() {
            for (name, amount) in self.evaluator.measure(item).usage {
                if let Some(all) = sum.get_mut(&name) {
                    *all = all.plus(amount);
                }
            }
        }
        Ok(())
    }
}

impl Page {
    /// How many there are, where the page says so.
    fn whole(&self) -> Option<i64> {
        let here = i64::try_from(self.items.as_ref().map_or(0, Vec::len)).ok()?;
        match self.metadata.token.as_deref() {
            None | Some("") => Some(here),
            Some(_) => Some(here.saturating_add(self.metadata.remaining_item_count?)),
        }
    }
}

/// Nothing where there is no such collection: the next discovery tells that there is none.
async fn within<T>(ask: impl Future<Output = Result<T, kube::Error>>) -> Result<Option<T>, String> {
    match timeout(LIST_BOUND, ask).await.map_err(|late| late.to_string())? {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        answer => answer.map(Some).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_say_what_is_counted() {
        let cases = [
            ("secrets", Some("count/secrets")),
            ("count/secrets", Some("count/secrets")),
            ("count/widgets.example.com", Some("count/widgets.example.com")),
            ("gpu.deviceclass.resource.k8s.io/devices", Some("count/resourceclaims.resource.k8s.io")),
            ("pods", None),
            ("count/pods", None),
            ("requests.cpu", None),
            ("example.com/gpu", None),
        ];
        for (name, wanted) in cases {
            assert_eq!(count_name(name).as_deref(), wanted, "{name}");
        }
    }

    #[test]
    fn a_page_says_how_many_there_are() {
        let of = |page: Value| serde_json::from_value::<Page>(page).unwrap().whole();
        assert_eq!(of(json!({"items": null})), Some(0));
        assert_eq!(of(json!({"items": [{}], "metadata": {"continue": ""}})), Some(1));
        assert_eq!(of(json!({"items": [{}], "metadata": {"continue": "x", "remainingItemCount": 4}})), Some(5));
        assert_eq!(of(json!({"items": [{}], "metadata": {"continue": "x"}})), None);
    }
}
