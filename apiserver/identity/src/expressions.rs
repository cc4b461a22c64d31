//! An expression about claims, a user or a question -> what it says. Sources: apiserver `pkg/authentication/cel`, `pkg/authorization/cel`.

use std::rc::Rc;

use cel::{Checker, Expr, Failure, Resource, Run, T, V, parse, schema::Node};
use serde_json::{Value, json};

/// What one expression may do once (`PerCallLimit`).
const CALL_COST_MAX: u64 = 1_000_000;

/// What an expression is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// `claims`: text to anything.
    Claims,
    /// `user`: `kubernetes.UserInfo`.
    User,
    /// `request`: `kubernetes.SubjectAccessReviewSpec`.
    Request,
}

/// What it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Makes {
    Bool,
    Anything,
}

/// One expression, checked.
#[derive(Debug)]
pub struct Program {
    about: About,
    expr: Expr,
    schema: Option<Node>,
}

impl About {
    fn name(self) -> &'static str {
        match self {
            Self::Claims => "claims",
            Self::User => "user",
            Self::Request => "request",
        }
    }

    fn schema(self) -> Option<Node> {
        let text = || json!({"type": "string"});
        let texts = || json!({"type": "array", "items": {"type": "string"}});
        let object = |properties: Value| json!({"type": "object", "properties": properties});
        let extra = || json!({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}});
        let schema = match self {
            Self::Claims => return None,
            Self::User => object(json!({"username": text(), "uid": text(), "groups": texts(), "extra": extra()})),
            Self::Request => {
                let requirement = object(json!({"key": text(), "operator": text(), "values": texts()}));
                let selector = || object(json!({"rawSelector": text(), "requirements": {"type": "array", "items": requirement}}));
                object(json!({
                    "user": text(), "groups": texts(), "uid": text(), "extra": extra(),
                    "nonResourceAttributes": object(json!({"path": text(), "verb": text()})),
                    "resourceAttributes": object(json!({
                        "namespace": text(), "verb": text(), "group": text(), "version": text(), "resource": text(), "subresource": text(),
                        "name": text(), "fieldSelector": selector(), "labelSelector": selector(),
                    })),
                }))
            }
        };
        Some(Node::of(&schema))
    }
}

impl Program {
    /// # Errors
    /// In upstream's words.
    pub fn compile(source: &str, about: About, makes: Makes) -> Result<Self, String> {
        let schema = about.schema();
        let typ = match &schema {
            None => T::Map(Rc::new(T::Text), Rc::new(T::Dyn)),
            Some(node) => T::of(node, Resource::No).ok_or("the type of the variable is not known")?,
        };
        let mut checker = Checker::new(vec![(about.name().to_owned(), typ)]);
        let checked = parse(source).and_then(|expr| checker.check(&expr).map(|typ| (matches!(typ, T::Bool), typ.to_string(), expr)));
        let (is_bool, typ, expr) = checked.map_err(|issue| format!("compilation failed: {}", issue.print(source)))?;
        match makes {
            Makes::Bool if !is_bool && about == About::Request => Err(format!("must evaluate to bool but got {typ}")),
            Makes::Bool if !is_bool => Err("must evaluate to bool".into()),
            _ => Ok(Self { about, expr, schema }),
        }
    }

    /// # Errors
    /// It has no value, or does too much.
    pub fn run(&self, about: &Value) -> Result<Value, String> {
        let variable = V::of(about, self.schema.as_ref());
        let mut run = Run::new(vec![(self.about.name().to_owned(), variable)], CALL_COST_MAX);
        run.eval(&self.expr).map(|value| said(&value)).map_err(|failure| match failure {
            Failure::Error(why) => why,
            Failure::Cost => "operation cancelled: actual cost limit exceeded".into(),
        })
    }

    /// Whether it selects that field of the variable.
    pub fn selects(&self, field: &str) -> bool {
        self.expr.selects(self.about.name(), field)
    }
}

/// A truth, a text or a list of those, as JSON; what is none is an object.
fn said(value: &V<'_>) -> Value {
    match value {
        V::Null => Value::Null,
        V::Bool(value) => (*value).into(),
        V::Text(text) => Value::String(text.to_string()),
        list if list.is_list() => list.elements().map(|element| said(&element)).collect(),
        _ => json!({}),
    }
}

/// What a mapping makes of claims: a text or a list of texts; empty ones are none (`convertCELValueToStringList`).
///
/// # Errors
/// It is neither.
pub fn texts(value: Value) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    let all = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(all) => all,
        one => vec![one],
    };
    let all: Result<Vec<String>, String> =
        all.into_iter().map(|one| if let Value::String(text) = one { Ok(text) } else { Err(wrong()) }).collect();
    Ok(all?.into_iter().filter(|text| !text.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_typed_before_they_run() {
        let compile = |source: &str, about, makes| Program::compile(source, about, makes).map(drop);
        assert_eq!(compile("claims.sub", About::Claims, Makes::Anything), Ok(()));
        assert_eq!(compile("claims.hd == 'example.com'", About::Claims, Makes::Bool), Ok(()));
        assert_eq!(compile("claims.hd", About::Claims, Makes::Bool).unwrap_err(), "must evaluate to bool");
        assert!(compile("clams.sub", About::Claims, Makes::Anything).unwrap_err().starts_with("compilation failed: "));
        assert_eq!(compile("!user.username.startsWith('system:')", About::User, Makes::Bool), Ok(()));
        assert!(compile("user.usrname == ''", About::User, Makes::Bool).unwrap_err().contains("undefined field"));
        assert_eq!(
            compile("has(request.resourceAttributes) && request.resourceAttributes.verb == 'get'", About::Request, Makes::Bool),
            Ok(())
        );
        assert_eq!(compile("request.user", About::Request, Makes::Bool).unwrap_err(), "must evaluate to bool but got string");
    }

    #[test]
    fn they_say_what_they_are_about() {
        let claims = json!({"sub": "jane", "groups": ["a", ""], "email": "j@x", "email_verified": true, "n": {"m": ["deep"]}});
        let run = |source: &str| Program::compile(source, About::Claims, Makes::Anything).unwrap().run(&claims);
        assert_eq!(run("'oidc:' + claims.sub"), Ok("oidc:jane".into()));
        assert_eq!(run("claims.groups.map(g, 'x:' + g)").and_then(texts).unwrap(), ["x:a", "x:"]);
        assert_eq!(run("claims.?missing.orValue('none')"), Ok("none".into()));
        assert_eq!(run("claims.n.m[0]"), Ok("deep".into()));
        assert!(run("claims.missing").unwrap_err().contains("no such key"));
        assert_eq!(texts(json!(["a", ""])).unwrap(), ["a"]);
        assert!(texts(json!([{}])).is_err() && run("1").and_then(texts).is_err() && run("[b'x']").and_then(texts).is_err());
        let program = Program::compile("claims.email_verified ? claims.email : ''", About::Claims, Makes::Anything).unwrap();
        assert!(program.selects("email") && program.selects("email_verified") && !program.selects("sub"));
    }
}
