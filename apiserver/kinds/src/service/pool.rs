//! A range of numbered things -> who has which: claims on addresses and ports, kept in memory and true to the cache.
//!
//! A claim is *pending* from its allocation until the object that carries it is seen in the cache (then it is *kept*), or until the store
//! refused the write. An index is free when it is neither. Only claims take memory, not the range.

use std::collections::HashMap;

use api::{runs::Runs, steps};

/// Who claims: `namespace/name` of the object.
pub type Owner = String;

/// Indexes `0..size`. The first `reserved` of them are given out last, so that those who ask for a certain one rarely collide.
#[derive(Debug)]
pub struct Pool {
    size: u64,
    reserved: u64,
    claims: HashMap<u64, Claim>,
    /// The claimed indexes once more: a free one is found however full the range is.
    taken: Runs,
}

#[derive(Debug)]
struct Claim {
    owner: Owner,
    /// Writes under way that carry it.
    pending: u32,
    /// Whether the stored object carries it.
    kept: bool,
}

/// Somebody else has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken;

impl Pool {
    pub fn new(size: u64, reserved: u64) -> Self {
        Self { size, reserved: reserved.min(size), claims: HashMap::new(), taken: Runs::default() }
    }

    /// Claims one index. Claiming again what the same owner has is no error: writes of one object may cross.
    ///
    /// # Errors
    /// [`Taken`] if another owner has it.
    pub fn take(&mut self, index: u64, owner: &str) -> Result<(), Taken> {
        let claim = self.claim(index, owner);
        if claim.owner != owner {
            return Err(Taken);
        }
        claim.pending = claim.pending.saturating_add(1);
        Ok(())
    }

    pub fn is_free_for(&self, index: u64, owner: &str) -> bool {
        self.claims.get(&index).is_none_or(|c| c.owner == owner)
    }

    /// A free index at or after a point that `random` chooses, wrapping around; from the reserved ones only when all others are gone.
    pub fn next_free(&self, random: u64) -> Option<u64> {
        self.free_in(self.reserved, self.size, random).or_else(|| self.free_in(0, self.reserved, random))
    }

    /// The write that carried the claim did not happen.
    pub fn give_back(&mut self, index: u64, owner: &str) {
        self.change(index, owner, |claim| claim.pending = claim.pending.saturating_sub(1));
    }

    /// The stored object carries it (seen in the cache). Ends one pending write.
    pub fn keep(&mut self, index: u64, owner: &str) {
        let claim = self.claim(index, owner);
        if claim.owner == owner && !claim.kept {
            claim.kept = true;
            claim.pending = claim.pending.saturating_sub(1);
        }
    }

    /// The stored object no longer carries it (seen in the cache), or is gone.
    pub fn drop_kept(&mut self, index: u64, owner: &str) {
        self.change(index, owner, |claim| claim.kept = false);
    }

    #[cfg(test)]
    fn used(&self) -> usize {
        self.claims.len()
    }

    /// The claim on the index: a new one of `owner` where there was none.
    fn claim(&mut self, index: u64, owner: &str) -> &mut Claim {
        self.claims.entry(index).or_insert_with(|| {
            self.taken.take(index, index.saturating_add(1));
            Claim { owner: owner.to_owned(), pending: 0, kept: false }
        })
    }

    fn change(&mut self, index: u64, owner: &str, change: impl FnOnce(&mut Claim)) {
        let Some(claim) = self.claims.get_mut(&index).filter(|c| c.owner == owner) else { return };
        change(claim);
        if claim.pending == 0 && !claim.kept {
            self.claims.remove(&index);
            self.taken.free(index, index.saturating_add(1));
        }
    }

    fn free_in(&self, low: u64, high: u64, random: u64) -> Option<u64> {
        if low >= high {
            return None;
        }
        let start = low + random % (high - low);
        self.gap(start, high).or_else(|| self.gap(low, start))
    }

    /// The first unclaimed index of `low..high`.
    fn gap(&self, low: u64, high: u64) -> Option<u64> {
        steps::took(1);
        let at = self.taken.next_free(low);
        (at < high).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_reserved_are_given_last() {
        let mut pool = Pool::new(4, 2);
        let order: Vec<u64> = (0..4)
            .map(|i| {
                let index = pool.next_free(1).unwrap();
                pool.take(index, &i.to_string()).unwrap();
                index
            })
            .collect();
        assert_eq!(order, [3, 2, 1, 0]);
        assert_eq!(pool.next_free(0), None);
    }

    #[test]
    fn a_refused_write_leaves_what_is_kept() {
        let mut pool = Pool::new(10, 0);
        pool.take(5, "a").unwrap();
        pool.keep(5, "a");
        // An update that carries the same address, and is refused.
        pool.give_back(5, "a");
        assert_eq!(pool.take(5, "b"), Err(Taken));
        pool.drop_kept(5, "a");
        assert_eq!(pool.take(5, "b"), Ok(()));
    }

    #[test]
    fn crossing_writes_of_one_owner_count_apart() {
        let mut pool = Pool::new(10, 0);
        pool.take(5, "a").unwrap();
        pool.take(5, "a").unwrap();
        pool.give_back(5, "a");
        assert!(!pool.is_free_for(5, "b"));
        pool.give_back(5, "a");
        assert!(pool.is_free_for(5, "b"));
        // Nobody else gives back what is not his.
        pool.take(5, "b").unwrap();
        pool.give_back(5, "a");
        pool.drop_kept(5, "a");
        assert!(!pool.is_free_for(5, "a"));
    }

    #[test]
    fn one_claim_costs_the_same_however_many_there_are() {
        let mut costs: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for size in [1_000_u64, 10_000, 100_000] {
            // Every other index is taken, which is as many runs as there can be.
            let mut pool = Pool::new(2 * size, 16);
            (0..size).for_each(|at| pool.keep(2 * at, &at.to_string()));
            let mut cost =
                |what, happens: &mut dyn FnMut(&mut Pool)| costs.entry(what).or_default().push(steps::of(|| happens(&mut pool)).1);
            let mut free = 0;
            cost("a free one is found", &mut |pool| free = pool.next_free(size).unwrap());
            cost("it is claimed", &mut |pool| pool.take(free, "new").unwrap());
            cost("it is stored", &mut |pool| pool.keep(free, "new"));
            cost("it is stored no more", &mut |pool| pool.drop_kept(free, "new"));
            cost("one that is taken is asked for", &mut |pool| assert_eq!(pool.take(size / 2 * 2, "new"), Err(Taken)));
            cost("a write is refused", &mut |pool| {
                pool.take(free, "new").unwrap();
                pool.give_back(free, "new");
            });
            (0..size - 1).for_each(|at| pool.keep(2 * at + 1, "x"));
            let (last, steps) = steps::of(|| pool.next_free(5));
            assert_eq!(last, Some(2 * size - 1));
            costs.entry("the last free one is found").or_default().push(steps);
        }
        costs.iter().for_each(|(what, costs)| steps::must_not_grow(what, costs));
    }

    proptest! {
        #[test]
        fn never_twice_the_same_and_release_gives_back(size in 1u64..40, reserved in 0u64..50, steps in prop::collection::vec((any::<u64>(), any::<bool>()), 0..200)) {
            let mut pool = Pool::new(size, reserved);
            let mut held: BTreeSet<u64> = BTreeSet::new();
            for (random, take) in steps {
                if take {
                    match pool.next_free(random) {
                        Some(index) => {
                            prop_assert!(index < size);
                            prop_assert!(held.insert(index), "{} was given twice", index);
                            prop_assert_eq!(pool.take(index, &index.to_string()), Ok(()));
                            prop_assert_eq!(pool.take(index, "another"), Err(Taken));
                        }
                        None => prop_assert_eq!(held.len() as u64, size),
                    }
                } else if let Some(index) = held.iter().nth(random as usize % held.len().max(1)).copied() {
                    held.remove(&index);
                    pool.give_back(index, &index.to_string());
                    prop_assert!(pool.is_free_for(index, "another"));
                }
                prop_assert_eq!(pool.used(), held.len());
            }
        }
    }
}
