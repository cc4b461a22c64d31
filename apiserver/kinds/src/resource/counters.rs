//! Counters that devices share and use up -> what is wrong with them.

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::names;
use crate::common::{Path, Read};

/// `ResourceSliceMaxCountersPerCounterSet`, `ResourceSliceMaxCountersPerDeviceCounterConsumption`
const COUNTERS: usize = 32;

/// `validateCounterSet` (of field `name`), `validateDeviceCounterConsumption` (of field `counterSet`). Any amount will do.
pub fn validate(set: &Value, field: &str, path: Path<'_>, causes: &mut FieldErrors) {
    names::required_label(set.text(field), path.field(field), causes);
    let at = path.field("counters");
    match set.object("counters").filter(|counters| !counters.is_empty()) {
        None => causes.required(at, ""),
        Some(counters) if counters.len() > COUNTERS => causes.too_many(at, counters.len(), COUNTERS),
        Some(counters) => counters.keys().for_each(|name| names::label(name, at, causes)),
    }
}
