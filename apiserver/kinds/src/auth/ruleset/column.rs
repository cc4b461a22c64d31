//! One field of all rules of a role (their verbs, say) -> which rules have a word.

use std::collections::BTreeMap;

use super::{
    hits::Hits,
    words::{Joined, Words},
};

/// The words of one field in all rules.
#[derive(Default)]
pub struct Column {
    words: Words,
    /// The id of `*`.
    star: Option<u32>,
    /// The words of rule `n` are `ids[ends[n - 1]..ends[n]]`. No ends: no rule has any.
    ends: Box<[u32]>,
    ids: Box<[u32]>,
    /// Not of a small role: it is looked through.
    postings: Option<Box<Postings>>,
}

/// By word, the rules that have it; under the number behind the last word, those that have none.
struct Postings {
    /// The rules of `id` are `rules[starts[id]..starts[id + 1]]`.
    starts: Box<[u32]>,
    rules: Box<[u32]>,
    /// Where a word is in many rules, and in more than one of [`SPARSE`]: bits, and no numbers.
    dense: BTreeMap<u32, Box<[u64]>>,
}

/// From here on bits take no more room than numbers: one bit a rule, 32 a number.
const SPARSE: usize = 32;
/// So many numbers are quickly gone through.
const FEW: usize = 32;

impl Column {
    /// Of the words of each rule in turn.
    pub fn of(rules: &[Vec<&str>], indexed: bool) -> Self {
        let all: Vec<&str> = rules.iter().flatten().copied().collect();
        let (words, ids) = Words::of(&all);
        let lengths = rules.iter().scan(0, |end, words| {
            *end += words.len() as u32;
            Some(*end)
        });
        let ends = if all.is_empty() { Box::default() } else { lengths.collect() };
        let mut column = Self { star: words.find("*".into()), words, ends, ids, postings: None };
        column.postings = indexed.then(|| Box::new(Postings::of(&column, rules.len())));
        column
    }

    pub fn words(&self) -> &Words {
        &self.words
    }

    /// The ids of a rule's words, as they were written.
    pub fn ids(&self, rule: u32) -> &[u32] {
        let end = |rule: Option<usize>| rule.and_then(|rule| self.ends.get(rule)).map_or(0, |end| *end as usize);
        let rule = rule as usize;
        &self.ids[end(rule.checked_sub(1))..end(Some(rule))]
    }

    pub fn of_rule(&self, rule: u32) -> impl Iterator<Item = &str> {
        self.ids(rule).iter().map(|id| self.words.get(*id))
    }

    /// Adds the rules that have `*`.
    pub fn add_star<'a>(&'a self, hits: &mut Hits<'a>) {
        if let Some(id) = self.star {
            self.add(id, hits);
        }
    }

    pub fn add_word<'a>(&'a self, word: Joined<'_>, hits: &mut Hits<'a>) {
        if let Some(id) = self.words.find(word) {
            self.add(id, hits);
        }
    }

    /// Adds the rules that have no word at all.
    pub fn add_empty<'a>(&'a self, hits: &mut Hits<'a>) {
        self.add(self.words.len() as u32, hits);
    }

    fn add<'a>(&'a self, id: u32, hits: &mut Hits<'a>) {
        match &self.postings {
            Some(postings) => match postings.dense.get(&id) {
                Some(bits) => hits.add_dense(bits),
                None => hits.add_sparse(postings.sparse(id)),
            },
            None => hits.add_first(self.first(id)),
        }
    }

    /// The rules of the first block that have `id`, and maybe some behind the last rule.
    fn first(&self, id: u32) -> u64 {
        let empty = id as usize == self.words.len();
        if self.ends.is_empty() {
            return if empty { u64::MAX } else { 0 };
        }
        let has = |rule: &u32| if empty { self.ids(*rule).is_empty() } else { self.ids(*rule).contains(&id) };
        (0..u64::BITS.min(self.ends.len() as u32)).filter(has).fold(0, |bits, rule| bits | 1 << rule)
    }
}

impl Postings {
    fn of(column: &Column, rules: usize) -> Self {
        let counts = Self::counts(column, rules);
        let is_dense = |id: usize| counts[id] as usize >= FEW.max(rules.div_ceil(SPARSE));
        let mut starts = Vec::with_capacity(counts.len() + 1);
        let mut end = 0;
        for (id, count) in counts.iter().enumerate() {
            starts.push(end);
            end += if is_dense(id) { 0 } else { *count };
        }
        starts.push(end);
        let blank = || vec![0; rules.div_ceil(u64::BITS as usize)].into_boxed_slice();
        let mut dense: BTreeMap<u32, Box<[u64]>> = (0..counts.len()).filter(|id| is_dense(*id)).map(|id| (id as u32, blank())).collect();
        let (mut out, mut next) = (vec![0; end as usize], starts.clone());
        each(column, rules, |rule, id| match dense.get_mut(&id) {
            Some(bits) => bits[rule as usize / 64] |= 1 << (rule % 64),
            None => {
                let place = &mut next[id as usize];
                out[*place as usize] = rule;
                *place += 1;
            }
        });
        Self { starts: starts.into(), rules: out.into(), dense }
    }

    fn counts(column: &Column, rules: usize) -> Vec<u32> {
        let mut counts = vec![0; column.words.len() + 1];
        each(column, rules, |_, id| counts[id as usize] += 1);
        counts
    }

    fn sparse(&self, id: u32) -> &[u32] {
        let id = id as usize;
        &self.rules[self.starts[id] as usize..self.starts[id + 1] as usize]
    }
}

/// Shows each rule with each of its words once.
fn each(column: &Column, rules: usize, mut see: impl FnMut(u32, u32)) {
    let empty = column.words.len();
    let mut last = vec![u32::MAX; empty];
    for rule in 0..rules as u32 {
        let ids = column.ids(rule);
        if ids.is_empty() {
            see(rule, empty as u32);
        }
        for id in ids {
            if std::mem::replace(&mut last[*id as usize], rule) != rule {
                see(rule, *id);
            }
        }
    }
}

#[cfg(test)]
impl Column {
    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        let postings = self.postings.as_ref().map_or(0, |p| {
            let dense: usize = p.dense.values().map(|bits| size_of_val(&**bits) + 64).sum();
            size_of_val(&*p.starts) + size_of_val(&*p.rules) + dense
        });
        self.words.bytes() + size_of_val(&*self.ends) + size_of_val(&*self.ids) + postings
    }
}
