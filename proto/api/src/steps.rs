//! What is walked over -> a count, for the tests that hold what one event costs. Builds without debug assertions count nothing.

use std::cell::Cell;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// So many objects are looked at or copied in one go.
#[inline]
pub fn took(objects: usize) {
    if cfg!(debug_assertions) {
        STEPS.with(|steps| steps.set(steps.get().wrapping_add(objects as u64)));
    }
}

/// Counts each object as it is taken from the iterator.
#[inline]
pub fn counted<I: Iterator>(objects: I) -> impl Iterator<Item = I::Item> {
    objects.inspect(|_| took(1))
}

/// All steps that this thread has counted so far.
pub fn so_far() -> u64 {
    STEPS.with(Cell::get)
}

/// What the work returns, and the steps that this thread took for it.
pub fn of<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = so_far();
    let done = work();
    (done, so_far().wrapping_sub(before))
}

/// Holds that `costs`, of the same event at ever more objects, at most doubles; a few steps more are never held against it.
///
/// # Panics
/// If they grow, with `what`.
pub fn must_not_grow(what: &str, costs: &[u64]) {
    const FREE: u64 = 16;
    let (Some(first), Some(most)) = (costs.first(), costs.iter().max()) else { return };
    assert!(*most <= (first * 2).max(FREE), "{what}: one event costs more the more there is: {costs:?} steps");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_are_counted() {
        let (sum, steps) = of(|| counted(1..=3).sum::<i32>());
        assert_eq!((sum, steps), (6, 3));
        must_not_grow("constant", &[5, 9, 10]);
        assert!(std::panic::catch_unwind(|| must_not_grow("linear", &[10, 100, 1000])).is_err());
    }
}
