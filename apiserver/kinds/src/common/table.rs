//! An object -> cells of a table row: the columns and cells that many kinds share. Source: `pkg/printers/internalversion/printers.go`.

use std::borrow::Cow;

use api::{human, time::Timestamp};
use apiserver::kind::{Column, Field, Lookup, Name};
use serde_json::Value;

use super::{Read, read};

const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const AGE: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

const METADATA: &[Column] = &[NAME_COLUMN, AGE_COLUMN];

pub const NAME_COLUMN: Column = Column {
    name: Name::Borrowed("Name"),
    typ: Name::Borrowed("string"),
    format: Name::Borrowed("name"),
    description: Name::Borrowed(NAME),
    priority: 0,
};
pub const AGE_COLUMN: Column = column("Age", "string", AGE);
/// With the name, of what has no printer of its own (`rest.NewDefaultTableConvertor`).
pub const CREATED_COLUMN: Column = column("Created At", "date", AGE);
/// With [`IMAGES_COLUMN`], for what has a pod template; filled by [`containers_cells`].
pub const CONTAINERS_COLUMN: Column = wide("Containers", "string", "Names of each container in the template.");
pub const IMAGES_COLUMN: Column = wide("Images", "string", "Images referenced by each container in the template.");

/// Name and age.
pub const fn metadata_columns() -> Cow<'static, [Column]> {
    Cow::Borrowed(METADATA)
}

/// A column that is always shown. `typ` is `string` or `integer`.
pub const fn column(name: &'static str, typ: &'static str, description: &'static str) -> Column {
    Column::new(name, typ, description)
}

/// A column of `-o wide`.
pub const fn wide(name: &'static str, typ: &'static str, description: &'static str) -> Column {
    Column {
        name: Name::Borrowed(name),
        typ: Name::Borrowed(typ),
        format: Name::Borrowed(""),
        description: Name::Borrowed(description),
        priority: 1,
    }
}

/// A selectable field that reads as `default` where absent.
pub const fn field(label: &'static str, pointer: &'static str, default: &'static str) -> Field {
    Field {
        label: Name::Borrowed(label),
        pointer: Name::Borrowed(pointer),
        default: Name::Borrowed(default),
        lookup: Lookup::Scan,
        instead: None,
    }
}

/// One that reads as another where it is empty.
pub const fn field_or(label: &'static str, pointer: &'static str, other: &'static str) -> Field {
    let [label, pointer, default] = [Name::Borrowed(label), Name::Borrowed(pointer), Name::Borrowed("")];
    Field { label, pointer, default, lookup: Lookup::Scan, instead: Some(Name::Borrowed(other)) }
}

/// One by which many objects are found in small parts.
pub const fn indexed(label: &'static str, pointer: &'static str) -> Field {
    Field {
        label: Name::Borrowed(label),
        pointer: Name::Borrowed(pointer),
        default: Name::Borrowed(""),
        lookup: Lookup::Index,
        instead: None,
    }
}

/// The cells of [`metadata_columns`].
pub fn metadata_cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![read::name(object).into(), age(object, now)]
}

/// Time since creation: `5m`; `<unknown>` where there is no timestamp.
pub fn age(object: &Value, now: Timestamp) -> Value {
    since(read::text_at(object, "/metadata/creationTimestamp"), now).into()
}

/// Time since an RFC 3339 timestamp: `translateTimestampSince`.
pub fn since(timestamp: &str, now: Timestamp) -> String {
    match api::time::parse(timestamp) {
        Some(then) => human::duration(now.as_second() - then.as_second()),
        None => "<unknown>".into(),
    }
}

/// Names and images of a pod spec's containers, comma-separated each.
pub fn containers_cells(pod_spec: Option<&Value>) -> [Value; 2] {
    let join = |field: &str| {
        let all: Vec<&str> = pod_spec.list("containers").iter().map(|c| c.text(field)).collect();
        Value::from(all.join(","))
    };
    [join("name"), join("image")]
}

/// `<none>` for an empty text.
pub fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}
