//! Requests and limits -> the pod's quality of service class. Source: `pkg/apis/core/v1/helper/qos/qos.go` (`ComputePodQOS`).

use std::{cmp::Ordering, fmt};

use api::quantity::Quantity;

use crate::{Amounts, ContainerView, List, SpecView, Stated};

/// A pod's class (`status.qosClass`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn of(spec: &impl SpecView) -> Self {
        let (mut requests, mut limits, mut limited) = (Amounts::default(), Amounts::default(), true);
        let mut count = |stated: Stated<'_>| {
            for name in ["cpu", "memory"] {
                let limit = positive(stated.limits, name);
                limited &= limit.is_some();
                requests.add_all(positive(stated.requests, name).into_iter());
                limits.add_all(limit.into_iter());
            }
        };
        match spec.resources() {
            // What the pod says of itself is all that counts.
            Some(own) => count(own),
            None => spec.containers().iter().chain(spec.init_containers()).for_each(|c| count(c.resources())),
        }
        if requests.is_empty() && limits.is_empty() {
            return Self::BestEffort;
        }
        // By value: 1 equals 1000m.
        let same = |(name, request): (&str, Quantity)| limits.get(name).is_some_and(|l| l.partial_cmp(&request) == Some(Ordering::Equal));
        let guaranteed = limited && requests.len() == limits.len() && requests.iter().all(same);
        if guaranteed { Self::Guaranteed } else { Self::Burstable }
    }

    /// The class of this word.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Guaranteed, Self::Burstable, Self::BestEffort].into_iter().find(|class| class.word() == word)
    }

    /// The word in `status.qosClass`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

fn positive(list: List<'_>, name: &'static str) -> Option<(&'static str, Quantity)> {
    list.get(name).filter(|q| !q.is_zero() && !q.is_negative()).map(|q| (name, q))
}
