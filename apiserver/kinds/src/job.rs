//! Job: pods that run to their end, so many times. Source: `pkg/registry/batch/job`, `pkg/apis/batch/v1/defaults.go`.

mod indexes;
mod policy;
mod status;
mod update;
pub mod validate;

use std::borrow::Cow;

use api::{field_errors::FieldErrors, human, time::Timestamp};
use apiserver::kind::{Column, Ctx, Field, Kind, MetaCheck, Strategy, names};
use serde_json::Value;

use crate::{
    common::{
        self, Path, Read,
        edit::{default_text, default_to, each, make_child, set},
        read::{name, text_at},
        selector,
        table::{AGE_COLUMN, CONTAINERS_COLUMN, IMAGES_COLUMN, NAME_COLUMN, age, column, containers_cells, field, wide},
    },
    podtemplate,
};

/// Labels of a job's pods with its UID: the old one, and the one that its selector names.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
/// The same with its name.
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
/// Above this many completions an indexed job's failures may be too many to be told (`completionsSoftLimit`).
const COMPLETIONS_SOFT: i64 = 100_000;
const PARALLELISM_SOFT: i64 = 10_000;

pub const SELECTOR_COLUMN: Column = wide(
    "Selector",
    "string",
    "A label query over pods that should match the pod count. Normally, the system sets this field for you. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
);
const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    column("Status", "string", "Status of the job."),
    column(
        "Completions",
        "string",
        "The number of pods which reached phase Succeeded. The value increases monotonically for a given spec. However, it may decrease in reaction to scale down of elastic indexed jobs.",
    ),
    column("Duration", "string", "Time required to complete the job."),
    AGE_COLUMN,
    CONTAINERS_COLUMN,
    IMAGES_COLUMN,
    SELECTOR_COLUMN,
];
const FIELDS: &[Field] = &[field("status.successful", "/status/succeeded", "0")];

pub fn kind() -> Kind {
    Kind {
        categories: names(&["all"]),
        subresources: vec![common::status("batch", "v1", "Job")],
        columns: Cow::Borrowed(COLUMNS),
        fields: Cow::Borrowed(FIELDS),
        generation: true,
        ..common::kind("batch", "v1", "Job", "jobs", "io.k8s.api.batch.v1", Jobs)
    }
}

struct Jobs;

impl Strategy for Jobs {
    fn default(&self, object: &mut Value) {
        let Some(spec) = make_child(object, "spec") else { return };
        default_spec(spec);
        if spec.at("completions").is_none() && spec.at("parallelism").is_none() {
            set(spec, "completions", 1);
        }
        default_to(spec, "parallelism", 1);
        let per_index = spec.at("backoffLimitPerIndex").is_some();
        default_to(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
        default_to(spec, "completionMode", "NonIndexed");
        default_to(spec, "suspend", false);
        let policy = if spec.at("podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
        default_to(spec, "podReplacementPolicy", policy);
        default_to(spec, "manualSelector", false);
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        if !object.at("spec").is_true("manualSelector") {
            generate_selector(object);
        }
        labels_of_template(object);
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, _old: &Value) {
        labels_of_template(new);
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        validate::job(object, validate::Labels::Prefixed, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let labels = old.at("spec").at("template").at("metadata").at("labels");
        let had = labels.at(NAME_LABELS[1]).is_some() && labels.at(UID_LABELS[1]).is_some();
        validate::job(new, if had { validate::Labels::Prefixed } else { validate::Labels::Legacy }, causes);
        update::spec(new, old, causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        status::update(new, old, causes);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let changed = old.is_none_or(|old| !common::read::same(new.at("spec"), old.at("spec")));
        let about = new.at("spec").filter(|_| changed).map(|spec| spec_warnings(spec, Path::new("spec")));
        podtemplate::name_warning(new, old).into_iter().chain(about.unwrap_or_default()).collect()
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn deletion_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
        )
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let [names, images] = containers_cells(object.pointer("/spec/template/spec"));
        vec![
            name(object).into(),
            status_word(object).into(),
            completions(spec, status.int("succeeded").unwrap_or(0)).into(),
            duration(status, now).into(),
            age(object, now),
            names,
            images,
            selector::print(spec.at("selector")).into(),
        ]
    }
}

/// The defaults of a job's spec wherever it stands, in a job or in a CronJob's template.
pub fn default_spec(spec: &mut Value) {
    podtemplate::default_within(spec);
    let Some(policy) = common::edit::child(spec, "podFailurePolicy") else { return };
    for rule in each(policy, "rules") {
        each(rule, "onPodConditions").for_each(|pattern| default_text(pattern, "status", "True"));
    }
}

/// `WarningsForJobSpec`
pub fn spec_warnings(spec: &Value, path: Path<'_>) -> Vec<String> {
    let many = |field: &str, most: i64| spec.int(field).unwrap_or(0) > most;
    let risky = spec.text("completionMode") == "Indexed" && many("completions", COMPLETIONS_SOFT) && many("parallelism", PARALLELISM_SOFT);
    let what = "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail";
    let about = spec.at("template").map(|template| crate::pod::warnings::of(template, path.field("template")));
    risky.then(|| format!("{path}: {what}")).into_iter().chain(about.unwrap_or_default()).collect()
}

/// Whether a condition of this type says `True`.
fn has(object: &Value, typ: &str) -> bool {
    object.at("status").list("conditions").iter().any(|c| c.text("type") == typ && c.text("status") == "True")
}

/// `generateSelector`: the job's own UID selects its pods.
fn generate_selector(object: &mut Value) {
    let (name, uid) = (name(object).to_owned(), text_at(object, "/metadata/uid").to_owned());
    let Some(spec) = make_child(object, "spec") else { return };
    let metadata = make_child(spec, "template").and_then(|template| make_child(template, "metadata"));
    if let Some(labels) = metadata.and_then(|metadata| make_child(metadata, "labels")) {
        NAME_LABELS.iter().for_each(|label| default_to(labels, label, name.as_str()));
        UID_LABELS.iter().for_each(|label| default_to(labels, label, uid.as_str()));
    }
    if let Some(wanted) = make_child(spec, "selector").and_then(|selector| make_child(selector, "matchLabels")) {
        default_to(wanted, UID_LABELS[1], uid);
    }
}

/// A job without labels has those of its template, with those that were made for it: in Go both are one map.
fn labels_of_template(object: &mut Value) {
    let has = |labels: Option<&Value>| labels.and_then(Value::as_object).is_some_and(|l| !l.is_empty());
    let labels = object.at("spec").at("template").at("metadata").at("labels").filter(|l| has(Some(l))).cloned();
    if let Some(labels) = labels.filter(|_| !has(object.at("metadata").at("labels")))
        && let Some(metadata) = make_child(object, "metadata")
    {
        set(metadata, "labels", labels);
    }
}

fn status_word(object: &Value) -> &'static str {
    let first = |words: &[&'static str]| words.iter().copied().find(|word| has(object, word));
    match first(&["Complete", "Failed"]) {
        Some(word) => word,
        None if object.at("metadata").at("deletionTimestamp").is_some() => "Terminating",
        None => first(&["Suspended", "FailureTarget", "SuccessCriteriaMet"]).unwrap_or("Running"),
    }
}

fn completions(spec: Option<&Value>, succeeded: i64) -> String {
    match (spec.int("completions"), spec.int("parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        _ => format!("{succeeded}/1"),
    }
}

fn duration(status: Option<&Value>, now: Timestamp) -> String {
    let at = |field: &str| api::time::parse(status.text(field));
    let Some(start) = at("startTime") else { return String::new() };
    human::duration(at("completionTime").unwrap_or(now).as_second() - start.as_second())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn object(spec: Value) -> Value {
        let pod = json!({"containers": [{"name": "c", "image": "x:1"}], "restartPolicy": "Never"});
        let mut object = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"template": {"spec": pod}}});
        let parts = spec.as_object().cloned().unwrap_or_default();
        object["spec"].as_object_mut().unwrap().extend(parts);
        Jobs.default(&mut object);
        generate_selector(&mut object);
        labels_of_template(&mut object);
        object
    }

    pub(super) fn causes(object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        Jobs.validate_create(object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn defaults_are_upstreams() {
        let found = object(json!({}));
        let spec = &found["spec"];
        let wanted = json!({"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
            "podReplacementPolicy": "TerminatingOrFailed", "manualSelector": false});
        for (field, value) in wanted.as_object().unwrap() {
            assert_eq!(&spec[field], value, "{field}");
        }
        assert_eq!(causes(&found), Vec::<String>::new());
        let per_index = object(json!({"backoffLimitPerIndex": 1, "completions": 2, "completionMode": "Indexed", "podFailurePolicy": {
            "rules": [{"action": "Ignore", "onPodConditions": [{"type": "X"}]}]}}));
        assert_eq!(per_index["spec"]["backoffLimit"], json!(i32::MAX));
        assert_eq!(per_index["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"], "True");
        assert_eq!(per_index["spec"]["podReplacementPolicy"], "Failed");
        assert_eq!(causes(&per_index), Vec::<String>::new());
    }

    #[test]
    fn a_job_selects_its_own_pods() {
        let found = object(json!({}));
        let labels =
            json!({"job-name": "a", "batch.kubernetes.io/job-name": "a", "controller-uid": "u", "batch.kubernetes.io/controller-uid": "u"});
        assert_eq!(found["spec"]["template"]["metadata"]["labels"], labels);
        assert_eq!(found["metadata"]["labels"], labels);
        assert_eq!(found["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
    }

    #[test]
    fn cells_are_upstreams() {
        let mut found = object(json!({}));
        found["status"] = json!({"succeeded": 1, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:09Z",
            "conditions": [{"type": "Complete", "status": "True"}]});
        let cells = Jobs.cells(&found, Timestamp::UNIX_EPOCH);
        let selector = "batch.kubernetes.io/controller-uid=u";
        assert_eq!(Value::from(cells), json!(["a", "Complete", "1/1", "9s", "<unknown>", "c", "x:1", selector]));
        let cases =
            [(json!({"completions": null, "parallelism": 3}), "0/1 of 3"), (json!({"completions": null}), "0/1"), (json!({}), "0/1")];
        for (spec, wanted) in cases {
            assert_eq!(completions(Some(&object(spec)["spec"]), 0), wanted);
        }
    }

    #[test]
    fn many_indexes_are_warned_about() {
        let spec = json!({"completionMode": "Indexed", "completions": 100_001, "parallelism": 10_001});
        assert!(spec_warnings(&spec, Path::new("spec"))[0].starts_with("spec: In Indexed Jobs"));
    }
}
