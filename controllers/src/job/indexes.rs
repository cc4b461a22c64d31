//! Indexes of an indexed Job, as intervals: `1,3-5,7`.
//!
//! Source: `pkg/controller/job/indexed_job_utils.go`. What it costs is the number of intervals, and not of indexes.

use std::fmt;

/// In order, apart from each other by one at least; both ends belong to an interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Those below `completions`; what cannot be read is passed over.
    pub fn parse(text: &str, completions: i32) -> Self {
        let interval = |part: &str| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (from.parse::<i32>().ok()?, to.parse::<i32>().ok()?.min(completions.saturating_sub(1)));
            (0 <= from && from <= to).then_some((from, to))
        };
        Self::of_intervals(text.split(',').filter_map(interval).collect())
    }

    /// In any order.
    pub fn of(indexes: impl IntoIterator<Item = i32>) -> Self {
        Self::of_intervals(indexes.into_iter().map(|index| (index, index)).collect())
    }

    /// All that are in either.
    pub fn with(&self, other: &Self) -> Self {
        Self::of_intervals(self.0.iter().chain(&other.0).copied().collect())
    }

    fn of_intervals(mut all: Vec<(i32, i32)>) -> Self {
        all.sort_unstable();
        let mut out: Vec<(i32, i32)> = Vec::with_capacity(all.len());
        for (from, to) in all {
            match out.last_mut() {
                Some((_, last)) if from <= last.saturating_add(1) => *last = to.max(*last),
                _ => out.push((from, to)),
            }
        }
        Self(out)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn total(&self) -> i32 {
        let total: i64 = self.0.iter().map(|(from, to)| i64::from(*to) - i64::from(*from) + 1).sum();
        i32::try_from(total).unwrap_or(i32::MAX)
    }

    pub fn has(&self, index: i32) -> bool {
        let after = self.0.partition_point(|(_, to)| *to < index);
        self.0.get(after).is_some_and(|(from, _)| *from <= index)
    }

    /// How many are in both.
    pub fn shared(&self, other: &Self) -> i32 {
        let (mut a, mut b, mut total) = (0, 0, 0i64);
        while let (Some((from, to)), Some((other_from, other_to))) = (self.0.get(a), other.0.get(b)) {
            total += (i64::from(*to.min(other_to)) - i64::from(*from.max(other_from)) + 1).max(0);
            a += usize::from(to <= other_to);
            b += usize::from(other_to <= to);
        }
        i32::try_from(total).unwrap_or(i32::MAX)
    }

    /// The first so many below `completions` that are not in here.
    pub fn free(&self, count: usize, completions: i32) -> Vec<i32> {
        let (mut out, mut next) = (Vec::new(), 0);
        for (from, to) in self.0.iter().copied().chain([(completions, completions)]) {
            let wanted = count.saturating_sub(out.len());
            out.extend((next..from.min(completions)).take(wanted));
            next = next.max(to.saturating_add(1));
        }
        out
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (from, to)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match to - from {
                0 => write!(f, "{comma}{from}")?,
                1 => write!(f, "{comma}{from},{to}")?,
                _ => write!(f, "{comma}{from}-{to}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of `TestCalculateSucceededIndexes`.
    #[test]
    fn what_is_known_and_what_is_new_make_one() {
        let cases: [(&str, i32, &[i32], &str, i32); 9] = [
            ("", 3, &[1], "1", 1),
            ("", 5, &[0, 1, 2, 4], "0-2,4", 4),
            ("", 8, &[0, 1, 2, 4, 5, 7], "0-2,4,5,7", 6),
            ("0-2,4,6-9", 10, &[], "0-2,4,6-9", 8),
            ("0-2,4,6-9", 10, &[3], "0-4,6-9", 9),
            ("0,1,3,5-7", 8, &[2, 4], "0-7", 8),
            ("0-1,3,5-7,9", 8, &[], "0,1,3,5-7", 6),
            ("2-5", 4, &[0], "0,2,3", 3),
            ("x,1-y,3,-4", 9, &[], "3", 1),
        ];
        for (before, completions, fresh, wanted, total) in cases {
            let all = Indexes::parse(before, completions).with(&Indexes::of(fresh.iter().copied()));
            assert_eq!((all.to_string().as_str(), all.total()), (wanted, total), "{before} and {fresh:?}");
        }
    }

    /// `TestIntervalsHaveIndex`.
    #[test]
    fn one_is_found_in_its_interval() {
        let some = Indexes::parse("0-2,4,6-9", 20);
        let found: Vec<i32> = (0..12).filter(|index| some.has(*index)).collect();
        assert_eq!(found, [0, 1, 2, 4, 6, 7, 8, 9]);
        assert!(!Indexes::default().has(0));
    }

    /// `TestFirstPendingIndexes`.
    #[test]
    fn the_first_that_are_free() {
        let free = |text: &str, count, completions| Indexes::parse(text, completions).free(count, completions);
        assert_eq!(free("", 5, 10), [0, 1, 2, 3, 4]);
        assert_eq!(free("", 5, 3), [0, 1, 2]);
        assert_eq!(free("0-3", 5, 10), [4, 5, 6, 7, 8]);
        assert_eq!(free("0,2,4,7", 5, 10), [1, 3, 5, 6, 8]);
        assert_eq!(free("0-9", 5, 10), [0; 0]);
        assert_eq!(free("1", 0, 10), [0; 0]);
        assert_eq!(free("", 2, 0), [0; 0]);
        let all = Indexes::of([i32::MAX]);
        assert_eq!((all.free(1, i32::MAX), all.total(), all.to_string()), (vec![0], 1, i32::MAX.to_string()));
    }

    #[test]
    fn those_in_both_are_counted() {
        let shared = |a: &str, b: &str| Indexes::parse(a, 100).shared(&Indexes::parse(b, 100));
        for (a, b, wanted) in
            [("0-9", "5-14", 5), ("1,3,5", "0-6", 3), ("0-2,4-6", "2-4", 2), ("", "1", 0), ("1-3", "5-7", 0), ("1", "1", 1)]
        {
            assert_eq!((shared(a, b), shared(b, a)), (wanted, wanted), "{a} {b}");
        }
    }
}
