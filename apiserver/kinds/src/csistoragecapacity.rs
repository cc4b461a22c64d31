//! CSIStorageCapacity: the strategy of how much room a storage class has where. Source: `pkg/registry/storage/csistoragecapacity`,
//! `ValidateCSIStorageCapacity` in `pkg/apis/storage/validation`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Strategy};
use serde_json::Value;

use crate::{
    common::{self, Path, Read, name_rules, read, resources, selector, table, unchanged, well_formed},
    pod,
};

const TOPOLOGY: Path<'static> = Path::new("nodeTopology");
const CLASS: Path<'static> = Path::new("storageClassName");
/// Upstream has no columns of its own for it.
const COLUMNS: &[Column] = &[table::NAME_COLUMN, table::CREATED_COLUMN];

pub fn kind() -> Kind {
    Kind {
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", "io.k8s.api.storage.v1", CsiStorageCapacities)
    }
}

struct CsiStorageCapacities;

impl Strategy for CsiStorageCapacities {
    fn default(&self, object: &mut Value) {
        resources::canonical_field(object, "capacity");
        resources::canonical_field(object, "maximumVolumeSize");
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        selector::well_formed(object.at("nodeTopology"), TOPOLOGY, causes);
        let class = object.text("storageClassName");
        well_formed(class, name_rules::dns_subdomain(class), CLASS, causes);
        match object.at("capacity").map(|capacity| (capacity, resources::quantity(capacity))) {
            Some((_, Some(amount))) if amount.is_negative() => {
                causes.invalid("capacity", amount.to_string(), "must be greater than or equal to 0");
            }
            Some((text, None)) => causes.invalid("capacity", text.clone(), api::quantity::RULE),
            _ => {}
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        unchanged(new.at("nodeTopology"), old.at("nodeTopology"), TOPOLOGY, causes);
        unchanged(new.at("storageClassName"), old.at("storageClassName"), CLASS, causes);
    }

    /// `GetWarningsForNodeSelector`
    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let (topology, deprecated) = (new.at("nodeTopology"), pod::warnings::deprecated_node_label);
        let (expressions, labels) = (TOPOLOGY.field("matchExpressions"), TOPOLOGY.field("matchLabels"));
        let keys = topology.list("matchExpressions").iter().map(|expression| expression.text("key")).enumerate();
        let of_expressions = keys.filter_map(|(i, key)| Some((i, key, deprecated(key)?)));
        let of_labels = topology.entries("matchLabels").filter_map(|(key, _)| Some((key, deprecated(key)?)));
        of_expressions
            .map(|(i, key, text)| format!("{}: {key} is {text}", expressions.index(i).field("key")))
            .chain(of_labels.map(|(key, text)| format!("{}: {text}", labels.field(key))))
            .collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), object.at("metadata").text("creationTimestamp").into()]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_rule_has_its_words() {
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({"storageClassName": "fast", "capacity": "1Gi", "nodeTopology": {"matchLabels": {"zone": "a"}}}), &[]),
            (
                json!({"storageClassName": "fast", "capacity": "-1"}),
                &["capacity: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
        ];
        for (object, wanted) in cases {
            let mut causes = FieldErrors::default();
            CsiStorageCapacities.validate(&object, &mut causes);
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted, "{object}");
        }
        let mut causes = FieldErrors::default();
        CsiStorageCapacities.validate(&json!({}), &mut causes);
        assert!(causes.0[0].text().starts_with("storageClassName: Invalid value: \"\": a lowercase RFC 1123 subdomain"), "{causes:?}");
    }

    #[test]
    fn what_it_is_of_stays() {
        let of = |class: &str, zone: &str| json!({"storageClassName": class, "nodeTopology": {"matchLabels": {"zone": zone}}});
        let mut causes = FieldErrors::default();
        CsiStorageCapacities.validate_update(&of("b", "2"), &of("a", "1"), &mut causes);
        let wanted = [
            "nodeTopology: Invalid value: {\"matchLabels\":{\"zone\":\"2\"}}: field is immutable",
            "storageClassName: Invalid value: \"b\": field is immutable",
        ];
        assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn old_labels_are_warned_of() {
        let (key, text) = ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead");
        let topology = json!({"matchLabels": {key: "linux"}, "matchExpressions": [{"key": key, "operator": "Exists"}]});
        let wanted = [format!("nodeTopology.matchExpressions[0].key: {key} is {text}"), format!("nodeTopology.matchLabels.{key}: {text}")];
        assert_eq!(CsiStorageCapacities.warnings(&json!({"nodeTopology": topology}), None), wanted);
    }
}
