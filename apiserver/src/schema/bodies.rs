//! A decoded body, or a patch -> what is wrong with it by the kind's schema, or the object that it makes.

use api::{Gvk, Status};
use serde_json::Value;

use super::{
    FieldValidation, Schema,
    check::{check, metadata, strict},
};
use crate::{parse::Parsed, smp};

impl Schema {
    /// Drops unknown fields of a decoded body and checks types. `duplicates` are the paths given twice. The texts returned become `Warning`
    /// headers; under [`FieldValidation::Strict`] they are a 400 instead.
    pub fn check(&self, gvk: &Gvk, object: &mut Value, duplicates: &[String], mode: FieldValidation) -> Result<Vec<String>, Status> {
        if let Self::Custom(custom) = self
            && let Some(shape) = &custom.shape
        {
            let mut found = duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect::<Vec<_>>();
            found.extend(metadata(&custom.structure, gvk, object)?);
            found.extend(shape.shape(object).into_iter().map(|path| format!("unknown field {path:?}")));
            return strict(gvk, found, mode);
        }
        match self.structure() {
            Some(structure) => check(&structure, gvk, object, duplicates, mode),
            None if matches!(self, Self::Open) => {
                strict(gvk, duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect(), mode)
            }
            None => Err(self.missing()),
        }
    }

    /// Applies a strategic merge patch by the kind's list semantics.
    ///
    /// # Errors
    /// 415 for kinds that are not built in, as upstream; else those of [`smp::apply`].
    pub fn strategic_merge(&self, original: &mut Value, patch: Value) -> Result<(), Status> {
        match self {
            Self::BuiltIn { .. } => smp::apply(&self.structure().ok_or_else(|| self.missing())?, original, patch),
            Self::Open | Self::Custom(_) => {
                Err(Status::unsupported_media_type(&["application/json-patch+json", "application/merge-patch+json"]))
            }
        }
    }

    /// A body in Kubernetes' protobuf envelope, as JSON. `expected` is the kind that was to come, for errors.
    pub fn protobuf(&self, expected: &str, body: &[u8]) -> Result<Parsed, Status> {
        match self.tables() {
            Some(tables) => tables.protobuf(expected, body),
            None => Err(Status::unsupported_media_type(&["application/json", "application/yaml"])),
        }
    }

    fn missing(&self) -> Status {
        Status::internal(format!("no schema {:?}", self.name()))
    }
}
