//! Which nodes are ready, zone by zone -> how fast those that are not are given up, and whether at all.
//!
//! A zone in which most nodes fall silent has most likely lost its network, not its nodes: it is emptied slowly, or not at all. Where no node
//! of the cluster is ready, it is the server that is cut off, and nothing is given up. Source: `pkg/controller/nodelifecycle`
//! (`handleDisruption`, `ComputeZoneState`), `scheduler/rate_limited_queue.go`.
//!
//! Every change costs O(log nodes), but for the moment in which the last node goes or the first one comes back.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::NodeConfig;

/// The rate of a zone whose next turn is further away than this is none.
const TURN_MAX: Duration = Duration::from_secs(24 * 3600);

/// What of a node counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Region and zone.
    pub zone: String,
    pub ready: bool,
    /// `node.kubernetes.io/exclude-disruption`: it says nothing about its zone.
    pub excluded: bool,
}

/// Whose turn it is, after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    Nobodys,
    Of(Arc<str>),
    /// All nodes are judged anew.
    Everybodys,
}

/// What a node that is not ready is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It may be given up now.
    Yes,
    /// Not before so long has passed.
    In(Duration),
    /// It will be told when its turn has come.
    Waits,
}

#[derive(Default)]
pub struct Zones {
    config: NodeConfig,
    zones: HashMap<Arc<str>, Zone>,
    nodes: HashMap<Arc<str>, Member>,
    counts: Counts,
    next_place: u64,
    /// When nodes were last found ready after none was.
    back: Option<Instant>,
}

/// Of nodes that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    ready: usize,
    unready: usize,
}

#[derive(Default)]
struct Zone {
    counts: Counts,
    members: usize,
    limiter: Limiter,
    /// Nodes that wait to be given up, the longest waiting first.
    queue: BTreeMap<u64, Arc<str>>,
}

struct Member {
    zone: Arc<str>,
    ready: bool,
    excluded: bool,
    unready_since: Instant,
    place: Option<u64>,
    /// It had its turn; what follows from it may have to be tried again.
    given_up: bool,
}

/// A token bucket of one token.
#[derive(Default)]
struct Limiter {
    /// Between two tokens; `None`: there are none.
    interval: Option<Duration>,
    next: Option<Instant>,
}

impl Zones {
    pub fn new(config: NodeConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// No node that counts is ready: nobody is given up.
    pub fn is_cut_off(&self) -> bool {
        self.counts.ready == 0 && self.counts.unready > 0
    }

    /// When the cluster was last found again after [`Zones::is_cut_off`]: no sign of life from before it counts as missing.
    pub fn back(&self) -> Option<Instant> {
        self.back
    }

    /// Since when a node is not ready, by our own observation.
    pub fn unready_since(&self, node: &str) -> Option<Instant> {
        self.nodes.get(node).filter(|m| !m.ready).map(|m| m.unready_since)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.keys()
    }

    /// A node as it is now.
    pub fn put(&mut self, node: &str, seen: &Seen, now: Instant) -> Turn {
        let same = |m: &Member| *m.zone == *seen.zone && m.ready == seen.ready && m.excluded == seen.excluded;
        if self.nodes.get(node).is_some_and(same) {
            return Turn::Nobodys;
        }
        let was_cut_off = self.is_cut_off();
        let (name, old) = match self.nodes.remove_entry(node) {
            Some((name, old)) => (name, Some(old)),
            None => (Arc::from(node), None),
        };
        let zone = self.zones.get_key_value(&*seen.zone).map_or_else(|| Arc::from(&*seen.zone), |(name, _)| name.clone());
        let since = old.as_ref().filter(|old| old.ready == seen.ready).map_or(now, |old| old.unready_since);
        let (ready, excluded) = (seen.ready, seen.excluded);
        let member = Member { zone: zone.clone(), ready, excluded, unready_since: since, place: None, given_up: false };
        // It joins before it leaves: its zone may have no other.
        self.count(&member, 1);
        self.nodes.insert(name, member);
        let left = old.map_or(Turn::Nobodys, |old| self.leave(&old, now));
        let turns = [left, self.limit(&zone, now)];
        self.after(was_cut_off, turns, now)
    }

    /// A node that is no more.
    pub fn remove(&mut self, node: &str, now: Instant) -> Turn {
        let was_cut_off = self.is_cut_off();
        let Some(old) = self.nodes.remove(node) else { return Turn::Nobodys };
        let left = self.leave(&old, now);
        self.after(was_cut_off, [left, Turn::Nobodys], now)
    }

    /// Whether a node may be given up: one after the other, as fast as the state of its zone allows. After a `Yes` whoever is next is told.
    pub fn ask(&mut self, node: &str, now: Instant) -> (Answer, Turn) {
        let cut_off = self.is_cut_off();
        let Some((name, member)) = self.nodes.get_key_value(node) else { return (Answer::Waits, Turn::Nobodys) };
        if cut_off || member.given_up {
            return (if cut_off { Answer::Waits } else { Answer::Yes }, Turn::Nobodys);
        }
        let (name, place, zone) = (name.clone(), member.place, member.zone.clone());
        let Some(zone) = self.zones.get_mut(&zone) else { return (Answer::Waits, Turn::Nobodys) };
        let place = place.unwrap_or_else(|| {
            self.next_place += 1;
            zone.queue.insert(self.next_place, name);
            self.next_place
        });
        let is_first = zone.queue.first_key_value().is_some_and(|(first, _)| *first == place);
        let answer = if is_first { zone.limiter.take(now) } else { Answer::Waits };
        let given_up = answer == Answer::Yes;
        let turn = if given_up { zone.step_back(place) } else { Turn::Nobodys };
        if let Some(member) = self.nodes.get_mut(node) {
            (member.place, member.given_up) = ((!given_up).then_some(place), given_up);
        }
        (answer, turn)
    }

    /// A node is not to be given up, or is already.
    pub fn withdraw(&mut self, node: &str) -> Turn {
        let Some(member) = self.nodes.get_mut(node) else { return Turn::Nobodys };
        member.given_up = false;
        match (member.place.take(), self.zones.get_mut(&member.zone)) {
            (Some(place), Some(zone)) => zone.step_back(place),
            _ => Turn::Nobodys,
        }
    }

    fn count(&mut self, member: &Member, by: isize) {
        let zone = self.zones.entry(member.zone.clone()).or_default();
        zone.members = zone.members.saturating_add_signed(by);
        if !member.excluded {
            self.counts.add(member.ready, by);
            zone.counts.add(member.ready, by);
        }
    }

    fn leave(&mut self, member: &Member, now: Instant) -> Turn {
        self.count(member, -1);
        let next = match (member.place, self.zones.get_mut(&member.zone)) {
            (Some(place), Some(zone)) => zone.step_back(place),
            _ => Turn::Nobodys,
        };
        match self.limit(&member.zone, now) {
            Turn::Nobodys => next,
            turn => turn,
        }
    }

    /// The zone takes on the rate of its state. Who is first has to ask again where it is another.
    fn limit(&mut self, name: &Arc<str>, now: Instant) -> Turn {
        let Some(zone) = self.zones.get_mut(name) else { return Turn::Nobodys };
        if zone.members == 0 {
            self.zones.remove(name);
            return Turn::Nobodys;
        }
        if zone.limiter.set(rate(zone.counts, &self.config), now) { zone.first() } else { Turn::Nobodys }
    }

    fn after(&mut self, was_cut_off: bool, turns: [Turn; 2], now: Instant) -> Turn {
        let is_cut_off = self.is_cut_off();
        if was_cut_off && !is_cut_off {
            self.back = Some(now);
        }
        if was_cut_off != is_cut_off {
            return Turn::Everybodys;
        }
        // One member changes one zone, and rarely two: each has one who is first.
        match turns {
            [Turn::Of(a), Turn::Of(b)] if a != b => Turn::Everybodys,
            [Turn::Nobodys, turn] | [turn, _] => turn,
        }
    }
}

impl Counts {
    fn add(&mut self, ready: bool, by: isize) {
        let count = if ready { &mut self.ready } else { &mut self.unready };
        *count = count.saturating_add_signed(by);
    }
}

impl Zone {
    /// Who is first now, where somebody else was.
    fn step_back(&mut self, place: u64) -> Turn {
        let was_first = self.queue.first_key_value().is_some_and(|(first, _)| *first == place);
        self.queue.remove(&place);
        if was_first { self.first() } else { Turn::Nobodys }
    }

    fn first(&self) -> Turn {
        self.queue.values().next().map_or(Turn::Nobodys, |node| Turn::Of(node.clone()))
    }
}

/// Nodes per second.
fn rate(counts: Counts, config: &NodeConfig) -> f32 {
    let Counts { ready, unready } = counts;
    let size = ready + unready;
    // Few enough nodes for exact numbers.
    #[allow(clippy::cast_precision_loss)]
    let is_partial = ready > 0 && unready > 2 && unready as f32 / size as f32 >= config.unhealthy_zone_threshold;
    match is_partial {
        false => config.eviction_rate,
        true if size > config.large_cluster_size => config.secondary_eviction_rate,
        true => 0.0,
    }
}

impl Limiter {
    /// True where the rate is another than before.
    fn set(&mut self, rate: f32, now: Instant) -> bool {
        let interval = if rate > 0.0 { Duration::try_from_secs_f32(1.0 / rate).ok().filter(|i| *i <= TURN_MAX) } else { None };
        if interval == self.interval {
            return false;
        }
        // Who had to wait goes on waiting: a change of the rate makes no token. A zone that is new has one.
        let is_new = self.next.is_none() && self.interval.is_none();
        let has_token = is_new || (self.interval.is_some() && self.next.is_none_or(|next| next <= now));
        self.next = Some(if has_token { now } else { now + interval.unwrap_or_default() });
        self.interval = interval;
        true
    }

    fn take(&mut self, now: Instant) -> Answer {
        let Some(interval) = self.interval else { return Answer::Waits };
        match self.next {
            Some(next) if next > now => Answer::In(next - now),
            _ => {
                self.next = Some(now + interval);
                Answer::Yes
            }
        }
    }
}

#[cfg(test)]
mod tests;
