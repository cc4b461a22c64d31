//! Parameters of operations: what a path or a query says. Most are listed beside the definitions, under names that begin with `#`.
//!
//! Source: apiserver `pkg/endpoints/installer.go`.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::definitions::Definitions;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub name: Cow<'static, str>,
    /// `path`, `query`.
    pub place: &'static str,
    /// `string`, `boolean`, `integer`.
    pub typ: Cow<'static, str>,
    pub description: Cow<'static, str>,
}

impl Parameter {
    const fn new(name: &'static str, typ: &'static str, description: &'static str) -> Self {
        let (name, typ, description) = (Cow::Borrowed(name), Cow::Borrowed(typ), Cow::Borrowed(description));
        Self { name, place: "query", typ, description }
    }

    const fn of_path(name: &'static str, description: &'static str) -> Self {
        let (name, description) = (Cow::Borrowed(name), Cow::Borrowed(description));
        Self { name, place: "path", typ: Cow::Borrowed("string"), description }
    }

    /// The name of an object of this kind.
    pub fn name_of(kind: &str) -> Self {
        let (name, description) = (Cow::Borrowed("name"), Cow::Owned(format!("name of the {kind}")));
        Self { name, place: "path", typ: Cow::Borrowed("string"), description }
    }

    /// Those that the definitions list under this name: `#list`, `#pods/exec`.
    pub fn listed(definitions: &Definitions<'_>, name: &str) -> Vec<Self> {
        let listed = definitions.value(name);
        let text = |of: &Value, name: &str| Cow::Owned(of[name].as_str().unwrap_or_default().to_owned());
        let read =
            |of: &Value| Self { name: text(of, "name"), place: "query", typ: text(of, "type"), description: text(of, "description") };
        listed.iter().filter_map(Value::as_array).flatten().map(read).collect()
    }

    /// In version 2's form.
    pub fn v2(&self) -> Value {
        // Keys in the order that upstream writes them: shared ones are named by a hash of this text.
        let mut out = json!({
            "uniqueItems": true, "type": self.typ, "description": self.description, "name": self.name, "in": self.place,
        });
        if self.place == "path" {
            out["required"] = true.into();
        }
        out
    }

    pub fn v3(&self) -> Value {
        let mut out = json!({
            "name": self.name, "in": self.place, "description": self.description, "schema": {"type": self.typ, "uniqueItems": true},
        });
        if self.place == "path" {
            out["required"] = true.into();
        }
        out
    }
}

pub static NAMESPACE: Parameter = Parameter::of_path("namespace", "object name and auth scope, such as for teams and projects");
pub static PATH: Parameter = Parameter::of_path("path", "path to the resource");
pub static PRETTY: Parameter = Parameter::new(
    "pretty",
    "string",
    "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).",
);
