//! FlowSchema: the strategy of which requests belong together. Source: `pkg/registry/flowcontrol/flowschema`, `ValidateFlowSchema` in
//! `pkg/apis/flowcontrol/validation`, `SetDefaults_FlowSchemaSpec`.

mod rules;

use std::{borrow::Cow, collections::HashSet};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, MetaCheck, Scope, Strategy};
use serde_json::{Value, json};

use crate::{
    common::{
        self, Path, Read,
        edit::{default_number, keep_metadata, make_child, set},
        name_rules, read, table, well_formed,
    },
    flow,
};

const SPEC: Path<'static> = Path::new("spec");
const PRECEDENCE: i64 = 1000;
const LAST_PRECEDENCE: i64 = 10_000;
const METHODS: &[&str] = &["ByNamespace", "ByUser"];
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("PriorityLevel", "string", "`name` is the name of the priority level configuration being referenced Required."),
    table::column(
        "MatchingPrecedence",
        "string",
        "`matchingPrecedence` is used to choose among the FlowSchemas that match a given request. The chosen FlowSchema is among those with the numerically lowest (which we take to be logically highest) MatchingPrecedence.  Each MatchingPrecedence value must be ranged in [1,10000]. Note that if the precedence is not specified, it will be set to 1000 as default.",
    ),
    table::column(
        "DistinguisherMethod",
        "string",
        "`distinguisherMethod` defines how to compute the flow distinguisher for requests that match this schema. `nil` specifies that the distinguisher is disabled and thus will always be the empty string.",
    ),
    table::AGE_COLUMN,
    table::column("MissingPL", "string", "references a broken or non-existent PriorityLevelConfiguration"),
];

pub fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        subresources: vec![common::status(flow::GROUP, "v1", "FlowSchema")],
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind(flow::GROUP, "v1", "FlowSchema", "flowschemas", "io.k8s.api.flowcontrol.v1", FlowSchemas)
    }
}

/// The conditions of a flow schema or a priority level: each type once.
pub fn conditions(object: &Value, causes: &mut FieldErrors) {
    let (mut seen, list) = (HashSet::new(), Path::new("status.conditions"));
    for (i, condition) in object.at("status").list("conditions").iter().enumerate() {
        let typ = condition.text("type");
        if !seen.insert(typ) {
            causes.duplicate(list.index(i).field("type"), typ);
        }
        if typ.is_empty() {
            causes.required(list.index(i).field("type"), "");
        }
    }
}

struct FlowSchemas;

impl Strategy for FlowSchemas {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = make_child(object, "spec") {
            default_number(spec, "matchingPrecedence", PRECEDENCE);
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        set(object, "status", json!({}));
    }

    fn prepare_subresource(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        keep_metadata(new, old);
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (spec, name) = (object.at("spec"), read::name(object));
        precedence(spec.int("matchingPrecedence").unwrap_or(0), name, causes);
        if let Some(method) = spec.at("distinguisherMethod").map(|m| m.text("type")).filter(|m| !METHODS.contains(m)) {
            // Upstream shows the whole method as its internal type has it.
            causes.not_supported(SPEC.field("distinguisherMethod").field("type"), json!({"Type": method}), METHODS);
        }
        let (level, at) = (spec.at("priorityLevelConfiguration").text("name"), SPEC.field("priorityLevelConfiguration"));
        match level {
            "" => causes.required(at.field("name"), "must reference a priority level"),
            level => well_formed(level, name_rules::dns_subdomain(level), at.field("name"), causes),
        }
        for (i, rule) in spec.list("rules").iter().enumerate() {
            rules::rule(rule, SPEC.field("rules").index(i), causes);
        }
        if flow::objects::mandatory_schema(name).is_some_and(|fixed| !read::same(spec, Some(&fixed))) {
            let shown = spec.cloned().unwrap_or(Value::Null);
            causes.invalid(SPEC, shown, &format!("spec of '{name}' must equal the fixed value"));
        }
        conditions(object, causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, _old: &Value, causes: &mut FieldErrors) {
        conditions(new, causes);
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Create
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.at("spec");
        let dangling = object.at("status").list("conditions").iter().find(|c| c.text("type") == flow::DANGLING);
        vec![
            read::name(object).into(),
            spec.at("priorityLevelConfiguration").text("name").into(),
            spec.int("matchingPrecedence").unwrap_or(0).into(),
            spec.at("distinguisherMethod").map_or("<none>", |method| method.text("type")).into(),
            table::age(object, now),
            dangling.map_or("?", |condition| condition.text("status")).into(),
        ]
    }
}

fn precedence(precedence: i64, name: &str, causes: &mut FieldErrors) {
    let at = SPEC.field("matchingPrecedence");
    match precedence {
        ..=0 => causes.invalid(at, precedence, "must be a positive value"),
        1 if name != "exempt" => causes.invalid(at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1"),
        1..=LAST_PRECEDENCE => {}
        _ => causes.invalid(at, precedence, &format!("must not be greater than {LAST_PRECEDENCE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        FlowSchemas.default(&mut object);
        object
    }

    fn texts(object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        FlowSchemas.validate(object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn each_rule_has_its_words() {
        let level = json!({"name": "x"});
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({"priorityLevelConfiguration": level}), &[]),
            (json!({}), &["spec.priorityLevelConfiguration.name: Required value: must reference a priority level"]),
            (
                json!({"priorityLevelConfiguration": level, "matchingPrecedence": 1, "distinguisherMethod": {"type": "ByMood"}}),
                &[
                    "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                    r#"spec.distinguisherMethod.type: Unsupported value: {"Type":"ByMood"}: supported values: "ByNamespace", "ByUser""#,
                ],
            ),
            (
                json!({"priorityLevelConfiguration": level, "matchingPrecedence": 10_001}),
                &["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"],
            ),
        ];
        for (spec, wanted) in cases {
            assert_eq!(texts(&of("a", spec.clone())), wanted, "{spec}");
        }
    }

    #[test]
    fn what_is_mandatory_stays_as_it_is() {
        let mut exempt = of("exempt", flow::objects::mandatory_schema("exempt").unwrap());
        assert_eq!(texts(&exempt), Vec::<String>::new());
        exempt["spec"]["rules"] = json!([]);
        let found = texts(&exempt);
        assert!(found[0].ends_with("spec of 'exempt' must equal the fixed value"), "{found:?}");
    }

    #[test]
    fn conditions_have_types_of_their_own() {
        let mut causes = FieldErrors::default();
        let status = json!({"status": {"conditions": [{"type": "A"}, {"type": "A"}, {}]}});
        FlowSchemas.validate_subresource("status", &status, &status, &mut causes);
        let texts: Vec<String> = causes.0.iter().map(|c| c.text()).collect();
        assert_eq!(texts, ["status.conditions[1].type: Duplicate value: \"A\"", "status.conditions[2].type: Required value"]);
    }

    #[test]
    fn cells_are_upstreams() {
        let mut object = of("a", json!({"priorityLevelConfiguration": {"name": "x"}}));
        let cells = |object: &Value| Value::from(FlowSchemas.cells(object, Timestamp::UNIX_EPOCH));
        assert_eq!(cells(&object), json!(["a", "x", 1000, "<none>", "<unknown>", "?"]));
        object["status"] = json!({"conditions": [{"type": "Dangling", "status": "True"}]});
        object["spec"]["distinguisherMethod"] = json!({"type": "ByUser"});
        assert_eq!(cells(&object), json!(["a", "x", 1000, "ByUser", "<unknown>", "True"]));
    }
}
