//! ServiceCIDR: the strategy of ranges that cluster IPs are taken from. Source: `pkg/registry/networking/servicecidr`,
//! `pkg/apis/networking/validation`, `ValidateServiceCIDR`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, Scope, Strategy};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::{
    common::{self, Path, Read, read, table, well_formed},
    net,
};

const CIDRS: Path<'static> = Path::new("spec.cidrs");
const IMMUTABLE: &str = "field is immutable";
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column(
        "CIDRs",
        "string",
        "CIDRs defines the IP blocks in CIDR notation (e.g. \"192.168.0.0/24\" or \"2001:db8::/64\") from which to assign service cluster IPs. Max of two CIDRs is allowed, one of each IP family. This field is immutable.",
    ),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        subresources: vec![common::status("networking.k8s.io", "v1", "ServiceCIDR")],
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", "io.k8s.api.networking.v1", ServiceCidrs)
    }
}

/// `spec.cidrs`
pub fn cidrs(object: &Value) -> Vec<&str> {
    object.at("spec").list("cidrs").iter().filter_map(Value::as_str).collect()
}

/// Whether addresses may be taken from it (`isReady`): one without a condition is, since somebody may not have come to set it yet.
pub fn is_ready(object: &Value) -> bool {
    ready_condition(object).is_none_or(|condition| condition.text("status") == "True")
}

pub fn ready_condition(object: &Value) -> Option<&Value> {
    object.at("status").list("conditions").iter().find(|condition| condition.text("type") == "Ready")
}

struct ServiceCidrs;

impl Strategy for ServiceCidrs {
    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static [&'static str]]> {
        (subresource == "status").then_some(&[&["metadata"], &["spec"]])
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        spec(object, causes);
    }

    /// A second range may be added, of the other family; else all stays.
    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let (now, before) = (cidrs(new), cidrs(old));
        if now.len() == before.len() {
            for (i, (cidr, _)) in now.iter().zip(&before).enumerate().filter(|(_, (a, b))| a != b) {
                causes.invalid(CIDRS.index(i), *cidr, IMMUTABLE);
            }
            return;
        }
        if (before.len(), now.len()) != (1, 2) {
            return causes.invalid(CIDRS, json!(now), IMMUTABLE);
        }
        if now.first() != before.first() {
            causes.invalid(CIDRS.index(0), now.first().copied().unwrap_or_default(), IMMUTABLE);
        }
        spec(new, causes);
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), cidrs(object).join(",").into(), table::age(object, now)]
    }
}

/// `validateServiceCIDRSpec`
fn spec(object: &Value, causes: &mut FieldErrors) {
    let cidrs = cidrs(object);
    match cidrs.len() {
        0 => return causes.required(CIDRS, "at least one CIDR required"),
        1 | 2 => {}
        _ => return causes.invalid(CIDRS, json!({"CIDRs": cidrs}), "may only hold up to 2 values"),
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        well_formed(cidr, net::canonical_cidr(cidr), CIDRS.index(i), causes);
    }
    let family = |cidr: &&str| cidr.parse::<IpNet>().ok().map(|net| net::family(net.network()));
    let families: Vec<&str> = cidrs.iter().filter_map(family).collect();
    if matches!(families.as_slice(), [a, b] if a == b) {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        causes.invalid(CIDRS, json!(cidrs), detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cidrs: &[&str]) -> Value {
        json!({"metadata": {"name": "x"}, "spec": {"cidrs": cidrs}})
    }

    #[test]
    fn each_rule_has_its_words() {
        let cases: Vec<(&[&str], &[&str])> = vec![
            (&["10.96.0.0/12"], &[]),
            (&["10.96.0.0/12", "fd00::/112"], &[]),
            (&[], &["spec.cidrs: Required value: at least one CIDR required"]),
            (
                &["10.96.0.0/12", "fd00::/112", "fd01::/112"],
                &[r#"spec.cidrs: Invalid value: {"CIDRs":["10.96.0.0/12","fd00::/112","fd01::/112"]}: may only hold up to 2 values"#],
            ),
            (
                &["10.96.0.1/12", "FD00::/112"],
                &[
                    r#"spec.cidrs[0]: Invalid value: "10.96.0.1/12": must not have bits set beyond the prefix length"#,
                    r#"spec.cidrs[1]: Invalid value: "FD00::/112": must be in canonical form ("fd00::/112")"#,
                ],
            ),
            (
                &["10.96.0.0/12", "10.0.0.0/24"],
                &[
                    r#"spec.cidrs: Invalid value: ["10.96.0.0/12","10.0.0.0/24"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"#,
                ],
            ),
        ];
        for (cidrs, wanted) in cases {
            let mut causes = FieldErrors::default();
            ServiceCidrs.validate_create(&of(cidrs), &mut causes);
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted, "{cidrs:?}");
        }
    }

    #[test]
    fn only_a_second_family_may_come() {
        let four = "10.96.0.0/12";
        let cases: Vec<[Vec<&str>; 3]> = vec![
            [vec![four], vec![four], vec![]],
            [vec![four], vec![four, "fd00::/112"], vec![]],
            [vec![four], vec!["10.0.0.0/24"], vec![r#"spec.cidrs[0]: Invalid value: "10.0.0.0/24": field is immutable"#]],
            [vec![four, "fd00::/112"], vec![four], vec![r#"spec.cidrs: Invalid value: ["10.96.0.0/12"]: field is immutable"#]],
            [
                vec![four],
                vec!["10.0.0.0/24", "fd00::1/112"],
                vec![
                    r#"spec.cidrs[0]: Invalid value: "10.0.0.0/24": field is immutable"#,
                    r#"spec.cidrs[1]: Invalid value: "fd00::1/112": must not have bits set beyond the prefix length"#,
                ],
            ],
        ];
        for [old, new, wanted] in cases {
            let mut causes = FieldErrors::default();
            ServiceCidrs.validate_update(&of(&new), &of(&old), &mut causes);
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted, "{old:?} {new:?}");
        }
    }

    #[test]
    fn one_without_a_condition_is_ready() {
        let with = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        assert!(is_ready(&of(&[])) && is_ready(&with("True")));
        assert!(!is_ready(&with("False")) && !is_ready(&with("Unknown")));
    }

    #[test]
    fn rows_read_as_kubectl_shows_them() {
        let cells = ServiceCidrs.cells(&of(&["10.96.0.0/12", "fd00::/112"]), Timestamp::UNIX_EPOCH);
        assert_eq!((cells.len(), &cells[1]), (COLUMNS.len(), &json!("10.96.0.0/12,fd00::/112")));
    }
}
