//! What the engine needs to know of shapes: the seam behind which the schemas of kinds stand.

use api::Status;
use serde_json::Value;

use crate::{kind::Kind, parse::Parsed};

/// What to do with fields that are unknown or given twice (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// The shapes of kinds. One object is given to the engine with [`crate::engine::Engine::set_schemas`] before it serves.
pub trait Schemas: Send + Sync {
    /// Drops unknown fields of a decoded body and checks types. `duplicates` are the paths given twice. The texts returned become
    /// `Warning` headers; under [`FieldValidation::Strict`] they are a 400 instead.
    fn check(&self, kind: &Kind, object: &mut Value, duplicates: &[String], mode: FieldValidation) -> Result<Vec<String>, Status>;

    /// Applies a strategic merge patch by the kind's list semantics.
    fn strategic_merge(&self, kind: &Kind, original: &mut Value, patch: Value) -> Result<(), Status>;

    /// A body in Kubernetes' protobuf envelope, as JSON. `expected` is the kind that was to come, for errors.
    fn protobuf(&self, _expected: &str, _body: &[u8]) -> Result<Parsed, Status> {
        Err(Status::unsupported_media_type(&["application/json", "application/yaml"]))
    }
}

/// No schemas: everything passes, nothing can be merged strategically.
pub struct Unchecked;

impl Schemas for Unchecked {
    fn check(&self, _: &Kind, _: &mut Value, duplicates: &[String], mode: FieldValidation) -> Result<Vec<String>, Status> {
        let words: Vec<String> = duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
        match mode {
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Warn => Ok(words),
            FieldValidation::Strict if words.is_empty() => Ok(words),
            FieldValidation::Strict => Err(Status::bad_request(format!("strict decoding error: {}", words.join(", ")))),
        }
    }

    fn strategic_merge(&self, kind: &Kind, _: &mut Value, _: Value) -> Result<(), Status> {
        Err(Status::new(415, "UnsupportedMediaType", format!("strategic merge patch is not supported for {}", kind.kind)))
    }
}
