//! What fields there are and of which types: one bare table for all kinds, read at first use.

mod check;
mod custom;
mod go;
mod shapes;
mod table;
mod wire;

use std::sync::Arc;

pub use check::check;
pub(crate) use go::word;
pub use shapes::Shapes;
pub use table::{Definition, Field, ListType, MapType, Semantics, Table, Text, Type};
pub use wire::{Wire, WireError};

/// The shape of one kind: a definition within a table. Cheap to clone.
#[derive(Clone)]
pub struct Schema {
    table: Arc<Table>,
    root: u32,
}

impl Schema {
    /// `None` if the table has no such definition.
    pub fn find(table: &Arc<Table>, name: &str) -> Option<Self> {
        table.index(name).map(|root| Self { table: table.clone(), root })
    }

    /// The shape that a custom resource's `openAPIV3Schema` describes. `name` is the kind, as errors show it.
    pub fn custom(name: &str, open_api: &serde_json::Value) -> Self {
        let (table, root) = custom::table(name, open_api);
        Self { table: Arc::new(table), root }
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The type of the whole object.
    pub fn typ(&self) -> Type {
        Type::Object(self.root)
    }

    pub fn root(&self) -> &Definition {
        self.table.definition(self.root)
    }
}
