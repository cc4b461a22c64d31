//! A LimitRange -> what of it is compared with pods and claims: read once per revision.

use api::quantity::Quantity;
use apiserver::engine::{Object, Viewed};
use serde_json::Value;

use super::amounts;
use crate::common::Read;

/// By name, sorted.
pub(super) type Texts = Box<[(Box<str>, Box<str>)]>;
type Bounds = Box<[(Box<str>, Quantity)]>;

pub(super) struct Range {
    /// What containers get that leave it open.
    pub default_requests: Texts,
    pub default_limits: Texts,
    pub limits: Box<[Limit]>,
}

/// What one type of thing is held to. Sorted by name.
pub(super) struct Limit {
    pub typ: Type,
    pub min: Bounds,
    pub max: Bounds,
    pub ratio: Bounds,
}

/// The types that mean anything here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Container,
    Pod,
    Claim,
}

impl Viewed for Range {
    fn read(object: &Object) -> Self {
        Self::of(&object.value())
    }

    fn bytes(&self) -> usize {
        let texts = [&self.default_requests, &self.default_limits].into_iter().flatten().map(|(name, text)| name.len() + text.len());
        let bounds = self.limits.iter().flat_map(|limit| [&limit.min, &limit.max, &limit.ratio]).flatten();
        texts.chain(bounds.map(|(name, _)| name.len())).map(|length| length + ENTRY_BYTES).sum()
    }
}

/// What an entry counts besides its texts.
const ENTRY_BYTES: usize = 16;

impl Range {
    pub fn of(range: &Value) -> Self {
        let limits = range.at("spec").list("limits");
        Self {
            default_requests: texts(limits, "defaultRequest"),
            default_limits: texts(limits, "default"),
            limits: limits.iter().filter_map(Limit::of).collect(),
        }
    }
}

impl Limit {
    fn of(limit: &Value) -> Option<Self> {
        let typ = Type::named(limit.text("type"))?;
        let bounds =
            |field: &str| -> Bounds { amounts(Some(limit), field).into_iter().map(|(name, bound)| (name.into(), bound)).collect() };
        Some(Self { typ, min: bounds("min"), max: bounds("max"), ratio: bounds("maxLimitRequestRatio") })
    }

    /// How many amounts it bounds.
    pub fn len(&self) -> usize {
        self.min.len() + self.max.len() + self.ratio.len()
    }
}

impl Type {
    fn named(word: &str) -> Option<Self> {
        [Type::Container, Type::Pod, Type::Claim].into_iter().find(|typ| typ.word() == word)
    }

    pub fn word(self) -> &'static str {
        match self {
            Type::Container => "Container",
            Type::Pod => "Pod",
            Type::Claim => "PersistentVolumeClaim",
        }
    }
}

/// The defaults of containers; what is said twice counts as it is said last.
fn texts(limits: &[Value], field: &str) -> Texts {
    let of_containers = limits.iter().filter(|limit| limit.text("type") == Type::Container.word());
    let all: std::collections::BTreeMap<&str, &str> = of_containers.flat_map(|limit| limit.entries(field)).collect();
    all.into_iter().map(|(name, text)| (name.into(), text.into())).collect()
}
