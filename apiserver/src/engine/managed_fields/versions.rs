//! An object in the versions that its managers wrote it in. Source: apimachinery `pkg/util/managedfields/internal/versionconverter.go`.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::Value;

use super::entries::Managed;
use crate::{
    engine::{context::Ctx, form},
    fields::{Comparison, Mode, Set, Side, Typ, compare},
    kind::Conversion,
    schema::{Schema, Structure},
};

/// The schema of a version, and how its objects are read.
pub(super) struct Shape {
    structure: Option<Structure>,
    pub mode: Mode,
}

impl Shape {
    pub fn of(schema: &Schema) -> Self {
        let mode = if matches!(schema, Schema::BuiltIn { .. }) { Mode::Typed } else { Mode::Raw };
        Self { structure: schema.structure(), mode }
    }

    pub fn typ(&self) -> Typ<'_> {
        self.structure.as_ref().map_or(Typ::OPEN, Typ::of)
    }

    /// Brings entries of `version` up to this schema. That of a built-in kind does not change.
    pub fn reconcile(&self, managed: &mut Managed, version: &str) {
        if self.mode == Mode::Raw && self.structure.is_some() {
            managed.0.iter_mut().filter(|entry| entry.version == version).for_each(|entry| entry.reconcile(self.typ()));
        }
    }

    fn side<'v>(&self, value: &'v Value) -> Side<'v> {
        Side { value, mode: self.mode }
    }
}

/// The object in another version, and that version's schema; `None` where that is not served. Where somebody else would have to be asked, fields are
/// taken to have the same names there.
pub(super) fn other<'v>(ctx: &Ctx<'_>, value: &'v Value, version: &str) -> Option<(Cow<'v, Value>, Shape)> {
    let (group, name) = version.split_once('/').unwrap_or(("", version));
    let registry = ctx.engine.registry();
    let served = registry.find(group, name, &ctx.kind.plural)?;
    let kind = &served.kind;
    let converted = match &kind.conversion {
        Conversion::None | Conversion::Remote(_) => Cow::Borrowed(value),
        Conversion::Direct(convert) => Cow::Owned(form::typed_as(kind, convert(&kind.gvk(), value.clone()))),
    };
    Some((converted, Shape::of(&kind.schema)))
}

/// What a write changes, in the version that it is made in and in those that the entries are of.
///
/// # Errors
/// Items that cannot be told apart.
pub(super) fn compared(
    ctx: &Ctx<'_>,
    shape: &Shape,
    version: &str,
    (old, new): (&Value, Side<'_>),
    managed: &Managed,
    reset: &Set,
) -> Result<BTreeMap<String, Comparison>, String> {
    let own = compare(shape.typ(), shape.side(old), new)?.without(reset);
    let mut out = BTreeMap::from([(version.to_owned(), own)]);
    for entry in &managed.0 {
        if out.contains_key(&entry.version) {
            continue;
        }
        let (Some((old, shape)), Some((new, _))) = (other(ctx, old, &entry.version), other(ctx, new.value, &entry.version)) else {
            continue;
        };
        out.insert(entry.version.clone(), compare(shape.typ(), shape.side(&old), shape.side(&new))?.without(reset));
    }
    Ok(out)
}
