//! What `xtask` wrote of the published types -> tables in memory, each read when it is first needed: starting pays nothing.

use std::sync::{Arc, OnceLock};

use api::Status;
use serde_json::Value;

use super::{
    Structure, Table, Wire,
    complete::{Completer, Zeros},
    wire::{WireError, Writer, unwrapped},
};
use crate::parse::Parsed;

/// The schemas of all built-in kinds; one constant of the binary.
pub struct Tables {
    structure: &'static str,
    wire_numbers: &'static str,
    definitions: &'static [u8],
    table: OnceLock<Arc<Table>>,
    wire: OnceLock<Arc<Wire>>,
    writer: OnceLock<Writer>,
    zeros: OnceLock<Zeros>,
}

impl Tables {
    /// From the files that `xtask` wrote: structure without descriptions; protobuf field numbers; described definitions, JSON in gzip
    /// (`{"io.k8s.api.core.v1.Pod": {...}, ...}`).
    pub const fn new(structure: &'static str, wire_numbers: &'static str, definitions: &'static [u8]) -> Self {
        Self {
            structure,
            wire_numbers,
            definitions,
            table: OnceLock::new(),
            wire: OnceLock::new(),
            writer: OnceLock::new(),
            zeros: OnceLock::new(),
        }
    }

    /// The fields of a definition by its full name.
    pub fn structure(&self, name: &str) -> Option<Structure> {
        Structure::find(self.table(), name)
    }

    pub fn table(&self) -> &Arc<Table> {
        self.table.get_or_init(|| Arc::new(Table::parse(self.structure)))
    }

    /// As OpenAPI v2 writes them, gzip.
    pub fn definitions(&self) -> &'static [u8] {
        self.definitions
    }

    /// # Errors
    /// 400 for what is no protobuf of a known kind. `expected` is the kind that was to come.
    pub fn protobuf(&self, expected: &str, body: &[u8]) -> Result<Parsed, Status> {
        match self.wire().read(self.table(), body) {
            Ok(value) => Ok(Parsed { value, ..Parsed::default() }),
            Err(why) => {
                let words = format!("the object provided is unrecognized (must be of type {expected}): {why}");
                Err(Status::bad_request(words))
            }
        }
    }

    /// What another server stored: in the version `as_stored` of `kind` where `is_same` says that its own version is not other than that.
    ///
    /// # Errors
    /// It is no protobuf of a known kind.
    pub(crate) fn stored(&self, as_stored: &str, kind: &str, body: &[u8], is_same: impl Fn(&str) -> bool) -> Result<Value, WireError> {
        let (mut api_version, of, message) = unwrapped(body)?;
        if of == kind && api_version != as_stored && is_same(&api_version) {
            as_stored.clone_into(&mut api_version);
        }
        self.wire().read_as(self.table(), (api_version, of, message))
    }

    /// Writes protobuf of what is in the tables.
    pub fn writer(&self) -> &Writer {
        self.writer.get_or_init(|| Writer::new(self.table().clone(), self.wire().clone()))
    }

    /// The fields of the kind of this name.
    pub fn structure_of(&self, api_version: &str, kind: &str) -> Option<Structure> {
        let root = self.writer().definition(api_version, kind)?;
        Some(Structure { table: self.table().clone(), root })
    }

    /// Whether there is a kind of this name.
    pub fn knows(&self, api_version: &str, kind: &str) -> bool {
        self.writer().definition(api_version, kind).is_some()
    }

    /// Adds to an object of this definition what Go writes where nothing was said.
    pub fn complete(&self, name: &str, object: &mut Value) {
        let (table, wire) = (self.table(), self.wire());
        if let (Some(at), Value::Object(map)) = (table.index(name), object) {
            let zeros = self.zeros.get_or_init(|| Zeros::new(table));
            Completer { table, wire, zeros }.object(at, map);
        }
    }

    fn wire(&self) -> &Arc<Wire> {
        self.wire.get_or_init(|| Arc::new(Wire::parse(self.wire_numbers)))
    }
}
