//! A kind -> its shape: built-in ones from the binary, read at first use; custom ones as they come.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use api::{Gvk, Status};
use parking_lot::RwLock;
use serde_json::Value;

use super::{Schema, Table, Wire, check};
use crate::{
    decode::{FieldValidation, Schemas},
    kind::Kind,
    parse::Parsed,
    smp,
};

/// All shapes.
pub struct Shapes {
    structure: &'static str,
    wire_numbers: &'static str,
    table: OnceLock<Arc<Table>>,
    wire: OnceLock<Wire>,
    custom: RwLock<HashMap<Gvk, Schema>>,
}

impl Shapes {
    /// From the tables that `xtask` wrote; each is read when it is first needed.
    pub fn new(structure: &'static str, wire_numbers: &'static str) -> Self {
        Self { structure, wire_numbers, table: OnceLock::new(), wire: OnceLock::new(), custom: RwLock::default() }
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
        self.table.get_or_init(|| Arc::new(Table::parse(self.structure)))
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
        smp::apply(&self.required(kind)?, original, patch)
    }

    fn protobuf(&self, expected: &str, body: &[u8]) -> Result<Parsed, Status> {
        let wire = self.wire.get_or_init(|| Wire::parse(self.wire_numbers));
        match wire.read(self.table(), body) {
            Ok(value) => Ok(Parsed { value, duplicates: Vec::new() }),
            Err(why) => {
                let words = format!("the object provided is unrecognized (must be of type {expected}): {why}");
                Err(Status::bad_request(words))
            }
        }
    }
}
