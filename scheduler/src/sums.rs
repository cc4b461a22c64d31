//! Pods per domain as the snapshot counts them, which can be changed for "what if".

use std::borrow::Cow;

use crate::{column::Column, topology::Domain};

/// Shared with the snapshot; what was changed stands beside it.
#[derive(Clone, Debug)]
pub struct Sums<'a> {
    snapshot: Cow<'a, Column<i64>>,
    shifts: Vec<(Domain, i64)>,
}

impl<'a> Sums<'a> {
    /// `None` counts nothing.
    pub fn shared(column: Option<&'a Column<i64>>) -> Self {
        Self { snapshot: column.map_or_else(|| Cow::Owned(Column::default()), Cow::Borrowed), shifts: Vec::new() }
    }

    pub fn own(column: Column<i64>) -> Self {
        Self { snapshot: Cow::Owned(column), shifts: Vec::new() }
    }

    pub fn get(&self, domain: Domain) -> i64 {
        let shift: i64 = self.shifts.iter().filter(|(d, _)| *d == domain).map(|(_, by)| by).sum();
        self.snapshot.get(domain) + shift
    }

    pub fn add(&mut self, domain: Domain, by: i64) {
        match self.shifts.iter_mut().find(|(d, _)| *d == domain) {
            Some((_, sum)) => *sum += by,
            None => self.shifts.push((domain, by)),
        }
    }

    /// No domain has any.
    pub fn is_empty(&self) -> bool {
        let shifted = |domain: Domain| self.shifts.iter().any(|(d, _)| *d == domain);
        let counted = self.snapshot.iter().enumerate().any(|(domain, n)| n > 0 && !shifted(domain));
        !counted && self.shifts.iter().all(|(domain, _)| self.get(*domain) <= 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_leaves_the_column_as_it_is() {
        let mut column = Column::default();
        *column.slot(2) = 1;
        let mut sums = Sums::shared(Some(&column));
        assert!(!sums.is_empty());
        sums.add(2, -1);
        assert!(sums.is_empty());
        sums.add(5, 2);
        sums.add(2, 1);
        assert_eq!((sums.get(2), sums.get(5), sums.get(9), column.get(5)), (1, 2, 0, 0));
        assert!(!sums.is_empty());
    }
}
