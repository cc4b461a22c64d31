//! An expression and the types of its variables -> its type, or what is wrong with it. Source: cel-go `checker/checker.go`.

use std::rc::Rc;

use super::{
    functions,
    syntax::{Expr, Issue, Literal, Macro, Node, Optional},
    types::T,
};

/// The overloads of each function: target, arguments and result, a letter each. Targets and arguments: `s i u d b y` (bytes) `D` (duration)
/// `T` (timestamp) `l` (any list) `m` (any map) `o` (any optional) `Q I C U V F` (quantity, IP, CIDR, URL, version, format) `A P G R J`
/// (authorizer, its checks of a path, a group, a resource, and its decision) `x` (anything).
/// Results besides: `e` an element of the target, `L` as the target, `S` list of strings, `p` optional of the argument, `v` what the optional holds,
/// `E` optional element, `f` optional format, `g` optional list of strings, `q` map of lists of strings, `t` a type, `N` list of ints, `n` optional of anything.
const OVERLOADS: &[(&str, &[&str])] = &[
    ("size", &["s.>i", "y.>i", "l.>i", "m.>i", ".s>i", ".y>i", ".l>i", ".m>i"]),
    ("contains", &["s.s>b"]),
    ("startsWith", &["s.s>b"]),
    ("endsWith", &["s.s>b"]),
    ("matches", &["s.s>b", ".ss>b"]),
    ("find", &["s.s>s"]),
    ("findAll", &["s.s>S", "s.si>S"]),
    ("charAt", &["s.i>s"]),
    ("indexOf", &["s.s>i", "s.si>i", "l.x>i"]),
    ("lastIndexOf", &["s.s>i", "s.si>i", "l.x>i"]),
    ("lowerAscii", &["s.>s"]),
    ("upperAscii", &["s.>s"]),
    ("trim", &["s.>s"]),
    ("reverse", &["s.>s", "l.>L"]),
    ("replace", &["s.ss>s", "s.ssi>s"]),
    ("split", &["s.s>S", "s.si>S"]),
    ("substring", &["s.i>s", "s.ii>s"]),
    ("format", &["s.l>s"]),
    ("join", &["l.>s", "l.s>s"]),
    ("strings.quote", &[".s>s"]),
    ("isSorted", &["l.>b"]),
    ("sum", &["l.>e"]),
    ("min", &["l.>e"]),
    ("max", &["l.>e"]),
    ("slice", &["l.ii>L"]),
    ("distinct", &["l.>L"]),
    ("sort", &["l.>L"]),
    ("flatten", &["l.>l", "l.i>l"]),
    ("lists.range", &[".i>N"]),
    ("first", &["l.>E"]),
    ("last", &["l.>E"]),
    ("sets.contains", &[".ll>b"]),
    ("sets.intersects", &[".ll>b"]),
    ("sets.equivalent", &[".ll>b"]),
    ("type", &[".x>t"]),
    ("dyn", &[".x>x"]),
    ("int", &[".i>i", ".u>i", ".d>i", ".s>i", ".T>i", ".D>i"]),
    ("uint", &[".u>u", ".i>u", ".d>u", ".s>u"]),
    ("double", &[".d>d", ".i>d", ".u>d", ".s>d"]),
    ("string", &[".s>s", ".i>s", ".u>s", ".d>s", ".b>s", ".y>s", ".T>s", ".D>s", ".I>s", ".C>s", ".Q>s", ".V>s"]),
    ("bytes", &[".y>y", ".s>y"]),
    ("bool", &[".b>b", ".s>b"]),
    ("duration", &[".s>D", ".D>D"]),
    ("timestamp", &[".s>T", ".T>T", ".i>T"]),
    ("getFullYear", &["T.>i", "T.s>i"]),
    ("getMonth", &["T.>i", "T.s>i"]),
    ("getDayOfYear", &["T.>i", "T.s>i"]),
    ("getDayOfMonth", &["T.>i", "T.s>i"]),
    ("getDate", &["T.>i", "T.s>i"]),
    ("getDayOfWeek", &["T.>i", "T.s>i"]),
    ("getHours", &["T.>i", "T.s>i", "D.>i"]),
    ("getMinutes", &["T.>i", "T.s>i", "D.>i"]),
    ("getSeconds", &["T.>i", "T.s>i", "D.>i"]),
    ("getMilliseconds", &["T.>i", "T.s>i", "D.>i"]),
    ("optional.of", &[".x>p"]),
    ("optional.ofNonZeroValue", &[".x>p"]),
    ("optional.none", &[".>n"]),
    ("hasValue", &["o.>b"]),
    ("value", &["o.>v"]),
    ("or", &["o.o>L"]),
    ("orValue", &["o.x>v"]),
    ("isIP", &[".s>b"]),
    ("ip", &[".s>I", "C.>I"]),
    ("ip.isCanonical", &[".s>b"]),
    ("family", &["I.>i"]),
    ("isUnspecified", &["I.>b"]),
    ("isLoopback", &["I.>b"]),
    ("isLinkLocalMulticast", &["I.>b"]),
    ("isLinkLocalUnicast", &["I.>b"]),
    ("isGlobalUnicast", &["I.>b"]),
    ("isCIDR", &[".s>b"]),
    ("cidr", &[".s>C"]),
    ("containsIP", &["C.s>b", "C.I>b"]),
    ("containsCIDR", &["C.s>b", "C.C>b"]),
    ("masked", &["C.>C"]),
    ("prefixLength", &["C.>i"]),
    ("isURL", &[".s>b"]),
    ("url", &[".s>U"]),
    ("getScheme", &["U.>s"]),
    ("getHost", &["U.>s"]),
    ("getHostname", &["U.>s"]),
    ("getPort", &["U.>s"]),
    ("getEscapedPath", &["U.>s"]),
    ("getQuery", &["U.>q"]),
    ("isQuantity", &[".s>b"]),
    ("quantity", &[".s>Q"]),
    ("add", &["Q.Q>Q", "Q.i>Q"]),
    ("sub", &["Q.Q>Q", "Q.i>Q"]),
    ("sign", &["Q.>i"]),
    ("isInteger", &["Q.>b"]),
    ("asInteger", &["Q.>i"]),
    ("asApproximateFloat", &["Q.>d"]),
    ("compareTo", &["Q.Q>i", "V.V>i"]),
    ("isLessThan", &["Q.Q>b", "V.V>b"]),
    ("isGreaterThan", &["Q.Q>b", "V.V>b"]),
    ("isSemver", &[".s>b", ".sb>b"]),
    ("semver", &[".s>V", ".sb>V"]),
    ("major", &["V.>i"]),
    ("minor", &["V.>i"]),
    ("patch", &["V.>i"]),
    ("format.named", &[".s>f"]),
    ("validate", &["F.s>g"]),
    ("format.dns1123Label", &[".>F"]),
    ("format.dns1123Subdomain", &[".>F"]),
    ("format.dns1035Label", &[".>F"]),
    ("format.qualifiedName", &[".>F"]),
    ("format.dns1123LabelPrefix", &[".>F"]),
    ("format.dns1123SubdomainPrefix", &[".>F"]),
    ("format.dns1035LabelPrefix", &[".>F"]),
    ("format.labelValue", &[".>F"]),
    ("format.uri", &[".>F"]),
    ("format.uuid", &[".>F"]),
    ("format.byte", &[".>F"]),
    ("format.date", &[".>F"]),
    ("format.datetime", &[".>F"]),
    ("path", &["A.s>P"]),
    ("group", &["A.s>G"]),
    ("serviceAccount", &["A.ss>A"]),
    ("resource", &["G.s>R"]),
    ("subresource", &["R.s>R"]),
    ("namespace", &["R.s>R"]),
    ("name", &["R.s>R"]),
    ("fieldSelector", &["R.s>R"]),
    ("labelSelector", &["R.s>R"]),
    ("check", &["P.s>J", "R.s>J"]),
    ("errored", &["J.>b"]),
    ("error", &["J.>s"]),
    ("allowed", &["J.>b"]),
    ("reason", &["J.>s"]),
    (ESCAPE, &[".s>s"]),
];

/// Only where patches are made.
const ESCAPE: &str = "jsonpatch.escapeKey";

/// Operators: operands and result.
const OPERATORS: &[(&str, &[&str])] = &[
    ("_+_", &["ii>i", "uu>u", "dd>d", "ss>s", "yy>y", "ll>L", "DD>D", "TD>T", "DT>T"]),
    ("_-_", &["ii>i", "uu>u", "dd>d", "DD>D", "TD>T", "TT>D"]),
    ("_*_", &["ii>i", "uu>u", "dd>d"]),
    ("_/_", &["ii>i", "uu>u", "dd>d"]),
    ("_%_", &["ii>i", "uu>u"]),
    ("-_", &["i>i", "d>d"]),
    ("!_", &["b>b"]),
    ("@in", &["xl>b", "xm>b"]),
];

/// The variables of an expression, and which of them it names.
pub struct Checker<'s> {
    scope: Vec<(String, T<'s>)>,
    pub uses_old: bool,
    makes_patches: bool,
}

type Checked<'s> = Result<T<'s>, Issue>;

impl<'s> Checker<'s> {
    pub fn new(scope: Vec<(String, T<'s>)>) -> Self {
        Self { scope, uses_old: false, makes_patches: false }
    }

    /// With the types `Object`, `Object.a.b`, and `JSONPatch` (apiserver `pkg/cel/mutation`).
    #[must_use]
    pub fn making_patches(self) -> Self {
        Self { makes_patches: true, ..self }
    }

    pub fn check(&mut self, expr: &Expr) -> Checked<'s> {
        let issue = |why: String| Issue { at: expr.at, why };
        match &expr.node {
            Node::Literal(literal) => Ok(match literal {
                Literal::Null => T::Null,
                Literal::Bool(_) => T::Bool,
                Literal::Int(_) => T::Int,
                Literal::Uint(_) => T::Uint,
                Literal::Double(_) => T::Double,
                Literal::Text(_) => T::Text,
                Literal::Bytes(_) => T::Bytes,
            }),
            Node::Ident(name) => match self.variable(name) {
                // As a value it would hold itself.
                Some(T::Variables(_)) => Err(issue(format!("'{name}' is no value: its parts are"))),
                Some(typ) => Ok(typ),
                None => Err(issue(format!("undeclared reference to '{name}' (in container '')"))),
            },
            Node::Select(operand, name, optional) => {
                let operand = self.operand(operand)?;
                let found = selected(&operand, name, expr.at)?;
                Ok(match (optional, &operand) {
                    (Optional::Yes, _) | (_, T::Optional(_)) if !matches!(found, T::Optional(_)) => T::Optional(Rc::new(found)),
                    _ => found,
                })
            }
            Node::Has(operand, name) => {
                let operand = self.operand(operand)?;
                selected(&operand, name, expr.at).map(|_| T::Bool)
            }
            Node::Call(target, name, arguments) => self.call(target.as_deref(), name, arguments, expr.at),
            Node::List(elements) => {
                let mut held: Option<T<'s>> = None;
                for (element, optional) in elements {
                    let typ = match (self.check(element)?, optional) {
                        (T::Optional(inner), Optional::Yes) => (*inner).clone(),
                        (typ, _) => typ,
                    };
                    held = Some(match held {
                        None => typ,
                        Some(held) => held.joined(typ),
                    });
                }
                Ok(T::List(Rc::new(held.unwrap_or(T::Dyn))))
            }
            Node::Map(entries) => {
                let (mut keys, mut held): (Option<T<'s>>, Option<T<'s>>) = (None, None);
                for (key, value, optional) in entries {
                    // Other types are no keys, which shows when it runs.
                    let key = match self.check(key)? {
                        key @ (T::Bool | T::Int | T::Uint | T::Text) => key,
                        _ => T::Dyn,
                    };
                    let value = match (self.check(value)?, optional) {
                        (T::Optional(inner), Optional::Yes) => (*inner).clone(),
                        (typ, _) => typ,
                    };
                    keys = Some(keys.map_or(key.clone(), |keys| keys.joined(key)));
                    held = Some(held.map_or(value.clone(), |held| held.joined(value)));
                }
                Ok(T::Map(Rc::new(keys.unwrap_or(T::Dyn)), Rc::new(held.unwrap_or(T::Dyn))))
            }
            Node::Message(name, fields) => self.message(name, fields, expr.at),
            Node::Bind(name, value, body) => {
                let value = self.check(value)?;
                self.with(vec![(name.clone(), value)], |checker| checker.check(body))
            }
            Node::Macro(kind, range, names, body) => self.run_macro(*kind, range, names, body),
        }
    }

    /// What something is selected from.
    fn operand(&mut self, expr: &Expr) -> Checked<'s> {
        if let Node::Ident(name) = &expr.node
            && let Some(typ @ T::Variables(_)) = self.variable(name)
        {
            return Ok(typ);
        }
        self.check(expr)
    }

    fn message(&mut self, name: &str, fields: &[(String, Expr, Optional)], at: usize) -> Checked<'s> {
        let is_object = name == "Object" || name.starts_with("Object.");
        if !self.makes_patches || !is_object && name != "JSONPatch" {
            return Err(Issue { at, why: format!("undeclared reference to '{name}' (in container '')") });
        }
        for (field, value, optional) in fields {
            let typ = match (self.check(value)?, optional) {
                (T::Optional(inner), Optional::Yes) => (*inner).clone(),
                (typ, _) => typ,
            };
            match field.as_str() {
                _ if is_object => {}
                "value" => {}
                "op" | "path" | "from" if T::Text.takes(&typ) => {}
                "op" | "path" | "from" => {
                    let why = format!("expected type of field '{field}' is 'string' but provided type is '{typ}'");
                    return Err(Issue { at: value.at, why });
                }
                _ => return Err(Issue { at: value.at, why: format!("undefined field '{field}'") }),
            }
        }
        Ok(T::Message(name.into()))
    }

    fn variable(&mut self, name: &str) -> Option<T<'s>> {
        if let Some((_, typ)) = self.scope.iter().rev().find(|(variable, _)| variable == name) {
            self.uses_old |= name == "oldSelf";
            return Some(typ.clone());
        }
        functions::type_of_name(name).map(|_| T::Type)
    }

    fn with<R>(&mut self, variables: Vec<(String, T<'s>)>, body: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.scope.len();
        self.scope.extend(variables);
        let result = body(self);
        self.scope.truncate(length);
        result
    }

    fn call(&mut self, target: Option<&Expr>, name: &str, arguments: &[Expr], at: usize) -> Checked<'s> {
        let space = match target {
            Some(Expr { node: Node::Ident(space), .. })
                if functions::is_space(space) && !self.scope.iter().any(|(variable, _)| variable == space) =>
            {
                Some(space.clone())
            }
            _ => None,
        };
        let target = match (target, &space) {
            (Some(target), None) => Some(self.check(target)?),
            _ => None,
        };
        let arguments = arguments.iter().map(|argument| self.check(argument)).collect::<Result<Vec<_>, _>>()?;
        let name = space.map_or(name.to_owned(), |space| format!("{space}.{name}"));
        if name == ESCAPE && !self.makes_patches {
            return Err(Issue { at, why: format!("undeclared reference to '{name}' (in container '')") });
        }
        let found = if target.is_none() { operator(&name, &arguments) } else { None };
        if let Some(found) = found.or_else(|| overload(&name, target.as_ref(), &arguments)) {
            return Ok(found);
        }
        let is_known = OVERLOADS.iter().chain(OPERATORS).any(|(known, _)| *known == name) || name.starts_with(['_', '@', '!', '-']);
        let why = match is_known {
            false => format!("undeclared reference to '{name}' (in container '')"),
            true => {
                let listed = arguments.iter().map(T::to_string).collect::<Vec<_>>().join(", ");
                let target = target.map(|target| format!("{target}.")).unwrap_or_default();
                format!("found no matching overload for '{name}' applied to '{target}({listed})'")
            }
        };
        Err(Issue { at, why })
    }

    fn run_macro(&mut self, kind: Macro, range: &Expr, names: &[String], body: &[Expr]) -> Checked<'s> {
        let at = range.at;
        let range = self.check(range)?;
        if matches!(kind, Macro::OptMap | Macro::OptFlatMap) {
            let held = match &range {
                T::Optional(held) => (**held).clone(),
                typ if typ.is_dyn() => T::Dyn,
                other => return Err(Issue { at, why: format!("found no matching overload for 'optMap' applied to '{other}'") }),
            };
            let (Some(name), Some(body)) = (names.first(), body.first()) else { return Ok(T::Dyn) };
            let result = self.with(vec![(name.clone(), held)], |checker| checker.check(body))?;
            return Ok(if kind == Macro::OptMap { T::Optional(Rc::new(result)) } else { result });
        }
        let (first, second) = match &range {
            T::List(held) => (T::Int, (**held).clone()),
            T::Map(key, held) => ((**key).clone(), (**held).clone()),
            T::Dyn => (T::Dyn, T::Dyn),
            other => {
                let why = format!("expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)");
                return Err(Issue { at, why });
            }
        };
        let variables = match names {
            [one] => vec![(one.clone(), if matches!(range, T::Map(..)) { first.clone() } else { second })],
            [one, two] => vec![(one.clone(), first.clone()), (two.clone(), second)],
            _ => Vec::new(),
        };
        let element = variables.first().map_or(T::Dyn, |(_, typ)| typ.clone());
        let mut result = T::Dyn;
        self.with(variables, |checker| {
            for (place, part) in body.iter().enumerate() {
                let typ = checker.check(part)?;
                let is_condition =
                    body.len() == 2 && place == 0 || matches!(kind, Macro::All | Macro::Exists | Macro::ExistsOne | Macro::Filter);
                if is_condition && !T::Bool.takes(&typ) {
                    let operator = if kind == Macro::Exists { "_||_" } else { "_&&_" };
                    return Err(Issue {
                        at: part.at,
                        why: format!("found no matching overload for '{operator}' applied to '(bool, {typ})'"),
                    });
                }
                result = typ;
            }
            Ok(())
        })?;
        Ok(match kind {
            Macro::All | Macro::Exists | Macro::ExistsOne => T::Bool,
            Macro::Filter => T::List(Rc::new(element)),
            Macro::Map | Macro::TransformList => T::List(Rc::new(result)),
            Macro::TransformMap => T::Map(Rc::new(first), Rc::new(result)),
            Macro::TransformMapEntry => result,
            Macro::SortBy => range,
            Macro::OptMap | Macro::OptFlatMap => T::Dyn,
        })
    }
}

fn selected<'s>(operand: &T<'s>, name: &str, at: usize) -> Checked<'s> {
    let undefined = || Issue { at, why: format!("undefined field '{name}'") };
    match operand {
        typ if typ.is_dyn() => Ok(T::Dyn),
        T::Map(_, held) => Ok((**held).clone()),
        T::Object(node, resource) => T::field(node, *resource, name).ok_or_else(undefined),
        T::Record(record) => record.fields.iter().find(|(known, _)| *known == name).map(|(_, typ)| typ.clone()).ok_or_else(undefined),
        T::Meta if matches!(name, "name" | "generateName") => Ok(T::Text),
        T::Meta => Err(undefined()),
        T::Optional(held) => selected(held, name, at),
        T::Library("kubernetes.authorization.Authorizer") if name == "requestResource" => {
            Ok(T::Library("kubernetes.authorization.ResourceCheck"))
        }
        T::Variables(all) => all.iter().rev().find(|(known, _)| known == name).map(|(_, typ)| typ.clone()).ok_or_else(undefined),
        T::Message(of) if **of == *"JSONPatch" && matches!(name, "op" | "path" | "from") => Ok(T::Text),
        T::Message(of) if **of == *"JSONPatch" && name != "value" => Err(undefined()),
        T::Message(_) => Ok(T::Dyn),
        other => Err(Issue { at, why: format!("type '{other}' does not support field selection") }),
    }
}

fn operator<'s>(name: &str, operands: &[T<'s>]) -> Option<T<'s>> {
    match (name, operands) {
        ("_&&_" | "_||_", all) if all.iter().all(|typ| T::Bool.takes(typ)) => Some(T::Bool),
        ("_==_" | "_!=_", [a, b]) if a.takes(b) || b.takes(a) || is_number(a) && is_number(b) => Some(T::Bool),
        ("_<_" | "_<=_" | "_>_" | "_>=_", [a, b]) => {
            let has_order =
                |typ: &T<'_>| matches!(typ, T::Bool | T::Text | T::Bytes | T::Duration | T::Timestamp) || typ.is_dyn() || is_number(typ);
            (has_order(a) && has_order(b) && (a.takes(b) || is_number(a) && is_number(b))).then_some(T::Bool)
        }
        ("_?_:_", [condition, a, b]) if T::Bool.takes(condition) => (a.takes(b) || b.takes(a)).then(|| match (a, b) {
            // The first of them, as the most general (`mostGeneral` in cel-go `checker/types.go`).
            (dynamic, _) | (_, dynamic) if dynamic.is_dyn() => dynamic.clone(),
            _ => a.clone().joined(b.clone()),
        }),
        ("_[_]" | "_[?_]", [held, key]) => {
            let (inner, is_optional) = match held {
                T::Optional(inner) => ((**inner).clone(), true),
                other => (other.clone(), name == "_[?_]"),
            };
            let found = match &inner {
                T::List(held) if is_number(key) || key.is_dyn() => (**held).clone(),
                T::Map(keys, held) if keys.takes(key) => (**held).clone(),
                typ if typ.is_dyn() => T::Dyn,
                _ => return None,
            };
            Some(if is_optional { T::Optional(Rc::new(found)) } else { found })
        }
        ("@in", [value, T::List(held)]) => (held.takes(value) || is_number(held) && is_number(value)).then_some(T::Bool),
        ("@in", [value, T::Map(key, _)]) => key.takes(value).then_some(T::Bool),
        _ => {
            let (_, forms) = OPERATORS.iter().find(|(known, _)| *known == name)?;
            matching(forms.iter().filter_map(|form| form.split_once('>')), operands)
        }
    }
}

fn is_number(typ: &T<'_>) -> bool {
    matches!(typ, T::Int | T::Uint | T::Double)
}

fn overload<'s>(name: &str, target: Option<&T<'s>>, arguments: &[T<'s>]) -> Option<T<'s>> {
    let (_, forms) = OVERLOADS.iter().find(|(known, _)| *known == name)?;
    let fitting = forms.iter().filter_map(|form| {
        let (operands, result) = form.split_once('>')?;
        let (on, rest) = operands.split_once('.')?;
        (on.is_empty() == target.is_none()).then_some((on, rest, result))
    });
    let operands: Vec<T<'s>> = target.cloned().into_iter().chain(arguments.iter().cloned()).collect();
    let joined: Vec<(String, &str)> = fitting.map(|(on, rest, result)| (format!("{on}{rest}"), result)).collect();
    matching(joined.iter().map(|(operands, result)| (operands.as_str(), *result)), &operands)
}

/// The result of the form that fits; where several do (of values that may be anything), anything.
fn matching<'f, 's>(forms: impl Iterator<Item = (&'f str, &'f str)>, operands: &[T<'s>]) -> Option<T<'s>> {
    let fits = |codes: &str| codes.len() == operands.len() && codes.chars().zip(operands).all(|(code, typ)| takes(code, typ));
    let results: Vec<&str> = forms.filter(|(codes, _)| fits(codes)).map(|(_, result)| result).collect();
    let first = *results.first()?;
    if results.iter().any(|result| *result != first) {
        return Some(T::Dyn);
    }
    first.chars().next().map(|code| result(code, operands))
}

fn takes(code: char, typ: &T<'_>) -> bool {
    match (code, typ) {
        ('x', _) => true,
        (_, typ) if typ.is_dyn() => true,
        ('s', T::Text) | ('i', T::Int) | ('u', T::Uint) | ('d', T::Double) | ('b', T::Bool) | ('y', T::Bytes) => true,
        ('D', T::Duration) | ('T', T::Timestamp) | ('l', T::List(_)) | ('m', T::Map(..)) | ('o', T::Optional(_)) => true,
        (code, T::Library(name)) => library(code) == Some(name),
        _ => false,
    }
}

fn library(code: char) -> Option<&'static str> {
    Some(match code {
        'Q' => "kubernetes.Quantity",
        'I' => "net.IP",
        'C' => "net.CIDR",
        'U' => "kubernetes.URL",
        'V' => "kubernetes.Semver",
        'F' => "kubernetes.NamedFormat",
        'A' => "kubernetes.authorization.Authorizer",
        'P' => "kubernetes.authorization.PathCheck",
        'G' => "kubernetes.authorization.GroupCheck",
        'R' => "kubernetes.authorization.ResourceCheck",
        'J' => "kubernetes.authorization.Decision",
        _ => return None,
    })
}

fn result<'s>(code: char, operands: &[T<'s>]) -> T<'s> {
    let first = operands.first().cloned().unwrap_or(T::Dyn);
    let texts = || T::List(Rc::new(T::Text));
    match code {
        's' => T::Text,
        'i' => T::Int,
        'u' => T::Uint,
        'd' => T::Double,
        'b' => T::Bool,
        'y' => T::Bytes,
        'D' => T::Duration,
        'T' => T::Timestamp,
        't' => T::Type,
        'L' => first,
        'l' => T::List(Rc::new(T::Dyn)),
        'S' => texts(),
        'N' => T::List(Rc::new(T::Int)),
        'n' => T::Optional(Rc::new(T::Dyn)),
        'p' => T::Optional(Rc::new(first)),
        'q' => T::Map(Rc::new(T::Text), Rc::new(texts())),
        'f' => T::Optional(Rc::new(T::Library("kubernetes.NamedFormat"))),
        'g' => T::Optional(Rc::new(texts())),
        'e' | 'E' => {
            let held = if let T::List(held) = first { (*held).clone() } else { T::Dyn };
            if code == 'e' { held } else { T::Optional(Rc::new(held)) }
        }
        'v' => {
            if let T::Optional(held) = first {
                (*held).clone()
            } else {
                T::Dyn
            }
        }
        code => library(code).map_or(T::Dyn, T::Library),
    }
}
