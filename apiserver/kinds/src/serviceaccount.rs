//! ServiceAccount: the strategy of identities for pods. Source: `pkg/registry/core/serviceaccount/strategy.go`.

use api::time::Timestamp;
use apiserver::kind::{Ctx, Kind, MetaCheck, Strategy, names};
use serde_json::{Value, json};

use crate::common::{self, Read, edit, table};

const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["sa"]),
        // The token subresource (TokenRequest) is `auth`'s: `subresources: vec![crate::auth::tokens::subresource()]`.
        ..common::kind("", "v1", "ServiceAccount", "serviceaccounts", "io.k8s.api.core.v1", ServiceAccounts)
    }
}

struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        names_only(object);
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, _old: &Value) {
        names_only(new);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let set = |object: &Value| object.at("metadata").at("annotations").at(MOUNTABLE).is_some();
        if !set(new) || old.is_some_and(set) {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        )]
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        table::metadata_cells(object, now)
    }
}

/// Of a reference to a secret only the name counts.
fn names_only(object: &mut Value) {
    for secret in edit::each(object, "secrets") {
        *secret = match secret.text("name") {
            "" => json!({}),
            name => json!({"name": name}),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_secrets_keep_the_name() {
        let mut account = json!({"secrets": [{"name": "a", "kind": "Secret", "uid": "1"}]});
        names_only(&mut account);
        assert_eq!(account, json!({"secrets": [{"name": "a"}]}));
    }

    #[test]
    fn only_a_new_annotation_warns() {
        let with = json!({"metadata": {"annotations": {MOUNTABLE: "true"}}});
        assert_eq!(ServiceAccounts.warnings(&with, None).len(), 1);
        assert_eq!(ServiceAccounts.warnings(&with, Some(&json!({}))).len(), 1);
        assert!(ServiceAccounts.warnings(&with, Some(&with)).is_empty());
        assert!(ServiceAccounts.warnings(&json!({}), None).is_empty());
    }
}
