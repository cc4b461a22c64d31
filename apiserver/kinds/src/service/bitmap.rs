//! A set of small numbers <-> the bytes of Go's `big.Int`: the first byte holds the highest. Source: `pkg/registry/core/service/allocator/bitmap.go`.

use std::ops::Range;

const BITS: usize = 64;

/// Numbers from 0 on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    /// The lowest first; without zeros at the end.
    words: Vec<u64>,
}

impl Bitmap {
    /// From `big.Int.Bytes()`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let word = |chunk: &[u8]| chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let mut bitmap = Self { words: bytes.rchunks(BITS / 8).map(word).collect() };
        bitmap.trim();
        bitmap
    }

    pub fn bytes(&self) -> Vec<u8> {
        let bytes: Vec<u8> = self.words.iter().rev().flat_map(|word| word.to_be_bytes()).collect();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes[zeros..].to_vec()
    }

    pub fn has(&self, number: usize) -> bool {
        self.words.get(number / BITS).is_some_and(|word| word >> (number % BITS) & 1 == 1)
    }

    pub fn set(&mut self, number: usize) {
        let at = number / BITS;
        if self.words.len() <= at {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (number % BITS);
    }

    pub fn clear(&mut self, number: usize) {
        if let Some(word) = self.words.get_mut(number / BITS) {
            *word &= !(1 << (number % BITS));
        }
        self.trim();
    }

    /// A number of `range` that is not in the set, at or after a point that `random` chooses, wrapping around.
    pub fn free_in(&self, range: Range<usize>, random: u64) -> Option<usize> {
        if range.is_empty() {
            return None;
        }
        let length = range.end - range.start;
        let start = range.start + usize::try_from(random % u64::try_from(length).unwrap_or(u64::MAX)).unwrap_or_default();
        self.gap(start..range.end).or_else(|| self.gap(range.start..start))
    }

    fn gap(&self, range: Range<usize>) -> Option<usize> {
        let mut at = range.start;
        while at < range.end {
            // What is left of the word from here on; behind the last word all is free.
            let rest = self.words.get(at / BITS).map_or(0, |word| word >> (at % BITS));
            let ones = rest.trailing_ones() as usize;
            if ones < BITS - at % BITS {
                return Some(at + ones).filter(|free| *free < range.end);
            }
            at += ones;
        }
        None
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_gos() {
        let of = |numbers: &[usize]| {
            let mut bitmap = Bitmap::default();
            numbers.iter().for_each(|number| bitmap.set(*number));
            bitmap
        };
        // `new(big.Int).SetBit(...).Bytes()`
        let cases: [(&[usize], &[u8]); 6] =
            [(&[], &[]), (&[0], &[1]), (&[7], &[0x80]), (&[8], &[1, 0]), (&[0, 9], &[2, 1]), (&[64, 3], &[1, 0, 0, 0, 0, 0, 0, 0, 8])];
        for (numbers, bytes) in cases {
            assert_eq!(of(numbers).bytes(), bytes, "{numbers:?}");
            assert_eq!(Bitmap::from_bytes(bytes), of(numbers));
        }
        assert_eq!(Bitmap::from_bytes(&[0, 0, 1]), of(&[0]));
    }

    proptest! {
        #[test]
        fn a_bitmap_tells_what_a_set_would(steps in prop::collection::vec((0..300_usize, any::<bool>()), 0..200), range in (0..300_usize, 0..300_usize), random: u64) {
            let (mut bitmap, mut model) = (Bitmap::default(), BTreeSet::new());
            for (number, taken) in steps {
                if taken {
                    bitmap.set(number);
                    model.insert(number);
                } else {
                    bitmap.clear(number);
                    model.remove(&number);
                }
            }
            prop_assert_eq!(&Bitmap::from_bytes(&bitmap.bytes()), &bitmap);
            prop_assert!((0..310).all(|n| bitmap.has(n) == model.contains(&n)));
            let range = range.0..range.1;
            match bitmap.free_in(range.clone(), random) {
                Some(found) => prop_assert!(range.contains(&found) && !model.contains(&found)),
                None => prop_assert!(range.clone().all(|n| model.contains(&n))),
            }
        }
    }
}
