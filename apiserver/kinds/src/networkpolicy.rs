//! NetworkPolicy: who may talk to which pods. Source: `pkg/registry/networking/networkpolicy`, `ValidateNetworkPolicySpec` in
//! `pkg/apis/networking/validation`, `SetDefaults_NetworkPolicy`.

use std::{borrow::Cow, collections::HashSet};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, Strategy, names};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::{
    common::{self, Path, Read, edit, name_rules, not_supported, read, selector, table, well_formed},
    net,
};

const SPEC: Path<'static> = Path::new("spec");
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const TYPES: &[&str] = &["Ingress", "Egress"];
/// Lists of rules, and in each the list of peers.
const SIDES: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column(
        "Pod-Selector",
        "string",
        "podSelector selects the pods to which this NetworkPolicy object applies. The array of rules is applied to any pods selected by this field. An empty selector matches all pods in the policy's namespace. Multiple network policies can select the same set of pods. In this case, the ingress rules for each are combined additively. This field is optional. If it is not specified, it defaults to an empty selector.",
    ),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["netpol"]),
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "io.k8s.api.networking.v1", NetworkPolicies)
    }
}

struct NetworkPolicies;

/// Networks that stand in the policy already: they may stay, wherever they go.
type Networks<'v> = HashSet<&'v str>;

impl Strategy for NetworkPolicies {
    fn default(&self, object: &mut Value) {
        let Some(spec) = edit::make_child(object, "spec") else { return };
        edit::default_to(spec, "podSelector", json!({}));
        for (side, _) in SIDES {
            for rule in edit::each(spec, side) {
                edit::each(rule, "ports").for_each(|port| edit::default_to(port, "protocol", "TCP"));
            }
        }
        if spec.list("policyTypes").is_empty() {
            let types = if spec.list("egress").is_empty() { &TYPES[..1] } else { TYPES };
            edit::set(spec, "policyTypes", json!(types));
        }
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        validate(object.at("spec"), &Networks::new(), causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let before = blocks(old.at("spec")).flat_map(|(.., block)| networks(block).map(|(_, text)| text)).collect();
        validate(new.at("spec"), &before, causes);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let of = |(side, i, peers, j, block)| {
            networks(block)
                .filter_map(move |(field, text)| net::cidr_warning(&format!("spec.{side}[{i}].{peers}[{j}].ipBlock.{field}"), text))
        };
        blocks(new.at("spec")).flat_map(of).collect()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let shown = selector::print(object.at("spec").at("podSelector"));
        vec![read::name(object).into(), shown.into(), table::age(object, now)]
    }
}

/// Each ipBlock, with the names and numbers that lead to it.
fn blocks(spec: Option<&Value>) -> impl Iterator<Item = (&'static str, usize, &'static str, usize, &Value)> {
    SIDES.into_iter().flat_map(move |(side, peers)| {
        spec.list(side).iter().enumerate().flat_map(move |(i, rule)| {
            let all = rule.list(peers).iter().enumerate();
            all.filter_map(move |(j, peer)| Some((side, i, peers, j, peer.at("ipBlock")?)))
        })
    })
}

/// `cidr`, `except[0]`, ...
fn networks(block: &Value) -> impl Iterator<Item = (String, &str)> {
    let except = block.list("except").iter().filter_map(Value::as_str).enumerate();
    std::iter::once(("cidr".to_owned(), block.text("cidr"))).chain(except.map(|(k, text)| (format!("except[{k}]"), text)))
}

/// `ValidateNetworkPolicySpec`
fn validate(spec: Option<&Value>, before: &Networks<'_>, causes: &mut FieldErrors) {
    selector::well_formed(spec.at("podSelector"), SPEC.field("podSelector"), causes);
    for (side, peers) in SIDES {
        let list = SPEC.field(side);
        for (i, rule) in spec.list(side).iter().enumerate() {
            let at = list.index(i);
            for (j, port) in rule.list("ports").iter().enumerate() {
                self::port(port, at.field("ports").index(j), causes);
            }
            for (j, peer) in rule.list(peers).iter().enumerate() {
                self::peer(peer, before, at.field(peers).index(j), causes);
            }
        }
    }
    let (types, at) = (spec.list("policyTypes"), SPEC.field("policyTypes"));
    if types.len() > TYPES.len() {
        return causes.invalid(at, Value::from(types.to_vec()), "may not specify more than two policyTypes");
    }
    for (i, wanted) in types.iter().filter_map(Value::as_str).enumerate().filter(|(_, t)| !TYPES.contains(t)) {
        not_supported(wanted, TYPES, at.index(i), causes);
    }
}

/// `ValidateNetworkPolicyPort`
fn port(port: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (at, end) = (path.field("endPort"), port.int("endPort"));
    if let Some(protocol) = port.at("protocol").and_then(Value::as_str).filter(|p| !PROTOCOLS.contains(p)) {
        not_supported(protocol, PROTOCOLS, path.field("protocol"), causes);
    }
    match port.at("port") {
        Some(Value::String(name)) => {
            if let Some(end) = end {
                causes.invalid(at, end, "may not be specified when `port` is non-numeric");
            }
            well_formed(name, name_rules::port_name(name), path.field("port"), causes);
        }
        Some(number) => {
            let number = number.as_i64().unwrap_or(0);
            in_range(number, path.field("port"), causes);
            let Some(end) = end else { return };
            if end < number {
                causes.invalid(at, number, "must be greater than or equal to `port`");
            }
            in_range(end, at, causes);
        }
        None => {
            if let Some(end) = end {
                causes.invalid(at, end, "may not be specified when `port` is not specified");
            }
        }
    }
}

fn in_range(port: i64, path: Path<'_>, causes: &mut FieldErrors) {
    for error in name_rules::port_number(port) {
        causes.invalid(path, port, &error);
    }
}

/// `ValidateNetworkPolicyPeer`
fn peer(peer: &Value, before: &Networks<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let selectors = ["podSelector", "namespaceSelector"].map(|field| (field, peer.at(field)));
    for (field, found) in selectors {
        selector::well_formed(found, path.field(field), causes);
    }
    let (selected, block) = (selectors.iter().any(|(_, found)| found.is_some()), peer.at("ipBlock"));
    if let Some(block) = block {
        ip_block(block, before, path.field("ipBlock"), causes);
    }
    match (selected, block) {
        (false, None) => causes.required(path, "must specify a peer"),
        (true, Some(_)) => causes.forbidden(path, "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

/// `ValidateIPBlock`
fn ip_block(block: &Value, before: &Networks<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let text = block.text("cidr");
    if text.is_empty() {
        return causes.required(path.field("cidr"), "");
    }
    network(text, before, path.field("cidr"), causes);
    let Some(whole) = net::parse_network(text) else { return };
    let list = path.field("except");
    for (i, text) in block.list("except").iter().filter_map(Value::as_str).enumerate() {
        network(text, before, list.index(i), causes);
        if net::parse_network(text).is_some_and(|part| !is_strict_part(part, whole)) {
            causes.invalid(list.index(i), text, "must be a strict subset of `cidr`");
        }
    }
}

fn network(text: &str, before: &Networks<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    if !before.contains(text) {
        well_formed(text, net::cidr(text), path, causes);
    }
}

fn is_strict_part(part: IpNet, whole: IpNet) -> bool {
    whole.contains(&part.network()) && whole.prefix_len() < part.prefix_len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a"}, "spec": spec});
        NetworkPolicies.default(&mut object);
        object
    }

    fn texts(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn types_follow_from_the_rules() {
        assert_eq!(of(json!(null))["spec"], json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
        let both = of(json!({"egress": [{"ports": [{"port": 53}]}]}));
        assert_eq!(both["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(both["spec"]["egress"], json!([{"ports": [{"port": 53, "protocol": "TCP"}]}]));
        assert_eq!(of(json!({"policyTypes": ["Egress"]}))["spec"]["policyTypes"], json!(["Egress"]));
    }

    #[test]
    fn each_rule_has_its_words() {
        let port = |port: Value| json!({"ingress": [{"ports": [port]}]});
        let peer = |peer: Value| json!({"egress": [{"to": [peer]}]});
        let (port_at, peer_at) = ("spec.ingress[0].ports[0]", "spec.egress[0].to[0]");
        let cases: Vec<(Value, Vec<String>)> = vec![
            (port(json!({"port": 80, "endPort": 90})), vec![]),
            (peer(json!({"podSelector": {}, "namespaceSelector": {}})), vec![]),
            (peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}})), vec![]),
            (
                port(json!({"protocol": "ICMP", "port": 0, "endPort": -1})),
                vec![
                    format!(r#"{port_at}.protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP""#),
                    format!("{port_at}.port: Invalid value: 0: must be between 1 and 65535, inclusive"),
                    format!("{port_at}.endPort: Invalid value: 0: must be greater than or equal to `port`"),
                    format!("{port_at}.endPort: Invalid value: -1: must be between 1 and 65535, inclusive"),
                ],
            ),
            (
                port(json!({"port": "web", "endPort": 1})),
                vec![format!("{port_at}.endPort: Invalid value: 1: may not be specified when `port` is non-numeric")],
            ),
            (
                port(json!({"endPort": 1})),
                vec![format!("{port_at}.endPort: Invalid value: 1: may not be specified when `port` is not specified")],
            ),
            (peer(json!({})), vec![format!("{peer_at}: Required value: must specify a peer")]),
            (
                peer(json!({"podSelector": {}, "ipBlock": {}})),
                vec![
                    format!("{peer_at}.ipBlock.cidr: Required value"),
                    format!("{peer_at}: Forbidden: may not specify both ipBlock and another peer"),
                ],
            ),
            (
                peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16", "10.0.0.0/8", "10.0.0.1/24"]}})),
                vec![
                    format!(r#"{peer_at}.ipBlock.except[0]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`"#),
                    format!(r#"{peer_at}.ipBlock.except[1]: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`"#),
                    format!(
                        r#"{peer_at}.ipBlock.except[2]: Invalid value: "10.0.0.1/24": must not have bits set beyond the prefix length"#
                    ),
                ],
            ),
            (
                json!({"policyTypes": ["Ingress", "Egress", "Ingress"]}),
                vec![
                    r#"spec.policyTypes: Invalid value: ["Ingress","Egress","Ingress"]: may not specify more than two policyTypes"#.into(),
                ],
            ),
            (
                json!({"policyTypes": ["Both"]}),
                vec![r#"spec.policyTypes[0]: Unsupported value: "Both": supported values: "Ingress", "Egress""#.into()],
            ),
        ];
        for (spec, wanted) in cases {
            assert_eq!(texts(|c| NetworkPolicies.validate_create(&of(spec.clone()), c)), wanted, "{spec}");
        }
    }

    #[test]
    fn networks_of_old_may_stay() {
        let with = |cidr: &str| of(json!({"ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]}));
        let (old, new) = (with("10.0.0.1/8"), with("10.0.0.2/8"));
        assert_eq!(texts(|c| NetworkPolicies.validate_update(&old, &old, c)), Vec::<String>::new());
        assert_eq!(texts(|c| NetworkPolicies.validate_update(&new, &old, c)).len(), 1);
        let warning = r#"spec.ingress[0].from[0].ipBlock.cidr: CIDR value "10.0.0.1/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.0.0.1/32"?)"#;
        assert_eq!(NetworkPolicies.warnings(&old, None), [warning]);
    }

    #[test]
    fn the_selector_is_shown() {
        let cells = |spec: Value| Value::from(NetworkPolicies.cells(&of(spec), Timestamp::UNIX_EPOCH));
        assert_eq!(cells(json!({"podSelector": {"matchLabels": {"a": "b"}}})), json!(["a", "a=b", "<unknown>"]));
        assert_eq!(cells(json!({})), json!(["a", "<none>", "<unknown>"]));
    }
}
