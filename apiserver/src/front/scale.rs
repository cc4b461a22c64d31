//! A Scale -> the form that was asked for; its table has columns of its own. Source: `printScale` in `pkg/printers/internalversion/printers.go`.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use api::{Status, human, time::Timestamp};
use http::StatusCode;
use serde_json::Value;

use super::{
    negotiate::{Answer, Output, Transform},
    render::{self, Headers},
};
use crate::{
    body::Response,
    engine::registry::Served,
    kind::{Column, Conversion, Finalizers, Kind, Name, Names, Scope, Storage, Strategy},
    schema::Schema,
};

const COLUMNS: &[Column] = &[
    Column::new("Name", "string", "Name of the scaled object."),
    Column::new("Desired", "integer", "replicas is the desired number of instances for the scaled object."),
    Column::new("Available", "integer", "replicas is the actual number of observed instances of the scaled object."),
    Column::new("Age", "string", "Time since the scaled object was made."),
];

/// Served as a subresource only: it has no verbs and no place of its own.
static KIND: LazyLock<Kind> = LazyLock::new(|| Kind {
    group: Name::Borrowed("autoscaling"),
    version: Name::Borrowed("v1"),
    kind: Name::Borrowed("Scale"),
    plural: Name::Borrowed("scales"),
    singular: Name::Borrowed("scale"),
    short_names: Names::new(),
    categories: Names::new(),
    scope: Scope::Namespaced,
    verbs: Names::new(),
    storage: Storage::Nowhere,
    conversion: Conversion::None,
    read: None,
    subresources: Vec::new(),
    columns: Cow::Borrowed(COLUMNS),
    fields: Cow::Borrowed(&[]),
    schema: Schema::Open,
    generation: false,
    finalizers: Finalizers::Any,
    strategy: Arc::new(Cells),
});

/// Of what is scaled.
pub(super) fn reply(served: &Served, output: &Output, code: StatusCode, scale: Value, now: Timestamp) -> Result<Response, Status> {
    output.fits(&KIND, Answer::One)?;
    let shown = match output.transform {
        Transform::Plain => scale,
        _ => render::transformed(&KIND, &output.transform, scale, Headers::Shown, now),
    };
    Ok(render::encoded(&served.kind.schema, output.format, code, &shown))
}

/// For tests that want some kind.
#[cfg(test)]
pub(super) fn kind() -> &'static Kind {
    &KIND
}

struct Cells;

impl Strategy for Cells {
    fn cells(&self, scale: &Value, now: Timestamp) -> Vec<Value> {
        let number = |pointer: &str| scale.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let made = scale.pointer("/metadata/creationTimestamp").and_then(Value::as_str).and_then(api::time::parse);
        let age = made.map_or_else(|| "<unknown>".to_owned(), |at| human::duration(now.as_second() - at.as_second()));
        let name = scale.pointer("/metadata/name").cloned().unwrap_or_default();
        vec![name, number("/spec/replicas").into(), number("/status/replicas").into(), age.into()]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_scale_has_four_cells() {
        let metadata = json!({"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"});
        let scale = json!({"metadata": metadata, "spec": {"replicas": 3}, "status": {"replicas": 2}});
        let cells = Cells.cells(&scale, api::time::parse("2026-01-01T00:05:00Z").unwrap());
        assert_eq!(Value::from(cells), json!(["web", 3, 2, "5m"]));
        assert_eq!(COLUMNS.len(), 4);
    }
}
