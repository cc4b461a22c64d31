//! How many pods there should be, how many there are -> those to make, those to delete. Source: `manageJob` in `pkg/controller/job/job_controller.go`.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use api::{
    k8s::{
        api::core::v1::{self, Container, EnvVar, EnvVarSource, ObjectFieldSelector, PodTemplateSpec},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    },
    time::Timestamp,
};
use client::pods::Pod;
use reconcile::Action;

use super::{
    backoff::left_of_index,
    indexes::Indexes,
    pods::{self, FAILURES, IGNORED, INDEX, TRACKING, is_terminating, is_tracked, spec},
    policy::judge,
    sync::Sync,
};
use crate::replicas::suffix;

/// Pods made or deleted in one run; the next run does the rest (`MaxPodCreateDeletePerSync`).
const BURST: usize = 500;
/// Length of a name without what makes it unique (`MaxGeneratedNameLength`), in bytes.
const PREFIX_BYTES: usize = 58;
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Whether pods that are deleted are still to be counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Finalizers {
    Stay,
    Go,
}

pub fn manage(sync: &mut Sync<'_>) {
    if sync.wanted.is_suspended {
        let all = for_removal(sync, sync.active.len());
        sync.outcome.doing = "pods_deleted";
        return delete(sync, &all, Finalizers::Go);
    }
    let active = sync.counts.active;
    let wanted = match sync.wanted.completions {
        // Once one has succeeded no further ones are begun.
        None if sync.counts.succeeded > 0 => active,
        None => sync.wanted.parallelism,
        Some(completions) => completions.saturating_sub(sync.counts.succeeded).min(sync.wanted.parallelism).max(0),
    };
    let spare = usize::try_from(active.saturating_sub(wanted)).unwrap_or(0);
    let mut surplus = for_removal(sync, spare);
    surplus.truncate(BURST);
    if !surplus.is_empty() {
        sync.outcome.doing = "pods_deleted";
        return delete(sync, &surplus, Finalizers::Go);
    }
    let terminating = if sync.wanted.replaces_failed_only { sync.counts.terminating } else { 0 };
    let missing = usize::try_from(wanted.saturating_sub(terminating).saturating_sub(active)).unwrap_or(0).min(BURST);
    sync.outcome.doing = if missing > 0 { "pods_created" } else { "tracking" };
    if missing > 0 {
        create_missing(sync, missing);
    }
}

/// Deletes them, as the finalizers allow; they count as deleted unless some lately could not be.
pub fn delete(sync: &mut Sync<'_>, all: &[Arc<Pod>], finalizers: Finalizers) {
    let mut actions = Vec::new();
    if finalizers == Finalizers::Go {
        actions.extend(all.iter().filter(|pod| is_tracked(pod)).map(|pod| Action::without_finalizer(&**pod, TRACKING)));
    }
    for pod in all {
        actions.push(Action::delete(&**pod));
        actions.push(Action::normal(sync.job, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any())));
    }
    if sync.is_stuck {
        // All else is told first: it must not wait for what is refused.
        return sync.last.append(&mut actions);
    }
    sync.first.append(&mut actions);
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    sync.counts.active -= count(all.len());
    sync.counts.terminating += count(all.len());
    sync.counts.ready -= count(all.iter().filter(|pod| pod.ready_since().is_some()).count());
}

/// `activePodsForRemoval`: so many at least; of an indexed Job also those without an index that counts, and all but one of each index.
fn for_removal(sync: &Sync<'_>, at_least: usize) -> Vec<Arc<Pod>> {
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    if sync.wanted.is_indexed {
        let mut by_index: std::collections::BTreeMap<i32, Vec<Arc<Pod>>> = std::collections::BTreeMap::new();
        for pod in &sync.active {
            match sync.index_of(pod) {
                Some(index) => by_index.entry(index).or_default().push(pod.clone()),
                None => removed.push(pod.clone()),
            }
        }
        for mut same in by_index.into_values() {
            same.sort_by_cached_key(|pod| order(pod));
            left.extend(same.pop());
            removed.append(&mut same);
        }
    } else {
        left.clone_from(&sync.active);
    }
    let further = at_least.saturating_sub(removed.len());
    if further > 0 {
        left.sort_by_cached_key(|pod| order(pod));
        removed.extend(left.into_iter().take(further));
    }
    removed
}

type Order = (bool, Option<usize>, bool, Reverse<Option<Timestamp>>, Reverse<i32>, Reverse<Option<Timestamp>>);

/// `ActivePods`: what has got least far goes first.
fn order(pod: &Pod) -> Order {
    let is_bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    let phase = ["Pending", "Unknown", "Running"].iter().position(|phase| *phase == pod.phase());
    let restarts = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).map(|c| c.restart_count).max();
    let created = pod.metadata.creation_timestamp.as_ref().map(|at| at.0);
    let ready = pod.ready_since();
    (is_bound, phase, ready.is_some(), Reverse(ready), Reverse(restarts.unwrap_or(0)), Reverse(created))
}

fn create_missing(sync: &mut Sync<'_>, missing: usize) {
    let wait = if sync.wanted.per_index.is_some() { Duration::ZERO } else { sync.outcome.record.left(sync.lasted) };
    let (indexes, wait) = match (wait.is_zero(), sync.wanted.is_indexed) {
        (false, _) => (Vec::new(), wait),
        (true, false) => (vec![None; missing], wait),
        (true, true) => due_indexes(sync, missing),
    };
    if indexes.is_empty() {
        // Upstream says meanwhile that none is active, even where others are; that is not taken over.
        if !wait.is_zero() {
            sync.look_again(wait);
        }
        return;
    }
    let Some(template) = template(sync) else { return };
    for (number, index) in indexes.iter().enumerate() {
        let pod = pod(sync, &template, *index, sync.random.wrapping_add(number as u64));
        let name = pod.metadata.name.clone().unwrap_or_default();
        sync.last.push(Action::create(&pod));
        sync.last.push(Action::normal(sync.job, "SuccessfulCreate", format!("Created pod: {name}")));
    }
    sync.outcome.creations = (indexes.len(), reason(sync));
    if !sync.is_stuck {
        sync.counts.active = sync.counts.active.saturating_add(i32::try_from(indexes.len()).unwrap_or(i32::MAX));
    }
}

/// As `job_pods_creation_total` tells them apart.
fn reason(sync: &Sync<'_>) -> &'static str {
    match spec(sync.job).pod_replacement_policy.as_deref() {
        Some("Failed") if sync.counts.failed > 0 => "recreate_failed",
        _ if sync.counts.failed > 0 || sync.counts.terminating > 0 => "recreate_terminating_or_failed",
        _ => "new",
    }
}

/// The indexes to begin, or how long none is.
fn due_indexes(sync: &Sync<'_>, missing: usize) -> (Vec<Option<i32>>, Duration) {
    let of = |pods: &mut dyn Iterator<Item = &Arc<Pod>>| Indexes::of(pods.filter_map(|pod| pods::index(pod)));
    let mut taken = sync.progress.succeeded.with(&of(&mut sync.active.iter()));
    if sync.wanted.replaces_failed_only {
        taken = taken.with(&of(&mut sync.pods.iter().filter(|pod| is_terminating(pod))));
    }
    if let Some(failed) = &sync.progress.failed {
        taken = taken.with(failed);
    }
    let free = taken.free(missing, sync.wanted.completions.unwrap_or(0));
    let waits = free.iter().map(|index| (*index, left_of_index(sync.progress.delayed.get(index), sync.lasted)));
    let (due, waiting): (Vec<_>, Vec<_>) = waits.partition(|(_, wait)| sync.wanted.per_index.is_none() || wait.is_zero());
    let soonest = waiting.into_iter().map(|(_, wait)| wait).min().unwrap_or_default();
    (due.into_iter().map(|(index, _)| Some(index)).collect(), soonest)
}

/// What all new pods have in common.
fn template(sync: &Sync<'_>) -> Option<PodTemplateSpec> {
    let mut template = spec(sync.job).template.clone();
    let pod = template.spec.as_mut()?;
    if sync.wanted.is_indexed {
        pod.containers.iter_mut().chain(pod.init_containers.iter_mut().flatten()).for_each(tell_index);
    }
    let finalizers = template.metadata.get_or_insert_default().finalizers.get_or_insert_default();
    if !finalizers.iter().any(|name| name == TRACKING) {
        finalizers.push(TRACKING.into());
    }
    Some(template)
}

/// What the user gave this name stays.
fn tell_index(container: &mut Container) {
    let all = container.env.get_or_insert_default();
    if all.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), ..ObjectFieldSelector::default() };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    all.push(EnvVar { name: INDEX_VARIABLE.into(), value_from: Some(source), ..EnvVar::default() });
}

fn pod(sync: &Sync<'_>, template: &PodTemplateSpec, index: Option<i32>, random: u64) -> v1::Pod {
    let from = template.metadata.clone().unwrap_or_default();
    let (mut labels, mut annotations, mut spec) = (from.labels, from.annotations, template.spec.clone());
    let job = sync.job.metadata.name.as_deref().unwrap_or_default();
    if let Some(index) = index {
        let mut notes = vec![(INDEX, index)];
        if sync.wanted.per_index.is_some() {
            let (failures, ignored) = failures_before(sync, index);
            notes.push((FAILURES, failures));
            notes.extend((ignored > 0).then_some((IGNORED, ignored)));
        }
        labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
        annotations.get_or_insert_default().extend(notes.into_iter().map(|(key, number)| (key.into(), number.to_string())));
        if let Some(spec) = &mut spec {
            spec.hostname = Some(format!("{job}-{index}"));
        }
    }
    let prefix = prefix(job, index);
    let metadata = ObjectMeta {
        name: Some(format!("{prefix}{}", suffix(random))),
        generate_name: Some(prefix),
        namespace: sync.job.metadata.namespace.clone(),
        labels,
        annotations,
        finalizers: from.finalizers,
        owner_references: Some(vec![sync.owner.reference.clone()]),
        ..ObjectMeta::default()
    };
    v1::Pod { metadata, spec, status: None }
}

/// `getNewIndexFailureCounts`
fn failures_before(sync: &Sync<'_>, index: i32) -> (i32, i32) {
    let Some(replaced) = sync.progress.delayed.get(&index) else { return (0, 0) };
    let (failures, ignored) = (pods::failures(replaced), pods::ignored(replaced));
    match judge(sync.wanted.failure_policy, replaced).counts {
        true => (failures.saturating_add(1), ignored),
        false => (failures, ignored.saturating_add(1)),
    }
}

/// `podGenerateNameWithIndex`, and what the server does with the base of a name that it makes.
fn prefix(job: &str, index: Option<i32>) -> String {
    let tail = index.map_or_else(|| "-".to_owned(), |index| format!("-{index}-"));
    let whole = format!("{job}{tail}");
    if whole.len() <= PREFIX_BYTES {
        return whole;
    }
    // The index stays; without one the name is cut like any base.
    let (kept, tail) = if index.is_some() { (PREFIX_BYTES.saturating_sub(tail.len()), tail) } else { (PREFIX_BYTES, String::new()) };
    format!("{}{tail}", whole.get(..kept).unwrap_or(&whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `TestPodGenerateNameWithIndex`.
    #[test]
    fn names_are_cut_and_keep_their_index() {
        assert_eq!(prefix("indexed-job", Some(1)), "indexed-job-1-");
        let long = "hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh";
        assert_eq!(prefix(long, Some(1)), format!("{}-1-", &long[..55]));
        assert_eq!(prefix(&long[..55], Some(1)), format!("{}-1-", &long[..55]));
        assert_eq!(prefix("a", None), "a-");
        assert_eq!(prefix(&long[..58], None), long[..58]);
        assert_eq!(prefix(long, None).len(), PREFIX_BYTES);
    }
}
