//! A pod whose step panics -> an error of that pod: the others go on, and it is tried again.

use std::{convert::Infallible, io, path::Path, sync::Arc};

use api::{
    k8s::api::core::v1::Pod,
    task::Group,
    time::{Timestamp, after},
};
use client::{Caches, Recorder, kube::Client};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    SyncLoop,
    entry::{Advanced, Entry, Origin},
    tasks::Tasks,
};
use crate::{
    Pods, cgroups,
    container_config::testing,
    meta,
    metrics::Metrics,
    pods::{
        desired::admit::NodeCapacity,
        event::Event,
        probes::Prober,
        runtime_state::pleg_generic::Listing,
        workers::{Deps, Images, StartLimiter},
    },
    volumes,
};

/// As long as its label says so, a pod cannot be planned.
fn touchy(entry: &mut Entry, host_ips: &[String], now: Timestamp) -> Advanced {
    assert!(!entry.pod.metadata.labels.as_ref().is_some_and(|l| l.contains_key("bad")), "a plan that panics");
    entry.advance(host_ips, now)
}

/// The loop of a node whose runtime and API server do not answer.
fn a_loop(dir: &Path, pods: &Pods, group: &Group) -> (SyncLoop, mpsc::Receiver<Event>) {
    let never = tower::service_fn(|_: http::Request<client::kube::client::Body>| async {
        std::future::pending::<Result<http::Response<client::kube::client::Body>, Infallible>>().await
    });
    let client = Client::new(never, "default");
    let caches = Caches::unfollowed(client.clone(), group.clone());
    let runtime = cri::Runtime::at(&dir.join("nobody"));
    let deps = Arc::new(Deps {
        images: Images::new(runtime.clone(), client.clone()),
        runtime,
        node: testing::context(Pod::default(), dir).node,
        recorder: Recorder::new(client.clone(), "kubelet", None, group),
        volumes: volumes::testing::manager(dir.join("root"), client.clone(), group),
        client,
        cgroups: cgroups::Manager::detect("skiff-panics-test").unwrap(),
        services: caches.of(),
        nodes: caches.of(),
        metrics: Metrics::default(),
        start_limiter: StartLimiter::new(),
    });
    let (events, inbox) = mpsc::channel(64);
    let findings = mpsc::channel(64).0;
    let prober = Prober { runtime: deps.runtime.clone(), recorder: deps.recorder.clone(), node_ip: None, group: group.clone(), findings };
    let tasks = Tasks::new(deps.clone(), group.clone(), events);
    let room = NodeCapacity { pods_max: 9, ..NodeCapacity::default() };
    (SyncLoop::new(deps, caches.of(), pods.clone(), room, prober, tasks, touchy), inbox)
}

fn pod(name: &str, labels: &str) -> Arc<Pod> {
    let text = format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"d","uid":"u-{name}","labels":{labels}}},"spec":{{"containers":[{{"name":"c","image":"i"}}]}}}}"#
    );
    Arc::new(serde_json::from_str(&text).unwrap())
}

/// What is logged as an error on this thread while it is held.
fn errors() -> (tracing::subscriber::DefaultGuard, Arc<Mutex<Vec<u8>>>) {
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let into = log.clone();
    let told = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).with_ansi(false).with_writer(move || Sink(into.clone()));
    (tracing::subscriber::set_default(told.finish()), log)
}

fn panics() -> u64 {
    let metrics = api::faults::metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix("skiff_panics_total{loop=\"pods\"} "));
    line.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn a_pod_that_panics_is_tried_again_and_the_others_go_on() {
    let dir = volumes::testing::Scratch::new();
    // Its end waits for what is being mounted.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(the_others_go_on(dir.path()));
}

async fn the_others_go_on(dir: &Path) {
    let (group, pods) = (Group::new(), Pods::default());
    let (mut this, _inbox) = a_loop(dir, &pods, &group);
    let (began, before) = (Timestamp::now(), panics());
    let (_held, log) = errors();
    let logged = || String::from_utf8_lossy(&std::mem::take(&mut *log.lock())).lines().map(str::to_owned).collect::<Vec<_>>();
    // What the runtime has is known: nothing.
    this.event(Event::Listed(Listing::default()));
    let good = pod("good", "{}");
    this.wanted(Origin::Api, pod("bad", r#"{"bad":""}"#));
    this.wanted(Origin::Api, good.clone());
    let lines = logged();
    assert_eq!((panics() - before, lines.len()), (1, 1), "it is counted once, and told once: {lines:?}");
    assert!(lines[0].contains("retrying") && lines[0].contains("bad_d(u-bad)"), "{lines:?}");
    assert!(pods.by_uid("u-bad").is_none() && pods.by_name("d", "good").is_some_and(|v| meta::uid(&v.pod) == "u-good"));
    assert!(this.entries["u-good"].worker.is_busy(), "it is being made");
    // No step copies a pod: the loop and the node's server have the one that was given.
    assert!(Arc::ptr_eq(&this.entries["u-good"].pod, &good) && Arc::ptr_eq(&pods.by_uid("u-good").unwrap().pod, &good));
    let wake = this.timers.of("u-bad").expect("it is tried again");
    assert!(wake > after(began, std::time::Duration::from_secs(5)), "not at once");
    // Each try counts, and every event for it is a try; once it can be planned it is as any other.
    this.step("u-bad");
    assert_eq!((panics() - before, logged().len()), (2, 1));
    this.wanted(Origin::Api, pod("bad", "{}"));
    assert!(pods.by_uid("u-bad").is_some() && this.entries["u-bad"].worker.is_busy());
    assert_eq!((panics() - before, logged().len(), group.fault()), (2, 0, None));
    assert!(group.drain(std::time::Duration::from_secs(10)).await);
}
