//! DaemonSet: one pod on each of many nodes. Source: `pkg/registry/apps/daemonset`, `pkg/apis/apps`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, Strategy, names};
use serde_json::{Value, json};

use crate::{
    common::{
        self, Path, Read,
        amount::{amount, at_most_all, int_or_percent},
        edit::{default_text, default_to, make_child, set},
        not_negative,
        read::{count, name, same},
        selector,
        table::{AGE_COLUMN, CONTAINERS_COLUMN, IMAGES_COLUMN, NAME_COLUMN, age, column, containers_cells, wide},
        unchanged,
    },
    podtemplate,
};

/// Where `apps/v1` shows the template generation of older versions (`Convert_apps_DaemonSet_To_v1_DaemonSet`).
const GENERATION: &str = "deprecated.daemonset.template.generation";
const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    column(
        "Desired",
        "integer",
        "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon pod). More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
    ),
    column(
        "Current",
        "integer",
        "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod. More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
    ),
    column(
        "Ready",
        "integer",
        "numberReady is the number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition.",
    ),
    column("Up-to-date", "integer", "The total number of nodes that are running updated daemon pod"),
    column(
        "Available",
        "integer",
        "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available (ready for at least spec.minReadySeconds)",
    ),
    column(
        "Node Selector",
        "string",
        "NodeSelector is a selector which must be true for the pod to fit on a node. Selector which must match a node's labels for the pod to be scheduled on that node. More info: https://kubernetes.io/docs/concepts/configuration/assign-pod-node/",
    ),
    AGE_COLUMN,
    CONTAINERS_COLUMN,
    IMAGES_COLUMN,
    wide(
        "Selector",
        "string",
        "A label query over pods that are managed by the daemon set. Must match in order to be controlled. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];
const COUNTS: &[&str] = &[
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["ds"]),
        categories: names(&["all"]),
        subresources: vec![common::status("apps", "v1", "DaemonSet")],
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind("apps", "v1", "DaemonSet", "daemonsets", "io.k8s.api.apps.v1", DaemonSets)
    }
}

struct DaemonSets;

impl Strategy for DaemonSets {
    fn default(&self, object: &mut Value) {
        let Some(spec) = make_child(object, "spec") else { return };
        if let Some(strategy) = make_child(spec, "updateStrategy") {
            default_text(strategy, "type", "RollingUpdate");
            if strategy.text("type") == "RollingUpdate"
                && let Some(rolling) = make_child(strategy, "rollingUpdate")
            {
                default_to(rolling, "maxUnavailable", 1);
                default_to(rolling, "maxSurge", 0);
            }
        }
        default_to(spec, "revisionHistoryLimit", 10);
        podtemplate::default_within(spec);
        // Upstream's internal type has a field for it, which is written out as the annotation whatever it is.
        if object.pointer("/metadata/annotations").at(GENERATION).is_none() {
            set_generation(object, 0);
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        let generation = generation(object).max(1);
        set_generation(object, generation);
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        let template = |object: &Value| object.at("spec").at("template").cloned();
        let rises = !same(template(new).as_ref(), template(old).as_ref());
        set_generation(new, generation(old).saturating_add(i64::from(rises)));
    }

    fn prepare_subresource(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        set_generation(new, generation(old));
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        let (spec, path) = (object.at("spec"), Path::new("spec"));
        let (wanted, at) = (spec.at("selector"), path.field("selector"));
        let is_readable = selector::is_readable(wanted, at, causes);
        let (template, template_path) = (spec.at("template"), path.field("template"));
        if is_readable && selector::matches(wanted, template.at("metadata").at("labels")) == Ok(false) {
            podtemplate::not_selected(template, template_path, causes);
        }
        if let Some(value) = wanted.filter(|_| selector::is_empty(wanted)) {
            causes.invalid(at, value.clone(), "empty selector is invalid for daemonset");
        }
        podtemplate::validate(template.unwrap_or(&Value::Null), template_path, causes);
        podtemplate::runs_always(template, "DaemonSet", template_path, causes);
        not_negative(spec.int("minReadySeconds"), path.field("minReadySeconds"), causes);
        not_negative(Some(generation(object)), path.field("templateGeneration"), causes);
        strategy(spec.at("updateStrategy"), path.field("updateStrategy"), causes);
        not_negative(spec.int("revisionHistoryLimit"), path.field("revisionHistoryLimit"), causes);
    }

    /// What has changed comes first.
    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        unchanged(new.pointer("/spec/selector"), old.pointer("/spec/selector"), Path::new("spec.selector"), causes);
        self.validate_create(new, causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let (status, path) = (new.at("status"), Path::new("status"));
        COUNTS.iter().for_each(|field| not_negative(status.int(field), path.field(field), causes));
        podtemplate::collisions(new, old, causes);
    }

    fn annotations_of_fields(&self) -> &'static [&'static str] {
        &[GENERATION]
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        podtemplate::template_warnings(new, old)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let pod = object.pointer("/spec/template/spec");
        let [names, images] = containers_cells(pod);
        let [desired, current, ready, updated, available] = [
            "/status/desiredNumberScheduled",
            "/status/currentNumberScheduled",
            "/status/numberReady",
            "/status/updatedNumberScheduled",
            "/status/numberAvailable",
        ]
        .map(|pointer| count(object, pointer).into());
        let nodes = selector::print_map(pod.at("nodeSelector")).into();
        let selector = selector::print(object.pointer("/spec/selector")).into();
        vec![name(object).into(), desired, current, ready, updated, available, nodes, age(object, now), names, images, selector]
    }
}

/// The template generation that an object shows, 0 where it shows none.
fn generation(object: &Value) -> i64 {
    object.at("metadata").at("annotations").text(GENERATION).parse().unwrap_or(0)
}

fn set_generation(object: &mut Value, generation: i64) {
    if let Some(annotations) = make_child(object, "metadata").and_then(|metadata| make_child(metadata, "annotations")) {
        set(annotations, GENERATION, generation.to_string());
    }
}

/// `ValidateDaemonSetUpdateStrategy`
fn strategy(strategy: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let (rolling, at) = (strategy.at("rollingUpdate"), path.field("rollingUpdate"));
    match (strategy.text("type"), rolling) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => causes.required(at, ""),
        ("RollingUpdate", Some(_)) => rolling_update(rolling, at, causes),
        (other, _) => {
            let shown = json!({"Type": other, "RollingUpdate": rolling});
            common::not_supported(shown, &["RollingUpdate", "OnDelete"], path, causes);
        }
    }
}

/// `ValidateRollingUpdateDaemonSet`
fn rolling_update(rolling: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
    int_or_percent(unavailable, path.field("maxUnavailable"), causes);
    int_or_percent(surge, path.field("maxSurge"), causes);
    at_most_all(unavailable, path.field("maxUnavailable"), causes);
    at_most_all(surge, path.field("maxSurge"), causes);
    match (amount(unavailable) != 0, amount(surge) != 0) {
        (true, true) => {
            let shown = surge.cloned().unwrap_or(Value::Null);
            causes.invalid(path.field("maxSurge"), shown, "may not be set when maxUnavailable is non-zero");
        }
        (false, false) => causes.required(path.field("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(strategy: Value) -> Value {
        let pod = json!({"containers": [{"name": "a", "image": "x:1"}], "nodeSelector": {"d": "1"}});
        let mut object = json!({"metadata": {"name": "agent"}, "spec": {
            "selector": {"matchLabels": {"app": "x"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": pod}}});
        DaemonSets.default(&mut object);
        object
    }

    fn causes(object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        DaemonSets.validate_create(object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn defaults_are_upstreams() {
        let found = object(json!({}));
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}});
        assert_eq!((&found["spec"]["updateStrategy"], &found["spec"]["revisionHistoryLimit"]), (&rolling, &json!(10)));
        assert_eq!(causes(&found), Vec::<String>::new());
        assert_eq!(object(json!({"type": "OnDelete"}))["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
        let mut empty = json!({"metadata": {"name": "a"}});
        DaemonSets.default(&mut empty);
        let wanted = [
            "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
            "spec.template.spec.containers: Required value",
        ];
        assert_eq!(causes(&empty), wanted);
    }

    #[test]
    fn what_has_changed_is_told_first() {
        let old = object(json!({}));
        let mut new = old.clone();
        new["spec"]["selector"]["matchLabels"] = json!({"app": "other"});
        let mut causes = FieldErrors::default();
        DaemonSets.validate_update(&new, &old, &mut causes);
        let fields: Vec<_> = causes.0.into_iter().map(|cause| cause.field).collect();
        assert_eq!(fields, ["spec.selector", "spec.template.metadata.labels"]);
    }

    #[test]
    fn a_selector_that_cannot_be_read_is_compared_with_nothing() {
        let mut bad = object(json!({}));
        bad["spec"]["selector"] = json!({"matchExpressions": [{"key": "app", "operator": "In"}]});
        let text = "must be specified when `operator` is 'In' or 'NotIn'";
        assert_eq!(causes(&bad), [format!("spec.selector.matchExpressions[0].values: Required value: {text}")]);
    }

    #[test]
    fn strategies_have_rules() {
        let rolling = |unavailable: Value, surge: Value| json!({"rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}});
        let at = "spec.updateStrategy.rollingUpdate";
        let cases = [
            (rolling(json!(1), json!(1)), format!("{at}.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero")),
            (rolling(json!(0), json!("0%")), format!("{at}.maxUnavailable: Required value: cannot be 0 when maxSurge is 0")),
            (rolling(json!("101%"), json!(0)), format!("{at}.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%")),
            (
                json!({"type": "X"}),
                r#"spec.updateStrategy: Unsupported value: {"Type":"X","RollingUpdate":null}: supported values: "RollingUpdate", "OnDelete""#
                    .into(),
            ),
        ];
        for (strategy, wanted) in cases {
            assert_eq!(causes(&object(strategy)), [wanted]);
        }
    }

    #[test]
    fn counts_in_a_status_do_not_fall_below_what_they_may() {
        let mut found = FieldErrors::default();
        let status = |count: i64| json!({"status": {"numberReady": count, "collisionCount": count}});
        DaemonSets.validate_subresource("status", &status(-1), &status(2), &mut found);
        let wanted = [
            "status.numberReady: Invalid value: -1: must be greater than or equal to 0",
            "status.collisionCount: Invalid value: -1: must be greater than or equal to 0",
            "status.collisionCount: Invalid value: -1: cannot be decremented",
        ];
        assert_eq!(found.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted);
        let mut first = FieldErrors::default();
        DaemonSets.validate_subresource("status", &status(-1), &json!({}), &mut first);
        assert_eq!(first.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted[..2], "where there was none, none is taken away");
        let mut gone = FieldErrors::default();
        DaemonSets.validate_subresource("status", &json!({}), &status(2), &mut gone);
        assert_eq!(gone.0.iter().map(|c| c.text()).collect::<Vec<_>>(), ["status.collisionCount: Invalid value: 0: cannot be decremented"]);
    }

    #[test]
    fn the_template_generation_is_what_the_annotation_says() {
        let mut object = json!({"metadata": {}});
        assert_eq!(generation(&object), 0);
        set_generation(&mut object, 7);
        assert_eq!((generation(&object), &object["metadata"]["annotations"][GENERATION]), (7, &json!("7")));
    }

    #[test]
    fn cells_are_upstreams() {
        let mut object = object(json!({}));
        object["status"] = json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1, "updatedNumberScheduled": 2});
        let cells = DaemonSets.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells.clone()), json!(["agent", 3, 2, 1, 2, 0, "d=1", "<unknown>", "a", "x:1", "app=x"]));
        assert_eq!(cells.len(), COLUMNS.len());
    }
}
