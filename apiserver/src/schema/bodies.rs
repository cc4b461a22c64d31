//! A decoded body, or a patch -> what is wrong with it by the kind's schema, or the object that it makes.

use api::{Gvk, Status, quoted};
use serde_json::Value;

use super::{
    FieldValidation, Schema, Tables,
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
            let mut found = duplicates.iter().map(|path| format!("duplicate field {}", quoted(path))).collect::<Vec<_>>();
            found.extend(metadata(&custom.structure, gvk, object)?);
            found.extend(shape.shape(object).into_iter().map(|path| format!("unknown field {}", quoted(&path))));
            return strict(gvk, found, mode);
        }
        match self.structure() {
            Some(structure) => check(&structure, gvk, object, duplicates, mode),
            None if matches!(self, Self::Open) => {
                strict(gvk, duplicates.iter().map(|path| format!("duplicate field {}", quoted(path))).collect(), mode)
            }
            None => Err(self.missing()),
        }
    }

    /// What is said of an object of a custom kind in a version that nobody has a schema of: no field of it is known. As [`Schema::check`].
    pub(crate) fn unknown_version(&self, gvk: &Gvk, object: &Value, mode: FieldValidation) -> Result<Vec<String>, Status> {
        let fields = object.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let mut unknown: Vec<&str> = fields.filter(|name| !matches!(*name, "apiVersion" | "kind" | "metadata")).collect();
        unknown.sort_unstable();
        strict(gvk, unknown.into_iter().map(|name| format!("unknown field {}", quoted(name))).collect(), mode)
    }

    /// Applies a strategic merge patch by the kind's list semantics.
    ///
    /// # Errors
    /// 415 for kinds that are not built in, as upstream; else those of [`smp::apply`].
    pub fn strategic_merge(&self, original: &mut Value, patch: Value) -> Result<(), Status> {
        match self {
            Self::BuiltIn { .. } => smp::apply(&self.structure().ok_or_else(|| self.missing())?, original, patch),
            Self::Open | Self::Custom(_) => Err(Status::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml",
            ])),
        }
    }

    /// A body in Kubernetes' protobuf envelope, as JSON. `expected` is the kind that was to come, for errors.
    pub fn protobuf(&self, expected: &str, body: &[u8]) -> Result<Parsed, Status> {
        match self.tables() {
            Some(tables) => tables.protobuf(expected, body),
            None => Err(Status::unsupported_media_type(&["application/json", "application/yaml"])),
        }
    }

    /// Adds what Go writes where nothing was said (`status: {}`, `eventTime: null`); of built-in kinds alone.
    pub fn complete(&self, object: &mut Value) {
        if let Self::BuiltIn { tables, name } = self {
            tables.complete(name, object);
        }
    }

    /// Why an object is none of another kind, decoded as which its types are wrong; `None` where they are not, or where there is no such kind.
    pub(crate) fn mistyped_as(&self, gvk: &Gvk, api_version: &str, kind: &str, object: &mut Value) -> Option<Status> {
        let structure = self.tables()?.structure_of(api_version, kind)?;
        check(&structure, gvk, object, &[], FieldValidation::Ignore).err()
    }

    /// Whether there is another kind of this name; upstream's scheme has the built-in ones alone.
    pub(crate) fn knows(&self, api_version: &str, kind: &str) -> bool {
        match self {
            Self::BuiltIn { tables, .. } => tables.knows(api_version, kind),
            Self::Open | Self::Custom(_) => true,
        }
    }

    /// Whether objects of this kind have a protobuf form.
    pub fn has_protobuf(&self) -> bool {
        matches!(self, Self::BuiltIn { .. })
    }

    /// Appends the protobuf message of an object of this kind. False where it has none.
    pub(crate) fn put_message(&self, json: &[u8], out: &mut Vec<u8>) -> bool {
        let Self::BuiltIn { tables, name } = self else { return false };
        tables.table().index(name).is_some_and(|at| tables.writer().write(at, json, out).is_ok())
    }

    /// As [`Schema::put_message`], of another kind of the same tables.
    pub(crate) fn put_message_of(&self, api_version: &str, kind: &str, json: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(writer) = self.tables().map(Tables::writer) else { return false };
        writer.definition(api_version, kind).is_some_and(|at| writer.write(at, json, out).is_ok())
    }

    /// Appends what every kind has (`ObjectMeta`, `ListMeta`) as a field with this tag.
    pub(crate) fn put_meta(&self, name: &str, json: &[u8], tag: u32, out: &mut Vec<u8>) -> bool {
        let Some(tables) = self.tables() else { return false };
        let mut message = Vec::with_capacity(json.len());
        let at = tables.table().index(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
        let done = at.is_some_and(|at| tables.writer().write(at, json, &mut message).is_ok());
        super::put_bytes(out, tag, &message);
        done
    }

    fn missing(&self) -> Status {
        Status::internal(format!("no schema {:?}", self.name()))
    }
}
