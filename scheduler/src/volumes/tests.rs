//! What claims can have on a node: upstream's cases of `binder_test.go`, and what they cost.

use super::*;
use api::k8s::api::storage::v1::{CSIDriver, CSIStorageCapacity};
use serde_json::{Value, json};

fn facts(name: &str) -> Facts {
    Facts { name: name.into(), labels: [("kubernetes.io/hostname".to_owned(), name.to_owned())].into(), ..Facts::default() }
}

fn on(node: &str) -> Value {
    json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}})
}

fn volume(name: &str, gigabytes: u32, node: &str, more: Value) -> Volume {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": format!("{gigabytes}Gi")}, "storageClassName": "s", "nodeAffinity": on(node)});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}})).unwrap())
}

fn claim(name: &str, gigabytes: u32, more: Value) -> Claim {
    let mut whole = json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s",
        "resources": {"requests": {"storage": format!("{gigabytes}Gi")}}}});
    for (part, fields) in more.as_object().unwrap() {
        whole[part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    }
    Arc::new(serde_json::from_value(whole).unwrap())
}

fn class(provisioner: &str, topologies: Value) -> Arc<StorageClass> {
    let said = json!({"metadata": {"name": "s"}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer", "allowedTopologies": topologies});
    Arc::new(serde_json::from_value(said).unwrap())
}

struct World(Volumes);

impl World {
    fn new(provisioner: &str) -> Self {
        let mut volumes = Volumes::default();
        volumes.set_class("s", Some(&class(provisioner, Value::Null)));
        Self(volumes)
    }

    fn volume(&mut self, volume: &Volume) {
        self.0.set_volume(volume.metadata.name.as_deref().unwrap(), Some(volume));
    }

    fn claim(&mut self, claim: &Claim) {
        self.0.set_claim(&own_key(&**claim), Some(claim));
    }

    fn pod(&self, names: &[&str]) -> PodClaims {
        self.0.of_pod(names.iter().map(|name| Key::new("n", name)))
    }

    /// The volumes, and the claims that get a new one.
    fn find(&self, names: &[&str], node: &str) -> Result<(Vec<String>, usize), Vec<&'static str>> {
        let found = self.0.find(&self.pod(names), &facts(node))?;
        Ok((found.bindings.iter().map(|(_, volume)| volume.metadata.name.clone().unwrap()).collect(), found.provisions.len()))
    }

    fn assume(&mut self, names: &[&str], node: &str) -> Found {
        let found = self.0.find(&self.pod(names), &facts(node)).unwrap();
        self.0.assume(&found, node);
        found
    }
}

fn of(names: &[&str], made: usize) -> Result<(Vec<String>, usize), Vec<&'static str>> {
    Ok((names.iter().map(|name| (*name).to_owned()).collect(), made))
}

#[test]
fn claims_get_the_smallest_volumes_of_the_node() {
    let mut world = World::new(claims::NO_PROVISIONER);
    for (name, size, node) in [("a-10", 10, "a"), ("a-2", 2, "a"), ("b-1", 1, "b")] {
        world.volume(&volume(name, size, node, json!({})));
    }
    world.claim(&claim("large", 5, json!({})));
    world.claim(&claim("small", 1, json!({})));
    assert_eq!(world.find(&["large", "small"], "a"), of(&["a-2", "a-10"], 0));
    assert_eq!(world.find(&["small"], "b"), of(&["b-1"], 0));
    assert_eq!(world.find(&["large", "small"], "b"), Err(vec![BIND_CONFLICT]));
    assert_eq!(world.find(&["small"], "c"), Err(vec![BIND_CONFLICT]));
}

#[test]
fn what_is_assumed_is_nobody_elses_until_it_is_given_back() {
    let mut world = World::new(claims::NO_PROVISIONER);
    world.volume(&volume("v", 1, "a", json!({})));
    ["one", "two"].iter().for_each(|name| world.claim(&claim(name, 1, json!({}))));
    let found = world.assume(&["one"], "a");
    assert_eq!(world.find(&["two"], "a"), Err(vec![BIND_CONFLICT]));
    assert_eq!(world.find(&["one"], "a"), of(&["v"], 0), "another pod of the same claim");
    assert_eq!(world.find(&["one"], "b"), Err(vec![BIND_CONFLICT]));
    world.0.revert(&found);
    assert_eq!(world.find(&["two"], "a"), of(&["v"], 0));
    // Written: the cache shows it.
    world.assume(&["one"], "a");
    world.volume(&volume("v", 1, "a", json!({"claimRef": {"namespace": "n", "name": "one", "uid": "one"}})));
    assert!(world.0.assumed.is_empty() && world.0.assumed_volumes.is_empty());
    assert_eq!((world.find(&["one"], "a"), world.find(&["two"], "a")), (of(&["v"], 0), Err(vec![BIND_CONFLICT])));
}

#[test]
fn volumes_are_made_where_the_class_lets_them_be() {
    let mut world = World::new("example.com/p");
    world.claim(&claim("c", 1, json!({})));
    assert_eq!(world.find(&["c"], "a"), of(&[], 1));
    world.0.set_class(
        "s",
        Some(&class("example.com/p", json!([{"matchLabelExpressions": [{"key": "kubernetes.io/hostname", "values": ["b"]}]}]))),
    );
    assert_eq!((world.find(&["c"], "a"), world.find(&["c"], "b")), (Err(vec![BIND_CONFLICT]), of(&[], 1)));
    world.0.set_class("s", Some(&class("example.com/p", Value::Null)));
    let found = world.assume(&["c"], "a");
    assert_eq!(world.find(&["c"], "b"), Err(vec![BIND_CONFLICT]), "it is made on another node");
    world.0.revert(&found);
    world.claim(&claim("c", 1, json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "b"}}})));
    assert_eq!((world.find(&["c"], "a"), world.find(&["c"], "b")), (Err(vec![BIND_CONFLICT]), of(&[], 1)));
}

/// Upstream: `TestCapacity`.
#[test]
fn volumes_are_made_where_their_driver_has_room() {
    let driver = |tells: bool| -> CSIDriver {
        serde_json::from_value(json!({"metadata": {"name": "example.com/p"}, "spec": {"storageCapacity": tells}})).unwrap()
    };
    let capacity = |class: &str, more: Value| -> Arc<CSIStorageCapacity> {
        let mut whole = json!({"metadata": {"name": "c", "namespace": "d"}, "storageClassName": class});
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Arc::new(serde_json::from_value(whole).unwrap())
    };
    let on = |node: &str| json!({"matchLabels": {"kubernetes.io/hostname": node}});
    let rows = [
        ("room", "s", json!({"nodeTopology": on("a"), "capacity": "1Gi"}), true),
        ("too little", "s", json!({"nodeTopology": on("a"), "capacity": "1023Mi"}), false),
        ("elsewhere", "s", json!({"nodeTopology": on("b"), "capacity": "1Gi"}), false),
        ("everywhere", "s", json!({"nodeTopology": {}, "capacity": "1Gi"}), true),
        ("nowhere", "s", json!({"capacity": "1Gi"}), false),
        ("of another class", "t", json!({"nodeTopology": on("a"), "capacity": "1Gi"}), false),
        ("of unknown size", "s", json!({"nodeTopology": on("a")}), false),
        ("in pieces", "s", json!({"nodeTopology": on("a"), "capacity": "1Gi", "maximumVolumeSize": "1Mi"}), false),
        ("in one piece", "s", json!({"nodeTopology": on("a"), "capacity": "1Mi", "maximumVolumeSize": "1Gi"}), true),
        (
            "of two labels",
            "s",
            json!({"nodeTopology": {"matchLabels": {"kubernetes.io/hostname": "a", "rack": "r"}}, "capacity": "1Gi"}),
            false,
        ),
    ];
    for (what, class, more, fits) in rows {
        let (mut world, key) = (World::new("example.com/p"), Key::new("d", "c"));
        world.claim(&claim("c", 1, json!({})));
        let capacity = capacity(class, more);
        world.0.drivers.set_capacity(&key, Some(&capacity));
        assert_eq!(world.find(&["c"], "a"), of(&[], 1), "{what}: the driver does not tell of its room");
        world.0.drivers.set_driver("example.com/p", Some(&driver(false)));
        assert_eq!(world.find(&["c"], "a"), of(&[], 1), "{what}: nor does it now");
        world.0.drivers.set_driver("example.com/p", Some(&driver(true)));
        assert_eq!(world.find(&["c"], "a"), if fits { of(&[], 1) } else { Err(vec![NO_SPACE]) }, "{what}");
        world.0.drivers.set_capacity(&key, None);
        assert_eq!(world.find(&["c"], "a"), Err(vec![NO_SPACE]), "{what}: gone");
        world.volume(&volume("v", 1, "a", json!({})));
        assert_eq!(world.find(&["c"], "a"), of(&["v"], 0), "{what}: there is one already");
    }
}

#[test]
fn volumes_of_other_nodes_are_not_looked_at() {
    let (mut world, mut costs, mut count) = (World::new(claims::NO_PROVISIONER), Vec::new(), 0);
    world.claim(&claim("c", 1, json!({})));
    world.volume(&volume("anywhere", 3, "a", json!({"nodeAffinity": null})));
    for size in [20, 200, 2_000] {
        while count < size {
            world.volume(&volume(&format!("v{count}"), 2, &format!("n{count}"), json!({})));
            count += 1;
        }
        let before = steps::so_far();
        assert_eq!(world.find(&["c"], "n7"), of(&["v7"], 0));
        assert_eq!(world.find(&["c"], "none"), of(&["anywhere"], 0));
        costs.push(steps::so_far().wrapping_sub(before));
    }
    steps::must_not_grow("a claim on a node", &costs);
}

#[test]
fn bound_claims_are_had_where_their_volumes_are() {
    let mut world = World::new("example.com/p");
    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}});
    world.claim(&claim("c", 1, bound));
    assert_eq!(world.find(&["c"], "a"), Err(vec![NO_VOLUME]));
    world.volume(&volume("v", 1, "a", json!({"claimRef": {"namespace": "n", "name": "c", "uid": "c"}})));
    assert_eq!((world.find(&["c"], "a"), world.find(&["c"], "b")), (of(&[], 0), Err(vec![NODE_CONFLICT])));
    // Named, and not bound: the binder is to do that at once.
    world.claim(&claim("named", 1, json!({"spec": {"volumeName": "v"}})));
    assert_eq!(world.pod(&["named"]).immediate, 1);
}

#[test]
fn who_waits_is_told_and_forgotten() {
    let mut world = World::new("example.com/p");
    world.claim(&claim("c", 1, json!({})));
    let mut told = world.0.follow_claim(&Key::new("n", "c"));
    assert!(told.borrow_and_update().is_some());
    world.0.set_claim(&Key::new("n", "c"), None);
    assert!(told.has_changed().unwrap() && told.borrow_and_update().is_none());
    drop(told);
    world.claim(&claim("c", 1, json!({})));
    assert!(world.0.claim_waits.is_empty());
}
