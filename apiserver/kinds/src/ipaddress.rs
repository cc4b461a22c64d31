//! IPAddress: the strategy of who has which address: the name is the address, so that it can be had once. Source: `pkg/registry/networking/ipaddress`,
//! `pkg/apis/networking/validation`, `ValidateIPAddress`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Scope, Strategy, names};
use serde_json::Value;

use crate::{
    common::{self, Path, Read, name_rules, read, table, unchanged, well_formed},
    net,
};

/// Of the address: `IPv4` or `IPv6`.
pub const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
/// Who looks after the object; for cluster IPs [`ALLOCATOR`].
pub const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
pub const ALLOCATOR: &str = "ipallocator.k8s.io";

const PARENT: Path<'static> = Path::new("spec.parentRef");
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column(
        "ParentRef",
        "string",
        "ParentRef references the resource that an IPAddress is attached to. An IPAddress must reference a parent object.",
    ),
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["ip"]),
        scope: Scope::Cluster,
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("networking.k8s.io", "v1", "IPAddress", "ipaddresses", "io.k8s.api.networking.v1", IpAddresses)
    }
}

struct IpAddresses;

impl Strategy for IpAddresses {
    /// `ValidateIPAddressName`
    fn name_error(&self, name: &str) -> Option<String> {
        net::canonical_ip(name).into_iter().next()
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let Some(parent) = object.at("spec").at("parentRef") else { return causes.required(PARENT, "") };
        let group = parent.text("group");
        if !group.is_empty() {
            well_formed(group, name_rules::dns_subdomain(group), PARENT.field("group"), causes);
        }
        for field in ["resource", "name"] {
            match parent.text(field) {
                "" => causes.required(PARENT.field(field), ""),
                text => well_formed(text, name_rules::path_segment(text), PARENT.field(field), causes),
            }
        }
        let namespace = parent.text("namespace");
        well_formed(namespace, name_rules::path_segment(namespace), PARENT.field("namespace"), causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        unchanged(new.at("spec").at("parentRef"), old.at("spec").at("parentRef"), PARENT, causes);
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    /// One more than there are columns, as upstream's.
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), parent_cell(object).into(), table::age(object, now)]
    }
}

/// `services/default/web`
fn parent_cell(object: &Value) -> String {
    let Some(parent) = object.at("spec").at("parentRef") else { return "<none>".into() };
    let resource = match parent.text("group") {
        "" => parent.text("resource").to_lowercase(),
        group => format!("{}.{group}", parent.text("resource")).to_lowercase(),
    };
    match parent.text("namespace") {
        "" => format!("{resource}/{}", parent.text("name")),
        namespace => format!("{resource}/{namespace}/{}", parent.text("name")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(parent: Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        IpAddresses.validate(&json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}}), &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn each_rule_has_its_words() {
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({"resource": "services", "name": "web", "namespace": "a"}), &[]),
            (json!({"group": "example.com", "resource": "gateways", "name": "x"}), &[]),
            (Value::Null, &["spec.parentRef: Required value"]),
            (json!({}), &["spec.parentRef.resource: Required value", "spec.parentRef.name: Required value"]),
            (
                json!({"resource": "a/b", "name": "..", "namespace": "50%"}),
                &[
                    r#"spec.parentRef.resource: Invalid value: "a/b": may not contain '/'"#,
                    r#"spec.parentRef.name: Invalid value: "..": may not be '..'"#,
                    r#"spec.parentRef.namespace: Invalid value: "50%": may not contain '%'"#,
                ],
            ),
        ];
        for (parent, wanted) in cases {
            assert_eq!(texts(parent.clone()), wanted, "{parent}");
        }
    }

    #[test]
    fn names_are_addresses_in_canonical_form() {
        for good in ["10.96.0.1", "2001:db8::1"] {
            assert_eq!(IpAddresses.name_error(good), None);
        }
        assert_eq!(IpAddresses.name_error("2001:DB8::1").unwrap(), r#"must be in canonical form ("2001:db8::1")"#);
        assert_eq!(IpAddresses.name_error("web").unwrap(), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }

    #[test]
    fn the_parent_stays() {
        let of = |name: &str| json!({"spec": {"parentRef": {"resource": "services", "namespace": "a", "name": name}}});
        let mut causes = FieldErrors::default();
        IpAddresses.validate_update(&of("b"), &of("b"), &mut causes);
        assert!(causes.is_empty());
        IpAddresses.validate_update(&of("c"), &of("b"), &mut causes);
        assert!(causes.0[0].text().ends_with("field is immutable"), "{}", causes.0[0].text());
    }

    #[test]
    fn rows_read_as_kubectl_shows_them() {
        let cell = |parent: Value| {
            IpAddresses.cells(&json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}}), Timestamp::UNIX_EPOCH)
        };
        assert_eq!(
            cell(json!({"resource": "services", "namespace": "a", "name": "b"})),
            [json!("10.0.0.1"), json!("services/a/b"), json!("<unknown>")]
        );
        assert_eq!(cell(json!({"group": "Example.com", "resource": "gateways", "name": "b"}))[1], "gateways.example.com/b");
        assert_eq!(cell(Value::Null)[1], "<none>");
    }
}
