//! What one writer was told -> what must stand after a power cut.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

pub const OBJECTS: &str = "/api/v1/namespaces/default/configmaps";
pub const LIST: &str = "/api/v1/namespaces/default/configmaps?labelSelector=crash";
/// Names of one writer: few, so that each is changed often.
const NAMES: usize = 6;

/// What stands under a name: its value, and its revision where we were told one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub value: String,
    pub rev: Option<u64>,
}

/// One writer's names, each with what may stand there: one thing if all was acknowledged, more after a write of unknown outcome.
#[derive(Debug)]
pub struct Ledger {
    pub writer: usize,
    pub turn: u64,
    names: BTreeMap<String, Vec<Option<Standing>>>,
    acknowledged: Vec<u64>,
    deleted: usize,
}

impl Ledger {
    pub fn new(writer: usize) -> Self {
        let names = (0..NAMES).map(|n| (format!("crash-{writer}-{n}"), vec![None])).collect();
        Self { writer, turn: 0, names, acknowledged: Vec::new(), deleted: 0 }
    }

    /// A name whose state is known, chosen by a number.
    pub fn pick(&self, number: usize) -> Option<(String, Option<Standing>)> {
        let known: Vec<_> = self.names.iter().filter(|(_, may)| may.len() == 1).collect();
        let (name, may) = known.get(number % known.len().max(1))?;
        Some(((*name).clone(), may[0].clone()))
    }

    pub fn written(&mut self, name: &str, value: String, rev: u64) {
        self.acknowledged.push(rev);
        self.names.insert(name.into(), vec![Some(Standing { value, rev: Some(rev) })]);
    }

    pub fn deleted(&mut self, name: &str) {
        self.deleted += 1;
        self.names.insert(name.into(), vec![None]);
    }

    /// The outcome of a write is unknown: the old or the new.
    pub fn in_doubt(&mut self, name: &str, attempted: Option<String>) {
        let may = self.names.entry(name.into()).or_default();
        may.push(attempted.map(|value| Standing { value, rev: None }));
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len() + self.deleted
    }

    /// The revisions acknowledged since last asked.
    pub fn take_acknowledged(&mut self) -> Vec<u64> {
        self.deleted = 0;
        std::mem::take(&mut self.acknowledged)
    }

    /// Panics unless each name holds what it may; afterwards what stands is known.
    pub fn check(&mut self, standing: &HashMap<String, Standing>) {
        for (name, may) in &mut self.names {
            let found = standing.get(name).cloned();
            let fits = |wanted: &Option<Standing>| match (wanted, &found) {
                (None, None) => true,
                (Some(w), Some(f)) => w.value == f.value && (w.rev.is_none() || w.rev == f.rev),
                _ => false,
            };
            assert!(may.iter().any(fits), "{name} holds {found:?}, it must be one of {may:?}");
            *may = vec![found];
        }
    }
}

/// A list -> what stands under each name, and the list's revision.
pub fn standing(list: &Value) -> (HashMap<String, Standing>, u64) {
    let items = list["items"].as_array().expect("a list has items");
    let of = |item: &Value| {
        let value = item["data"]["value"].as_str().unwrap_or_default().to_owned();
        (item["metadata"]["name"].as_str().unwrap_or_default().to_owned(), Standing { value, rev: Some(rev(item)) })
    };
    (items.iter().map(of).collect(), rev(list))
}

pub fn rev(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no resourceVersion: {object}"))
}
