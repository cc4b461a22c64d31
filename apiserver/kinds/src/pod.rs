//! Pod: one or more containers that run together on a node. Source: `pkg/registry/core/pod`.

use std::{borrow::Cow, sync::Arc};

use api::{Gvk, field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Connect, Ctx, Field, Grace, Handler, Kind, MetaCheck, Strategy, Subresource, names};
use serde_json::Value;

use crate::{
    binding::BindPod,
    common::{
        self, Path, Read, edit, name_rules,
        read::text_at,
        table::{field, indexed},
    },
    eviction::EvictPod,
};

mod app_armor;
pub mod columns;
pub mod connect;
pub mod defaults;
pub mod prepare;
pub mod validate;
pub mod warnings;

const FIELDS: &[Field] = &[
    indexed("spec.nodeName", "/spec/nodeName"),
    field("spec.restartPolicy", "/spec/restartPolicy", ""),
    field("spec.schedulerName", "/spec/schedulerName", ""),
    field("spec.serviceAccountName", "/spec/serviceAccountName", ""),
    field("spec.hostNetwork", "/spec/hostNetwork", "false"),
    field("status.phase", "/status/phase", ""),
    field("status.podIP", "/status/podIP", ""),
    // Taken, and empty whatever the pod has: `ToSelectableFields` leaves it out.
    field("status.podIPs", "/status/podIPs", ""),
    field("status.nominatedNodeName", "/status/nominatedNodeName", ""),
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["po"]),
        categories: names(&["all"]),
        subresources: subresources(),
        columns: Cow::Borrowed(columns::COLUMNS),
        fields: Cow::Borrowed(FIELDS),
        generation: true,
        ..common::kind("", "v1", "Pod", "pods", "io.k8s.api.core.v1", PodStrategy)
    }
}

struct PodStrategy;

impl Strategy for PodStrategy {
    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static [&'static str]]> {
        (subresource == "status").then_some(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
    }

    fn default(&self, object: &mut Value) {
        defaults::pod(object);
        // `Convert_v1_Pod_To_core_Pod`; templates keep what they say.
        if object.at("spec").int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
            object["spec"]["terminationGracePeriodSeconds"] = 1.into();
        }
    }

    fn prepare_create(&self, ctx: &Ctx<'_>, object: &mut Value) {
        prepare::create(object, ctx.now);
        ctx.warn(app_armor::of_annotations(object));
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, _old: &Value) {
        edit::child(new, "spec").into_iter().for_each(prepare::stop_signals);
    }

    fn prepare_subresource(&self, ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        match ctx.subresource {
            "status" => prepare::status(new, old),
            "ephemeralcontainers" => prepare::ephemeral_containers(new, old),
            "resize" => prepare::resize(new, old),
            _ => {}
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        validate::pod(object, causes);
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        validate::create(object, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        validate::update::pod(new, old, causes);
    }

    fn validate_subresource(&self, subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        match subresource {
            "status" => validate::status::update(new, old, causes),
            "ephemeralcontainers" => validate::ephemeral::update(new, old, causes),
            "resize" => validate::resize::update(new, old, causes),
            _ => {}
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let errors = name_rules::dns_label(text_at(new, "/metadata/name"));
        let what = "this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended";
        let name = (!errors.is_empty()).then(|| format!("metadata.name: {what}: [{}]", errors.join(" ")));
        name.into_iter().chain(warnings::of(new, Path::ROOT)).collect()
    }

    /// `CheckGracefulDelete`: what no node runs goes at once.
    fn grace(&self, object: &Value, requested: Option<i64>) -> Grace {
        let spec = object.at("spec");
        let ended = matches!(text_at(object, "/status/phase"), "Failed" | "Succeeded");
        if spec.text("nodeName").is_empty() || ended {
            return Grace::Seconds(0);
        }
        let seconds = requested.or(spec.int("terminationGracePeriodSeconds")).unwrap_or(0);
        Grace::Seconds(if seconds < 0 { 1 } else { seconds })
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    /// `podSuccessConditions` and `podFailedConditions`, of upstream's printers.
    fn row_conditions(&self, object: &Value) -> Option<Value> {
        let (reason, message) = match object.at("status").text("phase") {
            "Succeeded" => ("Succeeded", "The pod has completed successfully."),
            "Failed" => ("Failed", "The pod failed."),
            _ => return None,
        };
        Some(serde_json::json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        columns::cells(object, now)
    }
}

fn subresources() -> Vec<Subresource> {
    let streams: &[&str] = &["create", "get"];
    vec![
        stream("attach", "PodAttachOptions", streams, connect::Stream::Attach),
        action("binding", Gvk::new("", "v1", "Binding"), "io.k8s.api.core.v1", Handler::Action(Arc::new(BindPod))),
        part("ephemeralcontainers"),
        action("eviction", Gvk::new("policy", "v1", "Eviction"), "io.k8s.api.policy.v1", Handler::Action(Arc::new(EvictPod::default()))),
        stream("exec", "PodExecOptions", streams, connect::Stream::Exec),
        stream("log", "Pod", &["get"], connect::Stream::Log),
        stream("portforward", "PodPortForwardOptions", streams, connect::Stream::PortForward),
        stream("proxy", "PodProxyOptions", &["create", "delete", "get", "patch", "update"], connect::Proxy),
        part("resize"),
        common::status("", "v1", "Pod"),
    ]
}

fn stream(name: &'static str, body: &str, verbs: &'static [&'static str], to: impl Connect + 'static) -> Subresource {
    Subresource {
        name: name.into(),
        body: Gvk::new("", "v1", body),
        schema: apiserver::schema::Schema::Open,
        verbs: names(verbs),
        handler: Handler::Connect(Arc::new(to)),
    }
}

/// The pod itself, of which a part is taken.
fn part(name: &'static str) -> Subresource {
    Subresource {
        name: name.into(),
        body: Gvk::new("", "v1", "Pod"),
        schema: apiserver::schema::Schema::Open,
        verbs: names(common::OBJECT_VERBS),
        handler: Handler::Object,
    }
}

fn action(name: &'static str, body: Gvk, package: &str, handler: Handler) -> Subresource {
    let schema = crate::schema::built_in(format!("{package}.{}", body.kind));
    Subresource { name: name.into(), body, schema, verbs: names(&["create"]), handler }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_no_node_runs_go_at_once() {
        let pod =
            |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
        let cases = [
            (pod("", "Pending"), None, Grace::Seconds(0)),
            (pod("n", "Running"), None, Grace::Seconds(30)),
            (pod("n", "Running"), Some(5), Grace::Seconds(5)),
            (pod("n", "Running"), Some(0), Grace::Seconds(0)),
            (pod("n", "Running"), Some(-1), Grace::Seconds(1)),
            (pod("n", "Failed"), Some(5), Grace::Seconds(0)),
        ];
        for (object, requested, wanted) in cases {
            assert_eq!(PodStrategy.grace(&object, requested), wanted, "{object} {requested:?}");
        }
    }

    #[test]
    fn a_name_with_dots_is_warned_about() {
        let warn = |name: &str| PodStrategy.warnings(&json!({"metadata": {"name": name}}), None);
        assert!(warn("web-1").is_empty());
        assert!(warn("web.1")[0].ends_with("a DNS label is recommended: [must not contain dots]"));
    }
}
