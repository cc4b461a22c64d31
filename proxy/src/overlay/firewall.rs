//! What iptables-save and nft print -> the chains that drop what nothing accepts, and the ports that each lets in.
//!
//! A verdict to accept counts wherever it stands, whoever its sources are: what cannot be told is open. (firewalld's table is looked at by its name alone.)

use std::{fmt, ops::RangeInclusive};

use serde_json::Value;

use crate::{Family, iptables::exec};

/// Chains that call each other in a circle, or without end, are nobody's.
const DEPTH: usize = 16;
const VISITS: usize = 10_000;
/// iptables' own, which `nft` shows as well.
const TABLE: &str = "filter";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Where packets to this machine come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub Protocol, pub u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Input,
    Forward,
}

/// Whose rules they are, and so which command changes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Maker {
    Iptables,
    Nft { family: String, table: String },
}

/// A chain that drops what nothing accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    pub maker: Maker,
    pub hook: Hook,
    pub chain: String,
    /// What it lets in.
    open: Vec<Scope>,
}

/// Of new packets from other machines, those that a rule is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Scope {
    protocol: Option<Protocol>,
    /// Of this machine; `None`: all.
    ports: Option<Vec<RangeInclusive<u16>>>,
}

enum Verdict {
    Accept,
    Call(String),
    /// Of all that comes so far.
    DropAll,
}

struct Rule {
    chain: String,
    scope: Scope,
    verdict: Verdict,
}

impl Closed {
    pub fn lets_in(&self, port: Port) -> bool {
        self.open.iter().any(|scope| scope.has(port))
    }

    /// Whether it lets anything through that is no question of ports.
    pub fn lets_through(&self) -> bool {
        self.open.iter().any(|scope| scope.ports.is_none())
    }

    /// The command that adds a rule (`match`, in the words of the maker) before all others.
    fn insert(&self, of_iptables: &str, of_nft: &str) -> String {
        match &self.maker {
            Maker::Iptables => format!("iptables -I {} {of_iptables} -j ACCEPT", self.chain),
            Maker::Nft { family, table } => format!("nft insert rule {family} {table} {} {of_nft} accept", self.chain),
        }
    }

    pub fn opening(&self, Port(protocol, port): Port) -> String {
        self.insert(&format!("-p {protocol} --dport {port}"), &format!("{protocol} dport {port}"))
    }

    /// For all that comes from or goes to these addresses.
    pub fn opening_to(&self, range: ipnet::IpNet) -> String {
        let of = |iptables: &str, nft: &str| self.insert(&format!("{iptables} {range}"), &format!("ip {nft} {range}"));
        match self.hook {
            Hook::Input => of("-s", "saddr"),
            Hook::Forward => format!("{} && {}", of("-s", "saddr"), of("-d", "daddr")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Protocol::Tcp { "tcp" } else { "udp" })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.1, self.0)
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.maker {
            Maker::Iptables => write!(f, "iptables' chain {}", self.chain),
            Maker::Nft { family, table } => write!(f, "nftables' chain {family} {table} {}", self.chain),
        }
    }
}

impl Scope {
    fn has(&self, Port(protocol, port): Port) -> bool {
        let of_protocol = self.protocol.is_none_or(|own| own == protocol);
        of_protocol && self.ports.as_ref().is_none_or(|all| all.iter().any(|range| range.contains(&port)))
    }

    /// Of `inner`, what comes by way of this; `None`: nothing does.
    fn within(&self, inner: &Self) -> Option<Self> {
        if let (Some(a), Some(b)) = (self.protocol, inner.protocol)
            && a != b
        {
            return None;
        }
        Some(Self { protocol: inner.protocol.or(self.protocol), ports: inner.ports.clone().or_else(|| self.ports.clone()) })
    }
}

/// Looks at all there are. Needs root: what cannot be seen is none.
pub async fn closed_chains() -> Vec<Closed> {
    let mut all = Vec::new();
    if let Ok(saved) = exec::save_table(Family::V4, TABLE).await {
        all.extend(of_iptables(&saved));
    }
    let Ok(chains) = exec::run("nft", &["-j", "list", "chains"], "").await else { return all };
    for (family, table) in tables_of_others(&chains) {
        if let Ok(listing) = exec::run("nft", &["-j", "list", "table", &family, &table], "").await {
            all.extend(of_nft(&listing));
        }
    }
    all
}

/// `iptables-save -t filter` -> INPUT, if it is closed. What is forwarded is for our own rules to let through: they stand first.
fn of_iptables(saved: &str) -> Option<Closed> {
    let rules: Vec<Rule> = saved.lines().filter_map(saved_rule).collect();
    let ends = rules.iter().any(|rule| rule.chain == "INPUT" && matches!(rule.verdict, Verdict::DropAll));
    if !ends && !saved.lines().any(|line| line.starts_with(":INPUT DROP")) {
        return None;
    }
    let chain = "INPUT".to_owned();
    Some(Closed { maker: Maker::Iptables, hook: Hook::Input, open: accepted(&rules, &chain), chain })
}

/// `None` where it accepts, calls and drops nothing that is new and comes from another machine.
fn saved_rule(line: &str) -> Option<Rule> {
    // What is quoted is a comment.
    let bare: String = line.split('"').step_by(2).collect();
    let mut words = bare.strip_prefix("-A ")?.split_whitespace();
    let chain = words.next()?.to_owned();
    let (mut scope, mut verdict, mut is_bare, mut is_negated) = (Scope::default(), None, true, false);
    let (mut comes_in, mut is_new) = (true, true);
    while let Some(word) = words.next() {
        match word {
            "!" => {
                is_negated = true;
                continue;
            }
            "-j" | "-g" => {
                verdict = match words.next()? {
                    "ACCEPT" => Some(Verdict::Accept),
                    "DROP" | "REJECT" if is_bare => Some(Verdict::DropAll),
                    "DROP" | "REJECT" | "RETURN" | "LOG" => None,
                    other => Some(Verdict::Call(other.to_owned())),
                };
                break;
            }
            _ if is_negated => drop(words.next()),
            "-p" => scope.protocol = Some(protocol(words.next()?)?),
            "-i" => comes_in = words.next()? != "lo",
            "--dport" | "--dports" => scope.ports = Some(words.next()?.split(',').filter_map(|text| range(text, ':')).collect()),
            "--sport" | "--sports" => return None,
            "--ctstate" | "--state" => is_new = words.next()?.split(',').any(|state| state == "NEW"),
            _ => {}
        }
        (is_bare, is_negated) = (false, false);
    }
    (comes_in && is_new).then_some(Rule { chain, scope, verdict: verdict? })
}

/// `nft -j list chains` -> the tables with chains that filter what comes in or through, other than ours, iptables' and firewalld's.
fn tables_of_others(listing: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for chain in objects(listing, "chain") {
        let (family, table) = (text(&chain["family"]), text(&chain["table"]));
        let ours = table.starts_with("skiff") || table.starts_with("kube-proxy") || table == "firewalld";
        let is_iptables = family == "ip" && table == TABLE && matches!(text(&chain["name"]), "INPUT" | "FORWARD");
        let of_ipv4 = matches!(family, "ip" | "inet");
        if hook(&chain).is_some() && of_ipv4 && !ours && !is_iptables && !all.iter().any(|(f, t)| f == family && t == table) {
            all.push((family.to_owned(), table.to_owned()));
        }
    }
    all
}

/// `nft -j list table` -> its chains that are closed.
fn of_nft(listing: &str) -> Vec<Closed> {
    let rules: Vec<Rule> = objects(listing, "rule").iter().flat_map(listed_rules).collect();
    let closed = objects(listing, "chain").into_iter().filter_map(|chain| {
        let (name, hook) = (text(&chain["name"]).to_owned(), hook(&chain)?);
        let ends = rules.iter().any(|rule| rule.chain == name && matches!(rule.verdict, Verdict::DropAll));
        let maker = Maker::Nft { family: text(&chain["family"]).into(), table: text(&chain["table"]).into() };
        (ends || chain["policy"] == "drop").then(|| Closed { maker, hook, open: accepted(&rules, &name), chain: name })
    });
    closed.collect()
}

fn hook(chain: &Value) -> Option<Hook> {
    match (text(&chain["type"]), text(&chain["hook"])) {
        ("filter", "input") => Some(Hook::Input),
        ("filter", "forward") => Some(Hook::Forward),
        _ => None,
    }
}

/// One, or as many as a map has verdicts.
fn listed_rules(rule: &Value) -> Vec<Rule> {
    let (chain, mut scope, mut is_bare) = (text(&rule["chain"]).to_owned(), Scope::default(), true);
    let mut all = Vec::new();
    for step in rule["expr"].as_array().into_iter().flatten() {
        let Some((name, value)) = step.as_object().and_then(|step| step.iter().next()) else { continue };
        let made = |scope: &Scope, verdict| Rule { chain: chain.clone(), scope: scope.clone(), verdict };
        match name.as_str() {
            "match" => match narrowed(&scope, value) {
                Some(narrower) => (scope, is_bare) = (narrower, false),
                None => break,
            },
            "vmap" => {
                for pair in elements(&value["data"]) {
                    let asked = serde_json::json!({"op": "==", "left": value["key"], "right": pair[0]});
                    let verdict = verdict(&pair[1]);
                    all.extend(narrowed(&scope, &asked).zip(verdict).map(|(scope, verdict)| made(&scope, verdict)));
                }
                is_bare = false;
            }
            "drop" | "reject" if is_bare => all.push(made(&scope, Verdict::DropAll)),
            _ => all.extend(verdict(step).map(|verdict| made(&scope, verdict))),
        }
    }
    all
}

fn verdict(step: &Value) -> Option<Verdict> {
    let target = |name: &str| step.get(name).map(|target| Verdict::Call(text(&target["target"]).to_owned()));
    if step.get("accept").is_some() { Some(Verdict::Accept) } else { target("jump").or_else(|| target("goto")) }
}

/// The scope with one match more; `None` where that is of no new packet that comes from another machine.
fn narrowed(scope: &Scope, matched: &Value) -> Option<Scope> {
    let (left, right, mut scope) = (&matched["left"], &matched["right"], scope.clone());
    if matched["op"] == "!=" {
        return Some(scope);
    }
    let values = elements(right);
    let has = |word: &str| values.iter().any(|value| value == word);
    match (text(&left["meta"]["key"]), text(&left["payload"]["protocol"]), text(&left["payload"]["field"])) {
        ("iifname" | "iif", ..) => (!has("lo")).then_some(scope),
        ("l4proto", ..) | (_, "ip", "protocol") => {
            match (has("tcp"), has("udp")) {
                (true, true) => {}
                (true, false) => scope.protocol = Some(Protocol::Tcp),
                (false, true) => scope.protocol = Some(Protocol::Udp),
                (false, false) => return None,
            }
            Some(scope)
        }
        (_, of @ ("tcp" | "udp" | "th"), "dport") => {
            scope.protocol = protocol(of).or(scope.protocol);
            // A set by its name may have any.
            let is_named = right.as_str().is_some_and(|name| name.starts_with('@'));
            scope.ports = (!is_named).then(|| values.iter().filter_map(listed_range).collect());
            Some(scope)
        }
        (_, "icmp" | "icmpv6" | "igmp" | "sctp" | "udplite", _) | (_, "tcp" | "udp" | "th", "sport") => None,
        _ if left["ct"]["key"] == "state" => has("new").then_some(scope),
        _ => Some(scope),
    }
}

/// What a chain accepts, itself or by those that it calls.
fn accepted(rules: &[Rule], chain: &str) -> Vec<Scope> {
    let (mut open, mut visits) = (Vec::new(), 0);
    let mut due = vec![(chain, Scope::default(), 0)];
    while let Some((chain, outer, depth)) = due.pop() {
        visits += 1;
        if visits > VISITS {
            break;
        }
        for rule in rules.iter().filter(|rule| rule.chain == chain) {
            let Some(scope) = outer.within(&rule.scope) else { continue };
            match &rule.verdict {
                Verdict::Accept => open.push(scope),
                Verdict::Call(to) if depth < DEPTH => due.push((to.as_str(), scope, depth + 1)),
                Verdict::Call(_) | Verdict::DropAll => {}
            }
        }
    }
    open
}

fn objects(listing: &str, kind: &str) -> Vec<Value> {
    let value: Value = serde_json::from_str(listing).unwrap_or_default();
    let all = value["nftables"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter_map(|mut item| item.get_mut(kind).map(Value::take)).collect()
}

/// A value stands for itself, or for those of its set.
fn elements(value: &Value) -> Vec<Value> {
    let set = value.get("set").unwrap_or(value);
    set.as_array().cloned().unwrap_or_else(|| vec![set.clone()])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn protocol(word: &str) -> Option<Protocol> {
    match word {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

fn range(text: &str, between: char) -> Option<RangeInclusive<u16>> {
    let (from, to) = text.split_once(between).unwrap_or((text, text));
    Some(from.parse().ok()?..=to.parse().ok()?)
}

fn listed_range(value: &Value) -> Option<RangeInclusive<u16>> {
    let port = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    match value.get("range") {
        Some(ends) => Some(port(&ends[0])?..=port(&ends[1])?),
        None => port(value).map(|port| port..=port),
    }
}

#[cfg(test)]
impl Closed {
    /// Of a closed INPUT with these rules.
    pub fn of_iptables(rules: &str) -> Self {
        of_iptables(&format!(":INPUT DROP [0:0]\n{rules}")).expect("it is closed")
    }

    /// Of the table `inet t`, without a rule.
    pub fn of_nft(name: &str, hook: &str) -> Self {
        let chain = serde_json::json!({"family": "inet", "table": "t", "name": name, "type": "filter", "hook": hook, "policy": "drop"});
        of_nft(&serde_json::json!({"nftables": [{"chain": chain}]}).to_string()).remove(0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TCP: Port = Port(Protocol::Tcp, 10_250);
    const UDP: Port = Port(Protocol::Udp, 8472);

    fn opens(closed: &Closed) -> [bool; 2] {
        [TCP, UDP].map(|port| closed.lets_in(port))
    }

    #[test]
    fn iptables_is_closed_by_its_policy_or_by_its_last_rule() {
        let of = |rules: &str| of_iptables(rules).map(|closed| opens(&closed));
        assert_eq!(of(":INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n-A INPUT -p tcp --dport 22 -j DROP"), None);
        for closing in [":INPUT DROP [0:0]\n", ":INPUT ACCEPT [0:0]\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n"] {
            for (rules, open) in [
                ("", [false, false]),
                ("-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", [false, false]),
                (
                    "-A INPUT -p icmp -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -m comment --comment \"-p udp -j ACCEPT\" -j ACCEPT",
                    [false, false],
                ),
                ("-A INPUT -p udp -m udp --sport 67 --dport 68 -j ACCEPT", [false, false]),
                ("-A INPUT -p tcp -m tcp --dport 10250 -j ACCEPT", [true, false]),
                ("-A INPUT -p tcp -m multiport --dports 22,10000:11000 -m conntrack --ctstate NEW -j ACCEPT", [true, false]),
                ("-A INPUT -p udp -j ACCEPT", [false, true]),
                ("-A INPUT -s 192.168.56.0/24 -j ACCEPT", [true, true]),
                ("-A FORWARD -j ACCEPT\n-A limited -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j limited", [false, false]),
                ("-A INPUT -j user\n-A user -p tcp -j more\n-A more -j ACCEPT\n-A more -j user", [true, false]),
            ] {
                assert_eq!(of(&format!("{closing}{rules}")), Some(open), "{rules}");
            }
        }
    }

    fn listing(chain: Value, rules: &[Value]) -> String {
        let chains = ["in", "user"].map(|name| {
            let mut one = json!({"family": "inet", "table": "t", "name": name});
            if name == "in" {
                one.as_object_mut().unwrap().extend(chain.as_object().unwrap().clone());
            }
            json!({"chain": one})
        });
        let rules = rules.iter().map(|rule| json!({"rule": {"family": "inet", "table": "t", "chain": rule[0], "expr": rule[1]}}));
        json!({"nftables": chains.into_iter().chain(rules).collect::<Vec<_>>()}).to_string()
    }

    #[test]
    fn nftables_is_closed_by_its_policy_or_by_its_last_rule() {
        let dport = |protocol: &str, right: Value| json!({"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": "dport"}}, "right": right}});
        let (accept, state) =
            (json!({"accept": null}), |words: Value| json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": words}}));
        let lo = json!({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}});
        let cases = [
            (vec![], [false, false]),
            (vec![json!(["in", [lo, accept]]), json!(["in", [state(json!(["established", "related"])), accept]])], [false, false]),
            (vec![json!(["in", [dport("tcp", json!(22)), {"counter": null}, accept]])], [false, false]),
            (vec![json!(["in", [dport("tcp", json!({"set": [22, {"range": [10_000, 11_000]}]})), accept]])], [true, false]),
            (vec![json!(["in", [dport("udp", json!("@open")), accept]])], [false, true]),
            (vec![json!(["in", [dport("th", json!(8472)), state(json!("new")), accept]])], [false, true]),
            (
                vec![
                    json!(["in", [{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", accept], ["new", {"jump": {"target": "user"}}]]}}}]]),
                    json!(["user", [dport("tcp", json!(10_250)), accept]]),
                ],
                [true, false],
            ),
            (
                vec![
                    json!(["in", [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.0.0.0"}}, accept]]),
                ],
                [true, true],
            ),
            (vec![json!(["user", [accept]])], [false, false]),
        ];
        for (rules, open) in cases {
            let of = |chain: Value, more: &[Value]| {
                let all: Vec<Value> = rules.iter().chain(more).cloned().collect();
                of_nft(&listing(chain, &all)).iter().map(opens).collect::<Vec<_>>()
            };
            assert_eq!(of(json!({"type": "filter", "hook": "input", "policy": "drop"}), &[]), [open], "{rules:?}");
            let open_chain = json!({"type": "filter", "hook": "input", "policy": "accept"});
            assert_eq!(of(open_chain.clone(), &[json!(["in", [{"counter": null}, {"reject": null}]])]), [open], "{rules:?}");
            assert!(of(open_chain, &[]).is_empty());
        }
        for nonsense in ["", "{}", "[]", r#"{"nftables": [{"rule": 7}, {"chain": null}, {"chain": {"type": "filter", "hook": "input"}}]}"#]
        {
            assert!(of_nft(nonsense).is_empty(), "{nonsense}");
        }
    }

    #[test]
    fn only_tables_of_others_are_looked_at() {
        let chain = |family: &str, table: &str, name: &str, hook: &str| json!({"chain": {"family": family, "table": table, "name": name, "type": "filter", "hook": hook}});
        let all = json!({"nftables": [
            chain("ip", "filter", "INPUT", "input"), chain("ip", "skiff-pod-network", "vxlan-input", "input"), chain("inet", "firewalld", "filter_INPUT", "input"),
            chain("ip6", "mine", "in", "input"), chain("inet", "mine", "out", "output"), chain("inet", "mine", "in", "input"), chain("inet", "mine", "fwd", "forward"),
        ]});
        assert_eq!(tables_of_others(&all.to_string()), [("inet".to_owned(), "mine".to_owned())]);
    }

    #[test]
    fn a_closed_chain_is_opened_in_its_makers_words() {
        let mut closed = of_iptables(":INPUT DROP [0:0]").unwrap();
        assert_eq!(closed.opening(TCP), "iptables -I INPUT -p tcp --dport 10250 -j ACCEPT");
        closed.maker = Maker::Nft { family: "inet".into(), table: "t".into() };
        assert_eq!(closed.opening(UDP), "nft insert rule inet t INPUT udp dport 8472 accept");
        closed.hook = Hook::Forward;
        let to = "nft insert rule inet t INPUT ip saddr 10.244.0.0/16 accept && nft insert rule inet t INPUT ip daddr 10.244.0.0/16 accept";
        assert_eq!(closed.opening_to("10.244.0.0/16".parse().unwrap()), to);
    }
}
