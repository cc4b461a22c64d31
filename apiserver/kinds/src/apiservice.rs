//! APIService: the strategy of who serves a group version. Source: kube-aggregator `pkg/registry/apiservice`, `pkg/apis/apiregistration/validation`.

pub mod aggregator;
pub mod register;
mod spec;

use std::borrow::Cow;

use api::{
    GroupResource,
    field_errors::FieldErrors,
    time::{Timestamp, rfc3339},
};
use apiserver::kind::{Column, Ctx, Finalizers, Kind, Name, Scope, Storage, Strategy, names};
use serde_json::{Value, json};

use crate::common::{
    self, Path, Read,
    edit::{child, default_to, keep_metadata, set},
    name_rules, read, require, table, webhook, well_formed,
};

pub const GROUP: &str = "apiregistration.k8s.io";

const SPEC: Path<'static> = Path::new("spec");
const STATUSES: &[&str] = &["True", "False", "Unknown"];
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Service", "string", "The reference to the service that hosts this API endpoint."),
    table::column("Available", "string", "Whether this service is available."),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        categories: names(&["api-extensions"]),
        subresources: vec![common::status(GROUP, "v1", "APIService")],
        columns: Cow::Borrowed(COLUMNS),
        finalizers: Finalizers::Any,
        storage: Storage::Kept { prefix: Name::Borrowed("apiregistration.k8s.io/apiservices"), ttl_seconds: None },
        ..common::kind(GROUP, "v1", "APIService", "apiservices", "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1", ApiServices)
    }
}

struct ApiServices;

impl Strategy for ApiServices {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static [&'static str]]> {
        (subresource == "status").then_some(&[&["spec"], &["metadata"]])
    }

    fn shows_status_tables(&self) -> bool {
        false
    }

    fn default(&self, object: &mut Value) {
        if let Some(service) = child(object, "spec").and_then(|spec| child(spec, "service")) {
            default_to(service, "port", 443);
        }
    }

    fn prepare_create(&self, ctx: &Ctx<'_>, object: &mut Value) {
        let status = if object.at("spec").at("service").is_none() {
            let (reason, message) = ("Local", "Local APIServices are always available");
            json!({"conditions": [{
                "type": "Available", "status": "True", "lastTransitionTime": rfc3339(ctx.now), "reason": reason, "message": message}]})
        } else {
            json!({})
        };
        set(object, "status", status);
    }

    fn prepare_subresource(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        keep_metadata(new, old);
    }

    /// The whole rule needs the spec: [`Strategy::validate`].
    fn name_error(&self, name: &str) -> Option<String> {
        name_rules::path_segment(name).into_iter().next()
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let spec = object.at("spec");
        let (group, version) = (spec.text("group"), spec.text("version"));
        let (name, wanted) = (read::name(object), format!("{version}.{group}"));
        if name != wanted && name_rules::path_segment(name).is_empty() {
            causes.invalid("metadata.name", name, &format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
        }
        match group {
            "" if version != "v1" => {
                causes.required(SPEC.field("group"), "only v1 may have an empty group and it better be legacy kube");
            }
            "" => {}
            group => well_formed(group, name_rules::dns_subdomain(group), SPEC.field("group"), causes),
        }
        well_formed(version, name_rules::dns_1035_label(version), SPEC.field("version"), causes);
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let priority = spec.int(field).unwrap_or(0);
            if !(1..=most).contains(&priority) {
                causes.invalid(SPEC.field(field), priority, &format!("must be positive and less than {most}"));
            }
        }
        where_it_is(spec, causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, _old: &Value, causes: &mut FieldErrors) {
        let list = Path::new("status.conditions");
        for (i, condition) in new.at("status").list("conditions").iter().enumerate() {
            let status = condition.text("status");
            if !STATUSES.contains(&status) {
                common::not_supported(status, STATUSES, list.index(i).field("status"), causes);
            }
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let service = object.at("spec").at("service");
        let place = service.map_or_else(|| "Local".into(), |s| format!("{}/{}", s.text("namespace"), s.text("name")));
        let available = object.at("status").list("conditions").iter().find(|c| c.text("type") == "Available");
        let shown = match (available.text("status"), available.text("reason")) {
            ("True", _) => "True".into(),
            (status, "") => if available.is_none() { "Unknown" } else { status }.to_owned(),
            (status, reason) => format!("{status} ({reason})"),
        };
        vec![read::name(object).into(), place.into(), shown.into(), table::age(object, now)]
    }
}

fn resource() -> GroupResource {
    GroupResource::new(GROUP, "apiservices")
}

/// The service that is asked; without one it is this server.
fn where_it_is(spec: Option<&Value>, causes: &mut FieldErrors) {
    let (bundle, insecure) = (spec.text("caBundle"), spec.is_true("insecureSkipTLSVerify"));
    let Some(service) = spec.at("service") else {
        if !bundle.is_empty() {
            let bytes = bundle.len() / 4 * 3 - bundle.bytes().rev().take_while(|b| *b == b'=').count();
            causes.invalid(SPEC.field("caBundle"), format!("{bytes} bytes"), "local APIServices may not have a caBundle");
        }
        if insecure {
            causes.invalid(SPEC.field("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    };
    let path = SPEC.field("service");
    require(service, "namespace", path, causes);
    require(service, "name", path, causes);
    webhook::port(service, path, causes);
    if insecure && !bundle.is_empty() {
        causes.invalid(SPEC.field("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        ApiServices.default(&mut object);
        object
    }

    fn texts(object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        ApiServices.validate(object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn each_rule_has_its_words() {
        let spec = |more: Value| {
            let mut spec = json!({"group": "a.example", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let cases: Vec<(Value, &[&str])> = vec![
            (spec(json!({})), &[]),
            (spec(json!({"service": {"name": "s", "namespace": "n"}, "insecureSkipTLSVerify": true})), &[]),
            (
                spec(json!({"version": "V1", "groupPriorityMinimum": 0, "versionPriority": 1001})),
                &[
                    "metadata.name: Invalid value: \"v1.a.example\": must be `spec.version+\".\"+spec.group`: \"V1.a.example\"",
                    "spec.version: Invalid value: \"V1\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
                    "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
                    "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
                ],
            ),
            (
                spec(json!({"caBundle": "eA==", "insecureSkipTLSVerify": true})),
                &[
                    "spec.caBundle: Invalid value: \"1 bytes\": local APIServices may not have a caBundle",
                    "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
                ],
            ),
            (
                spec(json!({"service": {"port": 70000}, "caBundle": "eA==", "insecureSkipTLSVerify": true})),
                &[
                    "spec.service.namespace: Required value",
                    "spec.service.name: Required value",
                    "spec.service.port: Invalid value: 70000: port is not valid: must be between 1 and 65535, inclusive",
                    "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
                ],
            ),
        ];
        for (spec, wanted) in cases {
            assert_eq!(texts(&of("v1.a.example", spec.clone())), wanted, "{spec}");
        }
    }

    #[test]
    fn cells_are_upstreams() {
        let cells = |object: &Value| Value::from(ApiServices.cells(object, Timestamp::UNIX_EPOCH));
        let mut object = of("v1.", json!({"version": "v1"}));
        assert_eq!(cells(&object), json!(["v1.", "Local", "Unknown", "<unknown>"]));
        object["status"] = json!({"conditions": [{"type": "Available", "status": "True", "reason": "Local"}]});
        assert_eq!(cells(&object)[2], "True");
        object["spec"]["service"] = json!({"name": "s", "namespace": "n"});
        object["status"] = json!({"conditions": [{"type": "Available", "status": "False", "reason": "ServiceNotFound"}]});
        assert_eq!(cells(&object), json!(["v1.", "n/s", "False (ServiceNotFound)", "<unknown>"]));
    }
}
