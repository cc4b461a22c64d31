//! The rules of a schema -> compiled ones, one for each level that has any; and what they say of a value.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/cel/{compilation,validation}.go`.

use std::rc::Rc;

use api::field_errors::{FieldErrors, Reason};
use cel::{
    Checker, Evaluated, Expr, Failure, Patterns, Resource, Run, T, V, parse,
    schema::{Program, Rule},
};
use kinds::common::Path;
use serde_json::Value;

use crate::schema::{Additional, Before, Node, Type, shown};

/// What one rule may do once (`PerCallLimit`), and all rules of one write (`RuntimeCELCostBudget`).
const CALL_COST_MAX: u64 = 1_000_000;
const WRITE_COST_MAX: u64 = 10_000_000;
/// Messages that are worked out are cut there (`maxMessageExpressionLength`... 5 KiB).
const MESSAGE_BYTES_MAX: usize = 5 << 10;
const NO_MORE: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// What is wrong with a rule or its message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    pub error: Option<String>,
    pub message_error: Option<String>,
    pub uses_old: bool,
    /// What one run costs at most, of the rule and of its message.
    pub cost: u64,
    pub message_cost: u64,
}

/// The rules of one level, parsed at first use on each thread that runs them.
pub fn compile(node: &Node, resource: Resource) -> Vec<Compiled> {
    let typ = T::of(node, resource);
    node.more().rules.iter().map(|rule| one(rule, typ.clone()).estimated(rule, node)).collect()
}

impl Compiled {
    fn estimated(self, rule: &Rule, node: &Node) -> Self {
        let cost = |source: &str, error: &Option<String>| match (error, parse(source)) {
            (None, Ok(expr)) if !source.is_empty() => cel::estimate::cost(&expr, node),
            _ => 0,
        };
        let (of_rule, of_message) = (cost(&rule.rule, &self.error), cost(&rule.message_expression, &self.message_error));
        Self { cost: of_rule, message_cost: of_message, ..self }
    }
}

fn one(rule: &Rule, typ: Option<T<'_>>) -> Compiled {
    let Some(typ) = typ else {
        return Compiled { error: Some("failed to convert to declType for CEL validation rules".into()), ..Compiled::default() };
    };
    let old = if rule.optional_old_self == Some(true) { T::Optional(typ.clone().into()) } else { typ.clone() };
    let scope = || vec![("self".to_owned(), typ.clone()), ("oldSelf".to_owned(), old.clone())];
    let checked = |source: &str| {
        let mut checker = Checker::new(scope());
        let found = parse(source).and_then(|expr| checker.check(&expr)).map_err(|issue| issue.print(source));
        (found, checker.uses_old)
    };
    let (found, uses_old) = checked(&rule.rule);
    let error = match found {
        Err(issue) => Some(format!("compilation failed: {issue}")),
        Ok(T::Bool) => None,
        Ok(_) => Some("cel expression must evaluate to a bool".to_owned()),
    };
    let message_error = match rule.message_expression.is_empty() || error.is_some() {
        true => None,
        false => match checked(&rule.message_expression).0 {
            Err(issue) => Some(format!("messageExpression compilation failed: {issue}")),
            Ok(T::Text) => None,
            Ok(_) => Some("messageExpression must evaluate to a string".to_owned()),
        },
    };
    Compiled { error, message_error, uses_old, ..Compiled::default() }
}

/// Whether any level has rules: most schemas have none, and their objects are not gone through.
pub fn has_rules(node: &Node) -> bool {
    node.any(&|node| !node.more().rules.is_empty())
}

/// Runs all rules over a value and all that is in it. What is as it was is let be, but for what compares old with new.
pub fn run(node: &Node, value: &Value, old: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let mut walk = Walk { left: WRITE_COST_MAX, patterns: Patterns::new(), causes };
    walk.node(node, value, old, old, path);
}

/// Where a rule is run: the schema that has it, and the value now and before.
struct Site<'v> {
    node: &'v Node,
    rule: &'v Rule,
    value: &'v Value,
    old: Option<&'v Value>,
    path: Path<'v>,
}

impl<'v> Site<'v> {
    fn is_optional(&self) -> bool {
        self.rule.optional_old_self == Some(true)
    }

    fn variables(&self) -> Vec<(String, V<'v>)> {
        let was = self.old.map(|old| V::of(old, Some(self.node)));
        let before = if self.is_optional() { Some(V::Optional(was.map(Rc::new))) } else { was };
        let this = ("self".to_owned(), V::of(self.value, Some(self.node)));
        std::iter::once(this).chain(before.map(|was| ("oldSelf".to_owned(), was))).collect()
    }
}

struct Walk<'c> {
    left: u64,
    patterns: Patterns,
    causes: &'c mut FieldErrors,
}

impl Walk<'_> {
    /// `nearest` is what the value, or else the closest thing around it that can be told again, was before. False: nothing more is looked at.
    fn node(&mut self, node: &Node, value: &Value, old: Option<&Value>, nearest: Option<&Value>, path: Path<'_>) -> bool {
        if value.is_null() {
            return true;
        }
        if !node.more().rules.is_empty() && !self.rules(node, value, old, path) {
            return false;
        }
        match value {
            Value::Array(list) => {
                let Some(items) = &node.items else { return true };
                let before = Before::of(node, old);
                list.iter().enumerate().all(|(index, element)| {
                    let was = before.of_element(node, element);
                    self.node(items, element, was, was.or(nearest), path.index(index))
                })
            }
            Value::Object(map) => map.iter().all(|(key, value)| {
                let was = old.and_then(|old| old.get(key)).filter(|was| !was.is_null());
                match (node.properties.get(key), &node.additional) {
                    (Some(inner), _) => self.node(inner, value, was, was.or(nearest), path.field(key)),
                    (None, Additional::Of(inner)) => self.node(inner, value, was, was.or(nearest), path.key(key)),
                    (None, _) => true,
                }
            }),
            _ => true,
        }
    }

    /// The rules of one level; false where no further ones are run.
    fn rules(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: Path<'_>) -> bool {
        node.more().rules.iter().all(|rule| {
            let site = Site { node, rule, value, old, path };
            match rule.program() {
                Ok(program) => self.rule(&site, &program),
                Err(issue) => {
                    self.tell(&site, &format!("rule compile error: compilation failed: {issue}"));
                    true
                }
            }
        })
    }

    /// False: nothing is left to spend.
    fn rule(&mut self, site: &Site<'_>, program: &Program) -> bool {
        let rule = site.rule;
        let uses_old = names_old(&rule.rule);
        if uses_old && site.old.is_none() && !site.is_optional() {
            return true;
        }
        if self.left == 0 {
            self.tell(site, NO_MORE);
            return false;
        }
        let variables = site.variables();
        let given = CALL_COST_MAX.min(self.left);
        match self.eval(&program.rule, variables.clone()) {
            Ok(V::Bool(true)) => return true,
            Ok(_) => {}
            Err(failure) => return self.failed(site, failure, given),
        }
        // As it was before: no news (ratcheting).
        if !uses_old && site.old == Some(site.value) {
            return true;
        }
        let message = program.message.as_ref().and_then(|message| match self.eval(message, variables) {
            Ok(V::Text(text)) if !text.trim().is_empty() && !text.contains(['\n', '\r']) && text.len() <= MESSAGE_BYTES_MAX => {
                Some(text.trim().to_owned())
            }
            _ => None,
        });
        let detail = message.unwrap_or_else(|| match rule.message.trim() {
            "" => format!("failed rule: {}", rule.rule.trim()),
            text => text.to_owned(),
        });
        self.refuse(site, &detail);
        true
    }

    /// One call, paid for from what is left for the write.
    fn eval<'v>(&mut self, expr: &Expr, variables: Vec<(String, V<'v>)>) -> Evaluated<'v> {
        let given = CALL_COST_MAX.min(self.left);
        let mut run = Run::new(variables, given);
        run.meter.patterns = std::mem::take(&mut self.patterns);
        let result = run.eval(expr);
        self.patterns = std::mem::take(&mut run.meter.patterns);
        self.left -= given - run.meter.left;
        result
    }

    /// Tells why a rule has no value; false where no further ones are run.
    fn failed(&mut self, site: &Site<'_>, failure: Failure, given: u64) -> bool {
        let rule = site.rule;
        let quoted = if rule.message.is_empty() { rule.rule.trim() } else { rule.message.trim() };
        let (why, goes_on) = match failure {
            Failure::Cost if given < CALL_COST_MAX => (NO_MORE.to_owned(), false),
            Failure::Cost => (
                format!(
                    "'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: {quoted}"
                ),
                false,
            ),
            Failure::Error(why) if why.starts_with("no such overload") => (
                format!("'{why}': call arguments did not match a supported operator, function or macro signature for rule: {quoted}"),
                true,
            ),
            Failure::Error(why) => (format!("{why} evaluating rule: {quoted}"), true),
        };
        self.tell(site, &why);
        goes_on
    }

    fn tell(&mut self, site: &Site<'_>, why: &str) {
        self.causes.invalid(field(site.path).as_str(), site.node.typ.word(), why);
    }

    fn refuse(&mut self, site: &Site<'_>, detail: &str) {
        let &Site { node, rule, value, path, .. } = site;
        let place = rule.field_path.trim().trim_start_matches('.');
        let at = match (path.to_string(), place) {
            (at, "") if at.is_empty() => field(path),
            (at, "") => at,
            (at, place) if at.is_empty() => place.to_owned(),
            (at, place) => format!("{at}.{place}"),
        };
        let is_whole = matches!(node.typ, Type::Object | Type::Array);
        let with = |what: &str| if is_whole { format!("{what}: {detail}") } else { format!("{what}: {}: {detail}", shown(value)) };
        let (reason, message) = match rule.reason.as_str() {
            "FieldValueForbidden" => (Reason::Forbidden, format!("Forbidden: {detail}")),
            "FieldValueRequired" => (Reason::Required, format!("Required value: {detail}")),
            "FieldValueDuplicate" if is_whole => (Reason::Duplicate, "Duplicate value".to_owned()),
            "FieldValueDuplicate" => (Reason::Duplicate, format!("Duplicate value: {}", shown(value))),
            _ => (Reason::Invalid, with("Invalid value")),
        };
        self.causes.push(reason, at, message);
    }
}

fn field(path: Path<'_>) -> String {
    let text = path.to_string();
    if text.is_empty() { "<nil>".to_owned() } else { text }
}

/// Whether the word stands in the source as a name.
fn names_old(source: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    source.match_indices("oldSelf").any(|(at, word)| !source[..at].ends_with(is_part) && !source[at + word.len()..].starts_with(is_part))
}
