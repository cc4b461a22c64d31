//! What is missing -> told in upstream's words, in bounded work.

use api::steps;

use super::*;
use crate::auth::rules::compacted;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
    let groups = words(groups).iter().map(|g| if g == "core" { String::new() } else { g.clone() }).collect();
    Rule { verbs: words(verbs), groups, resources: words(resources), names: words(names), urls: Vec::new() }
}

fn many(letter: char, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{letter}{i}")).collect()
}

#[test]
fn what_is_missing_is_told_compactly() {
    let held = RuleSet::of(&[rule("get list", "core", "pods */status", ""), rule("*", "apps", "*", "x")]);
    let none = [
        rule("get", "core", "pods nodes/status", ""),
        rule("delete", "apps", "deployments", "x"),
        rule("list", "core", "pods", "one"),
        Rule::default(),
    ];
    assert_eq!(missing([&held], &RuleSet::of(&none)).unwrap(), []);
    let wanted = RuleSet::of(&[rule("get delete watch", "core", "pods", ""), rule("get", "apps", "deployments", "")]);
    let texts: Vec<String> = compacted(missing([&held], &wanted).unwrap()).iter().map(Rule::compact).collect();
    assert_eq!(
        texts,
        [
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#,
            r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}"#
        ]
    );
}

#[test]
fn lists_that_multiply_are_refused_or_told_in_part() {
    let wide =
        Rule { verbs: many('v', 1000), groups: many('g', 1000), resources: many('r', 1000), names: many('n', 1000), urls: Vec::new() };
    let wanted = RuleSet::of(std::slice::from_ref(&wide));
    assert_eq!(missing([], &wanted).unwrap().len(), MISSING_MAX, "none is held");
    assert_eq!(missing([&wanted], &wanted).unwrap(), [], "one rule covers it");
    let half = |verbs: &[String]| Rule { verbs: verbs.to_vec(), ..wide.clone() };
    let halves = RuleSet::of(&[half(&wide.verbs[..500]), half(&wide.verbs[500..])]);
    let (refused, steps) = steps::of(|| missing([&halves], &wanted));
    assert!(refused.is_err() && steps <= STEPS_MAX as u64 + 10_000, "10^12 rules: {steps} steps");
    let urls = RuleSet::of(&[Rule { verbs: many('v', 10_000), urls: many('/', 10_000), ..Rule::default() }]);
    assert_eq!(missing([], &urls).unwrap().len(), MISSING_MAX, "nor are URLs");
}

#[test]
fn what_is_told_is_short_however_long_the_words_are() {
    let long = Rule { resources: vec!["r".repeat(1 << 20)], verbs: many('v', 1000), ..rule("", "core", "", "") };
    let told = missing([], &RuleSet::of(&[long])).unwrap();
    assert!(!told.is_empty() && told.len() < 3, "{} of a mebibyte each", told.len());
}

/// Each wanted rule costs the same, however many are held and wanted.
#[test]
fn a_role_is_compared_with_its_like_in_steps_as_many_as_its_rules() {
    let cost = |count: usize| {
        let set = RuleSet::of(&many('r', count).iter().map(|r| rule("get list", "core", r, "x y")).collect::<Vec<_>>());
        let (none, steps) = steps::of(|| missing([&set], &set));
        assert_eq!(none.unwrap(), []);
        steps / count as u64
    };
    let costs = [100, 1_000, 10_000].map(cost);
    assert!(costs.iter().all(|cost| *cost <= costs[0] * 2), "{costs:?} steps for each rule");
}

/// Many roles, each of which lacks something.
#[test]
fn many_roles_are_compared_in_bounded_work() {
    let held: Vec<RuleSet> = many('r', 2_000).iter().map(|r| RuleSet::of(&[rule("get", "core", r, "")])).collect();
    let wanted = RuleSet::of(&many('r', 2_000).iter().map(|r| rule("get", "core", r, "")).collect::<Vec<_>>());
    let (refused, steps) = steps::of(|| missing(&held, &wanted));
    assert!(refused.is_err() && steps <= STEPS_MAX as u64 + 10_000, "{steps} steps");
}
