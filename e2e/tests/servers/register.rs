//! Reads and writes of one register, each with its beginning and its end -> whether they can have happened one after the other.
//!
//! P. B. Gibbons and E. Korach, "Testing Shared Memories" (SIAM J. Comput. 26, 1997), section 3: each value is written once, so that a write and the reads
//! that found it stand together, and it is enough to look at the spans of two such groups at a time.

/// Microseconds since the test began.
pub type At = u64;

/// Never ended: nobody knows whether it was carried out.
pub const OPEN: At = At::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A value is written once.
    Write(u64),
    Read(u64),
}

/// From its beginning to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub op: Op,
    pub begun: At,
    pub ended: At,
}

/// A write and all reads of what it wrote.
#[derive(Clone, Copy, Debug)]
struct Group {
    value: u64,
    write: Event,
    /// When the first of them ended, and the last began.
    first_end: At,
    last_begin: At,
    is_read: bool,
}

/// # Errors
/// Why there is no order.
pub fn check(history: &[Event]) -> Result<(), String> {
    let mut groups: Vec<Group> = history
        .iter()
        .filter_map(|write| match write.op {
            Op::Write(value) => Some(Group { value, write: *write, first_end: write.ended, last_begin: write.begun, is_read: false }),
            Op::Read(_) => None,
        })
        .collect();
    groups.sort_by_key(|group| group.value);
    for read in history {
        let Op::Read(value) = read.op else { continue };
        let at = groups.binary_search_by_key(&value, |group| group.value).map_err(|_| format!("{value} was read and never written"))?;
        let group = &mut groups[at];
        if read.ended < group.write.begun {
            return Err(format!("{read:?} before {:?}", group.write));
        }
        group.first_end = group.first_end.min(read.ended);
        group.last_begin = group.last_begin.max(read.begun);
        group.is_read = true;
    }
    // What nobody answered and nobody read need not have happened.
    groups.retain(|group| group.is_read || group.write.ended != OPEN);
    let (mut forward, backward): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(|group| group.first_end < group.last_begin);
    forward.sort_by_key(|group| group.first_end);
    // From the end of its first to the beginning of its last operation the register held that value, and no other.
    for pair in forward.windows(2) {
        if pair[1].first_end < pair[0].last_begin {
            return Err(format!("both stood there at one time: {pair:?}"));
        }
    }
    // All of it within a span in which the register held something else.
    for inner in &backward {
        let at = forward.partition_point(|group| group.first_end < inner.last_begin);
        if let Some(outer) = at.checked_sub(1).map(|at| &forward[at]).filter(|outer| inner.first_end < outer.last_begin) {
            return Err(format!("{inner:?} while another stood there: {outer:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

    use super::*;

    fn event(op: Op, begun: At, ended: At) -> Event {
        Event { op, begun, ended }
    }

    /// Tries all orders (J. M. Wing and C. Gong, 1993).
    fn has_an_order(left: &[Event], value: u64) -> bool {
        if left.iter().all(|event| event.ended == OPEN) {
            return true;
        }
        let first_end = left.iter().map(|event| event.ended).min().unwrap_or(OPEN);
        (0..left.len()).any(|n| {
            let event = left[n];
            let mut rest = left.to_vec();
            rest.remove(n);
            event.begun <= first_end
                && match event.op {
                    Op::Write(written) => has_an_order(&rest, written),
                    Op::Read(read) => read == value && has_an_order(&rest, value),
                }
        })
    }

    #[test]
    fn it_says_what_trying_all_orders_says() {
        let mut random = StdRng::seed_from_u64(7);
        let mut said = [0, 0];
        for _ in 0..20_000 {
            // All times differ, as of a clock that is fine enough; the first write is before everything.
            let mut times: Vec<At> = (2..14).collect();
            times.shuffle(&mut random);
            let mut history = vec![event(Op::Write(0), 0, 1)];
            for pair in times.chunks(2).take(random.random_range(2..=6)) {
                let (begun, ended) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
                let next = history.len() as u64;
                history.push(match random.random_range(0..5) {
                    0 => event(Op::Write(next), begun, OPEN),
                    1 | 2 => event(Op::Write(next), begun, ended),
                    _ => event(Op::Read(random.random_range(0..=6)), begun, ended),
                });
            }
            let wanted = has_an_order(&history[1..], 0);
            assert_eq!(check(&history).is_ok(), wanted, "{history:?}: {:?}", check(&history));
            said[usize::from(wanted)] += 1;
        }
        assert!(said[0] > 1000 && said[1] > 1000, "{said:?}");
    }

    #[test]
    fn what_it_is_for() {
        let first = event(Op::Write(0), 0, 1);
        let stale = [first, event(Op::Write(1), 2, 3), event(Op::Read(0), 4, 5)];
        assert!(check(&stale).is_err(), "a read that does not see an acknowledged write");
        let back = [first, event(Op::Write(1), 2, OPEN), event(Op::Read(1), 3, 4), event(Op::Read(0), 5, 6)];
        assert!(check(&back).is_err(), "two reads that see it come and go");
        let lost = [first, event(Op::Write(1), 2, OPEN), event(Op::Read(0), 3, 4), event(Op::Read(1), 5, 6)];
        assert!(check(&lost).is_ok(), "a write without an answer that was carried out late");
    }
}
