//! What fields a kind has and of which types: for checks, patches, defaults and OpenAPI. Built-in kinds share one table, read at first use.

mod bodies;
mod check;
mod complete;
mod custom;
mod facets;
mod go;
mod restore;
mod table;
mod tables;
mod wire;

use std::{
    io::{Read, Write},
    sync::Arc,
};

use api::Gvk;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use check::check;
pub(crate) use check::strict;
pub use facets::Facets;
pub use go::time_error;
pub(crate) use go::word;
pub use table::{Definition, Element, Field, ListType, MapType, Semantics, Table, Text, Type};
pub use tables::Tables;
pub use wire::enveloped;
pub(crate) use wire::{ENVELOPE_END, put_bytes, put_envelope, put_head};
pub use wire::{MAGIC, Wire, WireError, Writer};

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
    shape: Option<Arc<dyn Shape>>,
    /// As OpenAPI publishes it.
    definitions: Published,
    /// For bodies that are of built-in kinds all the same (DeleteOptions, Scale).
    tables: Option<&'static Tables>,
}

/// A definition as OpenAPI v3 has it (JSON, gzip: it is seldom asked for), what v2 makes of it, and a hash.
struct Published {
    v3: Vec<u8>,
    v2: fn(&Value) -> Value,
    digest: [u8; 32],
}

/// Whose words a definition is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenApiVersion {
    V2,
    V3,
}

/// What a custom kind makes of a body that was read: upstream decodes it as it is, and judges types with all else.
pub trait Shape: Send + Sync {
    /// Drops what the schema does not have; paths of it come back, sorted. `metadata` is not its business.
    fn shape(&self, object: &mut Value) -> Vec<String>;
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
        Self::Custom(Arc::new(Custom::new(gvk, open_api, tables, None, Value::clone)))
    }

    /// As [`Schema::custom`], where bodies are shaped so. `v2` makes of the schema what OpenAPI v2 has words for.
    pub fn shaped(gvk: &Gvk, open_api: &Value, tables: Option<&'static Tables>, shape: Arc<dyn Shape>, v2: fn(&Value) -> Value) -> Self {
        Self::Custom(Arc::new(Custom::new(gvk, open_api, tables, Some(shape), v2)))
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

    /// Its own definition, JSON; `None` where it stands in the tables.
    pub fn definition(&self, version: OpenApiVersion) -> Option<String> {
        let published = &self.own()?.definitions;
        let mut text = String::new();
        GzDecoder::new(published.v3.as_slice()).read_to_string(&mut text).ok()?;
        match version {
            OpenApiVersion::V3 => Some(text),
            OpenApiVersion::V2 => serde_json::from_str(&text).ok().map(|schema| (published.v2)(&schema).to_string()),
        }
    }

    /// A hash of it; empty where there is none.
    pub(crate) fn digest(&self) -> &[u8] {
        self.own().map_or(&[], |custom| &custom.definitions.digest)
    }

    fn own(&self) -> Option<&Custom> {
        match self {
            Self::Custom(custom) => Some(custom),
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

impl Custom {
    fn new(gvk: &Gvk, open_api: &Value, tables: Option<&'static Tables>, shape: Option<Arc<dyn Shape>>, v2: fn(&Value) -> Value) -> Self {
        let (table, root) = custom::table(&gvk.kind, open_api, tables.map(|tables| &**tables.table()));
        let structure = Structure { table: Arc::new(table), root };
        let text = custom::definition(gvk, open_api).to_string();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory does not fail.
        let _ = packed.write_all(text.as_bytes());
        let definitions = Published { v3: packed.finish().unwrap_or_default(), v2, digest: Sha256::digest(&text).into() };
        Self { name: custom::name(gvk), structure, shape, definitions, tables }
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
