//! Rules that are held and rules that are wanted -> what is missing. Pure.
//!
//! Source: `component-helpers/auth/rbac/validation/policy_comparator.go`. Upstream breaks each wanted rule down to one verb, one resource and one name at most
//! before it compares; here a rule that one held rule covers is not broken down, nor is any part of which this is true.

use super::{
    rules::Rule,
    ruleset::{Area, RuleSet, Work},
};

/// Steps of one escalation check: words looked up and rules compared.
const STEPS_MAX: usize = if cfg!(test) { 1 << 18 } else { 2 << 20 };
/// How many of those rules that are missing are told, and how long their words may be: no more of them are looked for then.
const MISSING_MAX: usize = 1000;
const MISSING_BYTES_MAX: usize = 1 << 20;

/// What of `wanted` the rules `held` do not cover, broken down.
///
/// # Errors
/// They are too many to be compared.
pub fn missing<'a>(held: impl IntoIterator<Item = &'a RuleSet>, wanted: &'a RuleSet) -> Result<Vec<Rule>, String> {
    let mut check = Check { held: held.into_iter().collect(), wanted, missing: Vec::new(), bytes: 0, work: Work::bounded(STEPS_MAX) };
    for rule in 0..wanted.len() as u32 {
        check.area(wanted.area(rule))?;
        check.urls(rule)?;
    }
    Ok(check.missing)
}

struct Check<'a> {
    held: Vec<&'a RuleSet>,
    wanted: &'a RuleSet,
    missing: Vec<Rule>,
    /// Of the words of what is missing.
    bytes: usize,
    work: Work,
}

impl Check<'_> {
    fn area(&mut self, area: Area<'_>) -> Result<(), String> {
        if self.is_told() || area.is_empty() {
            return Ok(());
        }
        let Self { held, wanted, work, .. } = self;
        work.took(1);
        if held.iter().any(|own| own.covers(wanted, area, work)) {
            return Ok(());
        }
        self.go_on()?;
        match area.parts() {
            Some(mut parts) => parts.try_for_each(|part| self.area(part)),
            None => {
                self.lacks(self.wanted.area_rule(area));
                Ok(())
            }
        }
    }

    fn urls(&mut self, rule: u32) -> Result<(), String> {
        let wanted = self.wanted;
        let (verbs, urls) = wanted.urls(rule);
        for url in urls {
            if self.has_url(url, verbs.clone())? {
                continue;
            }
            for verb in verbs.clone() {
                if self.is_told() {
                    return Ok(());
                }
                if !self.has_url(url, [verb])? {
                    self.lacks(Rule { verbs: vec![verb.to_owned()], urls: vec![url.to_owned()], ..Rule::default() });
                }
            }
        }
        Ok(())
    }

    fn has_url<'v>(&mut self, url: &str, verbs: impl IntoIterator<Item = &'v str> + Clone) -> Result<bool, String> {
        self.work.took(1);
        let Self { held, work, .. } = self;
        let has = held.iter().any(|own| own.covers_url(url, verbs.clone(), work));
        if has {
            return Ok(true);
        }
        self.go_on().map(|()| false)
    }

    fn lacks(&mut self, rule: Rule) {
        self.bytes += rule.fields().into_iter().flatten().map(String::len).sum::<usize>();
        self.missing.push(rule);
    }

    /// Whether as much is known to be missing as anybody is told.
    fn is_told(&self) -> bool {
        self.missing.len() >= MISSING_MAX || self.bytes >= MISSING_BYTES_MAX
    }

    /// A search that was cut short has found nothing, and says nothing.
    fn go_on(&self) -> Result<(), String> {
        if self.work.is_over() { Err("the rules are too many to be compared with those that are held".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
