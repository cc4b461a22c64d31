//! Whole numbers that are taken -> the next one that is free, without a walk over those that are not.

use std::collections::BTreeMap;

use crate::steps;

/// Kept as runs: neighbours that are taken are one entry. Every call costs O(log runs); memory goes with the runs, not with the numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// First number of each run -> the first behind it. Runs do not touch.
    ends: BTreeMap<u64, u64>,
}

impl Runs {
    /// Takes `from..to`; what was taken of it stays so.
    pub fn take(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let (mut start, mut end) = (from, to);
        if let Some((before, its_end)) = self.ends.range(..=from).next_back().map(|(s, e)| (*s, *e))
            && its_end >= from
        {
            (start, end) = (before, end.max(its_end));
        }
        // Each run that is swallowed was taken once: it costs its own taking.
        while let Some((next, its_end)) = self.ends.range(start..=end).next().map(|(s, e)| (*s, *e)) {
            steps::took(1);
            self.ends.remove(&next);
            end = end.max(its_end);
        }
        self.ends.insert(start, end);
    }

    /// Frees `from..to`.
    pub fn free(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        if let Some((start, end)) = self.ends.range(..from).next_back().map(|(s, e)| (*s, *e))
            && end > from
        {
            self.ends.insert(start, from);
            if end > to {
                self.ends.insert(to, end);
            }
        }
        while let Some((start, end)) = self.ends.range(from..to).next().map(|(s, e)| (*s, *e)) {
            steps::took(1);
            self.ends.remove(&start);
            if end > to {
                self.ends.insert(to, end);
            }
        }
    }

    pub fn has(&self, number: u64) -> bool {
        self.next_free(number) != number
    }

    /// The first free number at or after `from`.
    pub fn next_free(&self, from: u64) -> u64 {
        let run = self.ends.range(..=from).next_back();
        run.map_or(from, |(_, end)| from.max(*end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn runs_tell_what_single_numbers_would() {
        let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
        let mut random = 7u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (from, len) = ((random >> 33) % 60, (random >> 40) % 9);
            if random >> 60 & 1 == 0 {
                runs.take(from, from + len);
                model.extend(from..from + len);
            } else {
                runs.free(from, from + len);
                model.retain(|n| !(from..from + len).contains(n));
            }
            let at = (random >> 50) % 70;
            assert_eq!(Some(runs.next_free(at)), (at..).find(|n| !model.contains(n)));
            assert_eq!(runs.has(at), model.contains(&at));
            let gaps = model.iter().filter(|n| !model.contains(&(**n + 1))).count();
            assert_eq!(runs.ends.len(), gaps, "neighbours are one run");
        }
    }
}
