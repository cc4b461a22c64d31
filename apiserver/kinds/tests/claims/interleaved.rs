//! Any writes of two servers in any order, over a store that may lose them or their answers: claims are what the Services have.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};
use store::{
    Store,
    faulty::{Faults, Faulty},
    memory::Memory,
};

use crate::world::{SERVICES, Server, check, claimed, message, small};

const KINDS: [&str; 4] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];

/// One write of one Service.
#[derive(Clone, Debug)]
struct Step {
    /// Which of the two servers.
    server: usize,
    name: u8,
    what: What,
    is_dry: bool,
}

#[derive(Clone, Debug)]
enum What {
    Make(Spec),
    Change(Spec),
    Drop,
}

#[derive(Clone, Debug)]
struct Spec {
    kind: usize,
    local: bool,
    hands_out: bool,
    headless: bool,
    /// Last part of the address that is asked for; 0 for none, beyond 14 outside of the range.
    address: u8,
    /// Node ports that are asked for; 0 for none.
    ports: Vec<i64>,
}

impl Spec {
    fn value(&self) -> Value {
        let kind = KINDS[self.kind];
        let is_name = kind == "ExternalName";
        let port = |(i, node): (usize, &i64)| json!({"name": format!("p{i}"), "port": 80 + i, "nodePort": node});
        let mut spec = json!({"type": kind, "ports": self.ports.iter().enumerate().map(port).collect::<Vec<_>>()});
        spec["externalName"] = if is_name { json!("x.example") } else { Value::Null };
        spec["externalTrafficPolicy"] = if self.local && kind == "LoadBalancer" { json!("Local") } else { Value::Null };
        spec["allocateLoadBalancerNodePorts"] = if kind == "LoadBalancer" { json!(self.hands_out) } else { Value::Null };
        spec
    }

    /// A new Service may ask for an address, too.
    fn new_value(&self) -> Value {
        let mut spec = self.value();
        match (KINDS[self.kind], self.headless, self.address) {
            ("ExternalName", ..) => {}
            ("ClusterIP", true, _) => spec["clusterIP"] = "None".into(),
            (.., 0) => {}
            (.., last) => spec["clusterIP"] = format!("10.96.0.{last}").into(),
        }
        spec
    }
}

impl Step {
    async fn take(&self, servers: &[Server; 2]) -> (u16, Value) {
        let (server, name) = (&servers[self.server], format!("s{}", self.name));
        let (path, query) = (format!("{SERVICES}/{name}"), if self.is_dry { "?dryRun=All" } else { "" });
        match &self.what {
            What::Make(spec) => {
                server.send("POST", &format!("{SERVICES}{query}"), json!({"metadata": {"name": name}, "spec": spec.new_value()})).await
            }
            What::Change(spec) => server.send("PATCH", &format!("{path}{query}"), json!({"spec": spec.value()})).await,
            What::Drop => server.send("DELETE", &format!("{path}{query}"), Value::Null).await,
        }
    }
}

fn spec() -> impl Strategy<Value = Spec> {
    let ports = vec(prop_oneof![3 => Just(0_i64), 1 => 29999..30005_i64], 1..3);
    let some =
        (0..KINDS.len(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), prop_oneof![2 => Just(0_u8), 1 => 1..17_u8], ports);
    some.prop_map(|(kind, local, hands_out, headless, address, ports)| Spec { kind, local, hands_out, headless, address, ports })
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![3 => spec().prop_map(What::Make), 4 => spec().prop_map(What::Change), 2 => Just(What::Drop)];
    (0..2_usize, 0..6_u8, what, prop::bool::weighted(0.1)).prop_map(|(server, name, what, is_dry)| Step { server, name, what, is_dry })
}

/// Upstream's answers to what cannot be had.
fn is_answer(reply: &(u16, Value)) -> bool {
    let words = message(reply);
    match reply.0 {
        500 => words.ends_with("range is full") || words.contains("failed to allocate requested HealthCheck NodePort"),
        code => matches!(code, 200 | 201 | 404 | 409 | 422),
    }
}

async fn run(chunks: &[Vec<Step>], seed: u64, faults: Faults) {
    let memory = Arc::new(Memory::new());
    let mut random = seed | 1;
    let next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    let faulty = Arc::new(Faulty::new(memory.clone(), Box::new(next)));
    let servers = [Server::start(faulty.clone(), &small()).await, Server::start(faulty.clone(), &small()).await];
    servers[0].bootstrap().await;
    for chunk in chunks {
        faulty.set(faults);
        let replies = join_all(chunk.iter().map(|step| step.take(&servers))).await;
        faulty.set(Faults::default());
        for (reply, step) in replies.iter().zip(chunk) {
            assert!(is_answer(reply) || faults != Faults::default() && matches!(reply.0, 503 | 504), "{step:?}: {reply:?}");
        }
        check(&*memory).await;
    }
    // All can be had again.
    for name in 0..6 {
        let code = servers[0].drop_service(&format!("s{name}")).await;
        assert!(matches!(code, 200 | 404), "{code}");
    }
    let left = claimed(&*memory).await;
    assert!(left.addresses.is_empty() && left.ports.is_empty(), "{left:?}");
    memory.close().await;
}

fn within<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("in time") })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn claims_are_what_services_have(chunks in vec(vec(step(), 1..5), 1..20)) {
        within(run(&chunks, 1, Faults::default()));
    }

    #[test]
    fn also_over_a_store_that_loses_writes_and_answers(chunks in vec(vec(step(), 1..5), 1..12), seed: u64) {
        let faults = Faults {
            late: 200,
            late_max: Duration::from_millis(2),
            done_unanswered: 100,
            lost: 100,
            unread: 30,
            cut: 50,
            forgotten: 0,
        };
        within(run(&chunks, seed, faults));
    }
}
