//! ValidatingWebhookConfiguration and MutatingWebhookConfiguration: the strategy of who is asked before objects are stored. Source:
//! `pkg/registry/admissionregistration`, `validateValidatingWebhookConfiguration`, `validateMutatingWebhookConfiguration`.

use std::{borrow::Cow, collections::HashSet};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Strategy};
use serde_json::{Value, json};

use super::{FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, default_rules, match_conditions, operations, word};
use crate::{
    admission::expressions::Environment,
    common::{
        Path, Read,
        edit::{child, default_to, each},
        name_rules, read, selector, table, webhook, well_formed,
    },
};

const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];
const NO_SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
/// Versions of AdmissionReview that the server speaks.
const REVIEWS: &[&str] = &["v1", "v1beta1"];
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Webhooks", "integer", "Webhooks indicates the number of webhooks registered in this configuration"),
    table::AGE_COLUMN,
];

pub fn validating() -> Kind {
    let kind = super::kind("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", Configurations { mutating: false });
    Kind { columns: Cow::Borrowed(COLUMNS), ..kind }
}

pub fn mutating() -> Kind {
    let kind = super::kind("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", Configurations { mutating: true });
    Kind { columns: Cow::Borrowed(COLUMNS), ..kind }
}

struct Configurations {
    mutating: bool,
}

/// What an update may keep as it was.
#[derive(Clone, Copy)]
struct Leniency {
    side_effects: bool,
    reviews: bool,
    names: bool,
    selectors: bool,
    conditions: bool,
}

const STRICT: Leniency = Leniency { side_effects: false, reviews: false, names: false, selectors: false, conditions: false };

impl Strategy for Configurations {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Create
    }

    fn default(&self, object: &mut Value) {
        for hook in each(object, "webhooks") {
            default_to(hook, "failurePolicy", "Fail");
            default_to(hook, "matchPolicy", "Equivalent");
            default_to(hook, "namespaceSelector", json!({}));
            default_to(hook, "objectSelector", json!({}));
            default_to(hook, "timeoutSeconds", 10);
            if self.mutating {
                default_to(hook, "reinvocationPolicy", "Never");
            }
            if let Some(service) = child(hook, "clientConfig").and_then(|client| child(client, "service")) {
                default_to(service, "port", 443);
            }
            default_rules(hook, "rules");
        }
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        self.webhooks(object.list("webhooks"), STRICT, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        self.webhooks(new.list("webhooks"), Leniency::of(new.list("webhooks"), old.list("webhooks")), causes);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        super::warnings(new)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), object.list("webhooks").len().into(), table::age(object, now)]
    }
}

impl Configurations {
    fn webhooks(&self, hooks: &[Value], lenient: Leniency, causes: &mut FieldErrors) {
        let (list, mut seen) = (Path::new("webhooks"), HashSet::new());
        for (i, hook) in hooks.iter().enumerate() {
            let (at, name) = (list.index(i), hook.text("name"));
            self.webhook(hook, lenient, at, causes);
            reviews(hook.list("admissionReviewVersions"), lenient, at.field("admissionReviewVersions"), causes);
            if !lenient.names && !name.is_empty() && !seen.insert(name) {
                causes.duplicate(at.field("name"), name);
            }
        }
    }

    fn webhook(&self, hook: &Value, lenient: Leniency, path: Path<'_>, causes: &mut FieldErrors) {
        full_name(hook.text("name"), path.field("name"), causes);
        for (i, rule) in hook.list("rules").iter().enumerate() {
            operations(rule, path.field("rules").index(i), causes);
        }
        word(Some(hook), "failurePolicy", FAILURE_POLICIES, path, causes);
        word(Some(hook), "matchPolicy", MATCH_POLICIES, path, causes);
        let allowed = if lenient.side_effects { SIDE_EFFECTS } else { NO_SIDE_EFFECTS };
        if hook.at("sideEffects").is_none() {
            causes.required(path.field("sideEffects"), &format!("must specify one of {}", allowed.join(", ")));
        }
        word(Some(hook), "sideEffects", allowed, path, causes);
        if let Some(seconds) = hook.int("timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
            causes.invalid(path.field("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
        }
        for field in ["namespaceSelector", "objectSelector"] {
            if !lenient.selectors {
                selector::well_formed(hook.at(field), path.field(field), causes);
            }
        }
        if self.mutating {
            word(Some(hook), "reinvocationPolicy", REINVOCATION_POLICIES, path, causes);
        }
        webhook::client(hook.at("clientConfig"), path.field("clientConfig"), causes);
        if !lenient.conditions {
            match_conditions(hook.list("matchConditions"), &Environment::new(), path.field("matchConditions"), causes);
        }
    }
}

impl Leniency {
    fn of(new: &[Value], old: &[Value]) -> Self {
        let has_effects = |hook: &Value| !NO_SIDE_EFFECTS.contains(&hook.text("sideEffects"));
        let is_unknown = |hook: &Value| {
            let versions = hook.list("admissionReviewVersions");
            !versions.is_empty() && !versions.iter().any(|v| v.as_str().is_some_and(|v| REVIEWS.contains(&v)))
        };
        let mut names = HashSet::new();
        let is_badly_selected = |hook: &Value| {
            let mut causes = FieldErrors::default();
            for field in ["namespaceSelector", "objectSelector"] {
                selector::well_formed(hook.at(field), Path::ROOT, &mut causes);
            }
            !causes.is_empty()
        };
        let same_conditions = |(a, b): (&Value, &Value)| a.at("matchConditions") == b.at("matchConditions");
        Self {
            side_effects: old.iter().any(has_effects),
            reviews: old.iter().any(is_unknown),
            names: !old.iter().all(|hook| names.insert(hook.text("name"))),
            selectors: old.iter().any(is_badly_selected),
            conditions: new.len() == old.len() && new.iter().zip(old).all(same_conditions),
        }
    }
}

/// `IsFullyQualifiedName`
fn full_name(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let errors = name_rules::dns_subdomain(name);
    match name {
        "" => causes.required(path, ""),
        _ if !errors.is_empty() => causes.invalid(path, name, &errors.join(",")),
        name if name.split('.').count() < 3 => {
            causes.invalid(path, name, "should be a domain with at least three segments separated by dots");
        }
        _ => {}
    }
}

/// `validateAdmissionReviewVersions`
fn reviews(versions: &[Value], lenient: Leniency, path: Path<'_>, causes: &mut FieldErrors) {
    if versions.is_empty() {
        return causes.required(path, &format!("must specify one of {}", REVIEWS.join(", ")));
    }
    let mut seen = HashSet::new();
    for (i, version) in versions.iter().filter_map(Value::as_str).enumerate() {
        if !seen.insert(version) {
            causes.invalid(path.index(i), version, "duplicate version");
            continue;
        }
        well_formed(version, name_rules::dns_1035_label(version), path.index(i), causes);
    }
    if !lenient.reviews && !REVIEWS.iter().any(|known| seen.contains(known)) {
        causes.invalid(path, Value::from(versions.to_vec()), &format!("must include at least one of {}", REVIEWS.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALIDATING: Configurations = Configurations { mutating: false };
    const MUTATING: Configurations = Configurations { mutating: true };

    fn of(kind: &Configurations, more: Value) -> Value {
        let mut hook = json!({"name": "w.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://a.example"}});
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut object = json!({"metadata": {"name": "a"}, "webhooks": [hook]});
        kind.default(&mut object);
        object
    }

    fn texts(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn defaults_are_upstreams() {
        let service = json!({"service": {"name": "s", "namespace": "n"}});
        let hook = of(&MUTATING, json!({"clientConfig": service, "rules": [{}]}))["webhooks"][0].clone();
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        assert_eq!(hook["rules"], json!([{"scope": "*"}]));
        assert_eq!(
            (&hook["failurePolicy"], &hook["matchPolicy"], &hook["timeoutSeconds"], &hook["reinvocationPolicy"]),
            (&json!("Fail"), &json!("Equivalent"), &json!(10), &json!("Never"))
        );
        assert_eq!(of(&VALIDATING, json!({}))["webhooks"][0].get("reinvocationPolicy"), None);
    }

    #[test]
    fn each_rule_has_its_words() {
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({}), &[]),
            (
                json!({"name": "short"}),
                &["webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots"],
            ),
            (
                json!({"name": "", "sideEffects": null, "timeoutSeconds": 0, "clientConfig": {}, "admissionReviewVersions": []}),
                &[
                    "webhooks[0].name: Required value",
                    "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
                    "webhooks[0].timeoutSeconds: Invalid value: 0: the timeout value must be between 1 and 30 seconds",
                    "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
                    "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
                ],
            ),
            (
                json!({"sideEffects": "Some", "reinvocationPolicy": "Always", "admissionReviewVersions": ["v9", "v9"]}),
                &[
                    r#"webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun""#,
                    r#"webhooks[0].reinvocationPolicy: Unsupported value: "Always": supported values: "IfNeeded", "Never""#,
                    "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v9\": duplicate version",
                    r#"webhooks[0].admissionReviewVersions: Invalid value: ["v9","v9"]: must include at least one of v1, v1beta1"#,
                ],
            ),
        ];
        for (more, wanted) in cases {
            let object = of(&MUTATING, more);
            assert_eq!(texts(|c| MUTATING.validate_create(&object, c)), wanted, "{object}");
        }
        let mut twice = of(&VALIDATING, json!({}));
        let hook = twice["webhooks"][0].clone();
        twice["webhooks"].as_array_mut().unwrap().push(hook);
        assert_eq!(texts(|c| VALIDATING.validate_create(&twice, c)), ["webhooks[1].name: Duplicate value: \"w.example.com\""]);
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let old = of(&VALIDATING, json!({"sideEffects": "Some", "admissionReviewVersions": ["v9"], "matchConditions": [{}]}));
        assert_eq!(texts(|c| VALIDATING.validate_create(&old, c)).len(), 4);
        assert_eq!(texts(|c| VALIDATING.validate_update(&old, &old, c)), Vec::<String>::new());
    }

    #[test]
    fn the_number_of_webhooks_is_shown() {
        let cells = VALIDATING.cells(&of(&VALIDATING, json!({})), Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells), json!(["a", 1, "<unknown>"]));
        let reserved = json!({"metadata": {"name": "a.static.k8s.io"}});
        assert_eq!(VALIDATING.warnings(&reserved, None).len(), 1);
    }
}
