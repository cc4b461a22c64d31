//! One room of seats: a limit for all and for each address, and whose seat is given up.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
};

use super::State;

/// How many seats are looked at for one that is idle: all of the largest room, so that nobody is refused while one is idle. Only a room full
/// of those at work is looked through that far, which costs less than the handshake before it.
const LOOKED_AT_MAX: usize = 8192;
/// Among how many idle ones the longest is sought: a full room must stay cheap.
const IDLE_MAX: usize = 64;

pub(super) struct Room {
    limit: usize,
    /// In the order of arrival.
    all: BTreeMap<u64, (IpAddr, Arc<State>)>,
    homes: HashMap<IpAddr, BTreeMap<u64, Arc<State>>>,
}

impl Room {
    pub fn new(limit: usize) -> Self {
        Self { limit, all: BTreeMap::new(), homes: HashMap::new() }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// An address may take half, so that the others have the other half.
    pub fn take(&mut self, id: u64, home: IpAddr, state: &Arc<State>) -> bool {
        if self.homes.get(&home).is_some_and(|own| own.len() >= self.limit.div_ceil(2)) {
            let idle = self.homes.get(&home).and_then(|own| longest_idle(own.iter().map(|(id, state)| (*id, home, state))));
            if !self.give_up(idle) {
                return false;
            }
        }
        if self.all.len() >= self.limit && !self.give_up_one() {
            return false;
        }
        self.all.insert(id, (home, state.clone()));
        self.homes.entry(home).or_default().insert(id, state.clone());
        true
    }

    /// Whether it was here.
    pub fn leave(&mut self, id: u64, home: IpAddr) -> bool {
        if self.all.remove(&id).is_none() {
            return false;
        }
        if let Some(own) = self.homes.get_mut(&home) {
            own.remove(&id);
            if own.is_empty() {
                self.homes.remove(&home);
            }
        }
        true
    }

    pub fn give_up_one(&mut self) -> bool {
        let idle = longest_idle(self.all.iter().map(|(id, (home, state))| (*id, *home, state)));
        self.give_up(idle)
    }

    fn give_up(&mut self, seat: Option<(u64, IpAddr)>) -> bool {
        let Some((id, home)) = seat else { return false };
        if let Some((_, state)) = self.all.get(&id) {
            state.tell();
        }
        self.leave(id, home)
    }
}

fn longest_idle<'a>(seats: impl Iterator<Item = (u64, IpAddr, &'a Arc<State>)>) -> Option<(u64, IpAddr)> {
    let idle = seats.take(LOOKED_AT_MAX).filter(|(_, _, state)| state.is_idle()).take(IDLE_MAX);
    idle.min_by_key(|(_, _, state)| state.since.load(Ordering::Relaxed)).map(|(id, home, _)| (id, home))
}
