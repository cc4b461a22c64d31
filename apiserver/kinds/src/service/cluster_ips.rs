//! A Service's addresses and families, by themselves -> what is wrong with them. Source: `ValidateServiceClusterIPsRelatedFields` in
//! `pkg/apis/core/validation/validation.go`.

use std::collections::BTreeSet;

use api::field_errors::FieldErrors;
use serde_json::{Value, json};

use super::shape;
use crate::{
    common::{Path, Read, well_formed},
    net,
};

const SPEC: Path<'static> = Path::new("spec");

/// `ValidateServiceClusterIPsRelatedFields`
pub fn validate(service: &Value, causes: &mut FieldErrors) {
    let spec = shape::spec(service);
    let path = SPEC.field("clusterIPs");
    let (single, all) = (spec.text("clusterIP"), shape::texts(service, "clusterIPs"));
    match (single, all.first()) {
        ("", Some(_)) => causes.invalid(path, json!(all), "must be empty when `clusterIP` is not specified"),
        (single, Some(first)) if single != *first => causes.invalid(path, json!(all), "first value must match `clusterIP`"),
        (single, None) if !single.is_empty() => causes.required(path, ""),
        _ => {}
    }
    families(service, causes);
    let is_good = well_formed_all(&all, causes);
    if all.len() > 2 {
        causes.invalid(path, json!(all), "may only hold up to 2 values");
    }
    if !is_good {
        return;
    }
    let found: BTreeSet<&str> = all.iter().filter_map(|ip| net::parse(ip)).map(net::family).collect();
    if all.len() > 1 && found.len() != 2 {
        causes.invalid(path, json!(all), "may specify no more than one IP for each IP family");
    }
    for (i, (ip, wanted)) in all.iter().zip(shape::texts(service, "ipFamilies")).enumerate() {
        if net::parse(ip).is_some_and(|ip| net::family(ip) != wanted) {
            causes.invalid(path.index(i), *ip, &format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`"));
        }
    }
}

/// False where one is no address or `None` stands where it may not.
fn well_formed_all(all: &[&str], causes: &mut FieldErrors) -> bool {
    let path = SPEC.field("clusterIPs");
    let mut good = true;
    for (i, ip) in all.iter().enumerate() {
        if i == 0 && *ip == "None" {
            if all.len() > 1 {
                good = false;
                causes.invalid(path, json!(all), "'None' must be the first and only value");
            }
            continue;
        }
        let errors = net::ip(ip);
        good &= errors.is_empty();
        well_formed(ip, errors, path.index(i), causes);
    }
    good
}

fn families(service: &Value, causes: &mut FieldErrors) {
    let path = SPEC.field("ipFamilies");
    let mut seen = BTreeSet::new();
    for (i, family) in shape::texts(service, "ipFamilies").into_iter().enumerate() {
        if !matches!(family, "IPv4" | "IPv6") {
            causes.not_supported(path.index(i), family, &["IPv4", "IPv6"]);
        }
        if !seen.insert(family) {
            causes.duplicate(path.index(i), family);
        }
    }
    let policy = shape::spec(service).text("ipFamilyPolicy");
    if !matches!(policy, "" | "SingleStack" | "PreferDualStack" | "RequireDualStack") {
        causes.not_supported(SPEC.field("ipFamilyPolicy"), policy, &["SingleStack", "PreferDualStack", "RequireDualStack"]);
    }
}
