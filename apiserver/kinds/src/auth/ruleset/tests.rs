//! Rules compiled -> what they decide, compared with upstream's plain evaluation; and what they take.

use proptest::{prelude::*, sample::select, strategy::Strategy};
use serde_json::json;

use super::{super::covers::missing, *};

/// `RuleAllows`, field by field.
fn allows(rule: &Rule, a: &Attributes<'_>) -> bool {
    let has = |words: &[String], word: &str| words.iter().any(|own| own == "*" || own == word);
    if !a.resource_request {
        let url = |own: &String| {
            own == "*" || *own == a.path || own.strip_suffix('*').is_some_and(|o| a.path.starts_with(o.trim_end_matches('*')))
        };
        return has(&rule.verbs, a.verb) && rule.urls.iter().any(url);
    }
    let combined = if a.subresource.is_empty() { a.resource.to_owned() } else { format!("{}/{}", a.resource, a.subresource) };
    let resource = |own: &String| own == "*" || *own == combined || !a.subresource.is_empty() && *own == format!("*/{}", a.subresource);
    has(&rule.verbs, a.verb)
        && has(&rule.groups, a.group)
        && rule.resources.iter().any(resource)
        && (rule.names.is_empty() || rule.names.iter().any(|name| name == a.name))
}

/// `BreakdownRule`.
fn broken_down(rule: &Rule) -> Vec<Rule> {
    let one = |word: &String| vec![word.clone()];
    let mut out = Vec::new();
    for group in &rule.groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let base = Rule { verbs: one(verb), groups: one(group), resources: one(resource), ..Rule::default() };
                if rule.names.is_empty() {
                    out.push(base.clone());
                }
                out.extend(rule.names.iter().map(|name| Rule { names: one(name), ..base.clone() }));
            }
        }
    }
    for url in &rule.urls {
        out.extend(rule.verbs.iter().map(|verb| Rule { verbs: one(verb), urls: one(url), ..Rule::default() }));
    }
    out
}

/// `ruleCovers`, of a rule that is broken down.
fn covers(own: &Rule, one: &Rule) -> bool {
    let all = |own: &[String], wanted: &[String]| own.iter().any(|w| w == "*") || wanted.iter().all(|w| own.contains(w));
    let resource = |r: &String| {
        own.resources.iter().any(|o| o == "*" || o == r)
            || r.split_once('/').is_some_and(|(_, sub)| own.resources.contains(&format!("*/{sub}")))
    };
    let url = |u: &String| own.urls.iter().any(|o| o == u || o.ends_with('*') && u.starts_with(o.trim_end_matches('*')));
    all(&own.verbs, &one.verbs)
        && all(&own.groups, &one.groups)
        && one.resources.iter().all(resource)
        && one.urls.iter().all(url)
        && (own.names.is_empty() || !one.names.is_empty() && one.names.iter().all(|name| own.names.contains(name)))
}

const WORDS: [&[&str]; 5] = [
    &["get", "list", "watch", "*"],
    &["", "apps", "x.io", "*"],
    &["pods", "pods/log", "*/log", "secrets", "*/scale", "x/scale", "pods/*", "*"],
    &["a", "b", "c"],
    &["/api", "/api/*", "/ap*", "/apis/**", "/", "*", "/é*"],
];

fn words(field: usize, most: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(select(WORDS[field]).prop_map(str::to_owned), 0..=most)
}

prop_compose! {
    fn rule()(verbs in words(VERBS, 2), groups in words(GROUPS, 2), resources in words(RESOURCES, 2), names in words(NAMES, 1), urls in words(URLS, 1)) -> Rule {
        Rule { verbs, groups, resources, names, urls }
    }
}

/// Few and many: the first are looked through, the others are looked up.
fn rules() -> impl Strategy<Value = Vec<Rule>> {
    prop_oneof![prop::collection::vec(rule(), 0..4), prop::collection::vec(rule(), 30..200)]
}

prop_compose! {
    fn question()(
        resource_request in any::<bool>(),
        verb in select(&["get", "list", "delete", "*"]),
        group in select(&["", "apps", "y.io"]),
        resource in select(&["pods", "pods/log", "secrets", "x", "*"]),
        subresource in select(&["", "", "log", "scale", "*"]),
        name in select(&["", "a", "d"]),
        path in select(&["/", "/api", "/api/v1", "/apis", "/é/x", ""]),
    ) -> Attributes<'static> {
        Attributes { resource_request, verb, group, resource, subresource, name, path, ..Attributes::default() }
    }
}

proptest! {
    #[test]
    fn compiled_rules_decide_as_plain_ones(rules in rules(), questions in prop::collection::vec(question(), 40)) {
        let set = RuleSet::of(&rules);
        prop_assert_eq!(set.rules().collect::<Vec<_>>(), &*rules, "what was written is kept");
        for asked in &questions {
            prop_assert_eq!(set.allows(asked), rules.iter().any(|rule| allows(rule, asked)), "{:?}", asked);
        }
    }

    #[test]
    fn what_is_missing_is_what_upstream_finds(held in prop::collection::vec(rules(), 0..3), wanted in prop::collection::vec(rule(), 0..6)) {
        let sets: Vec<RuleSet> = held.iter().map(|rules| RuleSet::of(rules)).collect();
        let own: Vec<&Rule> = held.iter().flatten().collect();
        let plain: Vec<Rule> = wanted.iter().flat_map(broken_down).filter(|one| !own.iter().any(|own| covers(own, one))).collect();
        prop_assert_eq!(missing(&sets, &RuleSet::of(&wanted)).unwrap(), plain);
    }
}

fn role(rules: Value) -> (RuleSet, usize) {
    let role = json!({"rules": rules});
    (RuleSet::of_role(&role), role.to_string().len())
}

fn one(verb: &str, resource: impl Into<Value>) -> Value {
    json!({"verbs": [verb], "apiGroups": [""], "resources": [resource.into()]})
}

fn ask<'a>(verb: &'a str, resource: &'a str, name: &'a str) -> Attributes<'a> {
    Attributes { resource_request: true, verb, resource, name, ..Attributes::default() }
}

#[test]
fn a_question_costs_no_more_where_rules_are_many() {
    let cost = |rules: usize| {
        let (set, _) = role((0..rules).map(|i| one("get", format!("r{i}"))).collect());
        let last = format!("r{}", rules - 1);
        let (answers, steps) =
            api::steps::of(|| [ask("get", &last, "x"), ask("get", "none", ""), ask("put", &last, "")].map(|a| set.allows(&a)));
        assert_eq!(answers, [true, false, false]);
        steps
    };
    api::steps::must_not_grow("three questions", &[100, 2_000, 20_000].map(cost));
}

/// Two thirds of the rules have the verb, two thirds the group, two thirds the resource, and none has all.
#[test]
fn the_worst_rules_are_compared_64_at_a_time() {
    let thirds = |i: usize| {
        let word = |third: usize, word: &str| if i % 3 == third { format!("no{i}") } else { word.to_owned() };
        json!({"verbs": [word(0, "get")], "apiGroups": [word(1, "")], "resources": [word(2, "pods")]})
    };
    let (set, _) = role((0..24_000).map(thirds).collect());
    let (allowed, steps) = api::steps::of(|| set.allows(&ask("get", "pods", "x")));
    assert!(!allowed && steps <= 24_000 / 64, "{steps} steps");
}

#[test]
fn a_large_role_takes_a_few_times_its_json() {
    let many = |count: usize, word: &dyn Fn(usize) -> String| (0..count).map(word).map(Value::from).collect::<Vec<Value>>();
    let shapes = [
        ("equal rules", (0..10_000).map(|_| one("get", "r")).collect::<Value>()),
        ("rules of their own", (0..10_000).map(|i| one("get", format!("r{i}"))).collect()),
        ("distinct words", json!([{"verbs": ["get"], "apiGroups": [""], "resources": many(60_000, &|i| format!("{i:x}"))}])),
        ("one word", json!([{"verbs": ["get"], "apiGroups": [""], "resources": many(100_000, &|_| "a".into())}])),
        ("wide rules", (0..1_000).map(|i| json!({"verbs": many(50, &|n| format!("{}", n % 40)), "apiGroups": [""], "resources": many(50, &|n| format!("{}", (n + i) % 90))})).collect()),
    ];
    for (shape, rules) in shapes {
        let (set, json) = role(rules);
        let bytes: usize = set.columns.iter().map(Column::bytes).sum();
        assert!(bytes <= 4 * json, "{shape}: {bytes} bytes for {json} of JSON");
    }
}
