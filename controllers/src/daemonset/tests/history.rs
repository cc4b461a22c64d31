//! Revisions: made, found again, numbered, forgotten, adopted.

use reconcile::{Action, Plan};
use serde_json::{Value, json};

use super::cluster::{Cluster, unavailable};
use crate::revisions::HASH;

fn numbers(cluster: &Cluster) -> Vec<i64> {
    let mut numbers: Vec<i64> = cluster.revisions.values().map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    numbers
}

fn roll(cluster: &mut Cluster, image: &str) {
    cluster.image(image);
    for _ in 0..6 {
        cluster.sync();
        cluster.ready();
    }
}

#[test]
fn each_template_is_kept_with_all_that_kubectl_asks_for() {
    let mut cluster = Cluster::new(1, &unavailable(json!(1)));
    cluster.set.metadata.annotations.as_mut().unwrap().insert("kubernetes.io/change-cause".into(), "why".into());
    cluster.sync();
    let (name, revision) = cluster.revisions.iter().next().unwrap();
    let hash = cluster.hash();
    assert_eq!((name, revision.revision), (&format!("foo-{hash}"), 1));
    let labels = [("app".to_owned(), "foo".to_owned()), (HASH.to_owned(), hash)];
    assert_eq!(revision.metadata.labels, Some(labels.into()));
    assert_eq!(revision.metadata.annotations.as_ref().unwrap()["kubernetes.io/change-cause"], "why");
    let owner = &revision.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.controller, owner.block_owner_deletion), ("DaemonSet", Some(true), Some(true)));
    let data = &revision.data.as_ref().unwrap().0;
    assert_eq!(
        (&data["spec"]["template"]["$patch"], &data["spec"]["template"]["spec"]["containers"][0]["image"]),
        (&json!("replace"), &json!("v1"))
    );
}

/// A template that comes back gets the highest number, and its pods are not made anew.
#[test]
fn going_back_restarts_no_more_than_it_must() {
    let mut cluster = Cluster::settled(3, &json!({"type": "OnDelete"}));
    cluster.image("v2");
    cluster.sync();
    assert_eq!(numbers(&cluster), [1, 2]);
    let first = cluster.pods.keys().next().unwrap().clone();
    cluster.pods.remove(&first);
    cluster.sync();
    cluster.strategy(unavailable(json!(3)));
    cluster.image("v1");
    cluster.ready();
    assert_eq!(cluster.sync(), (1, 1), "two are as they should be");
    assert_eq!(numbers(&cluster), [2, 3]);
}

#[test]
fn the_oldest_that_nobody_runs_are_forgotten() {
    let mut cluster = Cluster::settled(2, &unavailable(json!(2)));
    cluster.set.spec.as_mut().unwrap().revision_history_limit = Some(2);
    (2..7).for_each(|n| roll(&mut cluster, &format!("v{n}")));
    assert_eq!(numbers(&cluster), [4, 5, 6], "two, and the current one");
    // What pods are of stays, however old.
    cluster.set.spec.as_mut().unwrap().revision_history_limit = Some(0);
    cluster.strategy(json!({"type": "OnDelete"}));
    cluster.image("v7");
    cluster.sync();
    assert_eq!(numbers(&cluster), [6, 7]);
}

#[test]
fn another_template_under_the_same_name_counts_as_a_collision() {
    let mut cluster = Cluster::settled(1, &unavailable(json!(1)));
    cluster.image("v2");
    let key = super::super::history::next_key(&cluster.set);
    let mut occupant = cluster.revisions.values().next().unwrap().clone();
    occupant.metadata.name = Some(key.name.to_string());
    occupant.metadata.owner_references = None;
    occupant.metadata.labels = None;
    occupant.data.as_mut().unwrap().0 = json!({"other": 1});
    cluster.revisions.insert(key.name.to_string(), occupant);
    let Plan { actions, .. } = cluster.plan();
    assert!(matches!(actions.as_slice(), [Action::Update { object, .. }] if object["status"]["collisionCount"] == 1), "{actions:?}");
    assert_eq!(cluster.sync(), (1, 1));
    assert_eq!((cluster.set.status.as_ref().unwrap().collision_count, cluster.revisions.len()), (Some(1), 3));
}

#[test]
fn what_stands_there_already_and_says_the_same_is_taken() {
    let mut cluster = Cluster::settled(1, &unavailable(json!(1)));
    let (name, mut taken) = cluster.revisions.pop_first().unwrap();
    taken.metadata.owner_references.as_mut().unwrap()[0].uid = "another's".into();
    cluster.revisions.insert(name, taken);
    assert_eq!(cluster.sync(), (0, 0));
    assert_eq!(cluster.revisions.len(), 1);
}

/// `TestControlledHistories`, and what older controllers left.
#[test]
fn revisions_are_adopted_labelled_and_become_one() {
    let mut cluster = Cluster::settled(2, &unavailable(json!(1)));
    let kept = cluster.revisions.values().next().unwrap().clone();
    let mut add = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut value = serde_json::to_value(&kept).unwrap();
        value["metadata"]["name"] = name.into();
        change(&mut value);
        cluster.revisions.insert(name.into(), serde_json::from_value(value).unwrap());
    };
    add("orphan", &|value| value["metadata"]["ownerReferences"] = Value::Null);
    add("stray", &|value| value["metadata"]["labels"]["app"] = "other".into());
    let Plan { actions, .. } = cluster.plan();
    let patched: Vec<&str> = actions
        .iter()
        .map(|action| match action {
            Action::Patch { path, .. } => path.rsplit('/').next().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(patched, ["orphan", "stray"]);
    cluster.revisions.remove("orphan");
    cluster.revisions.remove("stray");
    let mut add = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut value = serde_json::to_value(&kept).unwrap();
        value["metadata"]["name"] = name.into();
        change(&mut value);
        cluster.revisions.insert(name.into(), serde_json::from_value(value).unwrap());
    };
    // An older server wrote a null, and an older controller no label.
    add("older", &|value| {
        value["revision"] = 5.into();
        value["metadata"]["labels"] = json!({"app": "foo"});
        value["data"]["spec"]["template"]["metadata"]["creationTimestamp"] = Value::Null;
    });
    assert_eq!(cluster.sync(), (0, 0), "no pod is made anew");
    assert_eq!(cluster.revisions.keys().collect::<Vec<_>>(), ["older"]);
    assert_eq!(cluster.revisions["older"].metadata.labels.as_ref().unwrap()[HASH], "older");
    assert!(cluster.pods.values().all(|pod| pod["metadata"]["labels"][HASH] == "older"));
}
