//! A selector of many requirements -> as many questions to an object as it has labels, however long the selector is.

use std::collections::{HashMap, HashSet};

use super::{Labels, Op, Requirement};

/// Fewer requirements are asked one by one.
const REQUIREMENTS_MIN: usize = 16;

/// What [`Labels`] select. A list asks it about every object there is, and the sender of a request makes its selector as long as a URL may be.
#[derive(Clone, Debug)]
pub struct Matcher(Form);

#[derive(Clone, Debug)]
enum Form {
    Few(Labels),
    Many {
        /// Labels that must be there, with all that is asked of each.
        wanted: HashMap<String, Test>,
        /// Labels that may be missing.
        barred: HashMap<String, Test>,
    },
}

/// All requirements on one label.
#[derive(Clone, Debug, Default)]
struct Test {
    absent: bool,
    /// `None`: any.
    values: Option<HashSet<String>>,
    not_values: HashSet<String>,
    /// Those of comparison that are not implied by others.
    above: Option<i64>,
    below: Option<i64>,
}

impl Matcher {
    pub fn new(labels: Labels) -> Self {
        if labels.0.len() < REQUIREMENTS_MIN {
            return Self(Form::Few(labels));
        }
        let (mut wanted, mut barred) = (HashMap::<String, Test>::new(), HashMap::<String, Test>::new());
        for requirement in labels.0 {
            let side = if matches!(requirement.op, Op::NotIn | Op::DoesNotExist) { &mut barred } else { &mut wanted };
            side.entry(requirement.key.clone()).or_default().add(requirement);
        }
        Self(Form::Many { wanted, barred })
    }

    /// Whether it takes everything.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Form::Few(labels) if labels.is_empty())
    }

    /// `get` finds one label of the object, `all` goes through them, each with its own key once.
    pub fn matches<'a, I>(&self, get: impl Fn(&str) -> Option<&'a str>, all: impl FnOnce() -> I) -> bool
    where
        I: Iterator<Item = (&'a str, &'a str)>,
    {
        match &self.0 {
            Form::Few(labels) => labels.matches_with(get),
            // The first that is missing ends it: no more are found than the object has.
            Form::Many { wanted, barred } => {
                wanted.iter().all(|(key, test)| get(key).is_some_and(|value| test.passes(value)))
                    && (barred.is_empty() || all().all(|(key, value)| barred.get(key).is_none_or(|test| test.passes(value))))
            }
        }
    }
}

impl Test {
    fn add(&mut self, requirement: Requirement) {
        let bound = || requirement.values.first().and_then(|value| value.parse().ok());
        match requirement.op {
            Op::Exists => {}
            Op::DoesNotExist => self.absent = true,
            Op::NotIn => self.not_values.extend(requirement.values),
            Op::In => {
                let values: HashSet<String> = requirement.values.into_iter().collect();
                match &mut self.values {
                    Some(known) => known.retain(|value| values.contains(value)),
                    None => self.values = Some(values),
                }
            }
            // What is no number cannot be above anything.
            Op::Gt => self.above = Some(self.above.unwrap_or(i64::MIN).max(bound().unwrap_or(i64::MAX))),
            Op::Lt => self.below = Some(self.below.unwrap_or(i64::MAX).min(bound().unwrap_or(i64::MIN))),
        }
    }

    /// The label is there, and has this value.
    fn passes(&self, value: &str) -> bool {
        let number = || value.parse::<i64>().ok();
        !self.absent
            && self.values.as_ref().is_none_or(|values| values.contains(value))
            && !self.not_values.contains(value)
            && self.above.is_none_or(|bound| number().is_some_and(|n| n > bound))
            && self.below.is_none_or(|bound| number().is_some_and(|n| n < bound))
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeMap};

    use proptest::prelude::*;

    use super::*;

    fn requirement() -> impl Strategy<Value = Requirement> {
        let ops = prop::sample::select(vec![Op::In, Op::NotIn, Op::Exists, Op::DoesNotExist, Op::Gt, Op::Lt]);
        ("[a-d]", ops, prop::collection::btree_set("[1-3a]", 1..3)).prop_map(|(key, op, values)| Requirement {
            key,
            op,
            values: values.into_iter().collect(),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn it_selects_what_the_requirements_do(
            requirements in prop::collection::vec(requirement(), 0..6),
            labels in prop::collection::btree_map("[a-d]", "[1-3a]", 0..4),
        ) {
            let one_by_one = Labels(requirements.clone()).matches(Some(&labels));
            // Said over and over, they mean the same.
            let many: Vec<Requirement> = requirements.iter().cycle().take(requirements.len() * REQUIREMENTS_MIN).cloned().collect();
            for requirements in [requirements, many] {
                let matcher = Matcher::new(Labels(requirements));
                let get = |key: &str| labels.get(key).map(String::as_str);
                prop_assert_eq!(matcher.matches(get, || labels.iter().map(|(k, v)| (k.as_str(), v.as_str()))), one_by_one);
            }
        }
    }

    #[test]
    fn a_long_selector_asks_no_more_than_the_object_has() {
        let labels: BTreeMap<String, String> = [("a".to_owned(), "1".to_owned())].into();
        let asked = |selector: String| {
            let asked = Cell::new(0);
            let count = |_: &str| asked.set(asked.get() + 1);
            let get = |key: &str| {
                count(key);
                labels.get(key).map(String::as_str)
            };
            let all = || labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).inspect(|(key, _)| count(key));
            Matcher::new(Labels::parse(&selector).unwrap()).matches(get, all);
            asked.get()
        };
        let join = |word: &dyn Fn(usize) -> String| (0..20_000).map(word).collect::<Vec<_>>().join(",");
        assert!(asked(join(&|i| format!("!k{i}"))) <= 2);
        assert!(asked(join(&|i| format!("k{i}"))) <= 2);
        assert!(asked(join(&|i| format!("a in (1,x{i})"))) <= 2);
        assert!(asked(join(&|i| format!("a!=x{i}"))) <= 2);
    }
}
