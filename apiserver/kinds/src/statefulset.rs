//! StatefulSet: pods with names and volumes of their own. Source: `pkg/registry/apps/statefulset`, `pkg/apis/apps`.

use std::{borrow::Cow, collections::HashSet};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, Strategy, names};
use serde_json::{Value, json};

use crate::{
    common::{
        self, Path, Read,
        amount::{amount, at_most_all, int_or_percent},
        edit::{child, default_text, default_to, each, make_child, remove, set},
        name_rules, not_negative,
        read::{count, name, same},
        selector,
        table::{AGE_COLUMN, CONTAINERS_COLUMN, IMAGES_COLUMN, NAME_COLUMN, age, column, containers_cells},
        well_formed,
    },
    persistentvolumeclaim as claim, podtemplate,
    replicationcontroller::scale,
};

const COLUMNS: &[Column] =
    &[NAME_COLUMN, column("Ready", "string", "Number of the pod with ready state"), AGE_COLUMN, CONTAINERS_COLUMN, IMAGES_COLUMN];
/// What may change of a spec.
const MUTABLE: &[&str] = &[
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];
const IMMUTABLE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
const HISTORY: &str = "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended";

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["sts"]),
        categories: names(&["all"]),
        subresources: vec![scale("/spec/selector"), common::status("apps", "v1", "StatefulSet")],
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind("apps", "v1", "StatefulSet", "statefulsets", "io.k8s.api.apps.v1", StatefulSets)
    }
}

struct StatefulSets;

/// `StatefulSetValidationOptions`: what was wrong before may stay so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tolerance {
    None,
    /// Of what cannot be changed.
    Fixed,
    /// Of the template as well.
    Template,
}

impl Strategy for StatefulSets {
    fn default(&self, object: &mut Value) {
        let Some(spec) = make_child(object, "spec") else { return };
        default_text(spec, "podManagementPolicy", "OrderedReady");
        if let Some(strategy) = make_child(spec, "updateStrategy") {
            if strategy.text("type").is_empty() {
                set(strategy, "type", "RollingUpdate");
                default_to(strategy, "rollingUpdate", json!({}));
            }
            if strategy.text("type") == "RollingUpdate"
                && let Some(rolling) = child(strategy, "rollingUpdate")
            {
                default_to(rolling, "partition", 0);
            }
        }
        if let Some(policy) = make_child(spec, "persistentVolumeClaimRetentionPolicy") {
            default_text(policy, "whenDeleted", "Retain");
            default_text(policy, "whenScaled", "Retain");
        }
        default_to(spec, "replicas", 1);
        default_to(spec, "revisionHistoryLimit", 10);
        each(spec, "volumeClaimTemplates").for_each(default_claim);
        podtemplate::default_within(spec);
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        drop_disabled(object, None);
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        drop_disabled(new, Some(old));
    }

    fn name_error(&self, name: &str) -> Option<String> {
        name_rules::dns_label(name).into_iter().next()
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        validate_spec(object.at("spec"), Tolerance::None, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let mut before = FieldErrors::default();
        validate_spec(old.at("spec"), Tolerance::Fixed, &mut before);
        let tolerance = if before.is_empty() { Tolerance::Fixed } else { Tolerance::Template };
        validate_spec(new.at("spec"), tolerance, causes);
        let bare = |object: &Value| {
            let mut spec = object.at("spec").cloned().unwrap_or(Value::Null);
            MUTABLE.iter().for_each(|field| remove(&mut spec, field));
            spec
        };
        if !same(Some(&bare(new)), Some(&bare(old))) {
            causes.forbidden("spec", IMMUTABLE);
        }
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        podtemplate::validate_parts(new.at("status"), &parts, &["observedGeneration", "collisionCount"], causes);
        podtemplate::available_within_ready(new.at("status"), "cannot be greater than status.readyReplicas", causes);
        podtemplate::collisions(new, old, causes);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = podtemplate::template_warnings(new, old);
        let spec = new.at("spec");
        let list = Path::new("spec.volumeClaimTemplates");
        for (i, template) in spec.list("volumeClaimTemplates").iter().enumerate() {
            let at = list.index(i);
            // Upstream's path of an update has a field that there is not.
            let path = if old.is_some() { at.field("Spec") } else { at };
            out.extend(claim::spec_warnings(template.at("spec"), path));
        }
        if spec.int("revisionHistoryLimit").is_some_and(|limit| limit < 0) {
            out.push(HISTORY.to_owned());
        }
        out
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = containers_cells(object.pointer("/spec/template/spec"));
        let ready = format!("{}/{}", count(object, "/status/readyReplicas"), count(object, "/spec/replicas"));
        vec![name(object).into(), ready.into(), age(object, now), names, images]
    }
}

/// A claim within the set says what it is, and has a status that nobody looks at.
fn default_claim(template: &mut Value) {
    set(template, "apiVersion", "v1");
    set(template, "kind", "PersistentVolumeClaim");
    make_child(template, "metadata");
    make_child(template, "spec").into_iter().for_each(claim::default_spec);
    if let Some(status) = make_child(template, "status") {
        default_text(status, "phase", "Pending");
        claim::default_status(status);
    }
}

/// `dropStatefulSetDisabledFields`: `maxUnavailable` is alpha, and off.
fn drop_disabled(new: &mut Value, old: Option<&Value>) {
    let in_use = old.at("spec").at("updateStrategy").at("rollingUpdate").at("maxUnavailable").is_some();
    if let Some(rolling) = new.pointer_mut("/spec/updateStrategy/rollingUpdate").filter(|_| !in_use) {
        remove(rolling, "maxUnavailable");
    }
}

/// `ValidateStatefulSetSpec`
fn validate_spec(spec: Option<&Value>, tolerance: Tolerance, causes: &mut FieldErrors) {
    let path = Path::new("spec");
    match spec.text("podManagementPolicy") {
        "" => causes.required(path.field("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => causes.invalid(path.field("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'"),
    }
    strategy(spec.at("updateStrategy"), path.field("updateStrategy"), causes);
    let (policy, at) = (spec.at("persistentVolumeClaimRetentionPolicy"), path.field("persistentVolumeClaimRetentionPolicy"));
    for when in ["whenDeleted", "whenScaled"].into_iter().filter(|_| policy.is_some()) {
        let found = policy.text(when);
        if !matches!(found, "Retain" | "Delete") {
            common::not_supported(found, &["Retain", "Delete"], at.field(when), causes);
        }
    }
    if tolerance == Tolerance::None {
        let list = path.field("volumeClaimTemplates");
        for (i, template) in spec.list("volumeClaimTemplates").iter().enumerate() {
            claim::validate::spec(template.at("spec"), claim::validate::Groups::Checked, list.index(i).field("spec"), causes);
        }
    }
    not_negative(spec.int("replicas"), path.field("replicas"), causes);
    not_negative(spec.int("minReadySeconds"), path.field("minReadySeconds"), causes);
    not_negative(spec.at("ordinals").int("start"), path.field("ordinals.start"), causes);
    let service = spec.text("serviceName");
    if tolerance == Tolerance::None && !service.is_empty() {
        well_formed(service, name_rules::dns_label(service), path.field("serviceName"), causes);
    }
    selected(spec, tolerance, path, causes);
    podtemplate::runs_always(spec.at("template"), "StatefulSet", path.field("template"), causes);
}

/// Selector and template.
fn selected(spec: Option<&Value>, tolerance: Tolerance, path: Path<'_>, causes: &mut FieldErrors) {
    let (wanted, at) = (spec.at("selector"), path.field("selector"));
    let is_readable = selector::is_readable(wanted, at, causes);
    match wanted {
        None => causes.required(at, ""),
        Some(value) => {
            if selector::is_empty(wanted) {
                causes.invalid(at, value.clone(), "empty selector is invalid for statefulset");
            }
        }
    }
    let (template, at) = (spec.at("template"), path.field("template"));
    let matches = selector::matches(wanted, template.at("metadata").at("labels")).ok().filter(|_| is_readable);
    match matches {
        None => return causes.invalid(path.field("selector"), wanted.cloned().unwrap_or(Value::Null), ""),
        Some(false) => podtemplate::not_selected(template, at, causes),
        Some(true) => {}
    }
    if tolerance != Tolerance::Template {
        podtemplate::validate(&as_made(spec), at, causes);
    }
    // Upstream looks at these twice.
    let metadata = template.at("metadata");
    selector::labels(metadata.at("labels"), at.field("labels"), causes);
    selector::annotations(metadata.at("annotations"), at.field("annotations"), causes);
}

/// The template as the controller makes pods of it: with a volume of each claim, and host name and domain of its own.
fn as_made(spec: Option<&Value>) -> Value {
    let mut template = spec.at("template").cloned().unwrap_or(Value::Null);
    let claims = spec.list("volumeClaimTemplates");
    let Some(pod) = child(&mut template, "spec") else { return template };
    ["subdomain", "hostname"].into_iter().for_each(|field| remove(pod, field));
    if claims.is_empty() {
        return template;
    }
    let named: HashSet<&str> = claims.iter().map(name).collect();
    let own = pod.list("volumes").iter().filter(|volume| !named.contains(volume.text("name"))).cloned();
    let volume = |name: &&str| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
    let all: Vec<Value> = named.iter().map(volume).chain(own).collect();
    set(pod, "volumes", all);
    template
}

fn strategy(strategy: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let (rolling, at) = (strategy.at("rollingUpdate"), path.field("rollingUpdate"));
    let shown = || match rolling {
        None => Value::Null,
        Some(_) => json!({"Partition": rolling.int("partition").unwrap_or(0), "MaxUnavailable": rolling.at("maxUnavailable")}),
    };
    match strategy.text("type") {
        "" => causes.required(path, ""),
        "OnDelete" if rolling.is_some() => causes.invalid(at, shown(), "only allowed for updateStrategy 'RollingUpdate'"),
        "OnDelete" => {}
        "RollingUpdate" => rolling_update(rolling, at, causes),
        other => {
            let whole = json!({"Type": other, "RollingUpdate": shown()});
            causes.invalid(path, whole, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

/// `validateRollingUpdateStatefulSet`
fn rolling_update(rolling: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    not_negative(rolling.int("partition"), path.field("partition"), causes);
    let (unavailable, at) = (rolling.at("maxUnavailable"), path.field("maxUnavailable"));
    let Some(shown) = unavailable else { return };
    int_or_percent(unavailable, at, causes);
    if amount(unavailable) == 0 {
        causes.invalid(at, shown.clone(), "cannot be 0");
    }
    at_most_all(unavailable, at, causes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(parts: Value) -> Value {
        let pod = json!({"containers": [{"name": "a", "image": "x:1", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]});
        let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}}});
        let mut object = json!({"metadata": {"name": "db"}, "spec": {"serviceName": "db", "selector": {"matchLabels": {"app": "x"}},
            "volumeClaimTemplates": [claim], "template": {"metadata": {"labels": {"app": "x"}}, "spec": pod}}});
        object["spec"].as_object_mut().unwrap().extend(parts.as_object().cloned().unwrap());
        StatefulSets.default(&mut object);
        object
    }

    fn texts(causes: &FieldErrors) -> Vec<String> {
        causes.0.iter().map(|c| c.text()).collect()
    }

    fn causes(object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        StatefulSets.validate_create(object, &mut causes);
        texts(&causes)
    }

    #[test]
    fn defaults_are_upstreams() {
        let found = object(json!({}));
        let spec = &found["spec"];
        let wanted = json!({"podManagementPolicy": "OrderedReady", "replicas": 1, "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}});
        for (field, value) in wanted.as_object().unwrap() {
            assert_eq!(&spec[field], value, "{field}");
        }
        let claim = &spec["volumeClaimTemplates"][0];
        assert_eq!(
            (&claim["kind"], &claim["spec"]["volumeMode"], &claim["status"]),
            (&json!("PersistentVolumeClaim"), &json!("Filesystem"), &json!({"phase": "Pending"}))
        );
        // The container mounts what the claim becomes.
        assert_eq!(causes(&found), Vec::<String>::new());
        assert_eq!(object(json!({"updateStrategy": {"type": "OnDelete"}}))["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let cases = [
            (json!({"podManagementPolicy": "X"}), r#"spec.podManagementPolicy: Invalid value: "X": must be 'OrderedReady' or 'Parallel'"#),
            (
                json!({"updateStrategy": {"type": "Recreate"}}),
                r#"spec.updateStrategy: Invalid value: {"Type":"Recreate","RollingUpdate":null}: must be 'RollingUpdate' or 'OnDelete'"#,
            ),
            (
                json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}),
                r#"spec.updateStrategy.rollingUpdate: Invalid value: {"Partition":1,"MaxUnavailable":null}: only allowed for updateStrategy 'RollingUpdate'"#,
            ),
            (
                json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Maybe"}}),
                r#"spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: "Maybe": supported values: "Retain", "Delete""#,
            ),
            (json!({"ordinals": {"start": -1}}), "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"),
            (json!({"selector": {}}), "spec.selector: Invalid value: {}: empty selector is invalid for statefulset"),
            (
                json!({"selector": {"matchLabels": {"app": "y"}}}),
                r#"spec.template.metadata.labels: Invalid value: {"app":"x"}: `selector` does not match template `labels`"#,
            ),
        ];
        for (parts, wanted) in cases {
            assert_eq!(causes(&object(parts)), [wanted]);
        }
        let mut claimless = object(json!({}));
        claimless["spec"]["volumeClaimTemplates"][0]["spec"]["accessModes"] = json!([]);
        assert_eq!(
            causes(&claimless),
            ["spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required"]
        );
    }

    #[test]
    fn only_some_of_a_spec_may_change() {
        let old = object(json!({}));
        let change = |field: &str, value: Value| {
            let mut new = old.clone();
            new["spec"][field] = value;
            let mut causes = FieldErrors::default();
            StatefulSets.validate_update(&new, &old, &mut causes);
            texts(&causes)
        };
        assert_eq!(change("replicas", json!(3)), Vec::<String>::new());
        assert_eq!(change("minReadySeconds", json!(3)), Vec::<String>::new());
        assert_eq!(change("serviceName", json!("Other_")), [format!("spec: Forbidden: {IMMUTABLE}")]);
        assert_eq!(change("podManagementPolicy", json!("Parallel")), [format!("spec: Forbidden: {IMMUTABLE}")]);
    }

    #[test]
    fn a_set_that_was_wrong_can_still_be_scaled() {
        let mut old = object(json!({"serviceName": "Not_a_label"}));
        old["spec"]["template"]["spec"]["containers"][0]["image"] = json!("");
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(0);
        let mut causes = FieldErrors::default();
        StatefulSets.validate_update(&new, &old, &mut causes);
        assert_eq!(texts(&causes), Vec::<String>::new());
    }

    #[test]
    fn alpha_fields_are_dropped_unless_they_were_in_use() {
        let with = || object(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}}));
        let (mut new, old) = (with(), with());
        drop_disabled(&mut new, Some(&old));
        assert_eq!(new["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 2);
        drop_disabled(&mut new, None);
        assert_eq!(new["spec"]["updateStrategy"]["rollingUpdate"], json!({"partition": 0}));
    }

    #[test]
    fn warnings_and_cells_are_upstreams() {
        let mut found = object(json!({"revisionHistoryLimit": -1}));
        assert_eq!(StatefulSets.warnings(&found, None), [HISTORY]);
        found["status"] = json!({"readyReplicas": 2});
        let cells = StatefulSets.cells(&found, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells), json!(["db", "2/1", "<unknown>", "a", "x:1"]));
    }
}
