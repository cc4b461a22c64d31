//! Tables, chains and rules -> the messages that make and remove them.

use super::expr::Step;
use crate::netlink::{Verb, Writer};

/// Upstream's name: who takes a node over from it replaces its table.
pub const TABLE: &str = "kube-proxy";
/// What takes the table away, if it is there.
pub fn removal(w: &mut Writer) {
    w.change(Verb::NewTable, |w| w.text(1, TABLE));
    w.change(Verb::DelTable, |w| w.text(1, TABLE));
}

pub fn chain(name: &str, w: &mut Writer) {
    w.change(Verb::NewChain, |w| {
        w.text(1, TABLE);
        w.text(3, name);
    });
}

pub fn rule(chain: &str, steps: &[Step], w: &mut Writer) {
    w.change(Verb::NewRule, |w| {
        w.text(1, TABLE);
        w.text(2, chain);
        w.nested(4, |w| steps.iter().for_each(|step| step.write(w)));
    });
}

/// Takes all rules of a chain away.
pub fn empty(chain: &str, w: &mut Writer) {
    w.change(Verb::DelRule, |w| {
        w.text(1, TABLE);
        w.text(2, chain);
    });
}

/// Takes a chain or a set away that nothing leads to.
pub fn remove(verb: Verb, name: &str, w: &mut Writer) {
    w.change(verb, |w| {
        w.text(1, TABLE);
        w.text(if verb == Verb::DelChain { 3 } else { 2 }, name);
    });
}
