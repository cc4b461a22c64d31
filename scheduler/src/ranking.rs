//! Nodes by score -> the best first, without looking at the rest.
//!
//! A bucket per score: scores are small whole numbers, so that moving a node costs two swaps and finding the best one look.

use api::steps;

use crate::{column::Column, node::Slot};

/// Nodes that fit, by score.
#[derive(Debug, Default)]
pub struct Ranking {
    buckets: Vec<Vec<Slot>>,
    at: Column<Place>,
    count: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    score: usize,
    /// Where in its bucket, counted from 1; 0 is not in any.
    nth: usize,
}

impl Ranking {
    /// A node stands in here once: what it had before is forgotten.
    pub fn put(&mut self, slot: Slot, score: usize) {
        self.remove(slot);
        if score >= self.buckets.len() {
            self.buckets.resize(score + 1, Vec::new());
        }
        if let Some(bucket) = self.buckets.get_mut(score) {
            bucket.push(slot);
            self.count += 1;
            *self.at.slot(slot) = Place { score, nth: bucket.len() };
        }
    }

    pub fn remove(&mut self, slot: Slot) {
        let Place { score, nth } = self.at.get(slot);
        if nth == 0 {
            return;
        }
        *self.at.slot(slot) = Place::default();
        let Some(bucket) = self.buckets.get_mut(score) else { return };
        bucket.swap_remove(nth - 1);
        self.count -= 1;
        if let Some(moved) = bucket.get(nth - 1) {
            *self.at.slot(*moved) = Place { score, nth };
        }
        while self.buckets.last().is_some_and(Vec::is_empty) {
            self.buckets.pop();
        }
    }

    /// 0 if it is not in here.
    pub fn score(&self, slot: Slot) -> usize {
        self.at.get(slot).score
    }

    /// `None` if it is not in here.
    pub fn score_of(&self, slot: Slot) -> Option<usize> {
        let place = self.at.get(slot);
        (place.nth > 0).then_some(place.score)
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The highest score, and who has it.
    pub fn top(&self) -> Option<(usize, &[Slot])> {
        let score = self.buckets.len().checked_sub(1)?;
        self.buckets.get(score).map(|slots| (score, slots.as_slice()))
    }

    /// All of them, in no order that means anything.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        steps::counted(self.buckets.iter().flatten()).copied()
    }

    /// The highest score first; among equals one after the other, from a random one.
    pub fn best_first(&self, random: u64) -> impl Iterator<Item = Slot> + '_ {
        let slots = self.buckets.iter().rev().flat_map(move |bucket| {
            let from = usize::try_from(random % bucket.len().max(1) as u64).unwrap_or(0);
            let (before, after) = bucket.split_at(from);
            after.iter().chain(before).copied()
        });
        steps::counted(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_all_come_once() {
        let mut ranking = Ranking::default();
        for (slot, score) in [(0, 5), (1, 9), (2, 5), (3, 0), (1, 7), (4, 7)] {
            ranking.put(slot, score);
        }
        ranking.remove(3);
        ranking.remove(3);
        for random in 0..10 {
            let order: Vec<Slot> = ranking.best_first(random).collect();
            let scores: Vec<usize> = order.iter().map(|slot| ranking.score(*slot)).collect();
            assert_eq!(scores, [7, 7, 5, 5], "{order:?}");
            assert!((0..5).all(|slot| order.contains(&slot) == (slot != 3)));
        }
        assert_ne!(ranking.best_first(0).next(), ranking.best_first(1).next());
    }
}
