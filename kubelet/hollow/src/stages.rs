//! YAML -> stages: what becomes of a hollow pod or node, after how long, and how likely.
//!
//! In the spirit of KWOK's Stage API, with a smaller shape; `docs/hollow.md` explains it.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Deserializer, de::Error as _};

const DEFAULT: &str = include_str!("stages.yaml");

/// All stages, in the order of the file.
#[derive(Clone, Debug)]
pub struct Stages {
    pub pods: Vec<Stage>,
    pub nodes: Vec<Stage>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Stage {
    pub name: String,
    pub kind: Kind,
    #[serde(default)]
    pub when: When,
    /// From 0 to 1. Where it does not come up, the next stage that matches is looked at.
    #[serde(default = "always")]
    pub chance: f64,
    /// Milliseconds that the pod or node rests in its state before `next`.
    #[serde(default, deserialize_with = "millis")]
    pub delay: u64,
    /// Up to that many milliseconds more, evenly.
    #[serde(default, deserialize_with = "millis")]
    pub jitter: u64,
    pub next: Next,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum Kind {
    Pod,
    Node,
}

/// `status.phase` of a pod.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

/// All that is named must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct When {
    /// The condition Ready is True.
    pub ready: Option<bool>,
    pub phase: Option<Vec<Phase>>,
    /// Has a deletion timestamp.
    pub deleted: Option<bool>,
    pub restart_policy: Option<Vec<RestartPolicy>>,
    /// The kind of the owner that controls it.
    pub owner: Option<Vec<String>>,
    pub namespace: Option<Vec<String>>,
    pub labels: BTreeMap<String, String>,
}

/// What is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Next {
    /// Pod: Running, Succeeded, Failed; containers follow it.
    pub phase: Option<Phase>,
    /// Pod: its containers, and so its condition Ready. Without it a Running pod is ready.
    pub ready: Option<bool>,
    /// Pod: containers wait for that reason (`ErrImagePull`).
    pub waiting: Option<String>,
    pub reason: Option<String>,
    pub message: Option<String>,
    /// Pod: of its containers, once they ended. 0, or 1 of a Failed pod.
    pub exit_code: Option<i32>,
    /// Written over those that follow from the rest.
    pub conditions: Vec<Condition>,
    /// Pod: it is gone.
    pub delete: bool,
    /// Node: its status is written, Ready and healthy but for `conditions`.
    pub heartbeat: bool,
    /// Node: for that many milliseconds it writes nothing, neither Lease nor status, also not of its pods.
    #[serde(deserialize_with = "some_millis")]
    pub silent: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    stages: Vec<Stage>,
}

impl Stages {
    /// # Errors
    /// In words: no YAML, unknown keys or values, or a stage that cannot be meant so.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        let mut names = HashSet::new();
        for stage in &file.stages {
            check(stage).map_err(|fault| format!("stage {:?}: {fault}", stage.name))?;
            if !names.insert(stage.name.as_str()) {
                return Err(format!("stage {:?}: there are two of that name", stage.name));
            }
        }
        let (pods, nodes) = file.stages.into_iter().partition(|s| s.kind == Kind::Pod);
        Ok(Self { pods, nodes })
    }

    /// Whether any stage looks at labels: only then they are kept.
    pub fn read_labels(&self) -> bool {
        self.pods.iter().any(|s| !s.when.labels.is_empty())
    }
}

impl Default for Stages {
    fn default() -> Self {
        Self::parse(DEFAULT).expect("a test reads the embedded stages")
    }
}

fn check(stage: &Stage) -> Result<(), &'static str> {
    let (when, next) = (&stage.when, &stage.next);
    if !(0.0..=1.0).contains(&stage.chance) {
        return Err("chance: it must be from 0 to 1");
    }
    let of_pods = next.phase.is_some() || next.ready.is_some() || next.waiting.is_some() || next.exit_code.is_some() || next.delete;
    let when_pod = when.phase.is_some() || when.deleted.is_some() || when.restart_policy.is_some() || when.owner.is_some();
    match stage.kind {
        Kind::Pod if next.heartbeat || next.silent.is_some() => Err("next: heartbeat and silent are of nodes"),
        Kind::Pod if !of_pods && next.conditions.is_empty() => Err("next: nothing would happen"),
        Kind::Pod if next.phase == Some(Phase::Pending) && next.waiting.is_none() => {
            Err("next: a pod is Pending while it waits: name a reason")
        }
        Kind::Node if of_pods || next.reason.is_some() || next.message.is_some() => {
            Err("next: only heartbeat, conditions and silent are of nodes")
        }
        Kind::Node if when_pod || when.namespace.is_some() || !when.labels.is_empty() => Err("when: only ready is of nodes"),
        Kind::Node if !next.heartbeat && next.silent.is_none() => Err("next: name heartbeat or silent"),
        Kind::Node if !next.conditions.is_empty() && !next.heartbeat => Err("next: conditions are written by a heartbeat"),
        // Nothing else slows it down: it would be written again and again.
        Kind::Node if stage.delay + next.silent.unwrap_or(0) < 1000 => Err("delay: at least 1s, or the node would write without end"),
        Kind::Pod | Kind::Node => Ok(()),
    }
}

fn always() -> f64 {
    1.0
}

fn millis<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    duration(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no duration, as in 250ms, 10s, 1m30s")))
}

fn some_millis<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    millis(from).map(Some)
}

/// `1m30s` -> milliseconds.
fn duration(text: &str) -> Option<u64> {
    let (mut rest, mut sum) = (text, 0u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| *n > 0)?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
        let scale = match &rest[digits..unit] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        sum = sum.checked_add(rest[..digits].parse::<u64>().ok()?.checked_mul(scale)?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_stages_are_sound() {
        let stages = Stages::default();
        let names: Vec<&str> = stages.pods.iter().chain(&stages.nodes).map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["pod-delete", "pod-ready", "pod-complete", "node-heartbeat"]);
        assert!(!stages.read_labels());
    }

    #[test]
    fn durations() {
        for (text, ms) in [("0s", Some(0)), ("250ms", Some(250)), ("1m30s", Some(90_000)), ("2h", Some(7_200_000))] {
            assert_eq!(duration(text), ms, "{text}");
        }
        for bad in ["", "5", "s", "1d", "-1s", "1.5s", "99999999999999999h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let of = |stage: &str| Stages::parse(&format!("stages:\n- {{name: x, {stage}}}\n")).map(drop);
        assert_eq!(of("kind: Pod, when: {labels: {a: b}}, chance: 0.5, delay: 1s, next: {phase: Failed, exitCode: 3}"), Ok(()));
        assert_eq!(of("kind: Node, delay: 60s, next: {heartbeat: true, silent: 1m}"), Ok(()));
        for (bad, fault) in [
            ("kind: Pod, next: {phase: Running}, color: red", "color"),
            ("kind: Pod, when: {phases: [Pending]}, next: {delete: true}", "phases"),
            ("kind: Pod, next: {phase: Run}", "Run"),
            ("kind: Job, next: {delete: true}", "Job"),
            ("kind: Pod, chance: 2, next: {delete: true}", "chance"),
            ("kind: Pod, delay: soon, next: {delete: true}", "soon"),
            ("kind: Pod, next: {}", "nothing would happen"),
            ("kind: Pod, next: {heartbeat: true}", "of nodes"),
            ("kind: Node, next: {heartbeat: true}", "at least 1s"),
            ("kind: Node, when: {deleted: true}, delay: 9s, next: {heartbeat: true}", "only ready"),
        ] {
            let error = of(bad).unwrap_err();
            assert!(error.contains(fault), "{bad}: {error}");
        }
        let two = Stages::parse("stages: [{name: a, kind: Pod, next: {delete: true}}, {name: a, kind: Pod, next: {delete: true}}]");
        assert!(two.unwrap_err().contains("two of that name"));
    }
}
