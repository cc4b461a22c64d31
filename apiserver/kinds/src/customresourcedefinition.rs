//! CustomResourceDefinition: read-only, and there are none yet. Clients list them to tell unknown kinds from custom ones (kubectl's `create -f`).
//!
//! Source: apiextensions-apiserver `pkg/registry/customresourcedefinition`.

use std::borrow::Cow;

use api::time::Timestamp;
use apiserver::kind::{Column, Kind, Scope, Storage, Strategy, names};
use serde_json::Value;

use crate::common::{
    self,
    read::{name, text_at},
    table::{NAME_COLUMN, column},
};

const GROUP: &str = "apiextensions.k8s.io";
const COLUMNS: &[Column] = &[NAME_COLUMN, column("Created At", "date", "When the definition was made.")];

pub fn kind() -> Kind {
    let package = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
    Kind {
        short_names: names(&["crd", "crds"]),
        categories: names(&["api-extensions"]),
        scope: Scope::Cluster,
        verbs: names(&["get", "list", "watch"]),
        storage: Storage::Kept { prefix: "apiextensions.k8s.io/customresourcedefinitions".into(), ttl_seconds: None },
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind(GROUP, "v1", "CustomResourceDefinition", "customresourcedefinitions", package, Definitions)
    }
}

struct Definitions;

impl Strategy for Definitions {
    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![name(object).into(), text_at(object, "/metadata/creationTimestamp").into()]
    }
}
