//! Expressions and what they come to.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    check::Checker,
    composed::{Composed, Named},
    eval::Run,
    json::{check_names, to_json},
    judge::{Authority, Check, Judge, Verdict},
    parser::parse,
    types::{Resource, T},
    value::{Failure, V},
};
use crate::schema::Node;

fn schema() -> Node {
    Node::of(&json!({"type": "object", "properties": {
        "i": {"type": "integer"}, "d": {"type": "number"}, "s": {"type": "string"}, "b": {"type": "boolean"},
        "when": {"type": "string", "format": "date-time"}, "span": {"type": "string", "format": "duration"},
        "port": {"x-kubernetes-int-or-string": true}, "a-b": {"type": "string"}, "namespace": {"type": "string"},
        "list": {"type": "array", "items": {"type": "integer"}},
        "parts": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}}}}))
}

fn object() -> Value {
    json!({"i": 3, "d": 2, "s": "hello", "b": true, "when": "2026-01-02T03:04:05Z", "span": "1h30m", "port": "http", "a-b": "dashed",
        "namespace": "ns", "list": [3, 1, 2], "parts": [{"name": "x", "n": 1}, {"name": "y"}], "map": {"k": "v", "l": "w"},
        "metadata": {"name": "me"}})
}

/// The value as text, or why there is none.
fn come_to(source: &str) -> Result<String, String> {
    let (schema, object) = (schema(), object());
    let typ = T::of(&schema, Resource::Yes).unwrap();
    let expr = parse(source).map_err(|issue| issue.why)?;
    Checker::new(vec![("self".into(), typ.clone()), ("oldSelf".into(), typ)]).check(&expr).map_err(|issue| issue.why)?;
    let this = V::of(&object, Some(&schema));
    match Run::new(vec![("self".into(), this)], 1_000_000).eval(&expr) {
        Ok(value) => Ok(super::strings::shown(&value)),
        Err(Failure::Error(why)) => Err(why),
        Err(Failure::Cost) => Err("cost".into()),
    }
}

#[test]
fn expressions_come_to_their_values() {
    let table = [
        ("self.i + 1", "4"),
        ("self.i / 2 * 2 + self.i % 2", "3"),
        ("self.d == 2.0 && self.i < 3.5", "true"),
        ("self.s + ' ' + string(self.i)", "hello 3"),
        ("self.a__dash__b + self.__namespace__", "dashedns"),
        ("self.metadata.name", "me"),
        ("has(self.parts[1].n) || self.parts[0].n == 1", "true"),
        ("self.list.exists(x, x == 2) && self.list.all(x, x > 0) && self.list.exists_one(x, x == 1)", "true"),
        ("self.list.map(x, x * 2).filter(x, x > 2)", "[6, 4]"),
        ("self.map.all(k, self.map[k] in ['v', 'w'])", "true"),
        ("'k' in self.map && !('z' in self.map)", "true"),
        ("self.list.all(i, x, x > i - 3)", "true"),
        ("self.map.transformMap(k, v, k + v)", "{k: kv, l: lw}"),
        ("self.list.transformList(i, x, x > 1, i)", "[0, 2]"),
        ("self.list.isSorted() ? 'a' : 'b'", "b"),
        ("string(self.list.sum() + self.list.max() + self.list.min())", "10"),
        ("self.list.sort().reverse()", "[3, 2, 1]"),
        ("self.s.matches('^h.*o$') && self.s.startsWith('he') && 'x'.contains('')", "true"),
        ("self.s.substring(1, 3) + self.s.charAt(0) + self.s.upperAscii()", "elhHELLO"),
        ("'a,b,c'.split(',').join('-')", "a-b-c"),
        ("'%s is %d'.format([self.s, self.i])", "hello is 3"),
        ("'ab12'.find('[0-9]+') + string('a1b2'.findAll('[0-9]').size())", "122"),
        ("self.span > duration('1h') && self.span.getMinutes() == 90", "true"),
        ("self.when.getFullYear() == 2026 && self.when + duration('1h') > self.when", "true"),
        ("type(self.port) == string && self.port == 'http'", "true"),
        ("quantity('1Gi').isGreaterThan(quantity('500Mi')) && quantity('1').add(quantity('1')).asInteger() == 2", "true"),
        ("isIP('10.0.0.1') && ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3')", "true"),
        ("url('https://a.b:80/c?d=e').getHost() + url('https://a.b/c?d=e').getQuery()['d'][0]", "a.b:80e"),
        ("isURL('a b') || !isQuantity('x') && semver('1.2.3').isLessThan(semver('1.10.0'))", "true"),
        (
            "format.dns1123Label().validate('A').hasValue() && !format.named('uuid').value().validate('x').value().isSorted() == false",
            "true",
        ),
        ("self.?gone.orValue(1) == 1", "undefined"),
        ("self.parts[1].?n.orValue(7)", "7"),
        ("self.?s.optMap(x, x + '!').orValue('')", "hello!"),
        ("[?self.parts[1].?n, ?self.parts[0].?n]", "[1]"),
        ("sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 1], [1]) && !sets.intersects([1], [2])", "true"),
        ("cel.bind(x, self.i + 1, x * x)", "16"),
        ("b'abc'.size() + size('é') + size([1]) + size({'a': 1})", "6"),
        ("1 == 1.0 && 1u == 1 && {'a': [1]} == {'a': [1]}", "true"),
        ("true || 1 / 0 == 1", "true"),
        ("1 / 0 == 1 || true", "true"),
        ("r'\\d' + '\\u00e9' + \"\"\"a\"b\"\"\"", "\\déa\"b"),
        ("-9223372036854775808 < 0 && 0x1F == 31", "true"),
    ];
    for (source, wanted) in table {
        match come_to(source) {
            Ok(found) => assert_eq!(found, wanted, "{source}"),
            Err(why) => assert!(wanted == "undefined" && why.contains("undefined field"), "{source}: {why}"),
        }
    }
}

#[test]
fn what_has_no_value_says_why() {
    let table = [
        ("self.gone", "undefined field 'gone'"),
        ("other", "undeclared reference to 'other' (in container '')"),
        ("self.i + 'a'", "found no matching overload for '_+_' applied to '(int, string)'"),
        ("self.s.nope()", "undeclared reference to 'nope' (in container '')"),
        ("self.s.size(1)", "found no matching overload for 'size' applied to 'string.(int)'"),
        ("self.i.all(x, true)", "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)"),
        ("self.i == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("1 / 0", "division by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("self.list[5]", "index out of bounds: 5"),
        ("self.map['z']", "no such key: z"),
        ("self.parts[1].n", "no such key: n"),
        (
            "self.list.all(a, self.list.map(b, 'x'.replace('x', '0123456789012345678901234567890123456789')).size() > 0) && lists.range(10000000).size() > 0",
            "cost",
        ),
    ];
    for (source, wanted) in table {
        assert_eq!(come_to(source), Err(wanted.to_owned()), "{source}");
    }
    let issue = parse("self.i ==\n  @").unwrap_err().print("self.i ==\n  @");
    assert_eq!(issue, "ERROR: <input>:2:3: Syntax error: token recognition error at: '@'\n |   @\n | ..^");
}

#[test]
fn names_have_a_bound() {
    let of = |length: usize| format!("self.list.all({0}, {0} > 0)", "n".repeat(length));
    assert_eq!(come_to(&of(256)), Ok("true".into()));
    assert_eq!(come_to(&of(257)), Err("name too long: must have at most 256 characters".into()));
}

/// A macro that ends at once has not read its whole range.
#[test]
fn what_a_macro_runs_over_is_read_as_it_goes() {
    let elements: Vec<Value> = vec![json!(1); 700_000];
    let list = V::Array(&elements, None);
    let expr = parse("list.exists(i, x, x == 1) && list.all(i, x, x == 1 || i / 0 == 1)").unwrap();
    let mut run = Run::new(vec![("list".into(), list.clone())], 10_000_000);
    assert!(matches!(run.eval(&expr), Ok(V::Bool(true))));
    let names = ["i".into(), "x".into()];
    let mut rounds = super::eval::rounds(&list, &names);
    let (first, all) = (rounds.next().unwrap(), std::rc::Rc::strong_count(&names[0]));
    // Neither names nor values are copied for those that have not come yet.
    assert_eq!((first.len(), all), (2, 2));
}

/// What an expression costs, over a long text and a map that a rule has made of a long list.
fn cost(source: &str) -> u64 {
    const GIVEN: u64 = 100_000_000;
    let expr = parse(source).unwrap();
    let map: Vec<_> = (0..8_000).map(|n| (V::Int(n), V::Int(n))).collect();
    let variables = vec![("map".into(), V::Map(std::rc::Rc::new(map))), ("text".into(), V::text("a".repeat(100_000)))];
    let mut run = Run::new(variables, GIVEN);
    let _ = run.eval(&expr);
    GIVEN - run.meter.left
}

#[test]
fn what_goes_through_a_text_or_a_map_is_paid_for() {
    for (source, least) in [("size(text)", 10_000), ("text.size()", 10_000), ("map[7]", 1_000), ("map[?7]", 1_000), ("7 in map", 1_000)] {
        assert!((least..least + 20).contains(&cost(source)), "{source}: {}", cost(source));
    }
    for source in ["map.name", "has(map.name)", "map.?name", "optional.of(map).name"] {
        assert!(cost(source) >= 1_000, "{source}: {}", cost(source));
    }
    for source in ["text in map", "map[text]"] {
        assert!(cost(source) >= 11_000, "{source}: {}", cost(source));
    }
}

#[test]
fn a_pattern_is_compiled_once_and_dear() {
    let literal = cost("lists.range(200).all(n, 'abc'.matches('^[a-z]+$'))");
    assert!((2_800..6_000).contains(&literal), "{literal}");
    let made = cost("lists.range(200).all(n, !'abc'.matches(string(n)))");
    assert!(made > 200 * 2_000, "{made}");
    assert!(come_to("'a'.matches('((a{1000}){100})')").unwrap_err().contains("too large"));
}

/// What the parser admits at its deepest, of each kind of nesting: a quarter of a worker's stack is enough to parse, check, run and drop it.
#[test]
fn the_deepest_that_is_admitted_needs_little_stack() {
    const STACK: usize = 512 << 10;
    let nested = |open: &str, middle: &str, close: &str| {
        let of = |times| format!("{}{middle}{}", open.repeat(times), close.repeat(times));
        (1..200).map(of).take_while(|source| parse(source).is_ok()).last().unwrap()
    };
    let chained = |first: &str, link: &str| nested("", first, link);
    let sources = [
        nested("(", "1", ")"),
        nested("[", "1", "]"),
        nested("{1: ", "1", "}"),
        nested("true ? 1 : ", "1", ""),
        nested("size([", "1", "])"),
        nested("[1].all(x, ", "true", ")"),
        nested("[1].map(x, ", "1", ")"),
        nested("{1: 1}.transformMap(k, v, ", "1", ")"),
        nested("[[1]][0].exists(x, !true || ", "true", ")"),
        nested("optional.of(1).optMap(x, ", "1", ")"),
        nested("cel.bind(x, [[[[[[1]]]]]], ", "x", ")"),
        nested("1 * (1 + ", "1", ")"),
        chained("[1]", ".reverse()"),
        chained("[1]", ".filter(x, true)"),
        chained("[1]", " + [1]"),
        chained("1", " - 1"),
        chained("optional.of(dyn(self))", ".?list"),
        // Each level holds the one before twice: to compare, write or weigh such a value costs more than there is.
        (0..20).rev().fold("v0 == v0 && '%s'.format([v19]) == ''".to_owned(), |body, at| {
            let held = if at == 0 { "[1]".to_owned() } else { format!("[v{0}, v{0}]", at - 1) };
            format!("cel.bind(v{at}, {held}, {body})")
        }),
    ];
    for source in sources {
        let run = std::thread::Builder::new().stack_size(STACK).spawn(move || (come_to(&source), source)).unwrap();
        let (found, source) = run.join().unwrap();
        assert!(found.is_ok() || found == Err("cost".to_owned()), "{source}: {found:?}");
    }
}

proptest! {
    #[test]
    fn no_text_brings_it_down(source in "[a-z0-9 .,()\\[\\]{}?:'\"+*/%<>=!&|_-]{0,60}") {
        let _ = come_to(&source);
    }

    #[test]
    fn no_mixture_of_words_brings_it_down(words in proptest::collection::vec(prop_oneof![
        Just("self"), Just(".list"), Just(".s"), Just(".i"), Just("["), Just("]"), Just("("), Just(")"), Just("1"), Just("-1"), Just("'a'"), Just("+"), Just("-"),
        Just("*"), Just("/"), Just("%"), Just("=="), Just("<"), Just("&&"), Just("?"), Just(":"), Just(".size()"), Just(".map(x,"), Just("x"), Just(".all(x,"),
        Just(".substring("), Just(","), Just("9223372036854775807"), Just("1.5"), Just("2u"), Just("duration('1h')"), Just("quantity('1')"), Just("null")], 0..14)) {
        let _ = come_to(&words.concat());
    }
}

/// Allows what its group says.
struct Groups;

impl Judge for Groups {
    fn judge(&self, account: Option<(&str, &str)>, check: &Check, verb: &str) -> Verdict {
        let allowed = check.group == "good" || check.path == "/healthz" || account == Some(("ns", "sa"));
        Verdict { allowed, reason: format!("{verb} {}/{} {}", check.resource, check.subresource, check.name), error: None }
    }
}

/// What an expression of admission comes to, with two variables of which the second names the first, and a third that has no value.
fn admitted(source: &str) -> Result<(String, u64), String> {
    let named: Vec<Named> = [("a", "object.n + 1"), ("b", "variables.a * 2"), ("c", "object.gone")]
        .into_iter()
        .map(|(name, source)| Named { name: name.to_owned(), expr: parse(source).map_err(|issue| issue.why) })
        .collect();
    let object = json!({"n": 3, "a__b": 1, "namespace": "x", "none": null});
    let known = ["a", "b", "c"].map(|name| (name.to_owned(), T::Dyn)).to_vec();
    let types = vec![
        ("object".to_owned(), T::Dyn),
        ("authorizer".to_owned(), T::Library("kubernetes.authorization.Authorizer")),
        ("variables".to_owned(), T::Variables(std::rc::Rc::new(known))),
    ];
    let expr = parse(source).map_err(|issue| issue.why)?;
    Checker::new(types).making_patches().check(&expr).map_err(|issue| issue.why)?;
    let request = Check { group: "good".into(), resource: "pods".into(), name: "p".into(), ..Check::default() };
    let authority = Authority::new(&Groups, request);
    let mut values = vec![("object".to_owned(), V::of(&object, None)), ("authorizer".to_owned(), V::Authorizer(authority))];
    let composed = Composed::new(&named, values.clone(), 1_000_000, 10_000_000);
    values.push(("variables".to_owned(), V::Variables(composed.clone())));
    let found = Run::new(values, 1_000_000).eval(&expr).map_err(|failure| match failure {
        Failure::Error(why) => why,
        Failure::Cost => "cost".into(),
    })?;
    let json = to_json(&found, &mut 1_000_000).map_err(|failure| format!("{failure:?}"))?;
    check_names(&found)?;
    Ok((json.to_string(), 10_000_000 - composed.left()))
}

#[test]
fn variables_are_worked_out_once_and_when_they_are_asked_for() {
    let value = |source| admitted(source).map(|(value, _)| value);
    assert_eq!(value("variables.b + variables.a"), Ok("12".into()));
    assert_eq!(admitted("1").unwrap().1, 0, "nobody asked");
    let once = admitted("variables.b").unwrap().1;
    assert_eq!(admitted("variables.b + variables.b + variables.a").unwrap().1, once);
    assert_eq!(value("object.n == 3 || variables.c == 1"), Ok("true".into()));
    assert_eq!(value("variables.c"), Err("composited variable \"c\" fails to evaluate: no such key: gone".into()));
    assert_eq!(value("variables.d"), Err("undefined field 'd'".into()));
    assert_eq!(value("[variables]"), Err("'variables' is no value: its parts are".into()));
    assert_eq!(value("object.a__b + size(object.namespace)"), Ok("2".into()), "what has no schema has the names that it has");
    assert_eq!(value("has(object.none.x) || has(object.n.x)"), Ok("false".into()));
}

/// Source: apiserver `pkg/cel/library/authz.go` and its examples.
#[test]
fn the_authorizer_is_asked() {
    let table = [
        ("authorizer.group('good').resource('pods').check('get').allowed()", "true"),
        ("authorizer.group('bad').resource('pods').namespace('n').check('get').allowed()", "false"),
        ("authorizer.group('').resource('pods').subresource('log').name('x').check('get').reason()", "\"get pods/log x\""),
        ("authorizer.path('/healthz').check('get').allowed() && !authorizer.path('/x').check('get').allowed()", "true"),
        ("authorizer.serviceAccount('ns', 'sa').group('').resource('x').check('list').allowed()", "true"),
        ("authorizer.requestResource.check('create').allowed()", "true"),
        ("authorizer.group('').resource('a').fieldSelector('x=y').labelSelector('a=b').check('list').errored()", "false"),
    ];
    for (source, wanted) in table {
        assert_eq!(admitted(source).map(|(value, _)| value), Ok(wanted.to_owned()), "{source}");
    }
    let wrong = [
        ("authorizer.path(' ')", "path must not be empty"),
        ("authorizer.group('').resource('')", "resource must not be empty"),
        ("authorizer.serviceAccount('NS', 'sa')", "Invalid service account namespace"),
        ("authorizer.serviceAccount('ns', 'S A')", "Invalid service account name"),
        (
            "authorizer.group('').check('get')",
            "found no matching overload for 'check' applied to 'kubernetes.authorization.GroupCheck.(string)'",
        ),
        ("[1, 2, 3].all(x, authorizer.path('/healthz').check('get').allowed())", "cost"),
    ];
    for (source, wanted) in wrong {
        assert_eq!(admitted(source), Err(wanted.to_owned()), "{source}");
    }
}

/// Source: apiserver `pkg/cel/mutation`.
#[test]
fn literals_with_names_are_objects() {
    let table = [
        ("Object{spec: Object.spec{replicas: object.n, ?none: object.?gone}}", r#"{"spec":{"replicas":3}}"#),
        (
            "[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('b/c~d'), value: {'x': [1.5, 2.0]}}]",
            r#"[{"op":"add","path":"/a/b~1c~0d","value":{"x":[1.5,2]}}]"#,
        ),
        ("Object{a: 1}.a + 1", "2"),
        ("Object{a: 1} == Object{a: 1} && Object{a: 1} != Object{a: 2}", "true"),
        ("has(Object{a: 1}.a) && !has(Object{a: 1}.b)", "true"),
        ("Object{a: b'x', t: timestamp('2026-01-02T03:04:05Z')}", r#"{"a":"eA==","t":"2026-01-02T03:04:05Z"}"#),
    ];
    for (source, wanted) in table {
        assert_eq!(admitted(source).map(|(value, _)| value), Ok(wanted.to_owned()), "{source}");
    }
    let wrong = [
        ("Other{a: 1}", "undeclared reference to 'Other' (in container '')"),
        ("JSONPatch{op: 1}", "expected type of field 'op' is 'string' but provided type is 'int'"),
        ("JSONPatch{ops: 'x'}", "undefined field 'ops'"),
        ("{1: 2}", "Error(\"map key \\\"1\\\" is of type int, not string\")"),
        (
            "Object{a: Object.b{}}",
            "unexpected type name \"Object.b\", expected \"Object.a\", which matches field name path from root Object type",
        ),
    ];
    for (source, wanted) in wrong {
        assert_eq!(admitted(source), Err(wanted.to_owned()), "{source}");
    }
    let plain = |source: &str| Checker::new(Vec::new()).check(&parse(source).unwrap()).map_err(|issue| issue.why);
    assert_eq!(plain("Object{}").unwrap_err(), "undeclared reference to 'Object' (in container '')");
    assert_eq!(plain("jsonpatch.escapeKey('a')").unwrap_err(), "undeclared reference to 'jsonpatch.escapeKey' (in container '')");
}

#[test]
fn a_pattern_that_stands_in_a_rule_is_compiled_once_and_costs_the_same_each_time() {
    let run = |source: &str| {
        let (schema, object) = (schema(), object());
        let mut run = Run::new(vec![("self".into(), V::of(&object, Some(&schema)))], 1_000_000);
        let expr = parse(source).unwrap();
        let (value, compiled) = api::steps::of(|| run.eval(&expr).map(|value| super::strings::shown(&value)));
        (value.unwrap(), run.meter.left, compiled)
    };
    for literal in ["self.s.matches('^h[a-z]{4}')", "matches(self.s, '^h[a-z]{5}|o$')", "self.s.findAll('l|once', 2) == ['l', 'l']"] {
        let (value, left, compiled) = run(literal);
        assert_eq!((value.as_str(), compiled), ("true", 1), "{literal}");
        assert_eq!(run(literal), (value, left, 0), "{literal}");
    }
    // What an object says itself is not kept: whoever writes objects would have it all.
    for _ in 0..2 {
        assert_eq!(run("self.s.matches('^' + self.s)").2, 1);
    }
}
