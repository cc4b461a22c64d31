//! An expression's tree. Macros are part of it: what they run over is theirs to bound.

use std::sync::Arc;

/// An expression, and where it begins in the source (in characters).
#[derive(Debug)]
pub struct Expr {
    pub at: usize,
    pub node: Node,
}

#[derive(Debug)]
pub enum Node {
    Literal(Literal),
    Ident(String),
    /// `a.b`, `a.?b`
    Select(Box<Expr>, String, Optional),
    /// `has(a.b)`
    Has(Box<Expr>, String),
    /// Operators have names such as `_+_`.
    Call(Option<Box<Expr>>, String, Vec<Expr>),
    List(Vec<(Expr, Optional)>),
    Map(Vec<(Expr, Expr, Optional)>),
    /// Of the range, with the variables' names and what is worked out for each.
    Macro(Macro, Box<Expr>, Vec<String>, Vec<Expr>),
    /// `cel.bind(name, value, body)`
    Bind(String, Box<Expr>, Box<Expr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optional {
    No,
    Yes,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Macro {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
    TransformMapEntry,
    SortBy,
    /// Of an optional.
    OptMap,
    OptFlatMap,
}

impl Macro {
    /// By its name and how many variables and expressions it was given.
    pub fn of(name: &str, arguments: usize) -> Option<(Self, usize)> {
        Some(match (name, arguments) {
            ("all", 2) => (Self::All, 1),
            ("exists", 2) => (Self::Exists, 1),
            ("exists_one" | "existsOne", 2) => (Self::ExistsOne, 1),
            ("all", 3) => (Self::All, 2),
            ("exists", 3) => (Self::Exists, 2),
            ("exists_one" | "existsOne", 3) => (Self::ExistsOne, 2),
            ("map", 2 | 3) => (Self::Map, 1),
            ("filter", 2) => (Self::Filter, 1),
            ("transformList", 3 | 4) => (Self::TransformList, 2),
            ("transformMap", 3 | 4) => (Self::TransformMap, 2),
            ("transformMapEntry", 3 | 4) => (Self::TransformMapEntry, 2),
            ("sortBy", 2) => (Self::SortBy, 1),
            ("optMap", 2) => (Self::OptMap, 1),
            ("optFlatMap", 2) => (Self::OptFlatMap, 1),
            _ => return None,
        })
    }
}

impl Expr {
    /// Whether `variable.field` (or `variable.?field`) stands anywhere in it.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        let of = |expr: &Self| expr.selects(variable, field);
        match &self.node {
            Node::Select(operand, name, _) | Node::Has(operand, name) => {
                name == field && matches!(&operand.node, Node::Ident(ident) if ident == variable) || of(operand)
            }
            Node::Call(target, _, arguments) => target.as_deref().is_some_and(of) || arguments.iter().any(of),
            Node::List(elements) => elements.iter().any(|(element, _)| of(element)),
            Node::Map(entries) => entries.iter().any(|(key, value, _)| of(key) || of(value)),
            Node::Macro(_, range, _, parts) => of(range) || parts.iter().any(of),
            Node::Bind(_, value, body) => of(value) || of(body),
            // Literals and names.
            _ => false,
        }
    }
}

/// What is wrong with a source, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Issue {
    pub at: usize,
    pub why: String,
}

impl Issue {
    /// As cel-go prints it: the line, and a caret below the place.
    pub fn print(&self, source: &str) -> String {
        let before: String = source.chars().take(self.at).collect();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        let text = source.lines().nth(line - 1).unwrap_or_default();
        format!("ERROR: <input>:{line}:{}: {}\n | {text}\n | {}^", column + 1, self.why, ".".repeat(column))
    }
}
