//! Lists of rules that have a word -> the rules that are in all of them, 64 at a time.

use api::steps;

/// What one check may cost in all. It is counted for the tests, too.
pub struct Work {
    left: usize,
}

impl Work {
    pub fn bounded(left: usize) -> Self {
        Self { left }
    }

    /// For what is bounded by the size of one role.
    pub fn free() -> Self {
        Self { left: usize::MAX }
    }

    pub fn took(&mut self, steps: usize) {
        steps::took(steps);
        self.left = self.left.saturating_sub(steps);
    }

    pub fn is_over(&self) -> bool {
        self.left == 0
    }
}

/// The rules that have any of up to three words. A rule is a number; rules `64 * n ..` are block `n`.
#[derive(Clone, Copy, Default)]
pub struct Hits<'a> {
    /// Of block 0.
    first: u64,
    /// Bits, by block.
    dense: [&'a [u64]; 3],
    /// Numbers in order; what is passed over is cut off.
    sparse: [&'a [u32]; 3],
    used: usize,
}

impl<'a> Hits<'a> {
    pub fn add_first(&mut self, bits: u64) {
        self.first |= bits;
    }

    pub fn add_dense(&mut self, bits: &'a [u64]) {
        self.dense[self.used] = bits;
        self.used += 1;
    }

    pub fn add_sparse(&mut self, rules: &'a [u32]) {
        self.sparse[self.used] = rules;
        self.used += 1;
    }

    /// About how many rules these are: only to prefer the fewest.
    pub fn weight(&self) -> usize {
        let dense: usize = self.dense.iter().map(|bits| bits.len() * u64::BITS as usize).sum();
        self.first.count_ones() as usize + dense + self.sparse.iter().map(|rules| rules.len()).sum::<usize>()
    }

    pub fn has(&self, rule: u32) -> bool {
        let (block, bit) = ((rule / 64) as usize, 1 << (rule % 64));
        (block == 0 && self.first & bit != 0)
            || self.dense.iter().any(|bits| bits.get(block).is_some_and(|bits| bits & bit != 0))
            || self.sparse.iter().any(|rules| rules.binary_search(&rule).is_ok())
    }

    /// The first block from `from` on that may have any of them.
    fn next(&mut self, from: usize) -> Option<usize> {
        if (from == 0 && self.first != 0) || self.dense.iter().any(|bits| from < bits.len()) {
            return Some(from);
        }
        self.sparse.iter_mut().filter_map(|rules| after(rules, (from * 64) as u32)).map(|rule| rule as usize / 64).min()
    }

    /// Those of one block. Blocks are asked for in order.
    fn block(&mut self, block: usize) -> u64 {
        let mut mask = if block == 0 { self.first } else { 0 };
        for bits in self.dense {
            mask |= bits.get(block).copied().unwrap_or(0);
        }
        for rules in &mut self.sparse {
            after(rules, (block * 64) as u32);
            while let Some((rule, rest)) = rules.split_first().filter(|(rule, _)| **rule as usize / 64 == block) {
                mask |= 1 << (rule % 64);
                *rules = rest;
            }
        }
        mask
    }
}

/// Cuts off what is below `bound`, by leaps that double, and shows the first of the rest.
fn after(rules: &mut &[u32], bound: u32) -> Option<u32> {
    let mut leap = 1;
    while rules.get(leap).is_some_and(|rule| *rule < bound) {
        leap *= 2;
    }
    let upto = rules.len().min(leap + 1);
    *rules = &rules[rules[..upto].partition_point(|rule| *rule < bound)..];
    rules.first().copied()
}

/// Shows `found` the rules below `rules` that are in all of `hits`, until it takes one or the work is over. Says whether it took one.
pub fn any_common(rules: usize, hits: &mut [Hits<'_>], work: &mut Work, mut found: impl FnMut(u32, &mut Work) -> bool) -> bool {
    let (mut block, blocks) = (0, rules.div_ceil(64));
    while block < blocks && !work.is_over() {
        work.took(1);
        for one in &mut *hits {
            match one.next(block) {
                Some(next) => block = next,
                None => return false,
            }
        }
        if block >= blocks {
            return false;
        }
        let real = if rules - block * 64 < 64 { (1 << (rules - block * 64)) - 1 } else { u64::MAX };
        let mut mask = hits.iter_mut().fold(real, |mask, one| if mask == 0 { 0 } else { mask & one.block(block) });
        while mask != 0 {
            work.took(1);
            if found((block * 64) as u32 + mask.trailing_zeros(), work) {
                return true;
            }
            mask &= mask - 1;
        }
        block += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_common_is_found_in_order(sets in prop::collection::vec(prop::collection::btree_set(0_u32..400, 0..200), 1..4)) {
            let lists: Vec<Vec<u32>> = sets.iter().map(|set| set.iter().copied().collect()).collect();
            let bits: Vec<Vec<u64>> = sets.iter().map(|set| (0..7).map(|block| set.iter().filter(|r| **r / 64 == block).fold(0, |m, r| m | 1 << (r % 64))).collect()).collect();
            let wanted: Vec<u32> = (0..400).filter(|rule| sets.iter().all(|set| set.contains(rule))).collect();
            for dense in 0..8_usize {
                let mut hits: Vec<Hits<'_>> = (0..sets.len()).map(|i| {
                    let mut hits = Hits::default();
                    if dense & (1 << i) == 0 { hits.add_sparse(&lists[i]) } else { hits.add_dense(&bits[i]) }
                    hits
                }).collect();
                for (hits, set) in hits.iter().zip(&sets) {
                    prop_assert!((0..400).all(|rule| hits.has(rule) == set.contains(&rule)));
                }
                let mut seen = Vec::new();
                any_common(400, &mut hits, &mut Work::free(), |rule, _| { seen.push(rule); false });
                prop_assert_eq!(&seen, &wanted);
            }
        }
    }
}
