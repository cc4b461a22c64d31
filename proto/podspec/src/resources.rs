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
    let mut sum = aggregate(spec, Side::Requests, missing, |_, _| {});
    let own = spec.resources().map(|own| own.requests).unwrap_or_default();
    own.iter().filter(|(name, _)| is_supported_at_pod_level(name)).for_each(|(name, amount)| sum.set(name, amount));
    if overhead == Overhead::Included {
        sum.add_all(spec.overhead().iter());
    }
    sum
}

/// `PodLimits`: overhead comes on top of what is limited at all.
pub fn limits<S: SpecView>(spec: &S, overhead: Overhead) -> Amounts<'_> {
    let mut sum = aggregate(spec, Side::Limits, &[], |_, _| {});
    let own = spec.resources().map(|own| own.limits).unwrap_or_default();
    own.iter().filter(|(name, _)| is_supported_at_pod_level(name)).for_each(|(name, amount)| sum.set(name, amount));
    if overhead == Overhead::Included {
        for (name, amount) in spec.overhead().iter() {
            if sum.get(name).is_some_and(|sum| !sum.is_zero()) {
                sum.add(name, amount);
            }
        }
    }
    sum
}

/// Of the containers alone: what runs at the same time at most, containers with sidecars, or one init container with the sidecars before it.
/// `each` is told what each container takes, and what runs beside it while it is started: the sidecars before it, of which only an init
/// container knows (`AggregateContainerRequests` and `Limits`, `ContainerFn`).
///
/// Takes as long as the pod is large: each container is a look at its own names, not at those of the sidecars before it.
pub fn aggregate<'a, S: SpecView>(
    spec: &'a S,
    side: Side,
    missing: &[(&'a str, Quantity)],
    mut each: impl FnMut(&Amounts<'a>, &Amounts<'a>),
) -> Amounts<'a> {
    let (mut sum, mut sidecars, mut peak) = (Amounts::default(), Amounts::default(), Amounts::default());
    for container in spec.containers() {
        let own = stated(container, side, missing);
        each(&own, &sidecars);
        sum.add_all(own.iter());
    }
    for container in spec.init_containers() {
        let own = stated(container, side, missing);
        each(&own, &sidecars);
        if is_sidecar(container) {
            sum.add_all(own.iter());
            sidecars.add_all(own.iter());
        } else {
            // What it does not name, the sidecars alone take, and `sum` has them all: no amount is negative.
            for (name, amount) in own.iter() {
                peak.raise(name, sidecars.get(name).map_or(amount, |beside| amount.plus(beside)));
            }
        }
    }
    peak.iter().for_each(|(name, amount)| sum.raise(name, amount));
    sum
}

/// CPU, memory and huge pages.
pub fn is_supported_at_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn stated<'a>(container: &'a impl ContainerView, side: Side, missing: &[(&'a str, Quantity)]) -> Amounts<'a> {
    let own = container.resources();
    let list: List<'a> = if side == Side::Requests { own.requests } else { own.limits };
    let absent = missing.iter().copied().filter(|(name, _)| !list.has(name));
    let mut out = Amounts::default();
    list.iter().chain(absent).for_each(|(name, amount)| out.set(name, amount));
    out
}
