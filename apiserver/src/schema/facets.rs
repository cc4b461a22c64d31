//! What a custom schema says of a value besides its type. Source: apiextensions-apiserver `pkg/apiserver/schema/structural.go`.

use serde_json::{Number, Value};

use super::Text;

/// Rules of one value; what refuses and completes by them comes with custom resources. A bound that is not given is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facets {
    /// What stands for an absent value.
    pub default: Option<Value>,
    pub nullable: bool,
    /// Fields that an object must have.
    pub required: Vec<Text>,
    /// The values that there are; any, where empty.
    pub enumeration: Vec<Value>,
    pub format: String,
    /// A regular expression (RE2), not anchored.
    pub pattern: String,
    pub minimum: Option<Bound>,
    pub maximum: Option<Bound>,
    pub multiple_of: Option<Number>,
    /// In characters.
    pub length: Size,
    pub items: Size,
    pub properties: Size,
    pub unique_items: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    pub value: Number,
    pub is_exclusive: bool,
}

/// How many there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub min: Option<i64>,
    pub max: Option<i64>,
}

impl Facets {
    /// `None` where the schema says nothing but the type.
    pub(super) fn of(schema: &Value) -> Option<Box<Self>> {
        let text = |name: &str| schema[name].as_str().unwrap_or_default().to_owned();
        let size = |min: &str, max: &str| Size { min: schema[min].as_i64(), max: schema[max].as_i64() };
        let bound = |name: &str, exclusive: &str| {
            schema[name].as_number().map(|value| Bound { value: value.clone(), is_exclusive: schema[exclusive] == true })
        };
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let facets = Self {
            default: schema.get("default").cloned(),
            nullable: schema["nullable"] == true,
            required: required.map(|name| name.to_owned().into()).collect(),
            enumeration: schema["enum"].as_array().cloned().unwrap_or_default(),
            format: text("format"),
            pattern: text("pattern"),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: schema["multipleOf"].as_number().cloned(),
            length: size("minLength", "maxLength"),
            items: size("minItems", "maxItems"),
            properties: size("minProperties", "maxProperties"),
            unique_items: schema["uniqueItems"] == true,
        };
        (facets != Self::default()).then(|| Box::new(facets))
    }
}
