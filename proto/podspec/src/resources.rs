//! Requests, limits and overhead of containers and pod -> what the pod takes as a whole.
//!
//! Source: component-helpers `resource/helpers.go` (`PodRequests`, `PodLimits`), without what containers' statuses say of a resize under way.

use api::quantity::Quantity;

use crate::{Amounts, ContainerView, List, SpecView, is_sidecar};

/// Which of the two lists is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Requests,
    Limits,
}

/// Whether what running the pod takes besides its containers is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overhead {
    Included,
    Excluded,
}

/// `PodRequests`. `missing` is what a container is taken to request of resources that it does not name (`NonMissingContainerRequests`).
pub fn requests<'a, S: SpecView>(spec: &'a S, overhead: Overhead, missing: &[(&'a str, Quantity)]) -> Amounts<'a> {
    let mut sum = aggregate(spec, Side::Requests, missing, |_| {});
    let own = spec.resources().map(|own| own.requests).unwrap_or_default();
    sum.extend(own.iter().filter(|(name, _)| is_supported_at_pod_level(name)));
    if overhead == Overhead::Included {
        add(&mut sum, spec.overhead().iter());
    }
    sum
}

/// `PodLimits`: overhead comes on top of what is limited at all.
pub fn limits<S: SpecView>(spec: &S, overhead: Overhead) -> Amounts<'_> {
    let mut sum = aggregate(spec, Side::Limits, &[], |_| {});
    let own = spec.resources().map(|own| own.limits).unwrap_or_default();
    sum.extend(own.iter().filter(|(name, _)| is_supported_at_pod_level(name)));
    if overhead == Overhead::Included {
        let on_top: Vec<_> = spec.overhead().iter().filter(|(name, _)| sum.get(name).is_some_and(|sum| !sum.is_zero())).collect();
        add(&mut sum, on_top.into_iter());
    }
    sum
}

/// Of the containers alone: what runs at the same time at most, containers with sidecars, or one init container with the sidecars before it.
/// `each` is told what each container takes while it is started (`AggregateContainerRequests` and `Limits`, `ContainerFn`).
pub fn aggregate<'a, S: SpecView>(
    spec: &'a S,
    side: Side,
    missing: &[(&'a str, Quantity)],
    mut each: impl FnMut(&Amounts<'a>),
) -> Amounts<'a> {
    let mut sum = Amounts::new();
    for container in spec.containers() {
        let own = stated(container, side, missing);
        each(&own);
        add(&mut sum, own.into_iter());
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers() {
        let mut own = stated(container, side, missing);
        if is_sidecar(container) {
            add(&mut sum, own.iter().map(|(name, amount)| (*name, *amount)));
            add(&mut sidecars, own.into_iter());
            each(&sidecars);
            raise(&mut peak, &sidecars);
        } else {
            add(&mut own, sidecars.iter().map(|(name, amount)| (*name, *amount)));
            each(&own);
            raise(&mut peak, &own);
        }
    }
    raise(&mut sum, &peak);
    sum
}

/// CPU, memory and huge pages.
pub fn is_supported_at_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Adds each amount to what is there by its name.
pub fn add<'a>(sum: &mut Amounts<'a>, more: impl Iterator<Item = (&'a str, Quantity)>) {
    for (name, amount) in more {
        // Nothing has no format of its own.
        let with = |sum: &mut Quantity| *sum = if sum.is_zero() { amount } else { sum.plus(amount) };
        sum.entry(name).and_modify(with).or_insert(amount);
    }
}

fn stated<'a>(container: &'a impl ContainerView, side: Side, missing: &[(&'a str, Quantity)]) -> Amounts<'a> {
    let own = container.resources();
    let list: List<'a> = if side == Side::Requests { own.requests } else { own.limits };
    let absent = missing.iter().copied().filter(|(name, _)| !list.has(name));
    list.iter().chain(absent).collect()
}

fn raise<'a>(sum: &mut Amounts<'a>, other: &Amounts<'a>) {
    for (name, amount) in other {
        let known = sum.entry(name).or_insert(*amount);
        if *amount > *known {
            *known = *amount;
        }
    }
}
