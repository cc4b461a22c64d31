//! Which objects a list or watch is about: namespace, labels, fields.

use std::{collections::HashSet, sync::Arc};

use api::{
    Key, Status,
    selector::{Fields, Labels, Matcher},
};

use super::object::Object;
use crate::kind::{Conversion, Kind, Lookup, Scope};

/// Who is told of changes: of those to objects with this value, or of all.
pub(crate) type Interest<'a> = Option<(Source, &'a str)>;

/// A selection, checked against the kind's fields.
#[derive(Clone)]
pub(crate) struct Selection {
    /// What the objects are stored as: their fields are looked up there.
    kind: Arc<Kind>,
    pub namespace: String,
    labels: Matcher,
    equal: Vec<(Source, String)>,
    /// Values that a field may not have: as many as a URL has room for.
    unequal: Vec<(Source, HashSet<String>)>,
    shown: Option<Box<Shown>>,
}

/// What is asked of fields of a kind whose objects may have to be converted by somebody else before it is known what they have there.
#[derive(Clone)]
struct Shown {
    /// Of objects that were converted.
    converted: Selection,
    /// Of those that are stored in the version that is asked for.
    kept: Selection,
}

/// Where a field's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Name,
    Namespace,
    /// Index into [`Kind::fields`] of the kind that is stored.
    Field(usize),
}

impl Selection {
    /// Of a kind that is stored as `stored`, which may be itself.
    ///
    /// # Errors
    /// 400 for a field that the kind does not have.
    pub fn new(kind: &Arc<Kind>, stored: &Arc<Kind>, namespace: &str, labels: Labels, fields: Fields) -> Result<Self, Status> {
        let mut selection = Self { namespace: namespace.to_owned(), labels: Matcher::new(labels), ..Self::of_all(stored) };
        let is_remote = matches!(kind.conversion, Conversion::Remote(_));
        let mut later = Vec::new();
        for term in fields.0 {
            match Source::named(kind, stored, &term.field)? {
                Source::Field(_) if is_remote => later.push(term),
                source => selection.add(source, term.equal, term.value),
            }
        }
        if !later.is_empty() {
            let of = |shown_by: &Arc<Kind>| {
                let mut all = Self::of_all(shown_by);
                for term in &later {
                    all.add(Source::named(kind, shown_by, &term.field)?, term.equal, term.value.clone());
                }
                Ok::<_, Status>(all)
            };
            selection.shown = Some(Box::new(Shown { converted: of(kind)?, kept: of(stored)? }));
        }
        Ok(selection)
    }

    fn of_all(kind: &Arc<Kind>) -> Self {
        let (kind, labels) = (kind.clone(), Matcher::new(Labels::default()));
        Self { kind, namespace: String::new(), labels, equal: Vec::new(), unequal: Vec::new(), shown: None }
    }

    /// Whether some of it can be told only once objects are converted: then [`Selection::matches`] takes more.
    pub fn is_of_shown(&self) -> bool {
        self.shown.is_some()
    }

    /// Of an object that [`Selection::matches`], as it is shown.
    pub fn matches_shown(&self, shown: &Object) -> bool {
        self.shown.as_ref().is_none_or(|terms| if shown.is_shown() { terms.converted.matches(shown) } else { terms.kept.matches(shown) })
    }

    /// Whether it takes everything (of its namespace).
    pub fn is_all(&self) -> bool {
        self.labels.is_empty() && self.equal.is_empty() && self.unequal.is_empty() && self.shown.is_none()
    }

    pub fn matches(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || self.namespace == object.key.namespace)
            && self.labels.matches(|key| object.label(key), || object.labels())
            && self.equal.iter().all(|(field, value)| field.value(&self.kind, object) == value)
            && self.unequal.iter().all(|(field, values)| !values.contains(field.value(&self.kind, object)))
    }

    /// The value of one field that every match must have: what a watcher can wait for.
    pub fn interest(&self) -> Interest<'_> {
        let term = self.equal.first().map(|(field, value)| (*field, value.as_str()));
        term.or((!self.namespace.is_empty()).then_some((Source::Namespace, self.namespace.as_str())))
    }

    /// The field of an index, and the value of it that every match must have.
    pub fn indexed(&self) -> Option<(usize, &str)> {
        self.equal.iter().find_map(|(field, value)| match field {
            // What has none is not in the index.
            Source::Field(at) if !value.is_empty() => {
                let field = self.kind.fields.get(*at)?;
                (field.lookup == Lookup::Index && *field.default != **value).then_some((*at, value.as_str()))
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
        self.equal.iter().find(|(field, _)| *field == Source::Name).map(|(_, value)| value.as_str())
    }

    /// What is said twice is asked once; a second value for the same field is never met.
    fn add(&mut self, field: Source, equal: bool, value: String) {
        if !equal {
            return match self.unequal.iter_mut().find(|(known, _)| *known == field) {
                Some((_, values)) => drop(values.insert(value)),
                None => self.unequal.push((field, HashSet::from([value]))),
            };
        }
        let mut known = self.equal.iter().filter(|(known, _)| *known == field);
        if known.all(|(_, known)| *known != value) && self.equal.iter().filter(|(known, _)| *known == field).count() < 2 {
            self.equal.push((field, value));
        }
    }
}

impl Source {
    fn named(kind: &Kind, stored: &Kind, label: &str) -> Result<Self, Status> {
        let pointer = kind.fields.iter().find(|field| field.label == label).map(|field| &field.pointer);
        let known = pointer.and_then(|pointer| stored.fields.iter().position(|field| field.pointer == *pointer));
        match (label, known) {
            (_, Some(at)) => Ok(Source::Field(at)),
            ("metadata.name", None) => Ok(Source::Name),
            ("metadata.namespace", None) => Ok(Source::Namespace),
            (other, None) => Err(unsupported(kind, other)),
        }
    }

    pub fn value<'a>(self, kind: &'a Kind, object: &'a Object) -> &'a str {
        match self {
            Source::Name => &object.key.name,
            Source::Namespace => &object.key.namespace,
            Source::Field(at) => {
                let field = kind.fields.get(at);
                let own = object.field(at).unwrap_or(field.map_or("", |field| &*field.default));
                match field.and_then(|field| field.instead.as_ref()) {
                    Some(label) if own.is_empty() => {
                        let other = kind.fields.iter().position(|field| field.label == *label);
                        other.and_then(|at| object.field(at)).unwrap_or_default()
                    }
                    _ => own,
                }
            }
        }
    }
}
/// Upstream has one conversion of field labels for all kinds that register none of their own (`DefaultMetaV1FieldSelectorConversion`).
fn unsupported(kind: &Kind, label: &str) -> Status {
    let has_own =
        !kind.schema.has_protobuf() || kind.fields.iter().any(|field| !matches!(&*field.label, "metadata.name" | "metadata.namespace"));
    Status::bad_request(match has_own {
        true => format!("field label not supported: {label}"),
        false => format!("{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", api::quoted(label)),
    })
}
