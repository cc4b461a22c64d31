//! TODO
use api::causes::Causes;
use serde_json::Value;
pub fn pod(_new: &Value, _old: &Value, _causes: &mut Causes) {}
