//! A rule and its schema -> what it costs at most, in upstream's units, before anything is there for it to run over.
//!
//! Sources: cel-go `checker/cost.go`, apiserver `pkg/cel/library/cost.go`, `pkg/cel/common/schemas.go`. What upstream knows to be dear and this does not
//! counts as nothing: an estimate here is never above upstream's, and refuses no rule that a stock server takes.

use std::rc::Rc;

use serde_json::Value;

use super::{
    schema::{Additional, Node, Type},
    syntax::{Expr, Literal, Macro, Node as Form},
};

/// What a request may have (`MaxRequestSizeBytes`).
const REQUEST_BYTES: u64 = 3 << 20;
/// Of going through a text, and through a pattern (`StringTraversalCostFactor`, `RegexStringLengthCostFactor`).
const TEXT: f64 = 0.1;
const PATTERN: f64 = 0.25;

/// What is known of a value.
#[derive(Clone)]
pub enum Shape<'s> {
    Of(&'s Node),
    /// At most so many elements or bytes, each of which is one of the other.
    Made(u64, Option<Box<Shape<'s>>>),
    /// At most so many entries, with the shapes of a key and of a value.
    Entries(u64, Rc<(Shape<'s>, Shape<'s>)>),
    /// Fields by name.
    Fields(Rc<Vec<(&'static str, Shape<'s>)>>),
    Unknown,
}

/// Of one run over a value of the schema.
pub fn cost(expr: &Expr, node: &Node) -> u64 {
    let this = Shape::Of(node);
    cost_with(expr, vec![("self", this.clone()), ("oldSelf", this)])
}

/// Of one run with such variables.
pub fn cost_with<'s>(expr: &Expr, variables: Vec<(&str, Shape<'s>)>) -> u64 {
    let scope = variables.into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect();
    Estimate { scope }.of(expr).0
}

/// How many values of the schema one request may have (`maxCardinality`).
pub fn cardinality(node: &Node) -> u64 {
    REQUEST_BYTES / (least_bytes(node).unwrap_or(1) + 1)
}

/// The bytes of the smallest value (`MinSerializedSize`); `None` where rules see none.
fn least_bytes(node: &Node) -> Option<u64> {
    if node.int_or_string {
        return Some(1);
    }
    Some(match node.typ {
        Type::Unset => return None,
        Type::Boolean => 4,
        Type::Integer | Type::Number => 1,
        Type::String => match node.limits().format.as_str() {
            "duration" => 3,
            "date" => 12,
            "date-time" => 21,
            _ => 2,
        },
        Type::Array => node.items.as_deref().and_then(least_bytes).map(|_| 2)?,
        Type::Object => match &node.additional {
            Additional::Of(held) => least_bytes(held).map(|_| 2)?,
            _ => {
                let required = node.limits().required.iter().filter_map(|name| Some((name, node.properties.get(name)?)));
                let asked = required.filter(|(_, field)| field.default_value().is_none());
                2 + asked.filter_map(|(name, field)| Some(name.len() as u64 + least_bytes(field)? + 4)).sum::<u64>()
            }
        },
    })
}

/// The most elements or bytes that a value has.
fn most(node: &Node) -> u64 {
    let limits = node.limits();
    let bound = |limit: Option<i64>| limit.map(|limit| u64::try_from(limit).unwrap_or(0));
    let whole = REQUEST_BYTES - 2;
    if node.int_or_string {
        return bound(limits.max_length).map_or(whole, |length| length.saturating_mul(4));
    }
    match (node.typ, &node.additional) {
        (Type::String, _) => match limits.format.as_str() {
            "duration" | "date-time" => 32,
            "date" => 12,
            "byte" => bound(limits.max_length).unwrap_or(whole),
            _ => bound(limits.max_length).map_or_else(|| longest(&limits.enumeration).unwrap_or(whole), |length| length.saturating_mul(4)),
        },
        (Type::Array, _) => {
            let least = node.items.as_deref().and_then(least_bytes).unwrap_or(whole);
            bound(limits.max_items).unwrap_or(whole / (least + 1))
        }
        (Type::Object, Additional::Of(held)) => bound(limits.max_properties).unwrap_or(whole / (least_bytes(held).unwrap_or(whole) + 6)),
        _ => 1,
    }
}

fn longest(words: &[Value]) -> Option<u64> {
    if words.is_empty() {
        return None;
    }
    words.iter().filter_map(Value::as_str).map(|word| word.len() as u64).max().or(Some(0))
}

impl<'s> Shape<'s> {
    fn size(&self) -> u64 {
        match self {
            Self::Of(node) => most(node),
            Self::Made(size, _) | Self::Entries(size, _) => *size,
            Self::Fields(_) | Self::Unknown => 0,
        }
    }

    fn element(&self) -> Self {
        match self {
            Self::Of(node) => match (&node.items, &node.additional) {
                (Some(items), _) => Self::Of(items),
                (None, Additional::Of(held)) => Self::Of(held),
                _ => Self::Unknown,
            },
            Self::Made(_, Some(element)) => (**element).clone(),
            Self::Entries(_, entry) => entry.1.clone(),
            Self::Made(..) | Self::Fields(_) | Self::Unknown => Self::Unknown,
        }
    }

    /// What a macro with one variable sees.
    fn one(&self) -> Self {
        match self {
            Self::Entries(_, entry) => entry.0.clone(),
            list if list.is_list() => list.element(),
            _ => Self::Unknown,
        }
    }

    fn field(&self, name: &str) -> Self {
        match self {
            Self::Of(node) => super::types::unescaped(name).and_then(|name| node.field(&name)).map_or(Self::Unknown, Self::Of),
            Self::Entries(_, entry) => entry.1.clone(),
            Self::Fields(fields) => fields.iter().find(|(known, _)| *known == name).map_or(Self::Unknown, |(_, shape)| shape.clone()),
            Self::Made(..) | Self::Unknown => Self::Unknown,
        }
    }

    fn is_list(&self) -> bool {
        matches!(self, Self::Of(node) if node.typ == Type::Array) || matches!(self, Self::Made(_, Some(_)))
    }
}

fn part(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

struct Estimate<'s> {
    scope: Vec<(String, Shape<'s>)>,
}

impl<'s> Estimate<'s> {
    fn of(&mut self, expr: &Expr) -> (u64, Shape<'s>) {
        match &expr.node {
            Form::Literal(literal) => (0, of_literal(literal)),
            Form::Ident(name) => {
                let found = self.scope.iter().rev().find(|(known, _)| known == name);
                (1, found.map_or(Shape::Unknown, |(_, shape)| shape.clone()))
            }
            Form::Select(operand, name, _) => {
                let (cost, shape) = self.of(operand);
                (cost.saturating_add(1), shape.field(name))
            }
            Form::Has(operand, _) => (self.of(operand).0, Shape::Unknown),
            Form::Call(target, name, arguments) => self.call(target.as_deref(), name, arguments),
            Form::List(elements) => {
                let found: Vec<_> = elements.iter().map(|(element, _)| self.of(element)).collect();
                let cost = found.iter().fold(10, |sum: u64, (cost, _)| sum.saturating_add(*cost));
                let element = found.into_iter().next().map_or(Shape::Unknown, |(_, shape)| shape);
                (cost, Shape::Made(elements.len() as u64, Some(Box::new(element))))
            }
            Form::Map(entries) => {
                let parts = entries.iter().flat_map(|(key, value, _)| [key, value]);
                (parts.fold(30, |sum: u64, part| sum.saturating_add(self.of(part).0)), Shape::Unknown)
            }
            Form::Message(_, fields) => {
                (fields.iter().fold(40, |sum: u64, (_, value, _)| sum.saturating_add(self.of(value).0)), Shape::Unknown)
            }
            Form::Bind(name, value, body) => {
                let (cost, shape) = self.of(value);
                self.scope.push((name.clone(), shape));
                let (inner, found) = self.of(body);
                self.scope.pop();
                (cost.saturating_add(inner), found)
            }
            Form::Macro(kind, range, names, body) => self.run_macro(*kind, range, names, body),
        }
    }

    fn call(&mut self, target: Option<&Expr>, name: &str, arguments: &[Expr]) -> (u64, Shape<'s>) {
        let found: Vec<_> = target.into_iter().chain(arguments).map(|argument| self.of(argument)).collect();
        let sum = found.iter().fold(0, |sum: u64, (cost, _)| sum.saturating_add(*cost));
        let size = |at: usize| found.get(at).map_or(0, |(_, shape)| shape.size());
        let (own, shape) = match name {
            "_&&_" | "_||_" => (0, Shape::Unknown),
            "_?_:_" => {
                let either = |at: usize| found.get(at).map_or(0, |(cost, _)| *cost);
                return (either(0).saturating_add(either(1).max(either(2))), Shape::Unknown);
            }
            "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => {
                let is_empty = |(_, shape): &(u64, Shape<'_>)| matches!(shape, Shape::Made(0, None));
                let least = u64::from(!found.iter().any(is_empty));
                (part(size(0).min(size(1)), TEXT).max(least), Shape::Unknown)
            }
            "matches" => (part(size(0).saturating_add(1), TEXT).saturating_mul(part(size(1), PATTERN)), Shape::Unknown),
            "contains" => (part(size(0), TEXT).saturating_mul(part(size(1), TEXT)), Shape::Unknown),
            "startsWith" | "endsWith" => (part(size(1), TEXT), Shape::Unknown),
            "@in" if found.get(1).is_some_and(|(_, shape)| shape.is_list()) => (size(1), Shape::Unknown),
            "_[_]" => (1, found.first().map_or(Shape::Unknown, |(_, shape)| shape.element())),
            _ => (1, Shape::Unknown),
        };
        (sum.saturating_add(own), shape)
    }

    fn run_macro(&mut self, kind: Macro, range: &Expr, names: &[String], body: &[Expr]) -> (u64, Shape<'s>) {
        let (cost, range) = self.of(range);
        if matches!(kind, Macro::OptMap | Macro::OptFlatMap) {
            return (cost, Shape::Unknown);
        }
        // A map's only variable is its key.
        let value = if names.len() > 1 { range.element() } else { range.one() };
        let depth = self.scope.len();
        if let [first, _] = names {
            self.scope.push((first.clone(), Shape::Unknown));
        }
        self.scope.extend(names.last().map(|name| (name.clone(), value)));
        let found: Vec<_> = body.iter().map(|part| self.of(part)).collect();
        self.scope.truncate(depth);
        let each = found.iter().fold(1, |sum: u64, (cost, _)| sum.saturating_add(*cost));
        let made = match kind {
            Macro::Filter => Shape::Made(range.size(), Some(Box::new(range.one()))),
            Macro::Map | Macro::TransformList => {
                let element = found.into_iter().last().map_or(Shape::Unknown, |(_, shape)| shape);
                Shape::Made(range.size(), Some(Box::new(element)))
            }
            _ => Shape::Unknown,
        };
        (cost.saturating_add(range.size().saturating_mul(each)), made)
    }
}

fn of_literal<'s>(literal: &Literal) -> Shape<'s> {
    match literal {
        Literal::Text(text) => Shape::Made(text.chars().count() as u64, None),
        Literal::Bytes(bytes) => Shape::Made(bytes.len() as u64, None),
        _ => Shape::Made(1, None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::parse;

    #[test]
    fn what_has_no_bound_is_dear() {
        let node = Node::of(&json!({"type": "object", "properties": {
            "s": {"type": "string"}, "short": {"type": "string", "maxLength": 10}, "word": {"type": "string", "enum": ["a", "bcd"]},
            "list": {"type": "array", "items": {"type": "string"}}, "few": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 10}},
            "lists": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, "n": {"type": "integer"}}}));
        let of = |source: &str| cost(&parse(source).unwrap(), &node);
        assert_eq!(of("self.n == 1"), 3);
        assert_eq!(of("self.s == self.s"), 4 + 314_573);
        assert_eq!(of("self.short == 'abc'"), 3);
        assert_eq!(of("self.word == self.short"), 5);
        assert!(of("self.few.all(x, x.matches('^[a-z]+$'))") < 100);
        assert!(of("self.list.all(x, x == 'a')") > 1_000_000);
        assert_eq!(of("self.lists.all(x, x.all(y, x.all(z, y.matches(z))))"), u64::MAX);
        assert_eq!(cardinality(node.field("list").unwrap()), 1_048_576);
        assert_eq!(
            cardinality(&Node::of(&json!({"type": "object", "required": ["ab"], "properties": {"ab": {"type": "boolean"}}}))),
            241_979
        );
    }
}
