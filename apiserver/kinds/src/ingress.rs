//! Ingress: which requests from outside go to which service. Source: `pkg/registry/networking/ingress`, `ValidateIngressCreate`,
//! `ValidateIngressUpdate` and `ValidateIngressStatusUpdate` in `pkg/apis/networking/validation`.

mod validate;

use std::{borrow::Cow, collections::BTreeSet};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, MetaCheck, Name, Storage, Strategy, names};
use serde_json::{Value, json};

use crate::{
    common::{self, Path, Read, edit, read, table},
    net,
};

/// The class of an ingress before there was a field for it.
pub const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

const ADDRESSES: Path<'static> = Path::new("status.loadBalancer.ingress");
const HOSTS_SHOWN: usize = 3;
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Class", "string", "The name of the IngressClass resource that should be used for additional configuration"),
    table::column("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
    table::column("Address", "string", "Address is a list containing ingress points for the load-balancer"),
    table::column("Ports", "string", "Ports of TLS configurations that open"),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["ing"]),
        subresources: vec![common::status("networking.k8s.io", "v1", "Ingress")],
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        storage: Storage::Kept { prefix: Name::Borrowed("ingress"), ttl_seconds: None },
        ..common::kind("networking.k8s.io", "v1", "Ingress", "ingresses", "io.k8s.api.networking.v1", Ingresses)
    }
}

struct Ingresses;

impl Strategy for Ingresses {
    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        edit::set(object, "status", json!({"loadBalancer": {}}));
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        validate::spec(object.at("spec"), validate::Leniency::default(), causes);
        let (annotation, class) = (object.at("metadata").at("annotations").at(CLASS_ANNOTATION), object.at("spec").at("ingressClassName"));
        if let Some(annotation) = annotation.filter(|_| class.is_some()).filter(|a| Some(*a) != class) {
            let at = Path::new("annotations");
            causes.invalid(at.field(CLASS_ANNOTATION), annotation.clone(), "must match `ingressClassName` when both are specified");
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        validate::spec(new.at("spec"), validate::Leniency::of(old.at("spec")), causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let before: BTreeSet<&str> = addresses(old).iter().map(|a| a.text("ip")).collect();
        for (i, address) in addresses(new).iter().enumerate() {
            validate::address(address, &before, ADDRESSES.index(i), causes);
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let is_annotated = new.at("metadata").at("annotations").at(CLASS_ANNOTATION).is_some();
        match old {
            None if is_annotated && new.at("spec").at("ingressClassName").is_none() => {
                vec![format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")]
            }
            Some(old) if addresses(new) != addresses(old) => {
                let told = |(i, a): (usize, &Value)| net::ip_warning(&ADDRESSES.index(i).to_string(), a.text("ip"));
                addresses(new).iter().enumerate().filter_map(told).collect()
            }
            _ => Vec::new(),
        }
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.at("spec");
        let shown = |a: &'_ Value| [a.text("ip"), a.text("hostname")].into_iter().find(|t| !t.is_empty()).map(str::to_owned);
        let all: BTreeSet<String> = addresses(object).iter().filter_map(shown).collect();
        vec![
            read::name(object).into(),
            spec.at("ingressClassName").cloned().unwrap_or_else(|| "<none>".into()),
            hosts(spec.list("rules")).into(),
            all.into_iter().collect::<Vec<_>>().join(",").into(),
            if spec.list("tls").is_empty() { "80" } else { "80, 443" }.into(),
            table::age(object, now),
        ]
    }
}

fn addresses(object: &Value) -> &[Value] {
    object.at("status").at("loadBalancer").list("ingress")
}

/// `formatHosts`
fn hosts(rules: &[Value]) -> String {
    let mut list: Vec<&str> = Vec::new();
    let mut more = false;
    for host in rules.iter().map(|rule| rule.text("host")) {
        more |= list.len() == HOSTS_SHOWN;
        if !more && !host.is_empty() {
            list.push(host);
        }
    }
    match (list.is_empty(), more) {
        (true, _) => "*".into(),
        (_, true) => format!("{} + {} more...", list.join(","), rules.len() - HOSTS_SHOWN),
        _ => list.join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingress(spec: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": spec})
    }

    fn texts(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn class_and_annotation_agree() {
        let mut object = ingress(json!({"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}));
        object["metadata"]["annotations"] = json!({CLASS_ANNOTATION: "x"});
        assert_eq!(texts(|c| Ingresses.validate_create(&object, c)), Vec::<String>::new());
        let warning = "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
        assert_eq!(Ingresses.warnings(&object, None), [warning]);
        object["spec"]["ingressClassName"] = json!("y");
        let wanted =
            r#"annotations.kubernetes.io/ingress.class: Invalid value: "x": must match `ingressClassName` when both are specified"#;
        assert_eq!(texts(|c| Ingresses.validate_create(&object, c)), [wanted]);
        assert_eq!(texts(|c| Ingresses.validate_update(&object, &object, c)), Vec::<String>::new());
        assert!(Ingresses.warnings(&object, None).is_empty());
    }

    #[test]
    fn addresses_are_checked_where_they_are_new() {
        let with = |list: Value| json!({"status": {"loadBalancer": {"ingress": list}}});
        let new = with(json!([{"ip": "010.0.0.1"}, {"hostname": "1.2.3.4"}, {"hostname": "a.example"}]));
        let found = texts(|c| Ingresses.validate_subresource("status", &new, &with(json!([])), c));
        let wanted = [
            r#"status.loadBalancer.ingress[0].ip: Invalid value: "010.0.0.1": must not have leading 0s"#,
            r#"status.loadBalancer.ingress[1].hostname: Invalid value: "1.2.3.4": must be a DNS name, not an IP address"#,
        ];
        assert_eq!(found, wanted);
        assert_eq!(texts(|c| Ingresses.validate_subresource("status", &new, &new, c)).len(), 1);
    }

    #[test]
    fn cells_are_upstreams() {
        let mut object = ingress(json!({"rules": [{"host": "a"}, {"host": "b"}, {}, {"host": "c"}, {"host": "d"}], "tls": [{}]}));
        object["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "x"}, {"ip": "1.1.1.1"}, {"hostname": "x"}]}});
        let cells = Ingresses.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells), json!(["a", "<none>", "a,b,c + 2 more...", "1.1.1.1,x", "80, 443", "<unknown>"]));
        assert_eq!(hosts(&[]), "*");
        assert_eq!(COLUMNS.len(), 6);
    }
}
