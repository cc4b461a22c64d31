//! A schema of OpenAPI v3 -> a tree that says what the values of an object are.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/structural.go`, `convert.go`.

pub mod formats;
pub mod pattern;

use std::{
    fmt,
    sync::{Arc, LazyLock, OnceLock},
};

use api::read::Read;
use serde_json::{Number, Value};

use crate::{parser::parse, syntax::Expr};

use pattern::Pattern;

/// One level of a schema. What nested value validations (`allOf` and its kin) say of a value is a node as well. Most say little besides their type:
/// the rest stands apart.
#[derive(Debug, Default)]
pub struct Node {
    pub typ: Type,
    pub int_or_string: bool,
    pub preserve: bool,
    pub embedded: bool,
    pub nullable: bool,
    pub list_type: ListType,
    pub properties: Properties,
    pub additional: Additional,
    pub items: Option<Box<Node>>,
    limits: Option<Box<Limits>>,
    more: Option<Box<More>>,
}

/// Fields by name, sorted.
#[derive(Debug, Default)]
pub struct Properties(Box<[(Box<str>, Node)]>);

/// What few nodes have.
#[derive(Debug, Default)]
pub struct More {
    pub default: Option<Value>,
    pub map_keys: Vec<String>,
    pub rules: Vec<Rule>,
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
    pub not: Option<Box<Node>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    #[default]
    Unset,
    String,
    Number,
    Integer,
    Boolean,
    Array,
    Object,
}

#[derive(Debug, Default)]
pub enum Additional {
    #[default]
    None,
    /// `additionalProperties: true` (or false).
    Allows(bool),
    Of(Box<Node>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// An entry of `x-kubernetes-validations`.
#[derive(Default)]
pub struct Rule {
    pub rule: String,
    pub message: String,
    pub message_expression: String,
    pub reason: String,
    pub field_path: String,
    pub optional_old_self: Option<bool>,
    /// What it was parsed to, at first use.
    program: Kept,
}

/// What is asked of a value besides its type. Lengths are in characters.
#[derive(Debug, Default)]
pub struct Limits {
    pub format: String,
    pub pattern: String,
    pub compiled: OnceLock<Result<Pattern, String>>,
    pub enumeration: Vec<Value>,
    pub required: Vec<String>,
    pub minimum: Option<(Number, bool)>,
    pub maximum: Option<(Number, bool)>,
    pub multiple_of: Option<Number>,
    pub min_length: Option<i64>,
    pub max_length: Option<i64>,
    pub min_items: Option<i64>,
    pub max_items: Option<i64>,
    pub min_properties: Option<i64>,
    pub max_properties: Option<i64>,
    pub unique_items: bool,
}

impl Type {
    pub fn of(word: &str) -> Self {
        match word {
            "string" => Self::String,
            "number" => Self::Number,
            "integer" => Self::Integer,
            "boolean" => Self::Boolean,
            "array" => Self::Array,
            "object" => Self::Object,
            _ => Self::Unset,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Unset => "",
            Self::String => "string",
            Self::Number => "number",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Array => "array",
            Self::Object => "object",
        }
    }
}

impl Properties {
    pub fn get(&self, name: &str) -> Option<&Node> {
        let at = self.0.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        self.0.get(at).map(|(_, node)| node)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(name, node)| (&**name, node))
    }

    pub fn values(&self) -> impl Iterator<Item = &Node> {
        self.0.iter().map(|(_, node)| node)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

static NO_LIMITS: LazyLock<Limits> = LazyLock::new(Limits::default);
static NO_MORE: LazyLock<More> = LazyLock::new(More::default);

impl Node {
    /// Reads what it knows of a schema; the rest is not its own.
    pub fn of(schema: &Value) -> Self {
        let is = |name: &str| schema.is_true(name);
        let properties = schema.object("properties").into_iter().flatten();
        let mut properties: Vec<_> = properties.map(|(name, schema)| (name.as_str().into(), Self::of(schema))).collect();
        properties.sort_by(|(a, _): &(Box<str>, Node), (b, _)| a.cmp(b));
        Self {
            typ: Type::of(schema.text("type")),
            int_or_string: is("x-kubernetes-int-or-string"),
            preserve: is("x-kubernetes-preserve-unknown-fields"),
            embedded: is("x-kubernetes-embedded-resource"),
            nullable: is("nullable"),
            list_type: match schema.text("x-kubernetes-list-type") {
                "set" => ListType::Set,
                "map" => ListType::Map,
                _ => ListType::Atomic,
            },
            properties: Properties(properties.into()),
            additional: match schema.at("additionalProperties") {
                Some(Value::Bool(allows)) => Additional::Allows(*allows),
                Some(schema) => Additional::Of(Box::new(Self::of(schema))),
                None => Additional::None,
            },
            items: schema.at("items").map(|items| Box::new(Self::of(items))),
            limits: Limits::of(schema),
            more: More::of(schema),
        }
    }

    pub fn limits(&self) -> &Limits {
        self.limits.as_deref().unwrap_or(&NO_LIMITS)
    }

    pub fn more(&self) -> &More {
        self.more.as_deref().unwrap_or(&NO_MORE)
    }

    pub fn default_value(&self) -> Option<&Value> {
        self.more().default.as_ref()
    }

    /// What a field of an object is, where the schema says so.
    pub fn field(&self, name: &str) -> Option<&Node> {
        self.properties.get(name).or(match &self.additional {
            Additional::Of(node) => Some(node),
            Additional::None | Additional::Allows(_) => None,
        })
    }

    /// `test` of this node or any below, value validations apart.
    pub fn any(&self, test: &dyn Fn(&Node) -> bool) -> bool {
        let held = match &self.additional {
            Additional::Of(node) => Some(&**node),
            _ => None,
        };
        test(self) || self.properties.values().chain(held).chain(self.items.as_deref()).any(|node| node.any(test))
    }
}

/// A rule's trees, kept with it: they are made once, on whichever thread comes first.
pub struct Program {
    pub rule: Expr,
    pub message: Option<Expr>,
}

/// Where a rule keeps what it was parsed to.
pub type Kept = OnceLock<Result<Arc<Program>, String>>;

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)
    }
}

impl Rule {
    fn of(rule: &Value) -> Self {
        let text = |name: &str| rule.text(name).to_owned();
        Self {
            rule: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old_self: rule.flag("optionalOldSelf"),
            program: Kept::new(),
        }
    }

    /// Its trees.
    ///
    /// # Errors
    /// Why it cannot be parsed.
    pub fn program(&self) -> Result<Arc<Program>, String> {
        let made = self.program.get_or_init(|| {
            let expr = parse(&self.rule).map_err(|issue| issue.print(&self.rule))?;
            let message = if self.message_expression.is_empty() { None } else { parse(&self.message_expression).ok() };
            Ok(Arc::new(Program { rule: expr, message }))
        });
        made.clone()
    }
}

impl More {
    fn of(schema: &Value) -> Option<Box<Self>> {
        const NAMES: [&str; 7] = ["default", "x-kubernetes-list-map-keys", "x-kubernetes-validations", "allOf", "anyOf", "oneOf", "not"];
        if NAMES.iter().all(|name| schema.at(name).is_none()) {
            return None;
        }
        let nodes = |name: &str| schema.list(name).iter().map(Node::of).collect();
        let keys = schema.list("x-kubernetes-list-map-keys").iter().filter_map(Value::as_str);
        Some(Box::new(Self {
            default: schema.at("default").cloned(),
            map_keys: keys.map(str::to_owned).collect(),
            rules: schema.list("x-kubernetes-validations").iter().map(Rule::of).collect(),
            all_of: nodes("allOf"),
            any_of: nodes("anyOf"),
            one_of: nodes("oneOf"),
            not: schema.at("not").map(|not| Box::new(Node::of(not))),
        }))
    }
}

impl Limits {
    /// `None` where there are none.
    fn of(schema: &Value) -> Option<Box<Self>> {
        const NAMES: [&str; 14] = [
            "format",
            "pattern",
            "enum",
            "required",
            "minimum",
            "maximum",
            "multipleOf",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
            "uniqueItems",
        ];
        if NAMES.iter().all(|name| schema.at(name).is_none()) {
            return None;
        }
        let bound = |name: &str, exclusive: &str| {
            schema.at(name).and_then(Value::as_number).map(|number| (number.clone(), schema.is_true(exclusive)))
        };
        let required = schema.list("required").iter().filter_map(Value::as_str).map(str::to_owned);
        Some(Box::new(Self {
            format: supported(schema),
            pattern: schema.text("pattern").to_owned(),
            compiled: OnceLock::new(),
            enumeration: schema.list("enum").to_vec(),
            required: required.collect(),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: schema.at("multipleOf").and_then(Value::as_number).cloned(),
            min_length: schema.int("minLength"),
            max_length: schema.int("maxLength"),
            min_items: schema.int("minItems"),
            max_items: schema.int("maxItems"),
            min_properties: schema.int("minProperties"),
            max_properties: schema.int("maxProperties"),
            unique_items: schema.is_true("uniqueItems"),
        }))
    }

    /// The pattern, compiled at first use. `None` where there is none, or one that cannot be.
    pub fn pattern(&self) -> Option<&Pattern> {
        if self.pattern.is_empty() {
            return None;
        }
        self.compiled.get_or_init(|| Pattern::new(&self.pattern)).as_ref().ok()
    }
}

/// A format that is checked; others are for the reader (`StripUnsupportedFormatsPostProcessorForVersion`).
fn supported(schema: &Value) -> String {
    let format = schema.text("format");
    let is_checked = match schema.text("type") {
        _ if schema.is_true("x-kubernetes-int-or-string") => false,
        "" | "string" => formats::is_known(format),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if is_checked { format.to_owned() } else { String::new() }
}
