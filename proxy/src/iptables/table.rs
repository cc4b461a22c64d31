//! Fragments of all services -> inputs of `iptables-restore --noflush`: everything once, then only the chains that changed. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use api::Key;

use super::{
    base_chains::{self, JUMPS, Jump, Position, SHARED, Table},
    names::PREFIXES,
    rules::{Fragment, Shared},
};
use crate::model::NodeNetwork;

/// `iptables-restore` looks for each line's chain in a list of all that its input names: one of 30,000 chains took it a minute, 150 of a
/// few hundred take it five seconds.
const SERVICES_PER_SCRIPT: usize = 200;
const CHAINS_PER_SCRIPT: usize = 3 * SERVICES_PER_SCRIPT;

/// A service's chains that are to be written.
type Chains<'a> = Vec<(&'a String, &'a Vec<String>)>;

/// What the kernel should hold: the frame, and each service's fragment as it was last written.
pub struct Rules {
    node_network: NodeNetwork,
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
    deletions: Vec<String>,
}

impl Rules {
    pub fn new(node_network: NodeNetwork) -> Self {
        Self { node_network, fragments: BTreeMap::new() }
    }

    pub fn node_network(&self) -> &NodeNetwork {
        &self.node_network
    }

    /// The node's network has changed: a full script must follow.
    pub fn set_node_network(&mut self, node_network: NodeNetwork) {
        self.node_network = node_network;
    }

    /// Takes the services' new fragments; the scripts that bring the kernel there, none if nothing differs.
    pub fn update(&mut self, changes: Vec<(Key, Fragment)>) -> Vec<String> {
        let swapped: Vec<(Key, Fragment)> = changes.into_iter().map(|(key, new)| (key.clone(), self.swap(key, new))).collect();
        let (mut script, mut dirty, mut fresh, none) = (Script::default(), BTreeSet::new(), Vec::new(), Fragment::default());
        for (key, old) in &swapped {
            let new = self.fragments.get(key).unwrap_or(&none);
            dirty.extend(Shared::all().filter(|s| old.shared.get(s) != new.shared.get(s)));
            fresh.push(new.chains.iter().filter(|(chain, lines)| old.chains.get(*chain) != Some(*lines)).collect());
            old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)).for_each(|chain| script.delete(Table::Nat, chain));
        }
        let mut scripts = script.services(&fresh);
        dirty.into_iter().for_each(|shared| self.write_shared(shared, &mut script));
        scripts.extend(script.texts());
        scripts
    }

    /// All there should be, from scratch; `saved` tells which jumps are missing and which chains are left over.
    pub fn full(&self, saved: &Saved) -> Vec<String> {
        let (mut script, mut scripts) = (Script::default(), Vec::new());
        for (table, chain, lines) in base_chains::fixed(&self.node_network) {
            script.chain(table, chain, lines.iter().map(String::as_str));
        }
        if self.fragments.len() > SERVICES_PER_SCRIPT {
            // What services' chains jump to must be there.
            scripts.extend(std::mem::take(&mut script).texts());
        }
        let all: Vec<Chains> = self.fragments.values().map(|f| f.chains.iter().collect()).collect();
        scripts.extend(script.services(&all));
        Shared::all().for_each(|shared| self.write_shared(shared, &mut script));
        let ours: BTreeSet<&str> = self.fragments.values().flat_map(|f| f.chains.keys()).map(String::as_str).collect();
        saved.service_chains().filter(|c| !ours.contains(c)).for_each(|chain| script.delete(Table::Nat, chain));
        JUMPS.iter().filter(|jump| !saved.has(jump)).for_each(|jump| script.jump(jump));
        scripts.extend(script.texts());
        scripts
    }

    /// The new one in place of the old one.
    fn swap(&mut self, key: Key, fragment: Fragment) -> Fragment {
        let old = if fragment == Fragment::default() { self.fragments.remove(&key) } else { self.fragments.insert(key, fragment) };
        old.unwrap_or_default()
    }

    fn write_shared(&self, shared: Shared, script: &mut Script) {
        let Some((_, table, chain)) = SHARED.iter().find(|(s, ..)| *s == shared) else { return };
        let lines = self.fragments.values().filter_map(|f| f.shared.get(&shared)).flatten().map(String::as_str);
        script.chain(*table, chain, lines.chain(base_chains::tail(shared)));
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
    pub fn removal(&self) -> Vec<String> {
        self.remove_into(Script::default(), |_| false).texts()
    }

    /// For a node whose services are served in another way: of ours, only what lets the pod network through the node's firewall.
    pub fn guards(&self, node_network: &NodeNetwork) -> Vec<String> {
        let mut script = self.remove_into(Script::default(), |chain| base_chains::GUARDS.contains(&chain));
        for (table, chain, lines) in
            base_chains::fixed(node_network).into_iter().filter(|(_, chain, _)| base_chains::GUARDS.contains(chain))
        {
            script.chain(table, chain, lines.iter().map(String::as_str));
        }
        let missing = |jump: &&Jump| base_chains::GUARDS.contains(&jump.to) && !self.has(jump);
        JUMPS.iter().filter(missing).for_each(|jump| script.jump(jump));
        script.texts()
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
        self.part(table).deletions.push(chain.to_owned());
    }

    fn jump(&mut self, jump: &Jump) {
        let verb = if jump.position == Position::First { "-I" } else { "-A" };
        let when = if jump.when.is_empty() { String::new() } else { format!("{} ", jump.when) };
        let _ = writeln!(self.part(jump.table).rules, "{verb} {} {when}-j {}", jump.from, jump.to);
    }

    /// Services' own chains. Many come before, some services at a time: nothing leads there yet, or what does is whole already.
    fn services(&mut self, fresh: &[Chains<'_>]) -> Vec<String> {
        let many = fresh.len() > SERVICES_PER_SCRIPT;
        let mut before = Vec::new();
        for some in fresh.chunks(SERVICES_PER_SCRIPT) {
            let mut own = Script::default();
            let script = if many { &mut own } else { &mut *self };
            let chains: BTreeMap<&String, &Vec<String>> = some.iter().flatten().copied().collect();
            chains.into_iter().for_each(|(chain, lines)| script.chain(Table::Nat, chain, lines.iter().map(String::as_str)));
            before.extend(own.texts());
        }
        before
    }

    /// One text, and more where many chains go: those that lead to others first, and all after what leads to them was rewritten.
    fn texts(self) -> Vec<String> {
        let (mut first, mut later) = (String::new(), Vec::new());
        for (table, mut part) in self.parts {
            let gone = std::mem::take(&mut part.deletions);
            if gone.len() <= CHAINS_PER_SCRIPT {
                part.deletions = gone;
                first.push_str(&part.text(table));
                continue;
            }
            first.push_str(&part.text(table));
            let mut gone: Vec<(usize, String)> = gone.into_iter().map(|chain| (distance(&chain), chain)).collect();
            gone.sort_unstable();
            for some in gone.chunks(CHAINS_PER_SCRIPT) {
                let deletions = some.iter().map(|(_, chain)| chain.clone()).collect();
                later.push(Part { deletions, ..Part::default() }.text(table));
            }
        }
        std::iter::once(first).chain(later).filter(|text| !text.is_empty()).collect()
    }
}

impl Part {
    fn text(&self, table: Table) -> String {
        let (mut flushed, mut deleted) = (String::new(), String::new());
        for chain in &self.deletions {
            let _ = writeln!(flushed, ":{chain} - [0:0]");
            let _ = writeln!(deleted, "-X {chain}");
        }
        let text = format!("{}{flushed}{}{deleted}", self.chains, self.rules);
        if text.is_empty() { text } else { format!("*{}\n{text}COMMIT\n", table.word()) }
    }
}

impl Shared {
    fn all() -> impl Iterator<Item = Shared> {
        SHARED.iter().map(|(shared, ..)| *shared)
    }
}

/// How many jumps it is away from the kernel's chains, at most.
fn distance(chain: &str) -> usize {
    const ON_THE_WAY: [&str; 5] = ["KUBE-FW-", "KUBE-EXT-", "KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-"];
    if chain == "KUBE-MARK-MASQ" {
        return ON_THE_WAY.len() + 1;
    }
    ON_THE_WAY.iter().position(|prefix| chain.starts_with(prefix)).map_or(0, |place| place + 1)
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
    use crate::family::Family;

    fn rules() -> Rules {
        Rules::new(NodeNetwork { cluster_cidr: Some("10.0.0.0/8".parse().unwrap()), ..NodeNetwork::of(Family::V4) })
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
        assert_eq!(rules.update(vec![(a.clone(), first)]), Vec::<String>::new());
        let second = fragment("-j KUBE-SVC-A", &[("KUBE-SVC-A", "-j KUBE-SEP-2"), ("KUBE-SEP-2", "-j DNAT")]);
        let wanted = "*nat\n:KUBE-SEP-2 - [0:0]\n:KUBE-SVC-A - [0:0]\n:KUBE-SEP-1 - [0:0]\n\
            -A KUBE-SEP-2 -j DNAT\n-A KUBE-SVC-A -j KUBE-SEP-2\n-X KUBE-SEP-1\nCOMMIT\n";
        assert_eq!(rules.update(vec![(a.clone(), second)]), [wanted]);
        let gone = rules.update(vec![(a, Fragment::default())]).remove(0);
        assert!(gone.contains(":KUBE-SERVICES - [0:0]\n") && gone.contains("-A KUBE-SERVICES -j KUBE-SVC-B\n"));
        assert!(!gone.contains("-j KUBE-SVC-A") && gone.contains("-X KUBE-SVC-A\n"));
    }

    #[test]
    fn a_full_script_mends_what_is_missing_and_removes_what_is_left_over() {
        let saved = Saved::parse(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SEP-OLD - [0:0]\n:OTHER - [0:0]\n\
             -A PREROUTING -m comment --comment \"x\" -j KUBE-SERVICES\nCOMMIT\n*mangle\n:KUBE-SEP-X - [0:0]\nCOMMIT\n",
        );
        let text = rules().full(&saved).remove(0);
        assert!(!text.contains("-I PREROUTING") && text.contains("-I OUTPUT -j KUBE-SERVICES\n"));
        assert!(text.contains("-X KUBE-SEP-OLD\n") && !text.contains("OTHER") && !text.contains("KUBE-SEP-X"));
        let last = text.lines().rfind(|l| l.starts_with("-A KUBE-SERVICES")).unwrap();
        assert!(last.ends_with("-j KUBE-NODEPORTS"));
    }

    #[test]
    fn many_services_come_before_what_leads_to_them() {
        let mut rules = rules();
        let chains =
            |n: usize| [(format!("KUBE-SVC-{n}"), vec![format!("-j KUBE-SEP-{n}")]), (format!("KUBE-SEP-{n}"), vec!["-j DNAT".to_owned()])];
        let of = |n: usize| Fragment { shared: [(Shared::NatServices, vec![format!("-j KUBE-SVC-{n}")])].into(), chains: chains(n).into() };
        let all = |range: std::ops::Range<usize>| range.map(|n| (Key::new("d", &n.to_string()), of(n))).collect::<Vec<_>>();
        let few = rules.update(all(0..SERVICES_PER_SCRIPT));
        assert_eq!((few.len(), rules.full(&Saved::default()).len()), (1, 1));
        let scripts = rules.update(all(SERVICES_PER_SCRIPT..3 * SERVICES_PER_SCRIPT + 1));
        assert_eq!(scripts.len(), 3 + 1);
        let full = rules.full(&Saved::default());
        assert_eq!(full.len(), 1 + 4 + 1);
        assert!(full[0].contains("-A KUBE-MARK-MASQ ") && full[0].contains("*filter") && !full[0].contains("-I "));
        for (scripts, served) in [(&scripts[..3], 2 * SERVICES_PER_SCRIPT + 1), (&full[1..5], 3 * SERVICES_PER_SCRIPT + 1)] {
            let text = scripts.concat();
            assert_eq!(text.matches("-A KUBE-SVC-").count(), served);
            assert!(!text.contains("KUBE-SERVICES") && !text.contains("*filter"));
        }
        let last = &full[5];
        assert_eq!(last.matches("-A KUBE-SERVICES -j KUBE-SVC-").count(), 3 * SERVICES_PER_SCRIPT + 1);
        assert!(last.contains("-I OUTPUT -j KUBE-SERVICES") && !last.contains(":KUBE-SVC-"));
    }

    #[test]
    fn removal_takes_ours_and_leaves_the_rest() {
        let saved = Saved::parse(
            "*filter\n:FORWARD ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\n:KUBE-ROUTER - [0:0]\n-A FORWARD -m x -j KUBE-FORWARD\n\
             -A FORWARD -j KUBE-ROUTER\n-A KUBE-FORWARD -j ACCEPT\nCOMMIT\n",
        );
        let wanted = "*filter\n:KUBE-FORWARD - [0:0]\n-D FORWARD -m x -j KUBE-FORWARD\n-X KUBE-FORWARD\nCOMMIT\n";
        assert_eq!(saved.removal(), [wanted]);
        assert_eq!(Saved::parse("").removal(), Vec::<String>::new());
    }

    #[test]
    fn many_chains_go_in_the_order_of_what_leads_to_them() {
        let each = |n: usize| format!(":KUBE-SEP-{n} - [0:0]\n:KUBE-SVC-{n} - [0:0]\n:KUBE-EXT-{n} - [0:0]\n");
        let chains: String = (0..CHAINS_PER_SCRIPT).map(each).collect();
        let saved =
            Saved::parse(&format!("*nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-SERVICES - [0:0]\n{chains}-A OUTPUT -j KUBE-SERVICES\nCOMMIT\n"));
        let scripts = saved.removal();
        assert_eq!(scripts.len(), 1 + 4);
        assert_eq!(scripts[0], "*nat\n-D OUTPUT -j KUBE-SERVICES\nCOMMIT\n");
        let order: Vec<&str> = scripts.iter().flat_map(|s| s.lines()).filter_map(|line| line.strip_prefix("-X KUBE-")).collect();
        assert_eq!((order.len(), order[0], order[1], order.last()), (3 * CHAINS_PER_SCRIPT + 2, "SERVICES", "EXT-0", Some(&"MARK-MASQ")));
        let place = |prefix: &str| order.iter().position(|chain| chain.starts_with(prefix)).unwrap();
        assert!(place("EXT-") < place("SVC-") && place("SVC-") < place("SEP-"));
    }
}
