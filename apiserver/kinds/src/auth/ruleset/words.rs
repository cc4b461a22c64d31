//! Words -> each once, in order, in one text: found by halving.

use std::{cmp::Ordering, collections::HashMap};

/// Distinct words in order; a word's place is its id.
#[derive(Default)]
pub struct Words {
    text: Box<str>,
    /// Where word `id` begins, and where word `id + 1` does; empty where there are no words.
    bounds: Box<[u32]>,
}

/// A word that is asked for, in up to three pieces, so that nobody has to join `*/` and `scale`.
#[derive(Clone, Copy)]
pub struct Joined<'a>(pub [&'a str; 3]);

impl<'a> From<&'a str> for Joined<'a> {
    fn from(word: &'a str) -> Self {
        Self([word, "", ""])
    }
}

impl<'a> From<&'a String> for Joined<'a> {
    fn from(word: &'a String) -> Self {
        Self::from(word.as_str())
    }
}

impl Joined<'_> {
    /// How it compares with `word`, byte by byte.
    pub fn compare(self, word: &str) -> Ordering {
        let mut rest = word.as_bytes();
        for part in self.0 {
            let common = part.len().min(rest.len());
            match part.as_bytes()[..common].cmp(&rest[..common]) {
                Ordering::Equal if common < part.len() => return Ordering::Greater,
                Ordering::Equal => rest = &rest[common..],
                other => return other,
            }
        }
        if rest.is_empty() { Ordering::Equal } else { Ordering::Less }
    }

    pub fn is(self, word: &str) -> bool {
        word.len() == self.0.iter().map(|part| part.len()).sum::<usize>() && self.compare(word) == Ordering::Equal
    }
}

impl Words {
    /// The distinct of `all`, and the id of each of `all` in turn.
    pub fn of(all: &[&str]) -> (Self, Box<[u32]>) {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let seen: Vec<u32> = all.iter().map(|word| next(&mut numbers, word)).collect();
        let mut sorted: Vec<(&str, u32)> = numbers.into_iter().collect();
        sorted.sort_unstable();
        let mut ids = vec![0; sorted.len()];
        for (id, (_, number)) in sorted.iter().enumerate() {
            ids[*number as usize] = id as u32;
        }
        let words = Self { text: sorted.iter().map(|(word, _)| *word).collect::<String>().into(), bounds: bounds(&sorted) };
        (words, seen.iter().map(|number| ids[*number as usize]).collect())
    }

    pub fn len(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }

    pub fn get(&self, id: u32) -> &str {
        let id = id as usize;
        &self.text[self.bounds[id] as usize..self.bounds[id + 1] as usize]
    }

    /// What they take in memory.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.bounds)
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len() as u32).map(|id| self.get(id))
    }

    pub fn find(&self, wanted: Joined<'_>) -> Option<u32> {
        let (mut low, mut high) = (0, self.len() as u32);
        while low < high {
            let middle = low + (high - low) / 2;
            match wanted.compare(self.get(middle)) {
                Ordering::Less => high = middle,
                Ordering::Greater => low = middle + 1,
                Ordering::Equal => return Some(middle),
            }
        }
        None
    }
}

/// The number of `word`: that of its first sight.
fn next<'a>(numbers: &mut HashMap<&'a str, u32>, word: &'a str) -> u32 {
    let fresh = numbers.len() as u32;
    *numbers.entry(word).or_insert(fresh)
}

fn bounds(sorted: &[(&str, u32)]) -> Box<[u32]> {
    if sorted.is_empty() {
        return Box::default();
    }
    let ends = sorted.iter().scan(0, |end, (word, _)| {
        *end += word.len() as u32;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole_and_in_pieces() {
        let (words, ids) = Words::of(&["pods", "", "*/scale", "pods", "pods/log"]);
        assert_eq!(words.iter().collect::<Vec<_>>(), ["", "*/scale", "pods", "pods/log"]);
        assert_eq!(*ids, [2, 0, 1, 2, 3]);
        for (pieces, id) in [
            (["pods", "/", "log"], Some(3)),
            (["*/", "scale", ""], Some(1)),
            (["", "", ""], Some(0)),
            (["pods", "/", ""], None),
            (["pod", "", ""], None),
            (["pods/log/x", "", ""], None),
        ] {
            assert_eq!(words.find(Joined(pieces)), id, "{pieces:?}");
            assert_eq!(words.iter().any(|word| Joined(pieces).is(word)), id.is_some(), "{pieces:?}");
        }
        assert_eq!(Words::default().find("".into()), None);
    }
}
