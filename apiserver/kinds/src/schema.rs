//! The schemas of the built-in kinds, as `xtask` wrote them: for checks and patches, and with their descriptions for OpenAPI.

#[cfg(test)]
mod golden;
pub mod internal;

use apiserver::schema::{Schema, Tables};

/// All of them; each table is read at first use.
pub static TABLES: Tables =
    Tables::new(include_str!("schema/structure.txt"), include_str!("schema/wire.txt"), include_bytes!("schema/definitions.json.gz"));

/// By the definition's full name: `io.k8s.api.core.v1.Pod`.
pub fn built_in(name: String) -> Schema {
    Schema::BuiltIn { tables: &TABLES, name: name.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_has_a_definition_that_names_it() {
        for kind in crate::table(&crate::Config::default()) {
            let schema = kind.schema.structure().unwrap_or_else(|| panic!("no definition {:?} for {}", kind.schema.name(), kind.kind));
            assert!(schema.root().field("kind").is_some() && schema.root().field("metadata").is_some(), "{}", kind.kind);
        }
    }

    #[test]
    fn definitions_and_structure_tell_of_the_same_types() {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(TABLES.definitions()), &mut text).unwrap();
        let described: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
        for definition in TABLES.table().definitions() {
            let properties = described[definition.name.as_ref()]["properties"].as_object();
            assert_eq!(properties.map_or(0, |p| p.len()), definition.fields.len(), "{}", definition.name);
        }
    }

    #[test]
    fn the_lists_of_a_pod_merge_as_upstream() {
        let spec = TABLES.structure("io.k8s.api.core.v1.PodSpec").unwrap();
        let key = |field: &str| spec.root().field(field).unwrap().semantics.as_ref().and_then(|s| s.merge_key.clone());
        let table = [
            ("containers", Some("name")),
            ("volumes", Some("name")),
            ("imagePullSecrets", Some("name")),
            ("hostAliases", Some("ip")),
            ("topologySpreadConstraints", Some("topologyKey")),
            ("tolerations", None),
        ];
        for (field, wanted) in table {
            assert_eq!(key(field).as_deref(), wanted, "{field}");
        }
        let pod = TABLES.structure("io.k8s.api.core.v1.Pod").unwrap();
        let mut current = json!({"spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}]}});
        let patch = json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}]}]}});
        let wanted = json!({"spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "2"}]}]}});
        apiserver::smp::apply(&pod, &mut current, patch).unwrap();
        assert_eq!(current, wanted);
    }
}
