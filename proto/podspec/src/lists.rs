//! A resource list as it is kept -> amounts by name.

use std::collections::BTreeMap;

use api::{k8s::apimachinery::pkg::api::resource::Quantity as Text, quantity::Quantity};
use serde_json::{Map, Value};

/// Amounts by the resource's name, for as long as the pod is there. Those that nearly all pods have take no memory of their own.
#[derive(Clone, Debug, Default)]
pub struct Amounts<'a> {
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
    storage: Option<Quantity>,
    others: BTreeMap<&'a str, Quantity>,
}

/// What a container or a pod states.
#[derive(Clone, Copy, Default)]
pub struct Stated<'a> {
    pub requests: List<'a>,
    pub limits: List<'a>,
}

/// Resources and their quantities. What is no quantity is not there: the API server refuses it.
#[derive(Clone, Copy, Default)]
pub enum List<'a> {
    #[default]
    Empty,
    Typed(&'a BTreeMap<String, Text>),
    Json(&'a Map<String, Value>),
}

impl<'a> Amounts<'a> {
    pub fn get(&self, name: &str) -> Option<Quantity> {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.storage,
            _ => self.others.get(name).copied(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// In no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Quantity)> {
        let common = [("cpu", self.cpu), ("memory", self.memory), ("ephemeral-storage", self.storage)];
        let common = common.into_iter().filter_map(|(name, amount)| Some((name, amount?)));
        common.chain(self.others.iter().map(|(name, amount)| (*name, *amount)))
    }

    /// By name.
    pub fn sorted(&self) -> BTreeMap<&'a str, Quantity> {
        self.iter().collect()
    }

    /// In place of what was there.
    pub fn set(&mut self, name: &'a str, amount: Quantity) {
        self.update(name, |_| amount);
    }

    /// On top of what was there.
    pub fn add(&mut self, name: &'a str, amount: Quantity) {
        self.update(name, |sum| sum.map_or(amount, |sum| sum.plus(amount)));
    }

    pub fn add_all(&mut self, more: impl Iterator<Item = (&'a str, Quantity)>) {
        more.for_each(|(name, amount)| self.add(name, amount));
    }

    /// No less than that.
    pub fn raise(&mut self, name: &'a str, amount: Quantity) {
        self.update(name, |known| known.filter(|known| *known >= amount).unwrap_or(amount));
    }

    fn update(&mut self, name: &'a str, with: impl FnOnce(Option<Quantity>) -> Quantity) {
        let common = match name {
            "cpu" => &mut self.cpu,
            "memory" => &mut self.memory,
            "ephemeral-storage" => &mut self.storage,
            _ => {
                let amount = with(self.others.get(name).copied());
                self.others.insert(name, amount);
                return;
            }
        };
        *common = Some(with(*common));
    }
}

impl<'a> List<'a> {
    pub fn get(self, name: &str) -> Option<Quantity> {
        match self {
            Self::Empty => None,
            Self::Typed(list) => parsed(list.get(name)?),
            Self::Json(list) => of_json(list.get(name)?),
        }
    }

    /// Whether the name is there, whatever it says.
    pub fn has(self, name: &str) -> bool {
        match self {
            Self::Empty => false,
            Self::Typed(list) => list.contains_key(name),
            Self::Json(list) => list.get(name).is_some_and(|value| !value.is_null()),
        }
    }

    pub fn iter(self) -> impl Iterator<Item = (&'a str, Quantity)> {
        let (typed, json) = match self {
            Self::Empty => (None, None),
            Self::Typed(list) => (Some(list), None),
            Self::Json(list) => (None, Some(list)),
        };
        let typed = typed.into_iter().flatten().filter_map(|(name, text)| Some((name.as_str(), parsed(text)?)));
        typed.chain(json.into_iter().flatten().filter_map(|(name, value)| Some((name.as_str(), of_json(value)?))))
    }
}

impl<'a> From<Option<&'a BTreeMap<String, Text>>> for List<'a> {
    fn from(list: Option<&'a BTreeMap<String, Text>>) -> Self {
        list.map_or(Self::Empty, Self::Typed)
    }
}

fn parsed(text: &Text) -> Option<Quantity> {
    Quantity::parse(&text.0).ok()
}

/// Quantities may be written as numbers.
fn of_json(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}
