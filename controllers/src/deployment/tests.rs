//! A deployment rolled to its end against sets that obey: at each step the strategy's bounds hold.

use std::collections::BTreeMap;

use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_000_000;

/// The sets as an API server and a ReplicaSet controller would keep them.
struct Cluster {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    revision: u64,
    now: i64,
    /// Pods of an image with this name never become available.
    broken_image: &'static str,
}

impl Cluster {
    fn new(replicas: i32, strategy: &Value) -> Self {
        let deployment = json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "dep", "resourceVersion": "1", "generation": 1},
            "spec": {
                "replicas": replicas, "strategy": strategy, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
            },
        });
        let deployment = serde_json::from_value(deployment).unwrap();
        Self { deployment, sets: BTreeMap::new(), revision: 1, now: NOW, broken_image: "bad" }
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn plan(&self) -> Plan {
        let with_pods = self.sets.values().filter(|s| s.status.as_ref().is_some_and(|s| s.replicas > 0)).filter_map(|s| s.uid());
        plan(&World {
            deployment: Arc::new(self.deployment.clone()),
            sets: self.sets.values().cloned().map(Arc::new).collect(),
            with_pods: with_pods.collect(),
            lasted: Lasted::at(Timestamp::from_second(self.now).unwrap()),
        })
    }

    /// One look, plan, act; true if something changed.
    fn step(&mut self) -> bool {
        let actions = self.plan().actions;
        let changed = !actions.is_empty();
        for action in actions {
            self.revision += 1;
            match action {
                Action::Create { object, .. } => self.keep(object),
                Action::Update { resource, object, .. } if resource.resource == "replicasets" => self.keep(object),
                Action::Update { object, .. } => {
                    let updated: Deployment = serde_json::from_value(object).unwrap();
                    self.deployment.status = updated.status;
                    self.deployment.metadata.annotations = updated.metadata.annotations;
                }
                Action::Delete { path, .. } => drop(self.sets.remove(path.rsplit('/').next().unwrap())),
                Action::Event { .. } => {}
                other @ (Action::Patch { .. } | Action::DeleteAll { .. }) => panic!("unexpected {other:?}"),
            }
        }
        changed
    }

    fn keep(&mut self, object: Value) {
        let mut set: ReplicaSet = serde_json::from_value(object).unwrap();
        set.metadata.resource_version = Some(self.revision.to_string());
        let name = set.name_any();
        set.metadata.uid.get_or_insert_with(|| format!("uid-{name}"));
        set.metadata.creation_timestamp.get_or_insert(Time(Timestamp::from_second(self.now).unwrap()));
        self.sets.insert(name, set);
    }

    /// The ReplicaSet controller and the nodes do their work.
    fn obey(&mut self) {
        self.now += 1;
        for set in self.sets.values_mut() {
            let count = math::size(set);
            let image = set.spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap().containers[0].image.clone();
            let works = image.as_deref() != Some(self.broken_image);
            let status = set.status.get_or_insert_default();
            status.replicas = count;
            status.ready_replicas = works.then_some(count);
            status.available_replicas = works.then_some(count);
        }
    }

    fn sizes(&self) -> (i32, i32) {
        let (all, up) = (math::total(self.sets.values()), self.sets.values().map(math::available).sum());
        (all, up)
    }

    fn settle(&mut self, mut check: impl FnMut(&Self)) {
        for _ in 0..100 {
            let changed = self.step();
            check(self);
            self.obey();
            check(self);
            if !changed {
                return;
            }
        }
        panic!("does not settle: {:?}", self.plan());
    }

    fn image(&self, name: &str) -> i32 {
        let of = |set: &&ReplicaSet| {
            set.spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap().containers[0].image.as_deref() == Some(name)
        };
        self.sets.values().filter(of).map(math::size).sum()
    }

    fn reason(&self) -> Option<String> {
        conditions::progressing(&self.deployment)?.reason.clone()
    }
}

fn rolling(surge: &Value, unavailable: &Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

#[test]
fn a_rolling_update_keeps_within_its_bounds() {
    for (surge, unavailable, most, least) in
        [(json!("25%"), json!("25%"), 13, 8), (json!(1), json!(0), 11, 10), (json!(0), json!(3), 10, 7), (json!(0), json!("0%"), 10, 9)]
    {
        let mut cluster = Cluster::new(10, &rolling(&surge, &unavailable));
        cluster.settle(|_| {});
        assert_eq!((cluster.sizes(), cluster.reason().as_deref()), ((10, 10), Some("NewReplicaSetAvailable")));
        cluster.set_image("v2");
        cluster.settle(|c| {
            let (all, up) = c.sizes();
            assert!(all <= most && up >= least, "surge {surge} unavailable {unavailable}: {all} pods, {up} up");
        });
        assert_eq!((cluster.image("v1"), cluster.image("v2")), (0, 10));
        assert_eq!(cluster.deployment.annotations()[revision::REVISION], "2");
    }
}

#[test]
fn pods_of_an_old_set_that_are_to_go_count_no_more() {
    let mut cluster = Cluster::new(20, &rolling(&json!("25%"), &json!("25%")));
    cluster.settle(|_| {});
    cluster.set_image("v2");
    while cluster.step() {}
    assert_eq!((cluster.image("v1"), cluster.image("v2")), (15, 10));
    for set in cluster.sets.values_mut() {
        // One of the old pods that are to go is gone; half of the new ones are up.
        let up = if math::size(set) == 15 { 19 } else { 5 };
        let status = set.status.get_or_insert_default();
        (status.replicas, status.available_replicas) = (up, Some(up));
    }
    while cluster.step() {}
    assert_eq!(cluster.image("v1"), 10, "with five new ones that is what must be available");
}

#[test]
fn a_set_that_is_still_to_give_up_pods_does_not_grow() {
    let mut cluster = Cluster::new(4, &rolling(&json!("25%"), &json!("25%")));
    cluster.settle(|_| {});
    cluster.set_image("v2");
    // Two rounds: each set has some pods, all of them work.
    (0..2).for_each(|_| {
        cluster.step();
        cluster.obey();
    });
    cluster.deployment.spec.as_mut().unwrap().replicas = Some(2);
    cluster.step();
    let shares = (cluster.image("v1"), cluster.image("v2"));
    let slow: Vec<String> = cluster.sets.values().filter(|set| math::replicas(set) > math::size(set)).map(ResourceExt::name_any).collect();
    assert_eq!(slow.len(), 2, "both are to give up pods: {shares:?}");
    // The old one was seen to do so, the new one was not yet.
    let floor = |c: &Cluster| c.sets.values().map(|set| math::available(set).min(math::size(set))).sum::<i32>();
    for _ in 0..3 {
        cluster.step();
        assert_eq!(cluster.image("v2"), shares.1, "its status still counts what goes");
        assert!(floor(&cluster) >= 2, "two pods are kept");
    }
    cluster.obey();
    cluster.settle(|_| {});
    assert_eq!((cluster.sizes(), cluster.image("v2")), ((2, 2), 2));
}

#[test]
fn recreate_lets_the_old_go_first() {
    let mut cluster = Cluster::new(3, &json!({"type": "Recreate"}));
    cluster.settle(|_| {});
    cluster.set_image("v2");
    cluster.settle(|c| assert!(c.image("v1") == 0 || c.image("v2") == 0, "both at once"));
    assert_eq!(cluster.image("v2"), 3);
}

#[test]
fn a_bad_image_blocks_the_rollout_until_the_deadline() {
    let mut cluster = Cluster::new(4, &rolling(&json!(1), &json!(1)));
    cluster.settle(|_| {});
    cluster.set_image("bad");
    cluster.settle(|c| assert!(c.sizes().1 >= 3));
    assert_eq!(cluster.image("bad"), 2);
    assert!(cluster.plan().again.is_some(), "the deadline is waited for");
    cluster.now += 700;
    cluster.step();
    assert_eq!(cluster.reason().as_deref(), Some("ProgressDeadlineExceeded"));
    cluster.set_image("v1");
    cluster.settle(|_| {});
    assert_eq!((cluster.image("v1"), cluster.image("bad")), (4, 0));
    assert_eq!(cluster.deployment.annotations()[revision::REVISION], "3", "a rollback is a new revision");
}

#[test]
fn a_scaling_in_the_middle_is_shared_out() {
    let mut cluster = Cluster::new(10, &rolling(&json!(3), &json!(2)));
    cluster.settle(|_| {});
    cluster.set_image("bad");
    cluster.settle(|_| {});
    let (old, new) = (cluster.image("v1"), cluster.image("bad"));
    assert_eq!((old, new), (8, 5));
    cluster.deployment.spec.as_mut().unwrap().replicas = Some(20);
    cluster.settle(|_| {});
    assert_eq!(cluster.image("v1") + cluster.image("bad"), 23);
    assert!(cluster.image("v1") > old && cluster.image("bad") > new, "both grow");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut cluster = Cluster::new(2, &rolling(&json!(1), &json!(0)));
    cluster.settle(|_| {});
    cluster.deployment.spec.as_mut().unwrap().paused = Some(true);
    cluster.set_image("v2");
    cluster.settle(|_| {});
    assert_eq!((cluster.image("v1"), cluster.image("v2"), cluster.reason().as_deref()), (2, 0, Some("DeploymentPaused")));
    cluster.deployment.spec.as_mut().unwrap().replicas = Some(5);
    cluster.settle(|_| {});
    assert_eq!(cluster.image("v1"), 5);
    cluster.deployment.spec.as_mut().unwrap().paused = None;
    cluster.settle(|_| {});
    assert_eq!((cluster.image("v1"), cluster.image("v2")), (0, 5));
}

#[test]
fn old_revisions_are_forgotten_beyond_the_limit() {
    let mut cluster = Cluster::new(1, &rolling(&json!(1), &json!(0)));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        cluster.set_image(image);
        for set in cluster.sets.values_mut() {
            set.status.get_or_insert_default().observed_generation = set.metadata.generation;
        }
        cluster.settle(|_| {});
    }
    assert_eq!(cluster.sets.len(), 3, "the new one and two to go back to");
}
