//! Which objects a list or watch is about: namespace, labels, fields.

use std::sync::Arc;

use api::{
    Key, Status,
    selector::{Fields, Labels},
};

use super::{object::Object, wake::Interest};
use crate::kind::{Kind, Lookup, Scope};

/// A selection, checked against the kind's fields.
#[derive(Clone)]
pub(crate) struct Selection {
    kind: Arc<Kind>,
    pub namespace: String,
    labels: Labels,
    terms: Vec<Term>,
}

#[derive(Clone, Debug)]
struct Term {
    field: Source,
    equal: bool,
    value: String,
}

/// Where a field's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Name,
    Namespace,
    /// Index into [`Kind::fields`].
    Field(usize),
}

impl Selection {
    /// # Errors
    /// 400 for a field that the kind does not have.
    pub fn new(kind: &Arc<Kind>, namespace: &str, labels: Labels, fields: Fields) -> Result<Self, Status> {
        let terms = fields.0.into_iter().map(|term| Term::new(kind, term)).collect::<Result<_, _>>()?;
        Ok(Self { kind: kind.clone(), namespace: namespace.to_owned(), labels, terms })
    }

    /// Whether it takes everything (of its namespace).
    pub fn is_all(&self) -> bool {
        self.labels.is_empty() && self.terms.is_empty()
    }

    pub fn matches(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || self.namespace == object.key.namespace)
            && self.labels.matches_with(|key| object.label(key))
            && self.terms.iter().all(|term| (term.field.value(&self.kind, object) == term.value) == term.equal)
    }

    /// The value of one field that every match must have: what a watcher can wait for.
    pub fn interest(&self) -> Interest<'_> {
        let term = self.terms.iter().find(|term| term.equal).map(|term| (term.field, term.value.as_str()));
        term.or((!self.namespace.is_empty()).then_some((Source::Namespace, self.namespace.as_str())))
    }

    /// The field of an index, and the value of it that every match must have.
    pub fn indexed(&self) -> Option<(usize, &str)> {
        self.terms.iter().find_map(|term| match term.field {
            // What has none is not in the index.
            Source::Field(at) if term.equal && !term.value.is_empty() => {
                let field = self.kind.fields.get(at)?;
                (field.lookup == Lookup::Index && field.default != term.value).then_some((at, term.value.as_str()))
            }
            _ => None,
        })
    }

    /// The one key that can match, where the selection names it.
    pub fn single(&self) -> Option<Key> {
        let name = self.exact_name()?;
        let placed = self.kind.scope == Scope::Cluster || !self.namespace.is_empty();
        placed.then(|| Key::new(&self.namespace, name))
    }

    /// The name that every match must have, where the selection says so.
    fn exact_name(&self) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && matches!(term.field, Source::Name)).map(|term| term.value.as_str())
    }
}

impl Term {
    fn new(kind: &Kind, term: api::selector::FieldTerm) -> Result<Self, Status> {
        let known = kind.fields.iter().position(|field| field.label == term.field);
        let field = match (term.field.as_str(), known) {
            (_, Some(at)) => Source::Field(at),
            ("metadata.name", None) => Source::Name,
            ("metadata.namespace", None) => Source::Namespace,
            (other, None) => return Err(Status::bad_request(format!("field label not supported: {other}"))),
        };
        Ok(Self { field, equal: term.equal, value: term.value })
    }
}

impl Source {
    pub fn value<'a>(self, kind: &Kind, object: &'a Object) -> &'a str {
        match self {
            Source::Name => &object.key.name,
            Source::Namespace => &object.key.namespace,
            Source::Field(at) => {
                let default = kind.fields.get(at).map_or("", |field| field.default);
                object.field(at).unwrap_or(default)
            }
        }
    }
}
