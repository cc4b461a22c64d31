//! A flow -> a hand of queues, by shuffle sharding: two flows seldom share all of theirs. Source: apiserver `pkg/util/shufflesharding`.

/// Upstream's validation allows no larger hand.
pub(crate) const HAND_MAX: usize = 10;

/// Deals `hand` different cards of a deck of `deck`, the entropy being `hash`; a hand larger than the deck is the deck.
pub(crate) fn deal(mut hash: u64, deck: usize, hand: usize) -> ([usize; HAND_MAX], usize) {
    let hand = hand.min(HAND_MAX).min(deck);
    let (mut cards, mut places) = ([0; HAND_MAX], [0; HAND_MAX]);
    for i in 0..hand {
        let left = (deck - i) as u64;
        // The card's place among those still in the deck.
        places[i] = usize::try_from(hash % left).unwrap_or_default();
        hash /= left;
        // What was dealt before pushes it on, the last first.
        cards[i] = places[..i].iter().rev().fold(places[i], |card, before| card + usize::from(card >= *before));
    }
    (cards, hand)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn cards_are_different_and_of_the_deck() {
        for (deck, hand) in [(1, 1), (4, 4), (8, 8), (64, 6), (128, 6), (512, 6), (3, 8)] {
            for seed in 0..2_000u64 {
                let (cards, dealt) = deal(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), deck, hand);
                assert_eq!(dealt, hand.min(deck));
                let different: HashSet<usize> = cards[..dealt].iter().copied().collect();
                assert_eq!(different.len(), dealt, "{:?}", &cards[..dealt]);
                assert!(different.iter().all(|card| *card < deck));
            }
        }
    }

    #[test]
    fn every_hand_comes_equally_often() {
        // 6 * 5 * 4 hashes: each ordered hand of three comes once, so each set of three six times.
        let mut seen: HashMap<Vec<usize>, usize> = HashMap::new();
        for hash in 0..6 * 5 * 4 {
            let (cards, dealt) = deal(hash, 6, 3);
            let mut hand = cards[..dealt].to_vec();
            hand.sort_unstable();
            *seen.entry(hand).or_default() += 1;
        }
        assert_eq!(seen.len(), 20);
        assert!(seen.values().all(|times| *times == 6), "{seen:?}");
    }
}
