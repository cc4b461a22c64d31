//! What one change and one question cost at 1,000, 10,000 and 100,000 services and endpoints: counted, not timed.
//!
//! Not here: a headless service that is asked for as a whole is answered with all of its endpoints.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use api::{
    k8s::api::{core::v1::Service, discovery::v1::EndpointSlice},
    steps,
};
use hickory_proto::rr::{Name, RecordType};
use serde_json::json;

use super::{
    index::Index,
    zone::{Answer, Zone},
};
use crate::testing;

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const IN_A_SLICE: usize = 100;

/// So many services of their own, and one without an address that has as many endpoints.
struct TestCluster {
    index: Index,
    zone: Zone,
    count: usize,
}

#[test]
fn a_change_and_a_question_cost_the_same_however_much_there_is() {
    let index = Index::default();
    index.set_complete();
    let zone = Zone::new("cluster.local", "10.96.0.10".parse().unwrap(), index.clone());
    let mut cluster = TestCluster { index, zone, count: 0 };
    cluster.index.service(None, Some(&Arc::new(testing::service("d/crowd", json!({"clusterIP": "None"})))));
    let mut costs = BTreeMap::new();
    for size in SIZES {
        cluster.grow(size);
        cluster.measure(&mut costs);
    }
    costs.iter().for_each(|(what, costs)| steps::must_not_grow(what, costs));
}

impl TestCluster {
    fn grow(&mut self, size: usize) {
        for at in self.count..size {
            self.index.service(None, Some(&service(at)));
            if at.is_multiple_of(IN_A_SLICE) {
                self.index.slice(None, Some(&slice(at / IN_A_SLICE, "")));
            }
        }
        self.count = size;
    }

    fn measure(&self, costs: &mut BTreeMap<&'static str, Vec<u64>>) {
        let mut cost = |what, happens: &mut dyn FnMut()| costs.entry(what).or_default().push(steps::of(happens).1);
        let (now, then) = (slice(3, ""), slice(3, "Then"));
        cost("a slice changes", &mut || self.index.slice(Some(&now), Some(&then)));
        cost("and is as before", &mut || self.index.slice(Some(&then), Some(&now)));
        cost("a slice comes", &mut || self.index.slice(None, Some(&slice(self.count, ""))));
        cost("a slice goes", &mut || self.index.slice(Some(&slice(self.count, "")), None));
        cost("a service comes", &mut || self.index.service(None, Some(&service(self.count))));
        cost("a service goes", &mut || self.index.service(Some(&service(self.count)), None));
        cost("query for a service", &mut || assert_eq!(self.answers("s7.d.svc.cluster.local.", RecordType::A), Some(1)));
        cost("query for an endpoint", &mut || assert_eq!(self.answers("P3-7.crowd.d.svc.cluster.local.", RecordType::A), Some(1)));
        cost("query for an address", &mut || assert_eq!(self.answers("7.3.0.10.in-addr.arpa.", RecordType::PTR), Some(1)));
        cost("query for an unknown name", &mut || {
            for name in ["none.d.svc.cluster.local.", "none.crowd.d.svc.cluster.local.", "none.svc.cluster.local."] {
                assert_eq!(self.answers(name, RecordType::A), None);
            }
        });
    }

    /// How many records there are; `None` where there is no such name.
    fn answers(&self, name: &str, kind: RecordType) -> Option<usize> {
        match self.zone.answer(&Name::from_ascii(name).unwrap(), kind) {
            Answer::Records { answers, .. } => Some(answers.len()),
            Answer::NoName => None,
            other => panic!("{name}: {other:?}"),
        }
    }
}

// Both are copies of one that was read: reading JSON took most of the time.

fn service(at: usize) -> Arc<Service> {
    static ONE: LazyLock<Service> = LazyLock::new(|| testing::service("d/s", json!({"clusterIP": "None", "ports": [{"port": 80}]})));
    let mut service = ONE.clone();
    service.metadata.name = Some(format!("s{at}"));
    service.spec.as_mut().unwrap().cluster_ip = Some(format!("11.{}.{}.{}", at >> 16, at >> 8 & 255, at & 255));
    Arc::new(service)
}

/// Endpoints are named after the slice and their place in it.
fn slice(number: usize, suffix: &str) -> Arc<EndpointSlice> {
    static ONE: LazyLock<EndpointSlice> = LazyLock::new(|| testing::slice("d/crowd", "", "TCP", 80, &["10.0.0.0@n"; IN_A_SLICE]));
    let mut slice = testing::with(&ONE, |at, endpoint| {
        endpoint.addresses = vec![format!("10.{}.{}.{at}", number >> 8, number & 255)];
        endpoint.hostname = Some(format!("p{number}-{at}{suffix}"));
    });
    slice.metadata.name = Some(format!("crowd-{number}"));
    Arc::new(slice)
}
