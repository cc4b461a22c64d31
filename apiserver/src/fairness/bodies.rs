//! The body of a request -> its bytes, before the request takes a seat: however slowly it comes, nobody waits for it.
//!
//! What is read is bounded in bytes per body, and in the bytes of all bodies that are held at one time. The latter are shared as seats are:
//! a level may take more while as much is left free as it has then, a flow while as much is left that its level may take. So one flow can have
//! a quarter, and one level a half. The reserve is for flows that hold next to nothing: whoever comes after many greedy ones finds that.

use std::{collections::HashMap, fmt::Write, sync::Arc, time::Duration};

use api::Status;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use parking_lot::Mutex;

use super::{Classification, Fairness, REFUSED};
use crate::{body::Body, metrics::head};

/// Largest body of a request.
pub const BODY_BYTES_MAX: usize = 3 << 20;
/// Bytes of all bodies that are held at one time: being read, waiting with their request, or being worked on.
pub const BODIES_BYTES_MAX: usize = 256 << 20;
/// What of it is for flows that hold no more than [`SMALL_BYTES`] each.
const RESERVE_BYTES: usize = 64 << 20;
const SMALL_BYTES: usize = 64 << 10;
/// A body of which nothing comes for so long is cut.
pub const STALL_MAX: Duration = Duration::from_secs(10);

pub(super) struct Bodies {
    max: usize,
    state: Mutex<State>,
}

struct State {
    held: usize,
    /// By slot.
    levels: Vec<usize>,
    /// By flow; only those that hold something.
    flows: HashMap<u64, usize>,
    refused: u64,
}

/// Whose memory it is.
#[derive(Clone, Copy)]
struct Owner {
    level: usize,
    flow: u64,
}

/// The memory of one body. Dropped, it is somebody else's.
pub struct Charge {
    fairness: Arc<Fairness>,
    class: Classification,
    bytes: usize,
}

impl Fairness {
    /// Reads a whole body.
    ///
    /// # Errors
    /// 413 for one that is too large, 429 where the bodies of its flow or level take too much memory already, 504 where nothing comes any more.
    pub async fn read(self: &Arc<Self>, class: &Classification, mut body: Body) -> Result<(Bytes, Charge), Status> {
        let mut charge = Charge { fairness: self.clone(), class: class.clone(), bytes: 0 };
        let Some(first) = next(&mut body).await? else { return Ok((Bytes::new(), charge)) };
        charge.grow(first.len())?;
        if body.is_end_stream() {
            return Ok((first, charge));
        }
        let mut read = BytesMut::from(first);
        while let Some(data) = next(&mut body).await? {
            let wanted = read.len() + data.len();
            if wanted > BODY_BYTES_MAX {
                return Err(too_large());
            }
            if wanted > read.capacity() {
                let room = wanted.max(read.capacity() * 2).min(BODY_BYTES_MAX);
                charge.grow(room)?;
                read.reserve(room - read.len());
            }
            read.extend_from_slice(&data);
        }
        Ok((read.freeze(), charge))
    }
}

/// The next piece that is not empty; `None` at the end.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Status> {
    loop {
        let frame = tokio::time::timeout(STALL_MAX, body.frame()).await;
        let frame = frame.map_err(|_| Status::timeout("nothing came of the request's body for a while"))?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|error| Status::bad_request(format!("the body could not be read: {error}")))?;
        match frame.into_data() {
            Ok(data) if data.len() > BODY_BYTES_MAX => return Err(too_large()),
            Ok(data) if !data.is_empty() => return Ok(Some(data)),
            // Trailers, or nothing.
            _ => {}
        }
    }
}

fn too_large() -> Status {
    Status::too_large(format!("Request entity too large: limit is {BODY_BYTES_MAX}"))
}

impl Charge {
    /// The body takes `bytes` in all from now on.
    fn grow(&mut self, bytes: usize) -> Result<(), Status> {
        let more = bytes.saturating_sub(self.bytes);
        if !self.fairness.bodies.take(self.owner(), self.class.of.level.is_exempt, more) {
            return Err(Status::too_many_requests(REFUSED, 1));
        }
        self.bytes += more;
        Ok(())
    }

    fn owner(&self) -> Owner {
        Owner { level: self.class.slot() as usize, flow: self.class.flow }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.fairness.bodies.give(self.owner(), self.bytes);
        }
    }
}

impl Bodies {
    pub fn new(max: usize) -> Self {
        Self { max, state: Mutex::new(State { held: 0, levels: Vec::new(), flows: HashMap::new(), refused: 0 }) }
    }

    /// Takes `more` bytes for a flow, if enough is left for others then. Flows of exempt levels are not told apart.
    fn take(&self, owner: Owner, exempt: bool, more: usize) -> bool {
        let mut state = self.state.lock();
        let level = state.levels.get(owner.level).copied().unwrap_or_default() + more;
        let flow = state.flows.get(&owner.flow).copied().unwrap_or_default() + more;
        let held = state.held + more;
        let left = self.max.saturating_sub(RESERVE_BYTES).checked_sub(held).and_then(|free| free.checked_sub(level));
        let fits = left.is_some_and(|left| exempt || flow <= left / 2);
        if !fits && (flow > SMALL_BYTES || held > self.max) {
            state.refused += 1;
            return false;
        }
        state.held = held;
        state.flows.insert(owner.flow, flow);
        if state.levels.len() <= owner.level {
            state.levels.resize(owner.level + 1, 0);
        }
        state.levels[owner.level] = level;
        true
    }

    fn give(&self, owner: Owner, bytes: usize) {
        let mut state = self.state.lock();
        state.held = state.held.saturating_sub(bytes);
        if let Some(level) = state.levels.get_mut(owner.level) {
            *level = level.saturating_sub(bytes);
        }
        if let Some(flow) = state.flows.get_mut(&owner.flow) {
            *flow = flow.saturating_sub(bytes);
            if *flow == 0 {
                state.flows.remove(&owner.flow);
            }
        }
    }

    pub fn text(&self, out: &mut String) {
        let (held, refused) = {
            let state = self.state.lock();
            (state.held, state.refused)
        };
        head(out, "skiff_request_body_bytes", "gauge", "Bytes of request bodies that are held in memory.");
        let _ = writeln!(out, "skiff_request_body_bytes {held}");
        let name = "skiff_request_bodies_refused_total";
        head(out, name, "counter", "Number of request bodies that were refused because others held too much memory.");
        let _ = writeln!(out, "{name} {refused}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn owner(level: usize, flow: u64) -> Owner {
        Owner { level, flow }
    }

    /// How often `step` bytes can be taken.
    fn fill(bodies: &Bodies, class: Owner, step: usize) -> usize {
        (0..).take_while(|_| bodies.take(class, false, step)).count()
    }

    #[test]
    fn one_flow_takes_a_quarter_one_level_a_half() {
        let bodies = Bodies::new(256 * MIB + RESERVE_BYTES);
        assert_eq!(fill(&bodies, owner(0, 1), MIB), 64);
        let level: usize = 64 + (2..200).map(|flow| fill(&bodies, owner(0, flow), MIB)).sum::<usize>();
        assert!((120..=128).contains(&level), "{level}");
        assert!(fill(&bodies, owner(1, 900), MIB) >= 16, "the other level has its part");
    }

    #[test]
    fn whoever_comes_last_finds_something() {
        let bodies = Bodies::new(256 * MIB);
        for flow in 0..200 {
            assert!(fill(&bodies, owner(0, flow), 4 << 10) >= 16);
        }
        assert!(bodies.take(owner(0, 777), false, SMALL_BYTES));
        assert!(!bodies.take(owner(0, 777), false, MIB));
        for flow in 1_000..10_000 {
            fill(&bodies, owner(0, flow), SMALL_BYTES);
        }
        let held = bodies.state.lock().held;
        assert!(held <= 256 * MIB, "{held}");
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let bodies = Bodies::new(16 * MIB + RESERVE_BYTES);
        for _ in 0..100 {
            let taken = fill(&bodies, owner(0, 1), MIB);
            assert_eq!(taken, 4);
            (0..taken).for_each(|_| bodies.give(owner(0, 1), MIB));
        }
        let state = bodies.state.lock();
        assert_eq!((state.held, state.levels[0], state.flows.len()), (0, 0, 0));
    }
}
