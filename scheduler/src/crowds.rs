//! Nodes that fit, by how many siblings are around them -> the best for a pod that is to be spread, without comparing all nodes.
//!
//! What spreading says of a node depends on few numbers: its domain of each topology, and for topologies of single nodes the siblings on it.
//! Nodes that share them are one group; within it the node with the best other scores is known. A lookaside: it changes how long a plan takes,
//! not what it says.

use std::collections::HashMap;

use api::steps;

use crate::{
    column::Column,
    counters::CounterId,
    node::Slot,
    ranking::Ranking,
    snapshot::Snapshot,
    topology::{NO_DOMAIN, TopologyId},
};

/// Groupings that one class of pods keeps: classes of many owners whose pods are alike but for their siblings use them in turn.
const GROUPINGS_MAX: usize = 16;

/// One soft constraint, as far as nodes differ in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    pub topology: TopologyId,
    /// Each node is a domain of its own: how many of these pods are on it. With the counter's birth: numbers are used again.
    pub per_node: Option<(CounterId, u64)>,
}

/// By question: what the nodes of a group have in common.
pub type Answers = Box<[Answer]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The node lacks the key, or is in the domain of that number.
    Domain(usize),
    /// So many pods are on the node, which has the key.
    Pods(i64),
}

/// The groupings of one class.
#[derive(Debug, Default)]
pub struct Crowds {
    by_questions: HashMap<Box<[Question]>, Grouping>,
    tick: u64,
}

#[derive(Debug, Default)]
pub struct Grouping {
    groups: Vec<Group>,
    by_answers: HashMap<Answers, usize>,
    /// The group of each slot, counted from 1; 0 is none.
    of: Column<usize>,
    free: Vec<usize>,
    version: u64,
    asked: u64,
}

#[derive(Debug, Default)]
pub struct Group {
    pub answers: Answers,
    /// By the scores that need no comparing.
    pub ranking: Ranking,
}

impl Crowds {
    /// The grouping as the snapshot and the class's ranking are now.
    pub fn grouping(&mut self, snapshot: &Snapshot, fitting: &Ranking, questions: &[Question]) -> &Grouping {
        self.tick += 1;
        if !self.by_questions.contains_key(questions) && self.by_questions.len() >= GROUPINGS_MAX {
            let oldest = self.by_questions.iter().min_by_key(|(_, grouping)| grouping.asked).map(|(questions, _)| questions.clone());
            oldest.map(|oldest| self.by_questions.remove(&oldest));
        }
        let grouping = self.by_questions.entry(questions.into()).or_default();
        grouping.asked = self.tick;
        grouping.refresh(snapshot, fitting, questions);
        grouping
    }
}

impl Grouping {
    /// Groups that have nodes.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        steps::counted(self.groups.iter()).filter(|group| !group.ranking.is_empty())
    }

    fn refresh(&mut self, snapshot: &Snapshot, fitting: &Ranking, questions: &[Question]) {
        let behind = snapshot.version().saturating_sub(self.version);
        let is_near = self.version > 0 && usize::try_from(behind).is_ok_and(|behind| behind <= snapshot.len());
        match snapshot.changed_since(self.version).filter(|_| is_near) {
            Some(changed) => changed.for_each(|slot| self.look(snapshot, fitting, questions, slot)),
            None => {
                *self = Self { asked: self.asked, ..Self::default() };
                fitting.slots().for_each(|slot| self.look(snapshot, fitting, questions, slot));
            }
        }
        self.version = snapshot.version();
    }

    fn look(&mut self, snapshot: &Snapshot, fitting: &Ranking, questions: &[Question], slot: Slot) {
        self.leave(slot);
        let Some(score) = fitting.score_of(slot) else { return };
        let answers: Answers = questions.iter().map(|question| question.of(snapshot, slot)).collect();
        let at = self.by_answers.get(&answers).copied().unwrap_or_else(|| self.begin(answers));
        if let Some(group) = self.groups.get_mut(at) {
            group.ranking.put(slot, score);
            *self.of.slot(slot) = at + 1;
        }
    }

    fn leave(&mut self, slot: Slot) {
        let Some(at) = std::mem::take(self.of.slot(slot)).checked_sub(1) else { return };
        let Some(group) = self.groups.get_mut(at) else { return };
        group.ranking.remove(slot);
        if group.ranking.is_empty() {
            self.by_answers.remove(&std::mem::take(group).answers);
            self.free.push(at);
        }
    }

    fn begin(&mut self, answers: Answers) -> usize {
        let at = self.free.pop().unwrap_or(self.groups.len());
        let group = Group { answers: answers.clone(), ranking: Ranking::default() };
        match self.groups.get_mut(at) {
            Some(place) => *place = group,
            None => self.groups.push(group),
        }
        self.by_answers.insert(answers, at);
        at
    }
}

impl Question {
    fn of(&self, snapshot: &Snapshot, slot: Slot) -> Answer {
        let domain = snapshot.topologies.domain(self.topology, slot);
        match self.per_node {
            Some((counter, _)) if domain != NO_DOMAIN => Answer::Pods(snapshot.counters.count(counter, slot)),
            Some(_) => Answer::Domain(NO_DOMAIN),
            None => Answer::Domain(domain),
        }
    }
}
