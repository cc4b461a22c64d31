//! What is applied -> what is wrong with it by the schema, in upstream's words. Source: structured-merge-diff `typed/validate.go`.

use std::{collections::BTreeSet, fmt};

use serde_json::Value;

use super::{
    Element, Typ,
    typ::{Form, ListForm, MapForm, Scalar},
};

/// Most that is told of one object.
const ERRORS_MAX: usize = 100;
/// Text of that, in bytes.
const ERRORS_BYTES_MAX: usize = 1 << 20;

/// # Errors
/// All that is wrong: `.path: what`, in lines of their own where there are several.
pub fn validate(typ: Typ<'_>, value: &Value) -> Result<(), String> {
    let mut errors = Errors::default();
    errors.node(typ, value);
    match errors.texts.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        all => Err(all.iter().fold("errors:".to_owned(), |text, error| format!("{text}\n  {error}"))),
    }
}

#[derive(Default)]
struct Errors {
    path: Vec<Element>,
    texts: Vec<String>,
}

impl Errors {
    fn tell(&mut self, what: &str) {
        if self.texts.len() < ERRORS_MAX && self.texts.iter().map(String::len).sum::<usize>() < ERRORS_BYTES_MAX {
            let path: String = self.path.iter().map(Element::to_string).collect();
            self.texts.push(if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") });
        }
    }

    fn below(&mut self, element: Element, typ: Typ<'_>, value: &Value) {
        self.path.push(element);
        self.node(typ, value);
        self.path.pop();
    }

    fn node(&mut self, typ: Typ<'_>, value: &Value) {
        match typ.form(value) {
            _ if value.is_null() => {}
            Form::Scalar(scalar) => self.scalar(scalar, value),
            Form::List(form) => self.list(&form, value),
            Form::Map(form) => self.map(&form, value),
        }
    }

    fn scalar(&mut self, scalar: Scalar, value: &Value) {
        match (scalar, value) {
            (Scalar::String, Value::String(_)) | (Scalar::Boolean, Value::Bool(_)) | (Scalar::Numeric, Value::Number(_)) => {}
            (Scalar::Untyped, Value::String(_) | Value::Bool(_) | Value::Number(_)) => {}
            (Scalar::String, other) => self.tell(&format!("expected string, got &value.valueUnstructured{{Value:{:#}}}", GoValue(other))),
            (Scalar::Boolean, other) => self.tell(&format!("expected boolean, got &{{{}}}", GoValue(other))),
            (Scalar::Numeric, other) => self.tell(&format!("expected numeric (int or float), got {}", go_type(other))),
            (Scalar::Untyped, other) => self.tell(&format!("expected any scalar, got &{{{}}}", GoValue(other))),
        }
    }

    fn list(&mut self, form: &ListForm<'_>, value: &Value) {
        let Value::Array(list) = value else { return self.tell(&format!("expected list, got &{{{}}}", GoValue(value))) };
        let mut seen = BTreeSet::new();
        for (at, item) in list.iter().enumerate() {
            let element = if form.is_atomic() { Ok(Element::Index(i64::try_from(at).unwrap_or(i64::MAX))) } else { form.element(item) };
            let element = match element {
                Ok(element) => element,
                Err(why) => return self.tell(&format!("element {at}: {why}")),
            };
            if !seen.insert(element.clone()) {
                self.tell(&format!("duplicate entries for key {element}"));
            }
            self.below(element, form.element, item);
        }
    }

    fn map(&mut self, form: &MapForm<'_>, value: &Value) {
        let Value::Object(map) = value else { return self.tell(&format!("expected map, got &{{{}}}", GoValue(value))) };
        for (name, value) in map {
            match form.typ(name) {
                Some(typ) => self.below(Element::field(name), typ, value),
                None => {
                    self.path.push(Element::field(name));
                    self.tell("field not declared in schema");
                    self.path.pop();
                    return;
                }
            }
        }
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go's `%v` shows it; with `#`, as `%#v` does.
pub struct GoValue<'v>(pub &'v Value);

impl fmt::Display for GoValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_go = f.alternate();
        let below =
            |value, f: &mut fmt::Formatter<'_>| if is_go { write!(f, "{:#}", GoValue(value)) } else { write!(f, "{}", GoValue(value)) };
        match self.0 {
            Value::Null => f.write_str(if is_go { "interface {}(nil)" } else { "<nil>" }),
            Value::String(text) if is_go => write!(f, "{text:?}"),
            Value::String(text) => f.write_str(text),
            Value::Array(list) => {
                f.write_str(if is_go { "[]interface {}{" } else { "[" })?;
                for (at, item) in list.iter().enumerate() {
                    f.write_str(if at == 0 {
                        ""
                    } else if is_go {
                        ", "
                    } else {
                        " "
                    })?;
                    below(item, f)?;
                }
                f.write_str(if is_go { "}" } else { "]" })
            }
            Value::Object(map) => {
                let mut fields: Vec<_> = map.iter().collect();
                fields.sort_by_key(|(name, _)| *name);
                f.write_str(if is_go { "map[string]interface {}{" } else { "map[" })?;
                for (at, (name, value)) in fields.into_iter().enumerate() {
                    f.write_str(if at == 0 {
                        ""
                    } else if is_go {
                        ", "
                    } else {
                        " "
                    })?;
                    if is_go {
                        write!(f, "{name:?}:")?
                    } else {
                        write!(f, "{name}:")?
                    }
                    below(value, f)?;
                }
                f.write_str(if is_go { "}" } else { "]" })
            }
            plain => write!(f, "{plain}"),
        }
    }
}
