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
    own.iter().filter(|(name, _)| is_supported_at_pod_level(name)).for_each(|(name, amount)| sum.set(name, amount));
    if overhead == Overhead::Included {
        sum.add_all(spec.overhead().iter());
    }
    sum
}

/// `PodLimits`: overhead comes on top of what is limited at all.
pub fn limits<S: SpecView>(spec: &S, overhead: Overhead) -> Amounts<'_> {
    let mut sum = aggregate(spec, Side::Limits, &[], |_| {});
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
/// `each` is told what each container takes while it is started (`AggregateContainerRequests` and `Limits`, `ContainerFn`).
pub fn aggregate<'a, S: SpecView>(
    spec: &'a S,
    side: Side,
    missing: &[(&'a str, Quantity)],
    mut each: impl FnMut(&Amounts<'a>),
) -> Amounts<'a> {
    let mut sum = Amounts::default();
    for container in spec.containers() {
        let own = stated(container, side, missing);
        each(&own);
        sum.add_all(own.iter());
    }
    let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
    for container in spec.init_containers() {
        let mut own = stated(container, side, missing);
        if is_sidecar(container) {
            sum.add_all(own.iter());
            sidecars.add_all(own.iter());
            each(&sidecars);
            peak.raise(&sidecars);
        } else {
            own.add_all(sidecars.iter());
            each(&own);
            peak.raise(&own);
        }
    }
    sum.raise(&peak);
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
