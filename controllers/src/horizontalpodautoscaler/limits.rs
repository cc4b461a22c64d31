//! What the metrics come to -> what of it is done now: windows of stabilization, policies, the least and the most replicas.
//!
//! Source: `pkg/controller/podautoscaler/horizontal.go`, `normalizeDesiredReplicas` and below.

use std::time::Duration;

use api::{
    k8s::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior},
    time::span,
};

/// Without a behavior the replicas are doubled at most...
const UP_FACTOR: i64 = 2;
/// ... or brought to so many.
const UP_TO: i64 = 4;

/// What an autoscaler remembers, on the clock that is never set. As much as fits its windows: what is older makes room for what is new.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    recommendations: Vec<Recommendation>,
    ups: Vec<Change>,
    downs: Vec<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Recommendation {
    replicas: i32,
    at: Duration,
}

/// A scale that was written: by how much it grew or shrank.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Change {
    by: i64,
    at: Duration,
}

/// Where a target stands, and where it may go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    pub current: i32,
    pub min: i32,
    pub max: i32,
}

/// What is done of what was desired, and the two conditions that say why.
#[derive(Clone, Debug, PartialEq)]
pub struct Limited {
    pub replicas: i32,
    pub able: Words,
    pub is_limited: bool,
    pub limited: Words,
}

/// A condition's reason and message.
pub type Words = (&'static str, &'static str);

const READY: Words = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: Words =
    ("ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation");
const DOWN_STABILIZED: Words =
    ("ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation");
const WITHIN: Words = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FAST_UP: Words = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: Words = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Words = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Words = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

impl History {
    /// `recordInitialRecommendation`
    pub fn begin(&mut self, replicas: i32, at: Duration) {
        if self.recommendations.is_empty() {
            self.recommendations.push(Recommendation { replicas, at });
        }
    }

    /// `normalizeDesiredReplicas`: without a behavior. `window` is that of scaling down.
    pub fn limit(&mut self, desired: i32, range: Range, window: Duration, at: Duration) -> Limited {
        let mut stable = desired;
        let mut old = None;
        for (place, known) in self.recommendations.iter().enumerate() {
            if at.saturating_sub(known.at) > window {
                old = Some(place);
            } else {
                stable = stable.max(known.replicas);
            }
        }
        self.recommend(old, desired, at);
        let able = if stable == desired { READY } else { DOWN_STABILIZED };
        let (replicas, limited) = range.without_rates(stable);
        Limited { replicas, able, is_limited: replicas != stable, limited }
    }

    /// `normalizeDesiredReplicasWithBehaviors`; `window` is that of scaling down where the behavior does not say.
    pub fn limit_by(
        &mut self,
        behavior: &HorizontalPodAutoscalerBehavior,
        desired: i32,
        range: Range,
        window: Duration,
        at: Duration,
    ) -> Limited {
        let (up, down) = (Rules::up(behavior.scale_up.as_ref()), Rules::down(behavior.scale_down.as_ref(), window));
        let stable = self.stabilize(desired, range.current, (up.window, down.window), at);
        let able = match stable == desired {
            true => READY,
            false if desired >= range.current => UP_STABILIZED,
            false => DOWN_STABILIZED,
        };
        let (replicas, limited) = self.within_rates(stable, range, (&up, &down), at);
        Limited { replicas, able, is_limited: replicas != stable, limited }
    }

    /// `stabilizeRecommendationWithBehaviors`
    fn stabilize(&mut self, desired: i32, current: i32, (up, down): (Duration, Duration), at: Duration) -> i32 {
        let (mut lowest, mut highest, mut old) = (desired, desired, None);
        for (place, known) in self.recommendations.iter().enumerate() {
            let age = at.saturating_sub(known.at);
            if age < up {
                lowest = lowest.min(known.replicas);
            }
            if age < down {
                highest = highest.max(known.replicas);
            }
            if age > up && age > down {
                old = Some(place);
            }
        }
        self.recommend(old, desired, at);
        current.max(lowest).min(highest)
    }

    /// In the place of one that is too old to matter, if there is one.
    fn recommend(&mut self, old: Option<usize>, replicas: i32, at: Duration) {
        put(&mut self.recommendations, old, Recommendation { replicas, at });
    }

    /// `convertDesiredReplicasWithBehaviorRate`
    fn within_rates(&self, desired: i32, range: Range, (up, down): (&Rules, &Rules), at: Duration) -> (i32, Words) {
        if desired > range.current {
            let most = up.limit(range.current, self, at).max(range.current);
            let (most, why) = if range.max > most { (most, TOO_FAST_UP) } else { (range.max, TOO_MANY) };
            if desired > most {
                return (most, why);
            }
        } else if desired < range.current {
            let least = down.limit(range.current, self, at).min(range.current);
            let (least, why) = if range.min < least { (least, TOO_FAST_DOWN) } else { (range.min, TOO_FEW) };
            if desired < least {
                return (least, why);
            }
        }
        (desired, WITHIN)
    }

    /// `storeScaleEvent`: only policies ask for it.
    pub fn rescaled(&mut self, behavior: Option<&HorizontalPodAutoscalerBehavior>, from: i32, to: i32, at: Duration) {
        let Some(behavior) = behavior else { return };
        let (rules, changes) = match to > from {
            true => (Rules::up(behavior.scale_up.as_ref()), &mut self.ups),
            false => (Rules::down(behavior.scale_down.as_ref(), Duration::ZERO), &mut self.downs),
        };
        let longest = rules.policies.iter().map(|policy| span(policy.period_seconds)).max().unwrap_or_default();
        let old = changes.iter().rposition(|change| at.saturating_sub(change.at) > longest);
        put(changes, old, Change { by: (i64::from(to) - i64::from(from)).abs(), at });
    }
}

fn put<T>(all: &mut Vec<T>, place: Option<usize>, one: T) {
    match place.and_then(|place| all.get_mut(place)) {
        Some(old) => *old = one,
        None => all.push(one),
    }
}

impl Range {
    /// `convertDesiredReplicasWithRules`
    fn without_rates(self, desired: i32) -> (i32, Words) {
        let fastest = saturate((UP_FACTOR * i64::from(self.current)).max(UP_TO));
        let (most, why) = if self.max > fastest { (fastest, TOO_FAST_UP) } else { (self.max, TOO_MANY) };
        match desired {
            _ if desired < self.min => (self.min, TOO_FEW),
            _ if desired > most => (most, why),
            _ => (desired, WITHIN),
        }
    }
}

/// One direction of a behavior, with upstream's defaults for what is not said (`pkg/apis/autoscaling/v2/defaults.go`).
struct Rules {
    is_up: bool,
    window: Duration,
    select: Select,
    policies: Vec<HPAScalingPolicy>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Select {
    Most,
    Least,
    Disabled,
}

impl Rules {
    fn up(rules: Option<&HPAScalingRules>) -> Self {
        let policy = |kind: &str, value| HPAScalingPolicy { period_seconds: 15, type_: kind.into(), value };
        Self::of(rules, true, Duration::ZERO, || vec![policy("Pods", 4), policy("Percent", 100)])
    }

    fn down(rules: Option<&HPAScalingRules>, window: Duration) -> Self {
        Self::of(rules, false, window, || vec![HPAScalingPolicy { period_seconds: 15, type_: "Percent".into(), value: 100 }])
    }

    fn of(rules: Option<&HPAScalingRules>, is_up: bool, window: Duration, default: impl FnOnce() -> Vec<HPAScalingPolicy>) -> Self {
        let select = match rules.and_then(|rules| rules.select_policy.as_deref()) {
            Some("Disabled") => Select::Disabled,
            Some("Min") => Select::Least,
            _ => Select::Most,
        };
        let window = rules.and_then(|rules| rules.stabilization_window_seconds).map_or(window, span);
        let said = rules.and_then(|rules| rules.policies.clone()).filter(|policies| !policies.is_empty());
        Self { is_up, window, select, policies: said.unwrap_or_else(default) }
    }

    /// `calculateScaleUpLimitWithScalingRules`, `calculateScaleDownLimitWithBehaviors`
    fn limit(&self, current: i32, history: &History, at: Duration) -> i32 {
        let proposed = self.policies.iter().map(|policy| {
            let of = |changes: &[Change]| within(changes, span(policy.period_seconds), at);
            let before = i64::from(current) - of(&history.ups) + of(&history.downs);
            let part = f64::from(policy.value) / 100.0;
            match (policy.type_.as_str(), self.is_up) {
                ("Percent", true) => (before as f64 * (1.0 + part)).ceil() as i32,
                ("Percent", false) => (before as f64 * (1.0 - part)) as i32,
                (_, true) => saturate(before + i64::from(policy.value)),
                (_, false) => saturate(before - i64::from(policy.value)),
            }
        });
        let chosen = match self.select {
            Select::Disabled => None,
            Select::Most if self.is_up => proposed.max(),
            Select::Least if !self.is_up => proposed.max(),
            _ => proposed.min(),
        };
        chosen.unwrap_or(current)
    }
}

/// `getReplicasChangePerPeriod`
fn within(changes: &[Change], period: Duration, at: Duration) -> i64 {
    changes.iter().filter(|change| at.saturating_sub(change.at) < period).map(|change| change.by).sum()
}

fn saturate(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(if value < 0 { i32::MIN } else { i32::MAX })
}

#[cfg(test)]
mod tests;
