//! Fragments of all services -> the input of `iptables-restore --noflush`: everything once, then only the chains that changed. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use api::Key;

use super::{
    frame::{self, JUMPS, Jump, Place, SHARED, Table},
    names::PREFIXES,
    rules::{Fragment, Shared},
};
use crate::model::Site;

/// What the kernel should hold: the frame, and each service's fragment as it was last written.
pub struct Rules {
    site: Site,
    fragments: BTreeMap<Key, Fragment>,
}

/// What `iptables-save` printed.
#[derive(Debug, Default)]
pub struct Saved {
    chains: BTreeSet<(Table, String)>,
    lines: Vec<(Table, String)>,
}

/// The two tables of one restore, while they are written.
#[derive(Default)]
struct Script {
    parts: BTreeMap<Table, Part>,
}

#[derive(Default)]
struct Part {
    chains: String,
    rules: String,
    deletions: String,
}

impl Rules {
    pub fn new(site: Site) -> Self {
        Self { site, fragments: BTreeMap::new() }
    }

    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The site has changed: a full script must follow.
    pub fn set_site(&mut self, site: Site) {
        self.site = site;
    }

    /// Takes the services' new fragments; the script that brings the kernel there, `None` if nothing differs.
    pub fn update(&mut self, changes: Vec<(Key, Fragment)>) -> Option<String> {
        let (mut script, mut dirty) = (Script::default(), BTreeSet::new());
        for (key, new) in changes {
            let old = self.fragments.get(&key).cloned().unwrap_or_default();
            script.changed_chains(&old, &new);
            dirty.extend(Shared::all().filter(|s| old.shared.get(s) != new.shared.get(s)));
            self.keep(key, new);
        }
        dirty.into_iter().for_each(|shared| self.write_shared(shared, &mut script));
        script.text()
    }

    /// All there should be, from scratch; `saved` tells which jumps are missing and which chains are left over.
    pub fn full(&self, saved: &Saved) -> String {
        let mut script = Script::default();
        for (table, chain, lines) in frame::fixed(&self.site) {
            script.chain(table, chain, lines.iter().map(String::as_str));
        }
        Shared::all().for_each(|shared| self.write_shared(shared, &mut script));
        let mut ours = BTreeSet::new();
        for (chain, lines) in self.fragments.values().flat_map(|f| &f.chains) {
            script.chain(Table::Nat, chain, lines.iter().map(String::as_str));
            ours.insert(chain.as_str());
        }
        saved.service_chains().filter(|c| !ours.contains(c)).for_each(|chain| script.delete(Table::Nat, chain));
        JUMPS.iter().filter(|jump| !saved.has(jump)).for_each(|jump| script.jump(jump));
        script.text().unwrap_or_default()
    }

    fn keep(&mut self, key: Key, fragment: Fragment) {
        if fragment == Fragment::default() {
            self.fragments.remove(&key);
        } else {
            self.fragments.insert(key, fragment);
        }
    }

    fn write_shared(&self, shared: Shared, script: &mut Script) {
        let Some((_, table, chain)) = SHARED.iter().find(|(s, ..)| *s == shared) else { return };
        let lines = self.fragments.values().filter_map(|f| f.shared.get(&shared)).flatten().map(String::as_str);
        script.chain(*table, chain, lines.chain(frame::tail(shared)));
    }
}

impl Saved {
    pub fn parse(text: &str) -> Self {
        let (mut saved, mut table) = (Self::default(), None);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = [Table::Filter, Table::Nat].into_iter().find(|t| t.word() == name);
            }
            let Some(table) = table else { continue };
            if let Some(chain) = line.strip_prefix(':').and_then(|l| l.split_whitespace().next()) {
                saved.chains.insert((table, chain.to_owned()));
            } else if line.starts_with("-A ") {
                saved.lines.push((table, line.to_owned()));
            }
        }
        saved
    }

    /// What takes all of ours away again: chains with our names, and the rules of others that lead into them.
    pub fn removal(&self) -> Option<String> {
        self.remove_into(Script::default(), |_| false).text()
    }

    /// For a node whose services are served in another way: of ours, only what lets the pod network through the node's firewall.
    pub fn guards(&self, site: &Site) -> Option<String> {
        let mut script = self.remove_into(Script::default(), |chain| frame::GUARDS.contains(&chain));
        for (table, chain, lines) in frame::fixed(site).into_iter().filter(|(_, chain, _)| frame::GUARDS.contains(chain)) {
            script.chain(table, chain, lines.iter().map(String::as_str));
        }
        let missing = |jump: &&Jump| frame::GUARDS.contains(&jump.to) && !self.has(jump);
        JUMPS.iter().filter(missing).for_each(|jump| script.jump(jump));
        script.text()
    }

    fn remove_into(&self, mut script: Script, keep: impl Fn(&str) -> bool) -> Script {
        let ours: BTreeSet<&(Table, String)> = self.chains.iter().filter(|(_, chain)| is_ours(chain) && !keep(chain)).collect();
        for (table, line) in &self.lines {
            let inside = line.split_whitespace().nth(1).is_some_and(is_ours);
            let target = line.rsplit_once(" -j ").map(|(_, target)| target).and_then(|t| t.split_whitespace().next());
            if !inside && target.is_some_and(|t| ours.contains(&(*table, t.to_owned()))) {
                let _ = writeln!(script.part(*table).rules, "{}", line.replacen("-A ", "-D ", 1));
            }
        }
        ours.into_iter().for_each(|(table, chain)| script.delete(*table, chain));
        script
    }

    fn has(&self, jump: &Jump) -> bool {
        let (from, to) = (format!("-A {} ", jump.from), format!("-j {}", jump.to));
        self.lines.iter().any(|(table, line)| *table == jump.table && line.starts_with(&from) && line.ends_with(&to))
    }

    fn service_chains(&self) -> impl Iterator<Item = &str> {
        let nat = self.chains.iter().filter(|(table, _)| *table == Table::Nat).map(|(_, chain)| chain.as_str());
        nat.filter(|chain| PREFIXES.iter().any(|p| chain.starts_with(p)))
    }
}

impl Script {
    fn part(&mut self, table: Table) -> &mut Part {
        self.parts.entry(table).or_default()
    }

    /// Naming a chain empties it, or makes it.
    fn chain<'a>(&mut self, table: Table, chain: &str, lines: impl Iterator<Item = &'a str>) {
        let part = self.part(table);
        let _ = writeln!(part.chains, ":{chain} - [0:0]");
        for line in lines {
            let _ = writeln!(part.rules, "-A {chain} {line}");
        }
    }

    fn delete(&mut self, table: Table, chain: &str) {
        let part = self.part(table);
        let _ = writeln!(part.chains, ":{chain} - [0:0]");
        let _ = writeln!(part.deletions, "-X {chain}");
    }

    fn jump(&mut self, jump: &Jump) {
        let verb = if jump.place == Place::First { "-I" } else { "-A" };
        let when = if jump.when.is_empty() { String::new() } else { format!("{} ", jump.when) };
        let _ = writeln!(self.part(jump.table).rules, "{verb} {} {when}-j {}", jump.from, jump.to);
    }

    fn changed_chains(&mut self, old: &Fragment, new: &Fragment) {
        for (chain, lines) in new.chains.iter().filter(|(chain, lines)| old.chains.get(*chain) != Some(*lines)) {
            self.chain(Table::Nat, chain, lines.iter().map(String::as_str));
        }
        old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)).for_each(|chain| self.delete(Table::Nat, chain));
    }

    fn text(self) -> Option<String> {
        let part = |(table, p): (Table, Part)| format!("*{}\n{}{}{}COMMIT\n", table.word(), p.chains, p.rules, p.deletions);
        let text: String = self.parts.into_iter().map(part).collect();
        (!text.is_empty()).then_some(text)
    }
}

impl Shared {
    fn all() -> impl Iterator<Item = Shared> {
        SHARED.iter().map(|(shared, ..)| *shared)
    }
}

fn is_ours(chain: &str) -> bool {
    let ours = |(_, _, name): &(Shared, Table, &str)| *name == chain;
    PREFIXES.iter().any(|p| chain.starts_with(p))
        || chain.starts_with("SKIFF-")
        || SHARED.iter().any(ours)
        || JUMPS.iter().any(|jump| jump.to == chain)
        || chain == "KUBE-MARK-MASQ"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules::new(Site { cluster_cidr: Some("10.0.0.0/8".parse().unwrap()), ..Site::default() })
    }

    fn fragment(line: &str, chains: &[(&str, &str)]) -> Fragment {
        let shared = [(Shared::NatServices, vec![line.to_owned()])].into();
        Fragment { shared, chains: chains.iter().map(|(c, l)| ((*c).to_owned(), vec![(*l).to_owned()])).collect() }
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut rules = rules();
        let (a, b) = (Key::new("d", "a"), Key::new("d", "b"));
        let first = fragment("-j KUBE-SVC-A", &[("KUBE-SVC-A", "-j KUBE-SEP-1"), ("KUBE-SEP-1", "-j DNAT")]);
        rules.update(vec![(a.clone(), first.clone()), (b, fragment("-j KUBE-SVC-B", &[]))]);
        assert_eq!(rules.update(vec![(a.clone(), first)]), None);
        let second = fragment("-j KUBE-SVC-A", &[("KUBE-SVC-A", "-j KUBE-SEP-2"), ("KUBE-SEP-2", "-j DNAT")]);
        let wanted = "*nat\n:KUBE-SEP-2 - [0:0]\n:KUBE-SVC-A - [0:0]\n:KUBE-SEP-1 - [0:0]\n\
            -A KUBE-SEP-2 -j DNAT\n-A KUBE-SVC-A -j KUBE-SEP-2\n-X KUBE-SEP-1\nCOMMIT\n";
        assert_eq!(rules.update(vec![(a.clone(), second)]).as_deref(), Some(wanted));
        let gone = rules.update(vec![(a, Fragment::default())]).unwrap();
        assert!(gone.contains(":KUBE-SERVICES - [0:0]\n") && gone.contains("-A KUBE-SERVICES -j KUBE-SVC-B\n"));
        assert!(!gone.contains("-j KUBE-SVC-A") && gone.contains("-X KUBE-SVC-A\n"));
    }

    #[test]
    fn a_full_script_mends_what_is_missing_and_removes_what_is_left_over() {
        let saved = Saved::parse(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SEP-OLD - [0:0]\n:OTHER - [0:0]\n\
             -A PREROUTING -m comment --comment \"x\" -j KUBE-SERVICES\nCOMMIT\n*mangle\n:KUBE-SEP-X - [0:0]\nCOMMIT\n",
        );
        let text = rules().full(&saved);
        assert!(!text.contains("-I PREROUTING") && text.contains("-I OUTPUT -j KUBE-SERVICES\n"));
        assert!(text.contains("-X KUBE-SEP-OLD\n") && !text.contains("OTHER") && !text.contains("KUBE-SEP-X"));
        let last = text.lines().rfind(|l| l.starts_with("-A KUBE-SERVICES")).unwrap();
        assert!(last.ends_with("-j KUBE-NODEPORTS"));
    }

    #[test]
    fn removal_takes_ours_and_leaves_the_rest() {
        let saved = Saved::parse(
            "*filter\n:FORWARD ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\n:KUBE-ROUTER - [0:0]\n-A FORWARD -m x -j KUBE-FORWARD\n\
             -A FORWARD -j KUBE-ROUTER\n-A KUBE-FORWARD -j ACCEPT\nCOMMIT\n",
        );
        let wanted = "*filter\n:KUBE-FORWARD - [0:0]\n-D FORWARD -m x -j KUBE-FORWARD\n-X KUBE-FORWARD\nCOMMIT\n";
        assert_eq!(saved.removal().as_deref(), Some(wanted));
        assert_eq!(Saved::parse("").removal(), None);
    }
}
