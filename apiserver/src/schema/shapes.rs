//! A kind -> its shape: built-in ones from the binary, read at first use; custom ones as they come.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use api::{Gvk, Status};
use parking_lot::RwLock;
use serde_json::Value;

use super::{Schema, Table, check};
use crate::{
    decode::{FieldValidation, Schemas},
    kind::Kind,
    smp,
};

/// All shapes. `text` is the table that `xtask` wrote.
pub struct Shapes {
    text: &'static str,
    table: OnceLock<Arc<Table>>,
    custom: RwLock<HashMap<Gvk, Schema>>,
}

impl Shapes {
    pub fn new(text: &'static str) -> Self {
        Self { text, table: OnceLock::new(), custom: RwLock::default() }
    }

    /// The shape of a kind. Built-in kinds name their definition; others were given to [`Shapes::set_custom`].
    pub fn of(&self, kind: &Kind) -> Option<Schema> {
        match kind.schema.as_ref() {
            "" => self.custom.read().get(&kind.gvk()).cloned(),
            name => self.named(name).or_else(|| self.custom.read().get(&kind.gvk()).cloned()),
        }
    }

    /// The shape of a definition by its full name.
    pub fn named(&self, name: &str) -> Option<Schema> {
        Schema::find(self.table(), name)
    }

    pub fn set_custom(&self, gvk: Gvk, schema: Schema) {
        self.custom.write().insert(gvk, schema);
    }

    pub fn drop_custom(&self, gvk: &Gvk) {
        self.custom.write().remove(gvk);
    }

    pub fn table(&self) -> &Arc<Table> {
        self.table.get_or_init(|| Arc::new(Table::parse(self.text)))
    }

    fn required(&self, kind: &Kind) -> Result<Schema, Status> {
        self.of(kind).ok_or_else(|| Status::internal(format!("no schema for {}", kind.kind)))
    }
}

impl Schemas for Shapes {
    fn check(&self, kind: &Kind, object: &mut Value, duplicates: &[String], mode: FieldValidation) -> Result<Vec<String>, Status> {
        check(&self.required(kind)?, &kind.gvk(), object, duplicates, mode)
    }

    fn strategic_merge(&self, kind: &Kind, original: &mut Value, patch: Value) -> Result<(), Status> {
        *original = smp::apply(&self.required(kind)?, original, patch)?;
        Ok(())
    }
}
