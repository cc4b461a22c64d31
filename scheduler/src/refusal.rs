//! Why nodes do not fit -> the words that users read. Source: scheduler `framework/types.go` (`FitError`).

use std::collections::{BTreeMap, BTreeSet};

/// Why one plugin does not want the pod on a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    pub plugin: &'static str,
    /// Fewer pods on the node could help (upstream's `Unschedulable`, as against `UnschedulableAndUnresolvable`).
    pub resolvable: bool,
    pub reasons: Vec<String>,
}

/// Why no node fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// Said by a plugin about all nodes at once; instead of reasons.
    pub of_all: Option<String>,
    /// How many nodes each reason is about.
    pub reasons: BTreeMap<String, usize>,
    pub plugins: BTreeSet<&'static str>,
}

impl Refusal {
    pub fn resolvable(plugin: &'static str, reason: &str) -> Self {
        Self { plugin, resolvable: true, reasons: vec![reason.to_owned()] }
    }

    pub fn unresolvable(plugin: &'static str, reason: &str) -> Self {
        Self { plugin, resolvable: false, reasons: vec![reason.to_owned()] }
    }
}

impl Diagnosis {
    /// So many nodes say so.
    pub fn add(&mut self, refusal: &Refusal, nodes: usize) {
        self.plugins.insert(refusal.plugin);
        refusal.reasons.iter().for_each(|r| self.count(r, nodes));
    }

    pub fn count(&mut self, reason: &str, nodes: usize) {
        match self.reasons.get_mut(reason) {
            Some(counted) => *counted += nodes,
            None if nodes > 0 => drop(self.reasons.insert(reason.to_owned(), nodes)),
            None => {}
        }
    }

    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub fn message(&self, nodes: usize) -> String {
        let head = format!("0/{nodes} nodes are available:");
        if let Some(said) = &self.of_all {
            return format!("{head} {said}.");
        }
        let mut counted: Vec<String> = self.reasons.iter().map(|(reason, nodes)| format!("{nodes} {reason}")).collect();
        if counted.is_empty() {
            return head;
        }
        counted.sort();
        format!("{head} {}.", counted.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_sorted_as_text() {
        let mut diagnosis = Diagnosis::default();
        diagnosis.count("b", 10);
        diagnosis.count("a", 9);
        diagnosis.add(&Refusal { plugin: "X", resolvable: true, reasons: vec!["a".into(), "c".into()] }, 1);
        assert_eq!(diagnosis.message(21), "0/21 nodes are available: 1 c, 10 a, 10 b.");
        diagnosis.of_all = Some("no".into());
        assert_eq!(diagnosis.message(21), "0/21 nodes are available: no.");
    }
}
