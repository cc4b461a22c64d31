//! What fields a kind has and of which types: for checks, patches, defaults and OpenAPI. Built-in kinds share one table, read at first use.

mod bodies;
mod check;
mod complete;
mod custom;
mod facets;
mod go;
mod table;
mod tables;
mod wire;

use std::sync::Arc;

use api::Gvk;
use serde_json::Value;

pub use check::check;
pub use facets::Facets;
pub(crate) use go::word;
pub use table::{Definition, Element, Field, ListType, MapType, Semantics, Table, Text, Type};
pub use tables::Tables;
pub use wire::enveloped;
pub(crate) use wire::{ENVELOPE_END, put_bytes, put_envelope};
pub use wire::{Wire, WireError, Writer};

/// What to do with fields that are unknown or given twice (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// The schema of one kind. Cheap to clone.
#[derive(Clone)]
pub enum Schema {
    /// None: everything passes, nothing can be merged strategically.
    Open,
    /// A definition of the tables in the binary, by its full name (`io.k8s.api.core.v1.Pod`).
    BuiltIn { tables: &'static Tables, name: Text },
    /// That of a kind that was made while the server runs.
    Custom(Arc<Custom>),
}

/// A custom resource's schema.
pub struct Custom {
    /// As OpenAPI names it: `io.example.v1.Widget`.
    name: String,
    structure: Structure,
    /// As OpenAPI publishes it.
    definition: String,
    /// For bodies that are of built-in kinds all the same (DeleteOptions, Scale).
    tables: Option<&'static Tables>,
}

/// The fields of one kind: a definition within a table. Cheap to clone.
#[derive(Clone)]
pub struct Structure {
    table: Arc<Table>,
    root: u32,
}

impl Schema {
    /// Of a custom resource, from its `openAPIV3Schema`. `tables` are those of the built-in kinds.
    pub fn custom(gvk: &Gvk, open_api: &Value, tables: Option<&'static Tables>) -> Self {
        let (table, root) = custom::table(&gvk.kind, open_api, tables.map(|tables| &**tables.table()));
        let structure = Structure { table: Arc::new(table), root };
        let definition = custom::definition(gvk, open_api).to_string();
        Self::Custom(Arc::new(Custom { name: custom::name(gvk), structure, definition, tables }))
    }

    /// The definition's name in OpenAPI; empty where there is none.
    pub fn name(&self) -> &str {
        match self {
            Self::Open => "",
            Self::BuiltIn { name, .. } => name,
            Self::Custom(custom) => &custom.name,
        }
    }

    pub fn tables(&self) -> Option<&'static Tables> {
        match self {
            Self::Open => None,
            Self::BuiltIn { tables, .. } => Some(tables),
            Self::Custom(custom) => custom.tables,
        }
    }

    /// Its own definition as OpenAPI v2 writes it, JSON; `None` where it stands in the tables.
    pub fn definition(&self) -> Option<&str> {
        match self {
            Self::Custom(custom) => Some(&custom.definition),
            Self::Open | Self::BuiltIn { .. } => None,
        }
    }

    /// `None` for an open one, and for a name that the tables do not have.
    pub fn structure(&self) -> Option<Structure> {
        match self {
            Self::Open => None,
            Self::BuiltIn { tables, name } => tables.structure(name),
            Self::Custom(custom) => Some(custom.structure.clone()),
        }
    }
}

impl Structure {
    /// `None` if the table has no such definition.
    pub fn find(table: &Arc<Table>, name: &str) -> Option<Self> {
        table.index(name).map(|root| Self { table: table.clone(), root })
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
