//! IPAddress and ServiceCIDR objects as the cache has them -> an address that is free. Source: `pkg/registry/core/service/ipallocator`,
//! `cidrallocator.go`, `ipallocator.go`.
//!
//! Nothing is claimed here: this is a reading of what is stored. Whoever takes an address creates its IPAddress, and who was slower looks again.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    ops::Range as Span,
    sync::{Arc, Once},
};

use api::{runs::Runs, steps};
use apiserver::engine::{Change, Engine};
use parking_lot::Mutex;

use super::{
    objects,
    range::{Line, Range, address, place},
};
use crate::{config::Config, servicecidr};

/// The ServiceCIDR that the flags make.
pub const DEFAULT: &str = "kubernetes";

pub struct Addresses {
    /// Stand for the default ServiceCIDR where it is not there.
    configured: Vec<Range>,
    state: Mutex<State>,
    followed: Once,
}

#[derive(Default)]
struct State {
    /// By ServiceCIDR: its ranges, none where it gives out nothing.
    by_object: BTreeMap<Box<str>, Vec<Range>>,
    /// All of them: those of the default first.
    ranges: Vec<Range>,
    taken: HashMap<Line, Runs>,
}

impl Addresses {
    pub fn new(config: &Config) -> Self {
        let configured = Range::configured(config);
        let state = State { ranges: configured.clone(), ..State::default() };
        Self { configured, state: Mutex::new(state), followed: Once::new() }
    }

    /// Begins to follow the objects, at the first call.
    pub fn follow(self: &Arc<Self>, engine: &Engine) {
        self.followed.call_once(|| {
            let this = self.clone();
            engine.on_change(&objects::service_cidrs(), Arc::new(move |change| this.range_changed(change)));
            let this = self.clone();
            engine.on_change(&objects::ip_addresses(), Arc::new(move |change| this.address_changed(change)));
        });
    }

    /// The ranges of a family that are given out of.
    pub fn ranges(&self, family: &str) -> Vec<Range> {
        self.state.lock().ranges.iter().copied().filter(|range| range.family() == family).collect()
    }

    /// A free address at or after a point that `random` chooses in the first range that has one; of a range's reserved band only when all others are gone.
    pub fn free(&self, family: &str, random: &mut dyn FnMut() -> u64) -> Option<IpAddr> {
        let state = self.state.lock();
        let none = Runs::default();
        state.ranges.iter().filter(|range| range.family() == family).find_map(|range| {
            let taken = state.taken.get(&range.line()).unwrap_or(&none);
            let (span, band) = (range.span(), range.reserved_end());
            let number = free_in(taken, band..span.end, random).or_else(|| free_in(taken, span.start..band, random))?;
            Some(address(range.line(), number))
        })
    }

    fn address_changed(&self, change: &Change) {
        let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return };
        let Ok(address) = object.key.name.parse() else { return };
        self.state.lock().set(address, change.new.is_some());
    }

    fn range_changed(&self, change: &Change) {
        let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return };
        let name = object.key.name.as_str();
        let ranges = change.new.as_ref().map(|object| {
            let value = object.value();
            let gives = servicecidr::is_ready(&value) && !object.is_deleting();
            servicecidr::cidrs(&value).into_iter().filter(|_| gives).filter_map(Range::parse).collect()
        });
        self.state.lock().set_ranges(name, ranges, &self.configured);
    }
}

impl State {
    fn set(&mut self, address: IpAddr, is_taken: bool) {
        let (line, number) = place(address);
        let runs = self.taken.entry(line).or_default();
        if is_taken {
            runs.take(number, number.saturating_add(1));
            return;
        }
        runs.free(number, number.saturating_add(1));
        if *runs == Runs::default() {
            self.taken.remove(&line);
        }
    }

    fn set_ranges(&mut self, name: &str, ranges: Option<Vec<Range>>, configured: &[Range]) {
        match ranges {
            Some(ranges) => self.by_object.insert(name.into(), ranges),
            None => self.by_object.remove(name),
        };
        let first = self.by_object.get(DEFAULT).map_or(configured, Vec::as_slice).iter();
        let mut seen = HashSet::new();
        self.ranges = first.chain(self.by_object.values().flatten()).copied().filter(|range| seen.insert(*range)).collect();
    }
}

/// A free number of the span. Many that look at one time find different ones, also where most is taken.
fn free_in(taken: &Runs, span: Span<u64>, random: &mut dyn FnMut() -> u64) -> Option<u64> {
    steps::took(1);
    if span.is_empty() {
        return None;
    }
    let start = span.start + random() % (span.end - span.start);
    let next = |from: u64| Some(taken.next_free(from)).filter(|at| span.contains(at));
    let found = next(start).or_else(|| next(span.start))?;
    if found == start {
        return Some(found);
    }
    // All that fell into this run of taken ones would come out at its end: each goes on a little, or a lot.
    let further = random() % (1 << (random() % 16));
    next(found.saturating_add(further)).or(Some(found))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn addresses(cidr: &str) -> Addresses {
        Addresses::new(&Config { service_cidrs: vec![cidr.parse().unwrap()], ..Config::default() })
    }

    /// Takes all there are, in the order they are given out.
    fn all(addresses: &Addresses, family: &str) -> Vec<IpAddr> {
        let mut random = 7_u64;
        let mut next = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 16
        };
        let one = || {
            let address = addresses.free(family, &mut next)?;
            addresses.state.lock().set(address, true);
            Some(address)
        };
        std::iter::from_fn(one).collect()
    }

    #[test]
    fn each_is_given_once_and_the_band_last() {
        let addresses = addresses("10.96.0.0/24");
        let given = all(&addresses, "IPv4");
        assert_eq!((given.len(), given.iter().collect::<BTreeSet<_>>().len()), (254, 254));
        let last =
            given.iter().rev().take(16).map(|address| place(*address).1 - place("10.96.0.0".parse().unwrap()).1).collect::<BTreeSet<_>>();
        assert_eq!(last, (1..=16).collect());
        assert_eq!(addresses.free("IPv6", &mut || 0), None);
        let freed: IpAddr = "10.96.0.77".parse().unwrap();
        addresses.state.lock().set(freed, false);
        assert_eq!(addresses.free("IPv4", &mut || 3), Some(freed));
    }

    #[test]
    fn ranges_come_and_go_and_the_default_stands_for_itself() {
        let addresses = addresses("10.96.0.0/24");
        let set = |name: &str, cidrs: Option<&[&str]>| {
            let ranges = cidrs.map(|cidrs| cidrs.iter().filter_map(|cidr| Range::parse(cidr)).collect());
            addresses.state.lock().set_ranges(name, ranges, &addresses.configured);
            let all = ["IPv4", "IPv6"].map(|family| addresses.ranges(family).iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            format!("{}|{}", all[0], all[1])
        };
        assert_eq!(set("more", Some(&["10.0.0.0/24", "fd00::/112"])), "10.96.0.0/24 10.0.0.0/24|fd00::/112");
        assert_eq!(set(DEFAULT, Some(&["10.97.0.0/24"])), "10.97.0.0/24 10.0.0.0/24|fd00::/112");
        assert_eq!(set("again", Some(&["10.97.0.0/24"])), "10.97.0.0/24 10.0.0.0/24|fd00::/112");
        assert_eq!(set("more", Some(&[])), "10.97.0.0/24|");
        assert_eq!(set(DEFAULT, None), "10.96.0.0/24 10.97.0.0/24|");
    }

    #[test]
    fn looking_costs_the_same_however_many_are_taken() {
        let mut costs = Vec::new();
        for prefix in [20, 16, 12] {
            let addresses = addresses(&format!("10.96.0.0/{prefix}"));
            let span = addresses.ranges("IPv4")[0].span();
            {
                let mut state = addresses.state.lock();
                let runs = state.taken.entry(Line::V4).or_default();
                // Every other one, which is as many runs as there can be.
                (span.start..span.end).step_by(2).take(50_000).for_each(|at| runs.take(at, at + 1));
            }
            let (found, some) = steps::of(|| addresses.free("IPv4", &mut || 5));
            assert!(found.is_some());
            addresses.state.lock().taken.entry(Line::V4).or_default().take(span.start, span.end);
            let (found, full) = steps::of(|| addresses.free("IPv4", &mut || 5));
            assert_eq!(found, None);
            costs.push(some + full);
        }
        steps::must_not_grow("a free address is looked for", &costs);
    }
}
