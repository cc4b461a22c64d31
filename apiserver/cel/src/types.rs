//! A schema -> the types of its values, as rules see them. Source: apiserver `pkg/cel/common/schemas.go`, `pkg/cel/types.go`, `pkg/cel/escaping.go`.

use std::{borrow::Cow, fmt, rc::Rc};

use super::lexer::is_reserved;
use crate::schema::{Additional, Node, Type};

/// A static type.
#[derive(Clone, Debug)]
pub enum T<'s> {
    /// Anything; what it is shows when the rule runs.
    Dyn,
    /// The same, but that no macro runs over it: `google.protobuf.Any`.
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Duration,
    Timestamp,
    List(Rc<T<'s>>),
    Map(Rc<T<'s>>, Rc<T<'s>>),
    /// An object with fields of its own; a resource has its metadata as well.
    Object(&'s Node, Resource),
    /// The metadata of a resource: name and generateName.
    Meta,
    Optional(Rc<T<'s>>),
    /// A type itself.
    Type,
    /// Of a library: `kubernetes.URL` and the like.
    Library(&'static str),
    /// Of a literal with a name: `Object`, `Object.spec`, `JSONPatch`.
    Message(Rc<str>),
    /// What stands before the names of composed expressions: those, with their types.
    Variables(Rc<Vec<(String, T<'s>)>>),
    /// An object of the server's own, and its fields.
    Record(Rc<Record<'s>>),
}

/// Of one name there is one type.
#[derive(Debug)]
pub struct Record<'s> {
    pub name: &'static str,
    pub fields: Vec<(&'static str, T<'s>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    No,
    Yes,
}

impl<'s> T<'s> {
    /// What a value of the schema is; `None` where rules cannot see it.
    pub fn of(node: &'s Node, resource: Resource) -> Option<Self> {
        if node.int_or_string {
            return Some(Self::Dyn);
        }
        let format = node.limits().format.as_str();
        Some(match node.typ {
            Type::Unset => return None,
            Type::Boolean => Self::Bool,
            Type::Integer => Self::Int,
            Type::Number => Self::Double,
            Type::String => match format {
                "byte" => Self::Bytes,
                "duration" => Self::Duration,
                "date" | "date-time" => Self::Timestamp,
                _ => Self::Text,
            },
            Type::Array => Self::List(Rc::new(Self::of(node.items.as_deref()?, Resource::No)?)),
            Type::Object => match &node.additional {
                Additional::Of(held) => Self::Map(Rc::new(Self::Text), Rc::new(Self::of(held, Resource::No)?)),
                _ if resource == Resource::Yes || node.embedded => Self::Object(node, Resource::Yes),
                _ => Self::Object(node, Resource::No),
            },
        })
    }

    /// The field of an object, by the name that rules have for it.
    pub fn field(node: &'s Node, resource: Resource, name: &str) -> Option<Self> {
        if resource == Resource::Yes {
            match name {
                "kind" | "apiVersion" => return Some(Self::Text),
                "metadata" => return Some(Self::Meta),
                _ => {}
            }
        }
        Self::of(node.properties.get(&unescaped(name)?)?, Resource::No)
    }

    /// Whether nothing is known of it.
    pub fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn | Self::Any)
    }

    /// As a whole expression's type is named (cel-go `types.Type.String`).
    pub fn of_result(&self) -> String {
        if matches!(self, Self::Null) { "null_type".to_owned() } else { self.to_string() }
    }

    /// Whether a value of `other` may stand where one of this is asked for.
    pub fn takes(&self, other: &T<'_>) -> bool {
        match (self, other) {
            (a, b) if a.is_dyn() || b.is_dyn() => true,
            (Self::List(a), T::List(b)) | (Self::Optional(a), T::Optional(b)) => a.takes(b),
            (Self::Map(a, b), T::Map(c, d)) => a.takes(c) && b.takes(d),
            // Objects, durations, timestamps and optionals may be compared with null.
            (Self::Null, T::Object(..) | T::Record(_) | T::Meta | T::Duration | T::Timestamp | T::Optional(_) | T::Library(_)) => true,
            (Self::Object(..) | Self::Record(_) | Self::Meta, T::Null) => true,
            (Self::Duration | Self::Timestamp | Self::Optional(_) | Self::Library(_), T::Null) => true,
            (Self::Record(a), T::Record(b)) => a.name == b.name,
            (Self::Object(a, _), T::Object(b, _)) => std::ptr::eq(*a, *b),
            (Self::Library(a), T::Library(b)) => a == b,
            (Self::Message(a), T::Message(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(&b.clone().shortened()),
        }
    }

    /// What both are.
    pub fn joined(self, other: Self) -> Self {
        if self.takes(&other) && other.takes(&self) && !self.is_dyn() {
            return if matches!(self, T::Null) { other } else { self };
        }
        T::Dyn
    }

    fn shortened<'a>(self) -> T<'a>
    where
        's: 'a,
    {
        self
    }
}

impl fmt::Display for T<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Any => f.write_str("any"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::Text => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("google.protobuf.Duration"),
            Self::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Self::List(held) => write!(f, "list({held})"),
            Self::Map(key, held) => write!(f, "map({key}, {held})"),
            Self::Object(..) | Self::Meta => f.write_str("object"),
            Self::Optional(held) => write!(f, "optional_type({held})"),
            Self::Type => f.write_str("type"),
            Self::Library(name) => f.write_str(name),
            Self::Message(name) => f.write_str(name),
            Self::Variables(_) => f.write_str("kubernetes.variables"),
            Self::Record(record) => f.write_str(record.name),
        }
    }
}

/// A name in a rule -> the field's name; `None` for what stands for none.
pub fn unescaped(name: &str) -> Option<Cow<'_, str>> {
    if !name.contains("__") {
        return Some(Cow::Borrowed(name));
    }
    if let Some(word) = name.strip_prefix("__").and_then(|name| name.strip_suffix("__")).filter(|word| is_reserved(word)) {
        return Some(Cow::Owned(word.to_owned()));
    }
    let mut out = String::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("__") {
        out.push_str(before);
        let (word, next) = after.split_once("__")?;
        out.push_str(match word {
            "underscores" => "__",
            "dot" => ".",
            "dash" => "-",
            "slash" => "/",
            _ => return None,
        });
        rest = next;
    }
    out.push_str(rest);
    Some(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_fields() {
        let of = |name| unescaped(name).map(Cow::into_owned);
        assert_eq!(of("a__dot__b__dash__c").as_deref(), Some("a.b-c"));
        assert_eq!(of("__namespace__").as_deref(), Some("namespace"));
        assert_eq!(of("x__underscores__y").as_deref(), Some("x__y"));
        assert_eq!(of("x__y"), None);
    }
}
