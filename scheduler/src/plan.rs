//! Node table + pod -> a node, or the reasons why there is none.
//!
//! Source: scheduler `schedule_one.go` (`schedulePod`, `findNodesThatFitPod`, `prioritizeNodes`). Pure: dice come in.

use std::{borrow::Cow, collections::BTreeSet};

use crate::{
    ask::Ask,
    cycle::Cycle,
    memo::Class,
    node::{Row, Slot},
    plugins::{PLUGINS, nodeaffinity},
    preemption::{self, Preemption},
    refusal::{Diagnosis, Refusal},
    table::Table,
};

#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The pod goes to this node.
    Bind(String),
    Refused(Box<Refused>),
}

#[derive(Debug, PartialEq)]
pub struct Refused {
    /// As the event and the condition say it.
    pub message: String,
    /// Who refused: only what helps them can help the pod. Empty: anything may.
    pub plugins: BTreeSet<&'static str>,
    pub nomination: Nomination,
}

/// What becomes of `status.nominatedNodeName`.
#[derive(Debug, PartialEq)]
pub enum Nomination {
    Keep,
    Clear,
    /// Lower priorities leave a node for it.
    Preempt(Preemption),
}

/// The nodes' answers to one pod.
pub(crate) struct Answers<'a> {
    pub feasible: Vec<Slot>,
    pub refused: Vec<(Slot, Cow<'a, Refusal>)>,
    /// Nodes that were not asked, and why.
    pub absent: Option<String>,
}

/// Where the pod goes. Equal arguments give equal answers; `class` is the pod's, as the table is; `dice` break ties.
pub fn plan(table: &Table, class: &Class, ask: &Ask, dice: u64) -> Outcome {
    if table.is_empty() {
        return refused("no nodes available to schedule pods".into(), BTreeSet::new(), Nomination::Clear);
    }
    let cycle = Cycle::new(table, class, ask);
    if let Some(refusal) = PLUGINS.iter().find_map(|p| p.refuses_all(&ask.info)) {
        return refused_by_all(&cycle, &refusal, dice);
    }
    if let Some(node) = nominated(&cycle) {
        return Outcome::Bind(node.name().to_owned());
    }
    let answers = ask_nodes(&cycle);
    match answers.feasible.as_slice() {
        [] => diagnose(&cycle, &answers, dice),
        [only] => bind(table, *only),
        many => bind(table, best(&cycle, many, dice)),
    }
}

/// Whether the node takes the pod as things are, or as `cycle` and `row` were bent to be; pods that are nominated to it count.
pub(crate) fn fits(cycle: &Cycle<'_>, row: &Row) -> Option<Refusal> {
    with_nominated(cycle, row, refuses_now)
}

fn refuses_now(cycle: &Cycle<'_>, row: &Row) -> Option<Refusal> {
    PLUGINS.iter().find_map(|p| p.refuses(&cycle.ask.info, row)).or_else(|| refuses_in(cycle, row))
}

fn refuses_in(cycle: &Cycle<'_>, row: &Row) -> Option<Refusal> {
    PLUGINS.iter().find_map(|p| p.refuses_in(cycle, row))
}

/// It must fit with the stronger pods that are expected on the node, and without: they may not come.
fn with_nominated(cycle: &Cycle<'_>, row: &Row, asked: impl Fn(&Cycle<'_>, &Row) -> Option<Refusal>) -> Option<Refusal> {
    let own = &cycle.ask.info;
    let stronger: Vec<_> = cycle.table.nominated_on(row.name()).filter(|p| p.priority >= own.priority && p.key != own.key).collect();
    if !stronger.is_empty() {
        let (mut bent, mut fuller) = (cycle.clone(), row.clone());
        for pod in stronger {
            fuller.add(pod);
            bent.shift(pod, row, 1);
        }
        if let Some(refusal) = refuses_now(&bent, &fuller) {
            return Some(refusal);
        }
    }
    asked(cycle, row)
}

/// What was remembered of the node, and what depends on others.
fn answer<'a>(cycle: &Cycle<'a>, row: &Row) -> Option<Cow<'a, Refusal>> {
    if let Some(refusal) = cycle.class.cell(row.slot).and_then(|c| c.refusal.as_ref()) {
        return Some(Cow::Borrowed(refusal));
    }
    if cycle.table.has_nominations() {
        return with_nominated(cycle, row, refuses_in).map(Cow::Owned);
    }
    refuses_in(cycle, row).map(Cow::Owned)
}

/// The node that was made free for it, if it fits there now.
fn nominated<'a>(cycle: &Cycle<'a>) -> Option<&'a Row> {
    let name = cycle.table.nominated_node(&cycle.ask.info.key).or_else(|| cycle.ask.info.nominated())?;
    cycle.table.find(name).filter(|row| answer(cycle, row).is_none())
}

fn ask_nodes<'a>(cycle: &Cycle<'a>) -> Answers<'a> {
    let mut answers = Answers { feasible: Vec::new(), refused: Vec::new(), absent: None };
    let mut put = |row: &Row| match answer(cycle, row) {
        None => answers.feasible.push(row.slot),
        Some(refusal) => answers.refused.push((row.slot, refusal)),
    };
    match nodeaffinity::named(&cycle.ask.info) {
        Some(names) => {
            names.iter().filter_map(|name| cycle.table.find(name)).for_each(&mut put);
            answers.absent = Some(format!("node(s) didn't satisfy plugin(s) [{}]", nodeaffinity::NAME));
        }
        None => cycle.table.nodes().for_each(put),
    }
    answers
}

fn best(cycle: &Cycle<'_>, nodes: &[Slot], dice: u64) -> Slot {
    let mut totals = vec![0; nodes.len()];
    let mut scores = Vec::with_capacity(nodes.len());
    for (at, plugin) in PLUGINS.iter().enumerate().filter(|(_, p)| p.weight() > 0) {
        scores.clear();
        scores.extend(nodes.iter().map(|slot| cycle.class.cell(*slot).and_then(|c| c.scores.get(at)).copied().unwrap_or(0)));
        plugin.compare(cycle, nodes, &mut scores);
        totals.iter_mut().zip(&scores).for_each(|(total, score)| *total += plugin.weight() * score);
    }
    let top = totals.iter().copied().max().unwrap_or(0);
    let equal = totals.iter().filter(|t| **t == top).count();
    let nth = usize::try_from(dice % equal.max(1) as u64).unwrap_or(0);
    let chosen = totals.iter().zip(nodes).filter(|(t, _)| **t == top).nth(nth);
    chosen.map_or(0, |(_, slot)| *slot)
}

fn bind(table: &Table, slot: Slot) -> Outcome {
    Outcome::Bind(table.row(slot).map(|r| r.name().to_owned()).unwrap_or_default())
}

fn diagnose(cycle: &Cycle<'_>, answers: &Answers<'_>, dice: u64) -> Outcome {
    let mut diagnosis = Diagnosis::default();
    answers.refused.iter().for_each(|(_, refusal)| diagnosis.add(refusal));
    if let Some(reason) = &answers.absent {
        diagnosis.plugins.insert(nodeaffinity::NAME);
        diagnosis.count(reason, cycle.table.len() - answers.refused.len());
    }
    let resolvable: Vec<Slot> = answers.refused.iter().filter(|(_, r)| r.resolvable).map(|(slot, _)| *slot).collect();
    after_preemption(cycle, diagnosis, &resolvable, dice)
}

fn refused_by_all(cycle: &Cycle<'_>, refusal: &Refusal, dice: u64) -> Outcome {
    let plugins = BTreeSet::from([refusal.plugin]);
    let diagnosis = Diagnosis { of_all: Some(refusal.reasons.join(", ")), plugins, ..Diagnosis::default() };
    after_preemption(cycle, diagnosis, &[], dice)
}

/// `resolvable` are the nodes where fewer pods could help.
fn after_preemption(cycle: &Cycle<'_>, diagnosis: Diagnosis, resolvable: &[Slot], dice: u64) -> Outcome {
    let message = diagnosis.message(cycle.table.len());
    match preemption::find(cycle, resolvable, dice) {
        Ok(preemption) => refused(message, diagnosis.plugins, Nomination::Preempt(preemption)),
        Err(no) => {
            let nomination = if no.keeps_nomination { Nomination::Keep } else { Nomination::Clear };
            refused(format!("{message} preemption: {}", no.message), diagnosis.plugins, nomination)
        }
    }
}

fn refused(message: String, plugins: BTreeSet<&'static str>, nomination: Nomination) -> Outcome {
    Outcome::Refused(Box::new(Refused { message, plugins, nomination }))
}
