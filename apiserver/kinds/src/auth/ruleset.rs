//! A role's rules -> compiled once, when the role changes: may one do this, in a few steps however many the rules are.
//!
//! Each field has its words once, in order, and by word the rules that have it; a question takes the rules that have its verb, those that have its group, and so
//! on, and looks for one in all of them. A role takes about three times the room of its JSON.
//!
//! Source: `pkg/apis/rbac/v1/evaluation_helpers.go`, `component-helpers/auth/rbac/validation/policy_comparator.go`.

use std::{borrow::Cow, collections::BTreeSet};

use apiserver::identity::Attributes;
use serde_json::Value;

use super::rules::{FIELDS, Rule, url_covers};
use crate::common::Read;

mod column;
mod hits;
mod words;

use column::Column;
pub use hits::Work;
use hits::{Hits, any_common};
use words::Joined;

/// The fields of a rule, in the order of [`FIELDS`].
const VERBS: usize = 0;
const GROUPS: usize = 1;
const RESOURCES: usize = 2;
const NAMES: usize = 3;
const URLS: usize = 4;

/// A role of no more words and rules than this is looked through: that is quicker than to look words up.
const SMALL: usize = 64;

/// The rules of a role.
#[derive(Default)]
pub struct RuleSet {
    rules: usize,
    columns: [Column; 5],
    /// Of the URLs that end in stars: the length of what is before the stars, and how many those are. Each pair once.
    patterns: Box<[(usize, usize)]>,
    small: bool,
}

/// What one rule allows, or a part of it: every verb of these on every resource of these and so on. Ids of a [`RuleSet`]'s words.
#[derive(Clone, Copy)]
pub struct Area<'a>([&'a [u32]; 4]);

impl RuleSet {
    /// Of the JSON of a role.
    pub fn of_role(role: &Value) -> Self {
        let rules = role.list("rules");
        Self::build(rules.len(), |rule, field| rules[rule].list(FIELDS[field]).iter().filter_map(Value::as_str).collect())
    }

    pub fn of(rules: &[Rule]) -> Self {
        Self::build(rules.len(), |rule, field| rules[rule].fields()[field].iter().map(String::as_str).collect())
    }

    /// The rules of all of them, each once.
    pub fn merged<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self {
        let rules: BTreeSet<Rule> = sets.into_iter().flat_map(Self::rules).collect();
        Self::of(&Vec::from_iter(rules))
    }

    fn build<'a>(rules: usize, words: impl Fn(usize, usize) -> Vec<&'a str>) -> Self {
        let total: usize = (0..rules).map(|rule| (0..FIELDS.len()).map(|field| words(rule, field).len()).sum::<usize>()).sum();
        let small = total.max(rules) <= SMALL;
        let column = |field| Column::of(&(0..rules).map(|rule| words(rule, field)).collect::<Vec<_>>(), !small);
        let columns = [VERBS, GROUPS, RESOURCES, NAMES, URLS].map(column);
        let stars = |url: &str| (url.trim_end_matches('*').len(), url.len() - url.trim_end_matches('*').len());
        let patterns: BTreeSet<_> = columns[URLS].words().iter().map(stars).filter(|(_, stars)| *stars > 0).collect();
        Self { rules, columns, patterns: patterns.into_iter().collect(), small }
    }

    pub fn len(&self) -> usize {
        self.rules
    }

    /// The rules as they were written.
    pub fn rules(&self) -> impl Iterator<Item = Rule> {
        (0..self.rules as u32).map(|rule| self.rule(rule))
    }

    pub fn rule(&self, rule: u32) -> Rule {
        let words = |field: usize| self.columns[field].of_rule(rule).map(str::to_owned).collect();
        Rule { verbs: words(VERBS), groups: words(GROUPS), resources: words(RESOURCES), names: words(NAMES), urls: words(URLS) }
    }

    /// How many words a rule has, and how long they are together.
    pub fn size(&self, rule: u32) -> (usize, usize) {
        let words = || self.columns.iter().flat_map(|column| column.of_rule(rule));
        (words().count(), words().map(str::len).sum())
    }

    /// Whether any rule allows what is asked.
    pub fn allows(&self, a: &Attributes<'_>) -> bool {
        if self.small {
            api::steps::took(self.rules);
            return (0..self.rules as u32).any(|rule| self.rule_allows(rule, a));
        }
        if !a.resource_request {
            return self.has_url(a.path, &[self.having(VERBS, a.verb)], &mut Work::free());
        }
        let mut resources = self.having(RESOURCES, Joined([a.resource, slash(a.subresource), a.subresource]));
        if !a.subresource.is_empty() {
            self.columns[RESOURCES].add_word(Joined(["*/", a.subresource, ""]), &mut resources);
        }
        let mut hits = [resources, self.having(VERBS, a.verb), self.having(GROUPS, a.group), self.naming(Some(a.name))];
        any_common(self.rules, &mut hits, &mut Work::free(), |_, _| true)
    }

    fn rule_allows(&self, rule: u32, a: &Attributes<'_>) -> bool {
        let any = |field: usize, matches: &dyn Fn(&str) -> bool| self.columns[field].of_rule(rule).any(matches);
        if !any(VERBS, &|verb| verb == "*" || verb == a.verb) {
            return false;
        }
        if !a.resource_request {
            return any(URLS, &|url| url_covers(url, a.path));
        }
        let whole = Joined([a.resource, slash(a.subresource), a.subresource]);
        let resource =
            |own: &str| own == "*" || whole.is(own) || (!a.subresource.is_empty() && own.strip_prefix("*/") == Some(a.subresource));
        any(GROUPS, &|group| group == "*" || group == a.group)
            && any(RESOURCES, &resource)
            && (self.columns[NAMES].ids(rule).is_empty() || any(NAMES, &|name| name == a.name))
    }

    /// The rules that have `word` or `*`.
    fn having<'a, 'w>(&'a self, field: usize, word: impl Into<Joined<'w>>) -> Hits<'a> {
        let mut hits = Hits::default();
        self.columns[field].add_star(&mut hits);
        self.columns[field].add_word(word.into(), &mut hits);
        hits
    }

    /// The rules that are about any name, or about this one.
    fn naming(&self, name: Option<&str>) -> Hits<'_> {
        let mut hits = Hits::default();
        self.columns[NAMES].add_empty(&mut hits);
        if let Some(name) = name {
            self.columns[NAMES].add_word(name.into(), &mut hits);
        }
        hits
    }

    /// Whether a rule in all of `rest` is about this path.
    fn has_url(&self, path: &str, rest: &[Hits<'_>], work: &mut Work) -> bool {
        let common = |url: Joined<'_>, work: &mut Work| {
            work.took(1);
            let mut hits = Hits::default();
            self.columns[URLS].add_word(url, &mut hits);
            if hits.weight() == 0 {
                return false;
            }
            let mut all: Vec<Hits<'_>> = std::iter::once(hits).chain(rest.iter().copied()).collect();
            any_common(self.rules, &mut all, work, |_, _| true)
        };
        let stars = |count: usize| if count == 1 { Cow::Borrowed("*") } else { Cow::Owned("*".repeat(count)) };
        let mut patterns = self.patterns.iter().filter_map(|(length, count)| Some((path.get(..*length)?, stars(*count))));
        common(path.into(), work) || patterns.any(|(start, stars)| common(Joined([start, &stars, ""]), work))
    }

    /// What rule `rule` allows of resources.
    pub fn area(&self, rule: u32) -> Area<'_> {
        Area([GROUPS, RESOURCES, VERBS, NAMES].map(|field| self.columns[field].ids(rule)))
    }

    /// An area of one of each, as a rule.
    pub fn area_rule(&self, area: Area<'_>) -> Rule {
        let words = |at: usize| area.0[at].iter().map(|id| self.columns[ORDER[at]].words().get(*id).to_owned()).collect();
        Rule { groups: words(0), resources: words(1), verbs: words(2), names: words(3), urls: Vec::new() }
    }

    /// Whether one of its rules covers all of `area`, of `other`.
    pub fn covers(&self, other: &Self, area: Area<'_>, work: &mut Work) -> bool {
        let word = |at: usize, id: u32| other.columns[ORDER[at]].words().get(id);
        let hits_of = |at: usize, id: u32| match at {
            1 => self.covering(word(at, id)),
            3 => self.naming(Some(word(at, id))),
            _ => self.having(ORDER[at], word(at, id)),
        };
        // Who covers all names has none.
        let mut rarest = [self.naming(None); 4];
        for (at, ids) in area.0.iter().enumerate() {
            let mut fewest = usize::MAX;
            for id in *ids {
                work.took(1);
                let hits = hits_of(at, *id);
                if hits.weight() == 0 || work.is_over() {
                    return false;
                }
                if hits.weight() < fewest {
                    (rarest[at], fewest) = (hits, hits.weight());
                }
            }
        }
        any_common(self.rules, &mut rarest, work, |rule, work| {
            area.0.iter().enumerate().all(|(at, ids)| {
                ids.len() == 1
                    || ids.iter().all(|id| {
                        work.took(1);
                        hits_of(at, *id).has(rule)
                    })
            })
        })
    }

    /// The rules whose resources cover this one: `*`, itself, or `*/sub`.
    fn covering(&self, resource: &str) -> Hits<'_> {
        let mut hits = self.having(RESOURCES, resource);
        if let Some((_, sub)) = resource.split_once('/') {
            self.columns[RESOURCES].add_word(Joined(["*/", sub, ""]), &mut hits);
        }
        hits
    }

    /// Whether one of its rules covers all these verbs on this URL.
    pub fn covers_url<'v>(&self, url: &str, verbs: impl IntoIterator<Item = &'v str>, work: &mut Work) -> bool {
        let mut rest = vec![self.naming(None)];
        rest.extend(verbs.into_iter().map(|verb| self.having(VERBS, verb)));
        work.took(rest.len());
        self.has_url(url, &rest, work)
    }

    /// The verbs and the URLs of a rule.
    pub fn urls(&self, rule: u32) -> (impl Iterator<Item = &str> + Clone, impl Iterator<Item = &str>) {
        let words = |field: usize, id: u32| self.columns[field].words().get(id);
        let verbs = self.columns[VERBS].ids(rule).iter().map(move |id| words(VERBS, *id));
        (verbs, self.columns[URLS].of_rule(rule))
    }
}

/// The fields of an [`Area`], in the order in which upstream breaks rules down.
const ORDER: [usize; 4] = [GROUPS, RESOURCES, VERBS, NAMES];

impl Area<'_> {
    /// Whether it allows nothing: names may be missing, and nothing else.
    pub fn is_empty(&self) -> bool {
        self.0[..3].iter().any(|ids| ids.is_empty())
    }

    /// Its parts, of which each has one word where this has the first that has several; none where it has one of each at most.
    pub fn parts(&self) -> Option<impl Iterator<Item = Self>> {
        let at = self.0.iter().position(|ids| ids.len() > 1)?;
        Some(self.0[at].chunks(1).map(move |one| {
            let mut part = *self;
            part.0[at] = one;
            part
        }))
    }
}

fn slash(subresource: &str) -> &'static str {
    if subresource.is_empty() { "" } else { "/" }
}

#[cfg(test)]
mod tests;
