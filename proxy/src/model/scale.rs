//! What one change costs the service proxy's model where a service has 1,000, 10,000 and 100,000 endpoints, or as many neighbours: counted, not
//! timed.
//!
//! A service is reckoned as a whole; what holds the cost of a change is that the proxy rests in proportion ([`crate::sync`]).

use std::{collections::BTreeMap, sync::Arc};

use api::{Key, k8s::api::discovery::v1::EndpointSlice, steps};
use serde_json::json;

use super::{Node, service_ports};
use crate::{Family, Mode, proxier::rest, service_tracker::ServiceTracker, testing};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const IN_A_SLICE: usize = 100;
/// Microseconds between changes: a pod or two become ready in a large cluster.
const EACH: u128 = 500;

#[test]
fn a_change_costs_the_same_however_many_endpoints_and_services_there_are() {
    let (tracker, mut costs, mut count) = (ServiceTracker::noting(), BTreeMap::new(), 0);
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
    tracker.service(None, Some(&Arc::new(testing::service("d/crowd", spec.clone()))));
    for size in SIZES {
        for at in count..size {
            let name = format!("d/s{at}");
            tracker.service(None, Some(&Arc::new(testing::service(&name, spec.clone()))));
            tracker.slice(None, Some(&slice(&name, at, 1)));
            if at.is_multiple_of(IN_A_SLICE) {
                tracker.slice(None, Some(&slice("d/crowd", at / IN_A_SLICE, IN_A_SLICE)));
            }
        }
        count = size;
        tracker.take_changed();
        measure(&tracker, size, &mut costs);
    }
    costs.iter().for_each(|(what, costs)| steps::must_not_grow(what, costs));
}

fn measure(tracker: &ServiceTracker, size: usize, costs: &mut BTreeMap<&'static str, Vec<u64>>) {
    let mut cost = |what, steps: u64| costs.entry(what).or_default().push(steps);
    let small = slice("d/s7", 7, 1);
    cost("a slice of a small service changes", steps::of(|| synced(tracker, &small)).1);
    let large = slice("d/crowd", 3, IN_A_SLICE);
    let (endpoints, steps) = steps::of(|| synced(tracker, &large));
    assert_eq!(endpoints, size);
    let together = (rest(Mode::Nftables, endpoints).as_micros() / EACH).max(1);
    cost("each of a stream of changes of a large one", steps / u64::try_from(together).unwrap());
}

/// How many endpoints there are after the slice has changed and all that changed was planned.
fn synced(tracker: &ServiceTracker, slice: &Arc<EndpointSlice>) -> usize {
    tracker.slice(Some(slice), Some(slice));
    let changed: Vec<Key> = tracker.take_changed().into_iter().collect();
    assert_eq!(changed.len(), 1, "nobody else is looked at");
    let entry = tracker.entry(&changed[0]);
    let all = service_ports(entry.service.as_ref().unwrap(), entry.slices.values().map(|s| &**s), &Node::default(), Family::V4);
    all.iter().map(|service_port| service_port.backends.cluster.len()).sum()
}

fn slice(service: &str, number: usize, endpoints: usize) -> Arc<EndpointSlice> {
    let endpoints: Vec<String> = (0..endpoints).map(|at| format!("10.{}.{}.{at}@n", number >> 8, number & 255)).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let mut slice = testing::slice(service, "", "TCP", 80, &endpoints);
    slice.metadata.name = Some(format!("slice-{number}"));
    Arc::new(slice)
}
