//! What a list asks for -> how many seats it takes. Source: apiserver `pkg/util/flowcontrol/request/list_work_estimator.go`.

/// Of what is in memory at once for the reply.
const BYTES_PER_SEAT: usize = 100_000;
/// No more of a list from the cache is in memory at once: it is written in pieces.
const PIECES_BYTES: usize = 1_000_000;
const SEATS_MAX: usize = 100;

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
}
