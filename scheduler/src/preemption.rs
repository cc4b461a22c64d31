//! A pod that fits nowhere -> the node where the least is lost by making room.
//!
//! Sources: scheduler `framework/preemption/preemption.go`, `plugins/defaultpreemption`.

use std::{
    cmp::Reverse,
    sync::{Arc, LazyLock},
};

use api::time::Timestamp;
use client::pods::Pod;

use crate::{
    evictions::{Answer, Eviction, Evictions, Loss},
    framework::Cycle,
    node::{NodeInfo, Slot},
    pod::PodInfo,
    refusal::Diagnosis,
};

/// At least so many candidates are looked at, where there are so many.
const CANDIDATES_MIN: usize = 100;
/// And at least this share of the nodes.
const CANDIDATES_PERCENT: usize = 10;
/// The reason of the condition that victims get.
pub const VICTIM_REASON: &str = "PreemptionByScheduler";

/// What most nodes say, once.
static NO_VICTIMS: LazyLock<Arc<Vec<String>>> = LazyLock::new(|| Arc::new(vec!["No preemption victims found for incoming pod".to_owned()]));

#[derive(Clone, Debug)]
pub struct Preemption {
    pub node: String,
    /// Those whose budget it breaks first, then the most important.
    pub victims: Vec<Arc<PodInfo>>,
}

/// Why nobody has to go.
pub(crate) struct NotHelpful {
    pub message: String,
    pub keeps_nomination: bool,
}

/// # Errors
/// Why preemption does not help.
pub(crate) fn find(cycle: &Cycle<'_>, resolvable: &[Slot], random: u64) -> Result<Preemption, NotHelpful> {
    if let Some(message) = ineligible(cycle, resolvable) {
        return Err(NotHelpful { message: message.into(), keeps_nomination: true });
    }
    let wanted = (resolvable.len() * CANDIDATES_PERCENT / 100).max(CANDIDATES_MIN).min(resolvable.len());
    let start = usize::try_from(random % resolvable.len().max(1) as u64).unwrap_or(0);
    let (mut best, mut found, mut sound) = (None::<(Loss, Arc<Eviction>, &NodeInfo)>, 0, false);
    let mut rejections: Vec<(Arc<Vec<String>>, usize)> = Vec::new();
    let (before, from) = resolvable.split_at(start.min(resolvable.len()));
    let mut evictions = cycle.class.evictions.borrow_mut();
    for node in from.iter().chain(before).filter_map(|slot| cycle.snapshot.node_info(*slot)) {
        match on(&mut evictions, cycle, node) {
            Ok(eviction) => {
                found += 1;
                sound |= eviction.violations == 0;
                if best.as_ref().is_none_or(|(loss, ..)| eviction.loss < *loss) {
                    best = Some((eviction.loss, eviction, node));
                }
            }
            Err(reasons) => match rejections.iter_mut().find(|(r, _)| Arc::ptr_eq(r, &reasons) || *r == reasons) {
                Some((_, nodes)) => *nodes += 1,
                None => rejections.push((reasons, 1)),
            },
        }
        if found >= wanted && sound {
            break;
        }
    }
    if let Some((_, eviction, node)) = best {
        return Ok(Preemption { node: node.name().to_owned(), victims: eviction.victims.clone() });
    }
    let (all, asked) = (cycle.snapshot.len(), rejections.iter().map(|(_, nodes)| nodes).sum());
    let mut diagnosis = Diagnosis::default();
    rejections.iter().for_each(|(reasons, nodes)| reasons.iter().for_each(|r| diagnosis.count(r, *nodes)));
    diagnosis.count("Preemption is not helpful for scheduling", all.saturating_sub(asked));
    Err(NotHelpful { message: diagnosis.message(all), keeps_nomination: false })
}

fn on(evictions: &mut Evictions, cycle: &Cycle<'_>, node: &NodeInfo) -> Answer {
    let own = node.expected > 0 && cycle.snapshot.nominated_node(&cycle.ask.info.key) == Some(node.name());
    if own || !cycle.stands_alone() {
        return victims_on(cycle, node);
    }
    evictions.or_ask(cycle.snapshot.budgets.version, node, || victims_on(cycle, node))
}

fn ineligible(cycle: &Cycle<'_>, resolvable: &[Slot]) -> Option<&'static str> {
    let pod = &cycle.ask.info;
    if pod.spec().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let name = cycle.snapshot.nominated_node(&pod.key).or_else(|| pod.nominated())?;
    let node = cycle.snapshot.find(name).filter(|r| resolvable.contains(&r.slot))?;
    let waits = node.pods.iter().any(|p| p.priority < pod.priority && leaves_for_another(&p.pod));
    waits.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// It is being deleted because of a preemption.
fn leaves_for_another(pod: &Pod) -> bool {
    let disrupted = pod.condition("DisruptionTarget").filter(|condition| condition.status == "True");
    pod.metadata.deletion_timestamp.is_some() && disrupted.is_some_and(|condition| condition.reason.as_deref() == Some(VICTIM_REASON))
}

/// Who must leave the node; or why that would not help.
fn victims_on(cycle: &Cycle<'_>, node: &NodeInfo) -> Answer {
    let (mut what_if, mut emptier) = (cycle.clone(), node.clone());
    let mut weaker: Vec<Arc<PodInfo>> = node.pods.iter().filter(|p| p.priority < cycle.ask.info.priority).cloned().collect();
    if weaker.is_empty() {
        return Err(NO_VICTIMS.clone());
    }
    for pod in &weaker {
        emptier.remove(pod);
        what_if.update_with_pod(pod, node, -1);
    }
    if let Some(refusal) = what_if.filter_with_nominated_pods(&emptier) {
        return Err(Arc::new(refusal.reasons));
    }
    weaker.sort_by_key(|p| (Reverse(p.priority), started(p)));
    // Who may stay, stays: those with a budget to keep are asked first, then the most important.
    let (guarded, free) = cycle.snapshot.budgets.split(weaker);
    let mut goes = |pod: &Arc<PodInfo>| {
        emptier.add(pod);
        what_if.update_with_pod(pod, node, 1);
        let goes = what_if.filter_with_nominated_pods(&emptier).is_some();
        if goes {
            emptier.remove(pod);
            what_if.update_with_pod(pod, node, -1);
        }
        goes
    };
    let mut victims: Vec<Arc<PodInfo>> = guarded.into_iter().filter(&mut goes).collect();
    let violations = victims.len();
    victims.extend(free.into_iter().filter(&mut goes));
    Ok(Arc::new(Eviction { loss: loss(&victims, violations), victims, violations }))
}

fn loss(victims: &[Arc<PodInfo>], violations: usize) -> Loss {
    let highest = victims.iter().map(|v| v.priority).max().unwrap_or(i32::MIN);
    // Shifted, so that many of negative priority are more than few.
    let sum = victims.iter().map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1).sum();
    let earliest = victims.iter().filter(|v| v.priority == highest).map(|v| started(v)).min().unwrap_or(Timestamp::MIN);
    (violations, highest, sum, victims.len(), Reverse(earliest))
}

/// What has not started yet is the youngest.
fn started(pod: &PodInfo) -> Timestamp {
    pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(Timestamp::MAX, |t| t.0)
}

impl PartialEq for Preemption {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node && self.victims.iter().map(|v| &v.key).eq(other.victims.iter().map(|v| &v.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::{Nomination, Outcome},
        tests::TestCluster,
    };
    use serde_json::{Value, json};

    fn asking(priority: i32, cpu: &str) -> Value {
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
        json!({"metadata": {"name": "new"}, "spec": {"priority": priority, "containers": containers}})
    }

    /// (pod, node, priority, cpu)
    fn cluster(pods: &[(&str, &str, i32, &str)]) -> TestCluster {
        let mut cluster = TestCluster::default();
        cluster.node("a", json!({}));
        cluster.node("b", json!({}));
        for (name, node, priority, cpu) in pods {
            cluster.bound(name, node, asking(*priority, cpu));
        }
        cluster
    }

    fn victims(outcome: Outcome) -> Result<(String, Vec<String>), String> {
        let Outcome::Refused(refused) = outcome else { panic!("{outcome:?}") };
        match refused.nomination {
            Nomination::Preempt(p) => Ok((p.node, p.victims.iter().map(|v| v.key.name.clone()).collect())),
            _ => Err(refused.message.split_once("preemption: ").unwrap().1.to_owned()),
        }
    }

    #[test]
    fn the_least_is_lost() {
        let some = |node: &str, names: &[&str]| Ok((node.to_owned(), names.iter().map(|n| (*n).to_owned()).collect()));
        let no = "0/2 nodes are available: 2 No preemption victims found for incoming pod.".to_owned();
        let snapshot = [
            // The lower of the highest priorities goes.
            (vec![("x", "a", 3, "4"), ("y", "b", 2, "4")], asking(5, "4"), some("b", &["y"])),
            // One is less than two.
            (vec![("x", "a", 2, "2"), ("y", "a", 2, "2"), ("z", "b", 2, "4")], asking(5, "4"), some("b", &["z"])),
            // Who may stay, stays, the most important first.
            (vec![("x", "a", 1, "2"), ("y", "a", 2, "2"), ("z", "b", 9, "4")], asking(5, "2"), some("a", &["x"])),
            (vec![("x", "a", 5, "4"), ("y", "b", 9, "4")], asking(5, "1"), Err(no)),
        ];
        for (pods, ask, want) in snapshot {
            for random in 0..2 {
                assert_eq!(victims(cluster(&pods).plan(&ask, random)), want, "{pods:?} {random}");
            }
        }
    }

    #[test]
    fn budgets_are_kept_where_they_can_be() {
        let guard = |cluster: &mut TestCluster| {
            let budget = json!({"spec": {"selector": {"matchLabels": {"app": "db"}}}, "status": {"disruptionsAllowed": 0}});
            cluster.snapshot.budgets.set(&api::Key::new("default", "guard"), Some(&serde_json::from_value(budget).unwrap()));
        };
        let of_db = |priority: i32, cpu: &str| {
            let mut pod = asking(priority, cpu);
            pod["metadata"]["labels"] = json!({"app": "db"});
            pod
        };
        // The weaker pod is guarded: the stronger one on the other node goes.
        let mut elsewhere = cluster(&[("y", "b", 3, "4")]);
        elsewhere.bound("x", "a", of_db(1, "4"));
        guard(&mut elsewhere);
        assert_eq!(victims(elsewhere.plan(&asking(5, "4"), 0)), Ok(("b".into(), vec!["y".into()])));
        // On one node the guarded pod stays although it matters less.
        let mut beside = cluster(&[("y", "a", 3, "2"), ("z", "b", 9, "4")]);
        beside.bound("x", "a", of_db(1, "2"));
        guard(&mut beside);
        assert_eq!(victims(beside.plan(&asking(5, "2"), 0)), Ok(("a".into(), vec!["y".into()])));
        // Where there is no other way the budget is broken.
        let mut forced = cluster(&[("y", "a", 9, "2"), ("z", "b", 9, "4")]);
        forced.bound("x", "a", of_db(1, "2"));
        guard(&mut forced);
        assert_eq!(victims(forced.plan(&asking(5, "2"), 0)), Ok(("a".into(), vec!["x".into()])));
    }

    #[test]
    fn those_who_must_not_do_not() {
        let mut never = asking(5, "4");
        never["spec"]["preemptionPolicy"] = "Never".into();
        let mut cluster = cluster(&[("x", "a", 1, "4"), ("y", "b", 9, "4")]);
        assert_eq!(victims(cluster.plan(&never, 0)), Err("not eligible due to preemptionPolicy=Never.".into()));
    }

    #[test]
    fn victims_that_are_leaving_are_waited_for() {
        let mut cluster = cluster(&[("y", "b", 9, "4")]);
        let mut leaving = asking(1, "4");
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        leaving["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": VICTIM_REASON}]);
        cluster.bound("x", "a", leaving);
        let mut nominated = asking(5, "4");
        nominated["status"]["nominatedNodeName"] = "a".into();
        assert_eq!(victims(cluster.plan(&nominated, 0)), Err("not eligible due to a terminating pod on the nominated node.".into()));
    }

    #[test]
    fn anti_affinity_can_be_resolved_too() {
        let mut cluster = cluster(&[]);
        let labels = json!({"app": "db"});
        for (name, node) in [("x", "a"), ("y", "b")] {
            let mut db = asking(if name == "x" { 1 } else { 2 }, "1");
            db["metadata"]["labels"] = labels.clone();
            cluster.bound(name, node, db);
        }
        let mut far = asking(5, "1");
        far["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}]);
        assert_eq!(victims(cluster.plan(&far, 0)), Ok(("a".into(), vec!["x".into()])));
    }
}
