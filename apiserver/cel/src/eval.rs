//! An expression and what its variables are -> its value, or why it has none. What it does is counted; beyond a bound it ends.

use std::{cmp::Ordering, rc::Rc};

use super::{
    authorization,
    compare::{equal, order},
    functions,
    syntax::{Expr, Macro, Node, Optional},
    value::{Evaluated, Failure, Message, Meter, Patterns, V},
};

/// One run: the variables in scope, and what is left to spend.
pub struct Run<'v> {
    variables: Vec<(Rc<str>, V<'v>)>,
    pub meter: Meter,
}

/// The variables of one round of a macro.
pub type Round<'v> = Vec<(Rc<str>, V<'v>)>;

impl<'v> Run<'v> {
    pub fn new(variables: Vec<(String, V<'v>)>, left: u64) -> Self {
        Self {
            variables: variables.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            meter: Meter { left, patterns: Patterns::new(), is_literal: false },
        }
    }

    fn spend(&mut self, cost: usize) -> Result<(), Failure> {
        self.meter.spend(cost)
    }

    pub fn eval(&mut self, expr: &Expr) -> Evaluated<'v> {
        self.spend(1)?;
        match &expr.node {
            Node::Literal(literal) => Ok(V::literal(literal)),
            Node::Ident(name) => self.variable(name),
            Node::Select(operand, name, Optional::No) => {
                let operand = self.eval(operand)?;
                self.select(operand, name)
            }
            Node::Select(operand, name, Optional::Yes) => {
                let operand = self.eval(operand)?;
                Ok(V::Optional(self.present(&operand, name)?.map(Rc::new)))
            }
            Node::Has(operand, name) => {
                let operand = self.eval(operand)?;
                Ok(V::Bool(self.present(&operand, name)?.is_some()))
            }
            Node::Call(None, name, operands) if name == "_&&_" => self.logic(operands, false),
            Node::Call(None, name, operands) if name == "_||_" => self.logic(operands, true),
            Node::Call(None, name, operands) if name == "_?_:_" => match (self.eval(&operands[0])?, operands.as_slice()) {
                (V::Bool(true), [_, then, _]) => self.eval(then),
                (V::Bool(false), [_, _, other]) => self.eval(other),
                _ => Failure::no_overload(),
            },
            Node::Call(target, name, operands) => self.call(target.as_deref(), name, operands),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Message(name, fields) => self.message(name, fields),
            Node::Bind(name, value, body) => {
                let value = self.eval(value)?;
                self.with(vec![(name.as_str().into(), value)], |run| run.eval(body))
            }
            Node::Macro(kind, range, names, body) => {
                let range = self.eval(range)?;
                self.run_macro(*kind, range, names, body)
            }
        }
    }

    fn variable(&self, name: &str) -> Evaluated<'v> {
        if let Some((_, value)) = self.variables.iter().rev().find(|(variable, _)| **variable == *name) {
            return Ok(value.clone());
        }
        match functions::type_of_name(name) {
            Some(typ) => Ok(V::Type(typ)),
            None => Failure::of(format!("no such attribute(s): {name}")),
        }
    }

    fn with<T>(&mut self, variables: Round<'v>, body: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.variables.len();
        self.variables.extend(variables);
        let result = body(self);
        self.variables.truncate(length);
        result
    }

    fn select(&mut self, operand: V<'v>, name: &str) -> Evaluated<'v> {
        match operand {
            V::Optional(_) => Ok(V::Optional(self.present(&operand, name)?.map(Rc::new))),
            V::Variables(all) => all.clone().get(name),
            V::Authorizer(authority) if name == "requestResource" => Ok(authorization::of_request(&authority)),
            V::Fields(..) | V::Map(_) | V::Message(_) => {
                self.meter.select(&operand, name)?.ok_or_else(|| Failure::Error(format!("no such key: {name}")))
            }
            // As of what has no keys (`refQualify` in cel-go `interpreter/attributes.go`).
            _ => Failure::of(format!("no such key: {name}")),
        }
    }

    /// A field that may be missing, of something that may be missing.
    fn present(&mut self, operand: &V<'v>, name: &str) -> Result<Option<V<'v>>, Failure> {
        match operand {
            V::Optional(None) => Ok(None),
            V::Optional(Some(value)) => self.meter.select(value, name),
            V::Variables(all) => all.clone().get(name).map(Some),
            other => self.meter.select(other, name),
        }
    }

    /// What decides wins over what fails, on either side.
    fn logic(&mut self, operands: &[Expr], decides: bool) -> Evaluated<'v> {
        let mut failed = None;
        for operand in operands {
            match self.eval(operand) {
                Ok(V::Bool(value)) if value == decides => return Ok(V::Bool(decides)),
                Ok(V::Bool(_)) => {}
                Ok(_) => failed = failed.or(Some(Failure::Error("no such overload".into()))),
                Err(Failure::Cost) => return Err(Failure::Cost),
                Err(failure) => failed = failed.or(Some(failure)),
            }
        }
        failed.map_or(Ok(V::Bool(!decides)), Err)
    }

    fn call(&mut self, target: Option<&Expr>, name: &str, operands: &[Expr]) -> Evaluated<'v> {
        // `optional.of` and the like: the first part is a space of names, no value.
        if let Some(Expr { node: Node::Ident(space), .. }) = target
            && functions::is_space(space)
            && !self.variables.iter().any(|(variable, _)| **variable == **space)
        {
            let arguments = self.each(operands)?;
            return functions::call(&mut self.meter, &format!("{space}.{name}"), arguments);
        }
        // What is not there is not worked out.
        if let (Some(target), "or" | "orValue", [other]) = (target, name, operands) {
            return match self.eval(target)? {
                V::Optional(Some(value)) if name == "orValue" => Ok((*value).clone()),
                V::Optional(None) => self.eval(other),
                found @ V::Optional(Some(_)) => Ok(found),
                _ => Failure::no_overload(),
            };
        }
        let mut arguments = Vec::with_capacity(operands.len() + 1);
        if let Some(target) = target {
            arguments.push(self.eval(target)?);
        }
        for operand in operands {
            arguments.push(self.eval(operand)?);
        }
        let given = if target.is_some() { operands } else { operands.get(1..).unwrap_or_default() };
        self.meter.is_literal = given.iter().all(|operand| matches!(operand.node, Node::Literal(_)));
        functions::call(&mut self.meter, name, arguments)
    }

    fn each(&mut self, operands: &[Expr]) -> Result<Vec<V<'v>>, Failure> {
        operands.iter().map(|operand| self.eval(operand)).collect()
    }

    fn list(&mut self, elements: &[(Expr, Optional)]) -> Evaluated<'v> {
        self.spend(10)?;
        let mut out = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            match (self.eval(element)?, optional) {
                (value, Optional::No) => out.push(value),
                (V::Optional(value), Optional::Yes) => out.extend(value.map(|value| (*value).clone())),
                _ => return Failure::no_overload(),
            }
        }
        Ok(V::list(out))
    }

    fn map(&mut self, entries: &[(Expr, Expr, Optional)]) -> Evaluated<'v> {
        self.spend(30)?;
        let mut out: Vec<(V<'v>, V<'v>)> = Vec::with_capacity(entries.len());
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let value = match (self.eval(value)?, optional) {
                (value, Optional::No) => value,
                (V::Optional(Some(value)), Optional::Yes) => (*value).clone(),
                (V::Optional(None), Optional::Yes) => continue,
                _ => return Failure::no_overload(),
            };
            self.insert(&mut out, key, value)?;
        }
        Ok(V::Map(Rc::new(out)))
    }

    fn message(&mut self, name: &str, fields: &[(String, Expr, Optional)]) -> Evaluated<'v> {
        self.spend(40)?;
        let mut out: Vec<(Rc<str>, V<'v>)> = Vec::with_capacity(fields.len());
        for (field, value, optional) in fields {
            let value = match (self.eval(value)?, optional) {
                (value, Optional::No) => value,
                (V::Optional(Some(value)), Optional::Yes) => (*value).clone(),
                (V::Optional(None), Optional::Yes) => continue,
                _ => return Failure::no_overload(),
            };
            // What is said last holds.
            out.retain(|(known, _)| **known != **field);
            out.push((field.as_str().into(), value));
        }
        Ok(V::Message(Rc::new(Message { name: name.into(), fields: out })))
    }

    fn insert(&mut self, map: &mut Vec<(V<'v>, V<'v>)>, key: V<'v>, value: V<'v>) -> Result<(), Failure> {
        // Keys of other types would have no end of comparing (cel-go: `unsupported key type`).
        if !key.is_key() {
            return Failure::of("unsupported key type");
        }
        self.spend(map.len() / 8)?;
        if map.iter().any(|(other, _)| equal(other, &key)) {
            return Failure::of("Failed with repeated key");
        }
        map.push((key, value));
        Ok(())
    }

    fn run_macro(&mut self, kind: Macro, range: V<'v>, names: &[String], body: &[Expr]) -> Evaluated<'v> {
        if matches!(kind, Macro::OptMap | Macro::OptFlatMap) {
            let (V::Optional(value), [name], [body]) = (range, names, body) else { return Failure::no_overload() };
            let Some(value) = value else { return Ok(V::Optional(None)) };
            let mapped = self.with(vec![(name.as_str().into(), (*value).clone())], |run| run.eval(body))?;
            return Ok(if kind == Macro::OptMap { V::some(mapped) } else { mapped });
        }
        let Some(length) = range.length() else { return Failure::no_overload() };
        self.spend(length)?;
        let names: Vec<Rc<str>> = names.iter().map(|name| name.as_str().into()).collect();
        let rounds = rounds(&range, &names);
        let (condition, result) = match body {
            [only] => (None, only),
            [condition, result] => (Some(condition), result),
            _ => return Failure::no_overload(),
        };
        match kind {
            Macro::All => self.quantified(rounds, result, false),
            Macro::Exists => self.quantified(rounds, result, true),
            Macro::ExistsOne => {
                let mut count = 0;
                for round in rounds {
                    count += usize::from(self.holds(round, result)?);
                }
                Ok(V::Bool(count == 1))
            }
            Macro::Filter => {
                let mut out = Vec::new();
                for round in rounds {
                    let value = round.first().map(|(_, value)| value.clone());
                    if self.holds(round, result)? {
                        out.extend(value);
                    }
                }
                Ok(V::list(out))
            }
            Macro::Map | Macro::TransformList => {
                let mut out = Vec::new();
                for round in rounds {
                    out.extend(self.transformed(round, condition, result)?);
                }
                Ok(V::list(out))
            }
            Macro::TransformMap | Macro::TransformMapEntry => {
                let mut out = Vec::new();
                for round in rounds {
                    let key = round.first().map_or(V::Null, |(_, key)| key.clone());
                    let Some(value) = self.transformed(round, condition, result)? else { continue };
                    let entries = if kind == Macro::TransformMap { vec![(key, value)] } else { value.entries() };
                    for (key, value) in entries {
                        self.insert(&mut out, key, value)?;
                    }
                }
                Ok(V::Map(Rc::new(out)))
            }
            Macro::SortBy => {
                let mut keyed = Vec::new();
                for round in rounds {
                    let value = round.first().map_or(V::Null, |(_, value)| value.clone());
                    keyed.push((self.with(round, |run| run.eval(result))?, value));
                }
                self.spend(keyed.len() * 4)?;
                keyed.sort_by(|(a, _), (b, _)| order(a, b).unwrap_or(Ordering::Equal));
                Ok(V::list(keyed.into_iter().map(|(_, value)| value).collect()))
            }
            Macro::OptMap | Macro::OptFlatMap => Failure::no_overload(),
        }
    }

    fn quantified(&mut self, rounds: impl Iterator<Item = Round<'v>>, body: &Expr, decides: bool) -> Evaluated<'v> {
        let mut failed = None;
        for round in rounds {
            match self.holds(round, body) {
                Ok(value) if value == decides => return Ok(V::Bool(decides)),
                Ok(_) => {}
                Err(Failure::Cost) => return Err(Failure::Cost),
                Err(failure) => failed = failed.or(Some(failure)),
            }
        }
        failed.map_or(Ok(V::Bool(!decides)), Err)
    }

    fn holds(&mut self, round: Round<'v>, body: &Expr) -> Result<bool, Failure> {
        match self.with(round, |run| run.eval(body))? {
            V::Bool(value) => Ok(value),
            _ => Failure::no_overload(),
        }
    }

    /// `None`: the condition does not hold.
    fn transformed(&mut self, round: Round<'v>, condition: Option<&Expr>, result: &Expr) -> Result<Option<V<'v>>, Failure> {
        self.with(round, |run| {
            if let Some(condition) = condition {
                match run.eval(condition)? {
                    V::Bool(true) => {}
                    V::Bool(false) => return Ok(None),
                    _ => return Failure::no_overload(),
                }
            }
            run.eval(result).map(Some)
        })
    }
}

/// What each round of a macro sees, made when it comes: a range may be long.
pub fn rounds<'r, 'v>(range: &'r V<'v>, names: &'r [Rc<str>]) -> impl Iterator<Item = Round<'v>> + 'r {
    let is_list = range.is_list();
    let places = range.elements().enumerate().map(|(at, element)| (V::Int(at as i64), element));
    places.chain(range.pairs()).map(move |(first, second)| match names {
        [one] => vec![(one.clone(), if is_list { second } else { first })],
        [one, two] => vec![(one.clone(), first), (two.clone(), second)],
        _ => Vec::new(),
    })
}
