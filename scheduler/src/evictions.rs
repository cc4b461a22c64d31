//! Who would have to leave each node, remembered for pods of one class until the node or a budget changes.

use std::{cmp::Reverse, sync::Arc};

use api::time::Timestamp;

use crate::{node::NodeInfo, pod::PodInfo, remembered::Remembered};

/// What is known of single nodes: asked again only when the node changed.
#[derive(Debug, Default)]
pub struct Evictions {
    answers: Remembered<Answer>,
    /// The version of the budgets.
    budgets: u64,
}

#[derive(Debug)]
pub struct Eviction {
    pub loss: Loss,
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them go against a budget.
    pub violations: usize,
}

/// Or why nobody's leaving would help.
pub type Answer = Result<Arc<Eviction>, Arc<Vec<String>>>;

/// Smaller is better: broken budgets, the most important victim, the sum of their importance, how many, and how long the most important ran.
pub type Loss = (usize, i32, i64, usize, Reverse<Timestamp>);

impl Evictions {
    /// `budgets` is the version of those that there are.
    pub fn or_ask(&mut self, budgets: u64, node: &NodeInfo, ask: impl FnOnce() -> Answer) -> Answer {
        if self.budgets != budgets {
            *self = Self { budgets, ..Self::default() };
        }
        self.answers.or_ask(node, ask)
    }
}
