//! What is applied -> the parts of it that are owned as a whole. Source: apiserver `pkg/admission/plugin/policy/mutating/patch/smd.go` (`findAtomics`).

use serde_json::Value;

use super::{Element, Typ, typ::Form};

/// Most that is told.
const ATOMICS_TOLD_MAX: usize = 100;

/// Their paths.
pub fn atomics(typ: Typ<'_>, value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    find(typ, value, &mut Vec::new(), &mut out);
    out
}

fn find(typ: Typ<'_>, value: &Value, path: &mut Vec<Element>, out: &mut Vec<String>) {
    let tell = |path: &[Element], out: &mut Vec<String>| {
        if out.len() < ATOMICS_TOLD_MAX {
            out.push(path.iter().map(Element::to_string).collect());
        }
    };
    match (typ.form(value), value) {
        (Form::Map(form), Value::Object(map)) => {
            if form.is_atomic {
                tell(path, out);
            }
            for (name, value) in map.iter().filter(|(name, _)| form.has_field(name)) {
                let Some(typ) = form.typ(name) else { continue };
                path.push(Element::field(name));
                find(typ, value, path, out);
                path.pop();
            }
        }
        (Form::List(form), Value::Array(list)) => {
            if form.is_atomic() {
                tell(path, out);
            }
            for (at, item) in list.iter().enumerate() {
                path.push(Element::Index(i64::try_from(at).unwrap_or(i64::MAX)));
                find(form.element, item, path, out);
                path.pop();
            }
        }
        _ => {}
    }
}
