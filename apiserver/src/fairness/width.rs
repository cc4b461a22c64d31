//! What a list asks for, or who is told of a write -> how many seats it takes. Source: apiserver `pkg/util/flowcontrol/request`
//! (`list_work_estimator.go`, `mutating_work_estimator.go`).

use std::time::Duration;

/// Of what is in memory at once for the reply.
const BYTES_PER_SEAT: usize = 100_000;
/// No more of a list from the cache is in memory at once: it is written in pieces.
const PIECES_BYTES: usize = 1_000_000;
const SEATS_MAX: usize = 100;
/// Watchers whose work with one event is that of one seat for [`TELLING`]. Upstream has ten: each is woken in a goroutine of its own there, and
/// writes the event out for itself. Here one costs a few microseconds.
const WATCHERS_PER_SEAT: usize = 1000;
/// `eventAdditionalDuration`
const TELLING: Duration = Duration::from_millis(5);
/// `MaximumMutatingSeatsLimit`
const TELLING_SEATS_MAX: usize = 10;

/// A list, or the state that a watch begins with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listing {
    /// How many objects there are of the resource, and their size together.
    pub objects: usize,
    pub bytes: usize,
    /// 0 is no limit.
    pub limit: usize,
    /// It names the one object it wants.
    pub single: bool,
    /// It has a selector.
    pub selects: bool,
    /// It may have to be read from the store: an old revision, or a later page.
    pub stored: bool,
}

impl Listing {
    /// At least one. The level has the last word on how many one request may have.
    pub fn seats(&self) -> usize {
        if self.single || self.objects == 0 {
            return 1;
        }
        let limited = if self.limit > 0 { self.limit.min(self.objects) } else { self.objects };
        let loaded = if self.stored && self.selects { limited.max(self.objects / 2) } else { limited };
        let mut bytes = loaded.saturating_mul(self.bytes / self.objects);
        if !self.stored {
            bytes = bytes.min(PIECES_BYTES);
        }
        bytes.div_ceil(BYTES_PER_SEAT).clamp(1, SEATS_MAX)
    }
}

/// What a write costs in watchers that are told of it: so many seats, also for a while after it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telling {
    pub seats: usize,
    pub lasts: Duration,
}

impl Telling {
    /// `None` where they are few.
    pub fn of(watchers: usize) -> Option<Self> {
        if watchers < WATCHERS_PER_SEAT {
            return None;
        }
        let work = watchers.div_ceil(WATCHERS_PER_SEAT);
        let seats = work.min(TELLING_SEATS_MAX);
        // The same work, narrower and longer.
        let lasts = TELLING.saturating_mul(u32::try_from(work).unwrap_or(u32::MAX)) / u32::try_from(seats).unwrap_or(1);
        Some(Self { seats, lasts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_a_list_loads_the_wider_it_is() {
        let all = Listing { objects: 1_000, bytes: 1_000_000_000, ..Listing::default() };
        for (listing, seats) in [
            (Listing::default(), 1),
            (Listing { objects: 10, bytes: 10_000, ..all }, 1),
            (Listing { objects: 300, bytes: 300_000, ..all }, 3),
            (all, 10),
            (Listing { stored: true, ..all }, 100),
            (Listing { single: true, ..all }, 1),
            (Listing { limit: 1, stored: true, ..all }, 10),
            (Listing { limit: 1, stored: true, selects: true, ..all }, 100),
            (Listing { limit: usize::MAX, objects: usize::MAX, bytes: usize::MAX, ..all }, 10),
        ] {
            assert_eq!(listing.seats(), seats, "{listing:?}");
        }
    }

    #[test]
    fn the_more_are_told_of_a_write_the_longer_it_sits() {
        let told = |seats, millis| Some(Telling { seats, lasts: Duration::from_millis(millis) });
        for (watchers, telling) in
            [(0, None), (999, None), (1_000, told(1, 5)), (1_001, told(2, 5)), (10_000, told(10, 5)), (40_000, told(10, 20))]
        {
            assert_eq!(Telling::of(watchers), telling, "{watchers}");
        }
        assert!(Telling::of(usize::MAX).is_some());
    }
}
