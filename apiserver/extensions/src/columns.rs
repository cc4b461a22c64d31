//! `additionalPrinterColumns` -> table columns, and an object -> their cells. Source: `pkg/registry/customresource/tableconvertor`.

use api::time::Timestamp;
use apiserver::kind::{Column, Name};
use kinds::common::{
    Read,
    read::name,
    table::{AGE_COLUMN, NAME_COLUMN},
};
use serde_json::Value;

use crate::json_path::{self, JsonPath};

/// What fills a row behind the name.
pub struct Cells(Vec<(String, Option<JsonPath>)>);

/// The columns of a version, and what fills them. Without any there is the age.
pub fn of(version: &Value) -> (Vec<Column>, Cells) {
    let mut columns = vec![NAME_COLUMN];
    let listed = version.list("additionalPrinterColumns");
    if listed.is_empty() {
        columns.push(Column { typ: "date".into(), ..AGE_COLUMN });
        return (columns, Cells(vec![("date".into(), JsonPath::parse(".metadata.creationTimestamp"))]));
    }
    let mut cells = Vec::new();
    for column in listed {
        let (path, text) = (column.text("jsonPath"), |name: &str| Name::Owned(column.text(name).to_owned()));
        let description = match column.text("description") {
            "" => Name::Owned(format!("Custom resource definition column (in JSONPath format): {path}")),
            _ => text("description"),
        };
        let priority = column.int("priority").and_then(|priority| i32::try_from(priority).ok()).unwrap_or_default();
        columns.push(Column { name: text("name"), typ: text("type"), format: text("format"), description, priority });
        cells.push((column.text("type").to_owned(), JsonPath::parse(path)));
    }
    (columns, Cells(cells))
}

impl Cells {
    pub fn of(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let cell = |(typ, path): &(String, Option<JsonPath>)| json_path::cell(typ, path.as_ref().and_then(|path| path.first(object)), now);
        std::iter::once(name(object).into()).chain(self.0.iter().map(cell)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_follow_their_columns() {
        let now = api::time::parse("2026-01-01T00:05:00Z").unwrap();
        let object = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"n": 3}});
        let (columns, cells) = of(&json!({}));
        assert_eq!((columns.len(), cells.of(&object, now)), (2, vec![json!("a"), json!("5m")]));
        let version = json!({"additionalPrinterColumns": [
            {"name": "N", "type": "integer", "jsonPath": ".spec.n", "priority": 1}, {"name": "X", "type": "string", "jsonPath": ".spec.x"}]});
        let (columns, cells) = of(&version);
        assert_eq!((columns[1].priority, cells.of(&object, now)), (1, vec![json!("a"), json!(3), Value::Null]));
        assert_eq!(columns[2].description, "Custom resource definition column (in JSONPath format): .spec.x");
    }
}
