//! Windows, policies and ranges, over upstream's own cases.

use std::collections::HashMap;

use super::*;

/// Long after the beginning of all clocks.
const NOW: Duration = Duration::from_secs(1_000_000);

fn ago(seconds: u64) -> Duration {
    NOW - Duration::from_secs(seconds)
}

fn numbers<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> Vec<T> {
    text.split(',').map(|number| number.parse().unwrap()).collect()
}

/// `generateEventsUniformDistribution`: `1,5,9/120` are three changes, each in the middle of its third of the last 120 seconds.
fn changes(text: &str) -> Vec<Change> {
    let (by, period) = text.split_once('/').unwrap();
    let (by, period) = (numbers::<i64>(by), period.parse::<f64>().unwrap());
    let part = period / by.len() as f64;
    let at = |place: usize| ago((period - part * (place + 1) as f64 + part / 2.0) as u64);
    by.into_iter().enumerate().map(|(place, by)| Change { by, at: at(place) }).collect()
}

/// `generateScalingRules`: pods, their period, percent, their period, window.
fn rules(text: &str) -> HPAScalingRules {
    let all = numbers::<i32>(text);
    let policy = |kind: &str, at: usize| HPAScalingPolicy { type_: kind.into(), value: all[at], period_seconds: all[at + 1] };
    let policies: Vec<_> = [policy("Pods", 0), policy("Percent", 2)].into_iter().filter(|policy| policy.value != 0).collect();
    let (select_policy, policies) = (Some("Max".into()), (!policies.is_empty()).then_some(policies));
    HPAScalingRules { policies, select_policy, stabilization_window_seconds: Some(all[4]), tolerance: None }
}

/// Upstream's cases (`TestScalingWithRules`).
#[test]
fn policies_and_range_limit_what_is_done() {
    let cases = include_str!("rules.txt");
    assert!(cases.lines().count() > 40);
    for line in cases.lines() {
        let said: HashMap<&str, &str> = line.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        let number = |name: &str| said[name].parse::<i32>().unwrap();
        let of = |name: &str| said.get(name).map(|text| changes(text)).unwrap_or_default();
        let history = History { recommendations: Vec::new(), ups: of("ups"), downs: of("downs") };
        let range = Range { current: number("current"), min: number("min"), max: number("max") };
        let (up, down) = (said.get("up").map(|text| rules(text)), said.get("down").map(|text| rules(text)));
        let (up, down) = (Rules::up(up.as_ref()), Rules::down(down.as_ref(), Duration::from_secs(300)));
        let (replicas, (reason, _)) = history.within_rates(number("desired"), range, (&up, &down), NOW);
        assert_eq!((replicas, reason), (number("replicas"), said["reason"]), "{line}");
    }
}

fn recommended(all: &[(i32, u64)]) -> History {
    let recommendations = all.iter().map(|&(replicas, minutes)| Recommendation { replicas, at: ago(60 * minutes) }).collect();
    History { recommendations, ..History::default() }
}

fn kept(history: &History) -> Vec<i32> {
    history.recommendations.iter().map(|known| known.replicas).collect()
}

/// Upstream's cases (`TestNormalizeDesiredReplicas`): recommendations and their age in minutes, what is desired, what comes of it, how many are kept.
#[test]
fn the_highest_of_late_counts() {
    type Row = (&'static [(i32, u64)], i32, i32, usize);
    let cases: [Row; 5] = [
        (&[], 5, 5, 1),
        (&[(4, 2), (5, 1)], 3, 5, 3),
        (&[(1, 2), (2, 1)], 3, 3, 3),
        (&[(10, 10), (9, 9)], 3, 3, 2),
        (&[(10, 10), (4, 1), (5, 2), (9, 9)], 3, 5, 4),
    ];
    for (before, desired, stable, length) in cases {
        let mut history = recommended(before);
        let limited = history.limit(desired, Range { current: 100, min: 1, max: 100 }, Duration::from_secs(300), NOW);
        assert_eq!((limited.replicas, history.recommendations.len()), (stable, length), "{before:?}");
        assert_eq!(limited.able.0, if stable == desired { "ReadyForNewScale" } else { "ScaleDownStabilized" });
    }
}

/// Recommendations and their age in minutes, current and desired replicas, windows in seconds (up, down).
type Stabilized<'a> = (&'a [(i32, u64)], (i32, i32), (u64, u64));

/// Upstream's cases (`TestNormalizeDesiredReplicasWithBehavior`), with what comes of each, and what is kept.
#[test]
fn windows_stabilize_both_ways() {
    let cases: [(Stabilized<'_>, i32, &[i32]); 11] = [
        ((&[], (100, 5), (0, 0)), 5, &[5]),
        ((&[(4, 2), (5, 1)], (100, 3), (0, 180)), 5, &[4, 5, 3]),
        ((&[(4, 2), (5, 1)], (1, 7), (300, 0)), 4, &[4, 5, 7]),
        ((&[(1, 2), (2, 1)], (100, 3), (300, 0)), 3, &[1, 2, 3]),
        ((&[(4, 2), (5, 1)], (1, 3), (0, 300)), 3, &[4, 5, 3]),
        ((&[(10, 10), (9, 9)], (100, 3), (0, 0)), 3, &[10, 3]),
        ((&[(10, 10), (9, 9)], (1, 100), (0, 0)), 100, &[10, 100]),
        ((&[(10, 10), (4, 1), (5, 2), (9, 9)], (100, 3), (0, 180)), 5, &[10, 4, 5, 3]),
        ((&[(10, 100), (6, 1), (5, 2), (9, 3)], (1, 100), (300, 0)), 5, &[100, 6, 5, 9]),
        ((&[(2, 100), (3, 3)], (2, 1), (300, 300)), 2, &[1, 3]),
        ((&[(2, 100), (1, 3)], (2, 3), (300, 300)), 2, &[3, 1]),
    ];
    for ((before, (current, desired), (up, down)), stable, left) in cases {
        let mut history = recommended(before);
        let windows = (Duration::from_secs(up), Duration::from_secs(down));
        assert_eq!(history.stabilize(desired, current, windows, NOW), stable, "{before:?} {current} {desired}");
        assert_eq!(kept(&history), left, "{before:?} {current} {desired}");
    }
}

#[test]
fn replicas_are_doubled_at_most_without_a_behavior() {
    let cases = [
        ((1, 100), (4, "ScaleUpLimit")),
        ((3, 100), (6, "ScaleUpLimit")),
        ((3, 5), (5, "DesiredWithinRange")),
        ((7, 11), (10, "TooManyReplicas")),
        ((i32::MAX, i32::MAX), (10, "TooManyReplicas")),
        ((5, 0), (2, "TooFewReplicas")),
    ];
    for ((current, desired), (replicas, reason)) in cases {
        let limited = History::default().limit(desired, Range { current, min: 2, max: 10 }, Duration::ZERO, NOW);
        assert_eq!((limited.replicas, limited.limited.0), (replicas, reason), "{current} {desired}");
        assert_eq!(limited.is_limited, replicas != desired);
    }
}

#[test]
fn what_was_done_is_remembered_no_longer_than_a_policy_asks() {
    let mut history = History::default();
    let behavior = HorizontalPodAutoscalerBehavior { scale_up: Some(rules("4,60,0,0,0")), scale_down: Some(rules("1,120,0,0,0")) };
    for (seconds, from, to) in [(130, 1, 3), (70, 3, 7), (50, 7, 5), (40, 5, 6), (0, 6, 9)] {
        history.rescaled(Some(&behavior), from, to, ago(seconds));
    }
    let by = |changes: &[Change]| changes.iter().map(|change| change.by).collect::<Vec<_>>();
    assert_eq!((by(&history.ups), by(&history.downs)), (vec![1, 3], vec![2]));
    history.rescaled(None, 9, 1, NOW);
    assert_eq!(by(&history.downs), [2], "without a behavior nobody asks");
}

/// The worst that an object may say: nothing overflows, and nothing leaves the range.
#[test]
fn no_number_leads_out_of_the_range() {
    let numbers = [i32::MIN, -1, 0, 1, 3, i32::MAX - 1, i32::MAX];
    for (value, period) in [(i32::MAX, 1800), (i32::MIN, i32::MIN), (0, 0), (1, i32::MAX)] {
        let policy = |kind: &str| HPAScalingPolicy { type_: kind.into(), value, period_seconds: period };
        let rules = |select: &str| HPAScalingRules {
            policies: Some(vec![policy("Pods"), policy("Percent")]),
            select_policy: Some(select.into()),
            stabilization_window_seconds: Some(period),
            tolerance: None,
        };
        for select in ["Max", "Min", "Disabled"] {
            let behavior = HorizontalPodAutoscalerBehavior { scale_up: Some(rules(select)), scale_down: Some(rules(select)) };
            let mut history = History {
                ups: vec![Change { by: i64::from(u32::MAX), at: NOW }; 9],
                downs: vec![Change { by: i64::from(u32::MAX), at: NOW }; 3],
                ..recommended(&[(i32::MAX, 0), (i32::MIN, 1)])
            };
            for desired in numbers {
                for current in [1, 7, 10] {
                    let range = Range { current, min: 1, max: 10 };
                    let limited = history.limit_by(&behavior, desired, range, Duration::MAX, NOW);
                    assert!((1..=10).contains(&limited.replicas), "{select} {value} {desired} {current}: {limited:?}");
                    let limited = history.limit(desired, range, Duration::MAX, NOW);
                    assert!((1..=10).contains(&limited.replicas), "{desired} {current}: {limited:?}");
                }
            }
        }
    }
}
