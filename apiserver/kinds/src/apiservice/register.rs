//! The group versions that this server serves -> an APIService of each. Source: `pkg/controlplane/apiserver/aggregator.go`,
//! `cmd/kube-apiserver/app/aggregator.go`, kube-aggregator `pkg/controllers/autoregister`, `pkg/controlplane/controller/crdregistration`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{GroupResource, Key, Status};
use apiserver::{engine::Engine, identity::User};
use serde_json::{Value, json};
use tokio::{sync::Notify, time};

use super::{GROUP, resource};
use crate::{
    common::{Read, all_written, edit, read, settled},
    metrics,
};

/// The label of what is made here: until the next start (built-in), or for as long as the group version is served (custom).
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";
/// Of custom resources: priority of the group, and of the version.
const CUSTOM: (i64, i64) = (1000, 100);
const LOOK_EACH: Duration = Duration::from_secs(60);
/// Kinds that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(500);

type Priority = (&'static str, i64, &'static [(&'static str, i64)]);
/// Built-in groups, the priority of each, and the priorities of its versions.
const PRIORITIES: &[Priority] = &[
    ("", 18000, &[("v1", 1)]),
    ("apps", 17800, &[("v1", 15)]),
    ("events.k8s.io", 17750, &[("v1", 15), ("v1beta1", 5)]),
    ("authentication.k8s.io", 17700, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("authorization.k8s.io", 17600, &[("v1", 15)]),
    ("autoscaling", 17500, &[("v1", 15), ("v2", 30), ("v2beta1", 9), ("v2beta2", 1)]),
    ("batch", 17400, &[("v1", 15), ("v1beta1", 9), ("v2alpha1", 9)]),
    ("certificates.k8s.io", 17300, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("networking.k8s.io", 17200, &[("v1", 15), ("v1beta1", 9)]),
    ("policy", 17100, &[("v1", 15), ("v1beta1", 9)]),
    ("rbac.authorization.k8s.io", 17000, &[("v1", 15)]),
    ("storage.k8s.io", 16800, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("admissionregistration.k8s.io", 16700, &[("v1", 15), ("v1beta1", 12), ("v1alpha1", 9)]),
    ("apiextensions.k8s.io", 16700, &[("v1", 15)]),
    ("scheduling.k8s.io", 16600, &[("v1", 15), ("v1alpha2", 2)]),
    ("coordination.k8s.io", 16500, &[("v1", 15), ("v1beta1", 13), ("v1alpha2", 12)]),
    ("node.k8s.io", 16300, &[("v1", 15), ("v1alpha1", 1), ("v1beta1", 9)]),
    ("discovery.k8s.io", 16200, &[("v1", 15), ("v1beta1", 12)]),
    ("resource.k8s.io", 16200, &[("v1", 21), ("v1beta2", 15), ("v1beta1", 9), ("v1alpha3", 1)]),
    ("flowcontrol.apiserver.k8s.io", 16100, &[("v1", 21), ("v1beta3", 18), ("v1beta2", 15), ("v1beta1", 12), ("v1alpha1", 9)]),
    ("internal.apiserver.k8s.io", 16000, &[("v1alpha1", 9)]),
    ("storagemigration.k8s.io", 15800, &[("v1beta1", 9)]),
    // metrics-server's own: here it is built in, until somebody installs another.
    (metrics::GROUP, 100, &[("v1beta1", 100)]),
];

/// What there is to be, by name.
type Wanted = BTreeMap<String, Value>;

/// Where a group stands among the built-in ones; the aggregator's own comes first.
pub fn rank(group: &str) -> usize {
    match group {
        GROUP => 0,
        group => PRIORITIES.iter().position(|(known, ..)| *known == group).map_or(usize::MAX, |at| at + 1),
    }
}

/// Makes those of the built-in group versions and of the custom ones, and deletes what was made here of others. Runs at each start.
///
/// # Errors
/// The first write that failed, but for those that lost against another.
pub async fn register(engine: &Arc<Engine>, user: &User) -> Result<(), Status> {
    bring_about(engine, user, &wanted(engine), |_| true).await
}

/// Does the same for custom resources, whenever they or an APIService have changed, for as long as the server runs.
pub async fn keep(engine: Arc<Engine>, user: User) {
    let changed = Arc::new(Notify::new());
    for resource in [resource(), GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions")] {
        let changed = changed.clone();
        engine.on_change(&resource, Arc::new(move |_| changed.notify_one()));
    }
    // What could not be made at the start is made up for.
    let mut is_started = false;
    loop {
        let _ = time::timeout(LOOK_EACH, changed.notified()).await;
        time::sleep(SETTLE).await;
        let meant = |label: &str| !is_started || label == ALWAYS;
        match bring_about(&engine, &user, &wanted(&engine), meant).await {
            Ok(()) => is_started = true,
            Err(status) => tracing::warn!(error = status.message, "APIServices not brought up to date; trying again"),
        }
    }
}

fn wanted(engine: &Engine) -> Wanted {
    let kinds = engine.kinds();
    let versions = kinds.iter().map(|kind| (kind.group.as_ref(), kind.version.as_ref())).filter(|(group, _)| *group != GROUP);
    versions.map(|(group, version)| (format!("{version}.{group}"), local(group, version))).collect()
}

/// `makeAPIService`, and that of a custom group version.
fn local(group: &str, version: &str) -> Value {
    let built_in = PRIORITIES.iter().find(|(known, ..)| *known == group);
    let of_version = |versions: &[(&str, i64)]| versions.iter().find(|(known, _)| *known == version).map_or(1, |(_, priority)| *priority);
    let (label, (least, priority)) = match built_in {
        // It may be taken over and given back at any time.
        Some((metrics::GROUP, least, versions)) => (ALWAYS, (*least, of_version(versions))),
        Some((_, least, versions)) => (ON_START, (*least, of_version(versions))),
        None => (ALWAYS, CUSTOM),
    };
    let mut spec = json!({"version": version, "groupPriorityMinimum": least, "versionPriority": priority});
    if !group.is_empty() {
        edit::set(&mut spec, "group", group);
    }
    let metadata = json!({"name": format!("{version}.{group}"), "labels": {MANAGED: label}});
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": metadata, "spec": spec})
}

/// Of those whose label is `meant`. One that somebody else has made is theirs.
async fn bring_about(engine: &Arc<Engine>, user: &User, wanted: &Wanted, meant: impl Fn(&str) -> bool) -> Result<(), Status> {
    let label = |object: &Value| object.at("metadata").at("labels").text(MANAGED).to_owned();
    let ours = wanted.iter().filter(|(_, object)| meant(&label(object)));
    let written = all_written(ours.map(|(name, object)| (name.clone(), one(engine, user, name, object)))).await;
    let there = engine.cached_list(&resource(), None);
    let unwanted = there.iter().filter(|object| {
        let made_here = label(&object.value());
        // An administrator has put another server in its place: that one's it is.
        let is_handed_over = object.value().at("spec").at("service").is_some();
        !made_here.is_empty() && meant(&made_here) && !is_handed_over && !wanted.contains_key(&object.key.name)
    });
    let delete = async |key: &Key| settled(engine.delete(&resource(), key, json!({}), user).await);
    let deleted = all_written(unwanted.map(|object| (object.key.name.clone(), delete(&object.key)))).await;
    written.and(deleted)
}

async fn one(engine: &Arc<Engine>, user: &User, name: &str, wanted: &Value) -> Result<(), Status> {
    let key = Key::new("", name);
    let Some(found) = engine.cached(&resource(), &key) else {
        return settled(engine.create(&resource(), "", wanted.clone(), user).await.map(drop));
    };
    let found = found.value();
    let is_ours = !found.at("metadata").at("labels").text(MANAGED).is_empty();
    let is_handed_over = found.at("spec").at("service").is_some();
    if !is_ours || is_handed_over || read::same(found.at("spec"), wanted.at("spec")) {
        return Ok(());
    }
    let change = |object: &mut Value| {
        edit::carry(object, wanted, "spec");
        Ok(())
    };
    settled(engine.update(&resource(), &key, "", user, &change).await.map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_and_custom_ones_are_told_apart() {
        let core = local("", "v1");
        assert_eq!(core["metadata"], json!({"name": "v1.", "labels": {MANAGED: "onstart"}}));
        assert_eq!(core["spec"], json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1}));
        let custom = local("x.example", "v1beta1");
        assert_eq!(custom["metadata"], json!({"name": "v1beta1.x.example", "labels": {MANAGED: "true"}}));
        let wanted = json!({"group": "x.example", "version": "v1beta1", "groupPriorityMinimum": 1000, "versionPriority": 100});
        assert!(read::same(Some(&custom["spec"]), Some(&wanted)));
    }

    #[test]
    fn resource_metrics_are_made_again() {
        let ours = local("metrics.k8s.io", "v1beta1");
        assert_eq!(ours["metadata"]["labels"], json!({MANAGED: "true"}));
        assert_eq!(
            ours["spec"],
            json!({"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100})
        );
    }

    #[test]
    fn the_table_is_in_the_order_of_priorities() {
        assert!(PRIORITIES.is_sorted_by(|a, b| (-a.1, a.0) <= (-b.1, b.0)));
        assert!(rank(GROUP) < rank("") && rank("apps") < rank("batch") && rank("x.example") == usize::MAX);
    }
}
