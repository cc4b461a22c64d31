//! The table that iptables keeps in nf_tables -> whether our way through its chain FORWARD still stands, without running a program.
//!
//! `iptables -F`, and firewalls that start anew, take it away: where the policy is to drop, pods then reach nobody beyond their node.

use crate::{
    family::Family,
    netlink::{Socket, Verb, Writer},
};

const NAME: &[u8] = b"SKIFF-FORWARD\0";

/// False as well where iptables is of the old kind, whose rules cannot be seen here.
pub fn stands(family: Family) -> bool {
    let question = Writer::dump(family, Verb::GetRule, |w| {
        w.text(1, "filter");
        w.text(2, "FORWARD");
    });
    let mut found = false;
    let listed =
        Socket::open().and_then(|socket| socket.list(&question, |rule| found |= rule.windows(NAME.len()).any(|part| part == NAME)));
    listed.is_ok() && found
}
