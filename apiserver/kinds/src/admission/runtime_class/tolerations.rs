//! Two lists of tolerations -> one, without those that another one covers. Source: `MergeTolerations` in `pkg/util/tolerations`.
//!
//! Upstream compares each with each; here what may cover one is looked up by its shape.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::common::Read;

/// Key, effect, operator, value.
type Shape<'a> = [&'a str; 4];

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Toleration<'a> {
    shape: Shape<'a>,
    /// How long it tolerates: [`FOREVER`] where it does not say.
    seconds: i64,
}

const FOREVER: i64 = i64::MAX;

/// `first` before `second`. Of two that are the same the first stays.
pub fn merged(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let read: Vec<Toleration<'_>> = all.iter().map(|toleration| Toleration::read(toleration)).collect();
    let mut later = Seen::default();
    let mut is_covered_later: Vec<bool> = Vec::with_capacity(read.len());
    for toleration in read.iter().rev() {
        is_covered_later.push(later.covers(toleration));
        later.add(toleration);
    }
    is_covered_later.reverse();
    let mut kept = Seen::default();
    let mut out = Vec::new();
    for ((toleration, covered_later), value) in read.iter().zip(is_covered_later).zip(all) {
        if kept.same.contains(toleration) || kept.covers(toleration) || covered_later {
            continue;
        }
        kept.add(toleration);
        out.push(value.clone());
    }
    out
}

impl<'a> Toleration<'a> {
    fn read(toleration: &'a Value) -> Self {
        let shape = ["key", "effect", "operator", "value"].map(|field| toleration.text(field));
        Self { shape, seconds: toleration.int("tolerationSeconds").unwrap_or(FOREVER) }
    }
}

#[derive(Default)]
struct Seen<'a> {
    same: HashSet<Toleration<'a>>,
    /// The longest of each shape.
    longest: HashMap<Shape<'a>, i64>,
}

impl<'a> Seen<'a> {
    fn add(&mut self, toleration: &Toleration<'a>) {
        self.same.insert(*toleration);
        let longest = self.longest.entry(toleration.shape).or_insert(toleration.seconds);
        *longest = toleration.seconds.max(*longest);
    }

    /// `isSuperset`: whether one that differs from it tolerates all that it does.
    fn covers(&self, toleration: &Toleration<'a>) -> bool {
        let [key, effect, operator, value] = toleration.shape;
        // As upstream: one without an operator is covered by no other of its value.
        let equals = ["Equal", ""].into_iter().filter(|_| operator == "Equal").map(|of| (key, of, value));
        let shapes = [(key, "Exists", ""), ("", "Exists", "")].into_iter().chain(equals);
        shapes.flat_map(|(key, of, value)| [[key, effect, of, value], [key, "", of, value]]).any(|shape| {
            let Some(longest) = self.longest.get(&shape) else { return false };
            match shape == toleration.shape {
                true => *longest > toleration.seconds,
                false => shape[1] != "NoExecute" || *longest >= toleration.seconds,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As upstream writes it, one compared with each.
    fn plainly(first: &[Value], second: &[Value]) -> Vec<Value> {
        let all: Vec<&Value> = first.iter().chain(second).collect();
        let mut out: Vec<Value> = Vec::new();
        for (i, one) in all.iter().enumerate() {
            let before = out.iter().any(|other| is_superset(other, one));
            let after = all[i + 1..].iter().any(|other| *other != *one && is_superset(other, one));
            if !before && !after {
                out.push((*one).clone());
            }
        }
        out
    }

    fn is_superset(of: &Value, t: &Value) -> bool {
        let seconds = |t: &Value| t.int("tolerationSeconds");
        if of == t {
            return true;
        }
        if t.text("key") != of.text("key") && (!of.text("key").is_empty() || of.text("operator") != "Exists") {
            return false;
        }
        if t.text("effect") != of.text("effect") && !of.text("effect").is_empty() {
            return false;
        }
        if of.text("effect") == "NoExecute" && seconds(of).is_some_and(|most| seconds(t).is_none_or(|s| s > most)) {
            return false;
        }
        match of.text("operator") {
            "Equal" | "" => t.text("operator") == "Equal" && t.text("value") == of.text("value"),
            operator => operator == "Exists",
        }
    }

    /// All that validation lets pass.
    fn all() -> Vec<Value> {
        let mut all = Vec::new();
        for effect in ["", "NoSchedule", "NoExecute"] {
            for (key, operator, value) in
                [("", "Exists", ""), ("a", "Exists", ""), ("a", "Equal", "1"), ("a", "", "1"), ("a", "Equal", ""), ("b", "Equal", "1")]
            {
                for seconds in [None, Some(1), Some(2)].into_iter().filter(|s| s.is_none() || effect == "NoExecute") {
                    let mut one = json!({"key": key, "operator": operator, "value": value, "effect": effect});
                    if let Some(seconds) = seconds {
                        one["tolerationSeconds"] = seconds.into();
                    }
                    all.push(one);
                }
            }
        }
        all
    }

    #[test]
    fn any_three_are_merged_as_upstream_merges_them() {
        let all = all();
        for a in &all {
            for b in &all {
                for c in &all {
                    let (first, second) = (vec![a.clone(), b.clone()], vec![c.clone()]);
                    assert_eq!(merged(&first, &second), plainly(&first, &second), "{first:?} {second:?}");
                }
            }
        }
    }
}
