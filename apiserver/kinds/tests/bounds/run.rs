//! One body of one kind -> through everything that is done to a body: read, checked, defaulted, judged, warned about, shown, merged.

use std::sync::Arc;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::{kind::Kind, parse, schema::FieldValidation, smp};
use serde_json::Value;

/// A body, and another state of the same object that is stored.
pub struct Input {
    pub kind: Arc<Kind>,
    pub body: String,
    pub stored: Value,
}

/// As a write of it does. What it says of the body does not matter.
pub fn write(input: &Input) {
    let Ok(parsed) = parse::json(input.body.as_bytes()) else { return };
    let (kind, mut new) = (&input.kind, parsed.value);
    drop(kind.schema.check(&kind.gvk(), &mut new, &parsed.duplicates, FieldValidation::Warn));
    let strategy = &kind.strategy;
    strategy.default(&mut new);
    let mut causes = FieldErrors::default();
    strategy.validate(&new, &mut causes);
    strategy.validate_create(&new, &mut causes);
    drop(strategy.warnings(&new, None));
    drop(strategy.cells(&new, Timestamp::UNIX_EPOCH));
    for old in [&new, &input.stored] {
        let mut causes = FieldErrors::default();
        strategy.validate_update(&new, old, &mut causes);
        for sub in &kind.subresources {
            strategy.validate_subresource(&sub.name, &new, old, &mut causes);
        }
        drop(strategy.warnings(&new, Some(old)));
    }
}

/// As [`write`], and what no strategy may do: each element is looked for among all others.
pub fn write_in_pairs(input: &Input) {
    write(input);
    let list = input.stored["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let unique = list.iter().enumerate().filter(|(i, one)| list.iter().skip(i + 1).all(|other| other["name"] != one["name"])).count();
    assert_eq!(unique, list.len());
}

/// As a strategic merge patch that names all of it.
pub fn patch(input: &Input) {
    let Some(schema) = input.kind.schema.structure() else { return };
    let Ok(parsed) = parse::json(input.body.as_bytes()) else { return };
    drop(smp::apply(&schema, &mut input.stored.clone(), parsed.value));
}
