//! Jobs over a small world that carries out what is planned. The cases are those of upstream's `job_controller_test.go`.
//!
//! Upstream looks at one run; here a Job is looked at until there is nothing to do, which is what that run and the one after it come to.

use std::collections::BTreeMap;

use api::time::rfc3339;
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-11-30T12:00:00Z";
/// Long before any back-off.
const LONG_AGO: &str = "2020-01-01T00:00:00Z";

/// A Job, its pods, and what became of both.
struct Small {
    job: Value,
    pods: Vec<Value>,
    memory: Memory,
    now: Timestamp,
    /// What is refused.
    refuses: fn(&Action) -> bool,
    random: u64,
    /// Where the last pod was found.
    last: usize,
    made: Vec<Value>,
    deleted: usize,
    released: usize,
    statuses: usize,
    events: Vec<String>,
    again: Option<std::time::Duration>,
}

fn job(spec: &Value) -> Value {
    let mut all = json!({"parallelism": 2, "completions": 5, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
        "podReplacementPolicy": "TerminatingOrFailed", "selector": {"matchLabels": {"job": "u"}},
        "template": {"metadata": {"labels": {"job": "u"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let metadata = json!({"name": "j", "namespace": "d", "uid": "u", "resourceVersion": "1"});
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": all})
}

fn pod(number: usize, phase: &str) -> Value {
    let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": true});
    let metadata = json!({"name": format!("p{number:04}"), "namespace": "d", "uid": format!("u{number}"), "labels": {"job": "u"},
        "creationTimestamp": LONG_AGO, "finalizers": [pods::TRACKING], "ownerReferences": [owner]});
    let ended = json!([{"name": "c", "state": {"terminated": {"exitCode": 1, "finishedAt": LONG_AGO}}}]);
    let mut pod = json!({"metadata": metadata, "spec": {"nodeName": "n", "containers": [{"name": "c"}]}, "status": {"phase": phase}});
    if matches!(phase, "Succeeded" | "Failed") {
        pod["status"]["containerStatuses"] = ended;
    }
    pod
}

impl Small {
    fn new(spec: Value) -> Self {
        Self {
            job: job(&spec),
            pods: Vec::new(),
            memory: Memory { uid: "u".into(), ..Memory::default() },
            now: NOW.parse().unwrap(),
            refuses: |_| false,
            random: 0,
            last: 0,
            made: Vec::new(),
            deleted: 0,
            released: 0,
            statuses: 0,
            events: Vec::new(),
            again: None,
        }
    }

    /// `3 Running` are three pods in that phase; `ready` and `going` say more of them, `#4` their index.
    fn with(mut self, pods: &[&str]) -> Self {
        for words in pods {
            let mut words = words.split(' ');
            let (count, phase) = (words.next().unwrap().parse().unwrap(), words.next().unwrap());
            let more: Vec<&str> = words.collect();
            for _ in 0..count {
                let mut pod = pod(self.pods.len(), phase);
                for word in &more {
                    match *word {
                        "ready" => {
                            pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO}])
                        }
                        "going" => pod["metadata"]["deletionTimestamp"] = LONG_AGO.into(),
                        "counted" => pod["metadata"]["finalizers"] = json!([]),
                        index => pod["metadata"]["annotations"][pods::INDEX] = index.trim_start_matches('#').into(),
                    }
                }
                self.pods.push(pod);
            }
        }
        self
    }

    fn status(mut self, status: Value) -> Self {
        self.job["status"] = status;
        self
    }

    fn deleting(mut self) -> Self {
        self.job["metadata"]["deletionTimestamp"] = NOW.into();
        self
    }

    fn world(&mut self) -> World {
        self.random += 1000;
        World {
            job: Arc::new(serde_json::from_value(self.job.clone()).unwrap()),
            pods: self.pods.iter().map(|pod| Arc::new(serde_json::from_value(pod.clone()).unwrap())).collect(),
            memory: self.memory.clone(),
            lasted: Lasted::at(self.now),
            random: self.random,
            outcome: OnceLock::new(),
        }
    }

    /// One run; whether it wrote anything.
    fn step(&mut self) -> bool {
        let world = self.world();
        if is_finished(&world.job) {
            return false;
        }
        let decided = decide(&world);
        self.again = decided.plan.again;
        let writes = decided.plan.actions.iter().any(|action| !matches!(action, Action::Event { .. }));
        let (mut told, mut stuck) = (true, false);
        for action in decided.plan.actions {
            if (self.refuses)(&action) {
                told = matches!(action, Action::Create { .. });
                stuck = is_of_pod(&action);
                break;
            }
            self.carry_out(action);
        }
        if told {
            self.memory.record = decided.outcome.record;
        }
        self.memory.is_stuck = stuck;
        writes
    }

    /// Until there is nothing to do now.
    fn settled(mut self) -> Self {
        for _ in 0..40 {
            if !self.step() {
                return self;
            }
        }
        panic!("it never ends: {} {:?}", self.job["status"], self.events);
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Create { mut object, .. } => {
                let number = self.made.len();
                object["metadata"]["uid"] = format!("made{number}").into();
                object["metadata"]["creationTimestamp"] = rfc3339(self.now).into();
                object["status"] = json!({"phase": "Pending"});
                self.made.push(object.clone());
                self.pods.push(object);
            }
            Action::Delete { path, .. } => {
                self.deleted += 1;
                let now = rfc3339(self.now);
                self.pod(&path)["metadata"]["deletionTimestamp"] = now.into();
            }
            Action::Patch { path, patch, .. } => {
                self.released += 1;
                let metadata = &patch["metadata"];
                let pod = self.pod(&path);
                if metadata.get("ownerReferences").is_some() {
                    pod["metadata"]["ownerReferences"] = metadata["ownerReferences"].clone();
                    pod["metadata"]["finalizers"] = metadata["finalizers"].clone();
                } else {
                    assert_eq!(metadata["$deleteFromPrimitiveList/finalizers"], json!([pods::TRACKING]));
                    pod["metadata"]["finalizers"] = json!([]);
                }
            }
            Action::Update { path, object, .. } => {
                assert!(path.ends_with("/status"), "{path}");
                self.statuses += 1;
                self.job["status"] = object["status"].clone();
            }
            Action::Event { reason, message, .. } => self.events.push(format!("{reason}: {message}")),
            Action::DeleteAll { .. } => panic!(),
        }
    }

    fn pod(&mut self, path: &str) -> &mut Value {
        let name = path.rsplit('/').next().unwrap();
        // In order, mostly: the search goes on where it ended.
        let (count, start) = (self.pods.len(), self.last);
        let is_named = |at: &usize| self.pods[*at]["metadata"]["name"] == *name;
        self.last = (start..start + count).map(|at| at % count).find(is_named).unwrap();
        &mut self.pods[self.last]
    }

    /// `active/ready/terminating succeeded/failed`
    fn counts(&self) -> String {
        let of = |field: &str| self.job["status"][field].as_i64().unwrap_or(0);
        format!("{}/{}/{} {}/{}", of("active"), of("ready"), of("terminating"), of("succeeded"), of("failed"))
    }

    /// Those that hold, with their reasons.
    fn conditions(&self) -> Vec<String> {
        let all = self.job["status"]["conditions"].as_array().into_iter().flatten();
        let word =
            |c: &Value| format!("{}={} {}", c["type"].as_str().unwrap(), c["status"].as_str().unwrap(), c["reason"].as_str().unwrap());
        all.map(word).collect()
    }

    fn indexes(&self) -> Vec<&str> {
        self.made.iter().filter_map(|pod| pod["metadata"]["annotations"][pods::INDEX].as_str()).collect()
    }

    fn completed(&self) -> &str {
        self.job["status"]["completedIndexes"].as_str().unwrap_or("")
    }
}

/// `made deleted released`, as upstream expects them.
type Case = (&'static str, Value, &'static [&'static str], (usize, usize, usize), &'static str);

fn check(cases: Vec<Case>) {
    for (name, spec, pods, (made, deleted, released), counts) in cases {
        let end = Small::new(spec).with(pods).settled();
        assert_eq!((end.made.len(), end.deleted, end.released), (made, deleted, released), "{name}: made, deleted, released");
        assert_eq!(end.counts(), counts, "{name}");
    }
}

/// `TestControllerSyncJob`, Jobs without indexes. `-1` completions there are none here.
#[test]
fn there_are_as_many_pods_as_are_wanted() {
    let wq = |parallelism: i32| json!({"parallelism": parallelism, "completions": null});
    let failed = |parallelism: i32, completions: Value| json!({"parallelism": parallelism, "completions": completions, "podReplacementPolicy": "Failed"});
    check(vec![
        ("job start", json!({}), &[], (2, 0, 0), "2/0/0 0/0"),
        ("WQ job start", wq(2), &[], (2, 0, 0), "2/0/0 0/0"),
        ("pending pods", json!({}), &["2 Pending"], (0, 0, 0), "2/0/0 0/0"),
        ("correct # of pods", json!({"parallelism": 3}), &["2 Running ready", "1 Running"], (0, 0, 0), "3/2/0 0/0"),
        ("WQ job: correct # of pods", wq(2), &["2 Running"], (0, 0, 0), "2/0/0 0/0"),
        ("too few active pods", json!({}), &["1 Running", "1 Succeeded"], (1, 0, 1), "2/0/0 1/0"),
        (
            "WQ job: recreate pods when failed",
            failed(1, Value::Null),
            &["1 Running", "1 Failed", "1 Running going"],
            (0, 0, 1),
            "1/0/1 0/1",
        ),
        (
            "terminating pods count as failed",
            json!({"parallelism": 1, "completions": 1}),
            &["1 Running", "1 Failed", "1 Running going"],
            (0, 0, 2),
            "1/0/1 0/2",
        ),
        ("WQ job: recreate when terminating", wq(1), &["1 Running", "1 Failed", "1 Running going"], (0, 0, 2), "1/0/1 0/2"),
        ("more terminating pods than parallelism", failed(1, json!(1)), &["2 Running", "4 Running going"], (0, 1, 1), "1/0/5 0/0"),
        (
            "the same; PodFailurePolicy used",
            json!({"parallelism": 1, "completions": 1, "podFailurePolicy": {"rules": []}}),
            &["2 Running", "4 Running going"],
            (0, 1, 1),
            "1/0/5 0/0",
        ),
        ("a dynamic job", wq(2), &["1 Running"], (1, 0, 0), "2/0/0 0/0"),
        ("too many active pods", json!({}), &["3 Running"], (0, 1, 1), "2/0/1 0/0"),
        ("count ready pods when too many", json!({}), &["3 Running ready"], (0, 1, 1), "2/2/1 0/0"),
        ("failed + succeed pods: reset backoff delay", json!({}), &["1 Running", "1 Succeeded", "1 Failed"], (1, 0, 2), "2/0/0 1/1"),
        ("new failed pod", json!({}), &["1 Running", "1 Failed"], (1, 0, 1), "2/0/0 0/1"),
        ("WQ job finishing", wq(2), &["1 Running", "1 Succeeded"], (0, 0, 1), "1/0/0 1/0"),
        ("more active pods than parallelism", json!({}), &["10 Running"], (0, 8, 8), "2/0/8 0/0"),
        (
            "more active pods than remaining completions",
            json!({"parallelism": 3, "completions": 4}),
            &["3 Running", "2 Succeeded"],
            (0, 1, 3),
            "2/0/1 2/0",
        ),
        ("status change", json!({}), &["2 Running", "2 Succeeded"], (0, 0, 2), "2/0/0 2/0"),
        ("none is wanted", json!({"parallelism": 0}), &[], (0, 0, 0), "0/0/0 0/0"),
        ("many at once", json!({"parallelism": 600, "completions": 2000}), &[], (600, 0, 0), "600/0/0 0/0"),
    ]);
}

/// `TestControllerSyncJob`, indexed Jobs.
#[test]
fn each_index_has_one_pod() {
    let indexed =
        |parallelism: i32, completions: i32| json!({"parallelism": parallelism, "completions": completions, "completionMode": "Indexed"});
    let replaced = |policy: &str| json!({"completionMode": "Indexed", "podReplacementPolicy": policy});
    type Indexed = (Value, &'static [&'static str], (usize, usize), &'static str, &'static str, &'static [&'static str]);
    let cases: Vec<Indexed> = vec![
        (indexed(2, 5), &[], (0, 0), "2/0/0 0/0", "", &["0", "1"]),
        (replaced("Failed"), &["1 Running going"], (0, 0), "1/0/1 0/0", "", &["0"]),
        (replaced("Failed"), &["1 Running going #0"], (0, 0), "1/0/1 0/0", "", &["1"]),
        (replaced("TerminatingOrFailed"), &["1 Running going"], (0, 1), "2/0/1 0/0", "", &["0", "1"]),
        (indexed(2, 3), &["1 Succeeded #0", "1 Succeeded #1", "1 Succeeded #1"], (0, 3), "1/0/0 2/0", "0,1", &["2"]),
        (
            indexed(8, 20),
            &[
                "1 Running #0",
                "1 Succeeded #2",
                "1 Pending #3",
                "1 Succeeded #4",
                "1 Succeeded #5",
                "1 Succeeded #7",
                "1 Succeeded #8",
                "1 Succeeded #9",
            ],
            (0, 6),
            "8/0/0 6/0",
            "2,4,5,7-9",
            &["1", "6", "10", "11", "12", "13"],
        ),
        (indexed(3, 4), &["1 Failed #0", "1 Pending #1", "1 Failed #2"], (0, 2), "3/0/0 0/2", "", &["0", "2"]),
        (
            indexed(2, 5),
            &[
                "1 Running",
                "1 Succeeded",
                "1 Failed",
                "1 Running #x",
                "1 Succeeded #x",
                "1 Failed #x",
                "1 Pending #x",
                "1 Succeeded #0",
                "1 Running #1",
                "1 Running #2",
            ],
            (3, 8),
            "2/0/3 1/0",
            "0",
            &[],
        ),
        (
            indexed(5, 5),
            &["1 Succeeded", "1 Failed", "1 Running #x", "1 Succeeded #0", "1 Running #1", "1 Running #2", "1 Pending #2"],
            (2, 5),
            "4/0/2 1/0",
            "0",
            &["3", "4"],
        ),
        (
            indexed(2, 5),
            &["1 Succeeded #0", "1 Running #5", "1 Succeeded #6", "1 Pending #7", "1 Failed #8"],
            (2, 5),
            "2/0/2 1/0",
            "0",
            &["1", "2"],
        ),
    ];
    for (spec, pods, (deleted, released), counts, completed, made) in cases {
        let end = Small::new(spec).with(pods).settled();
        assert_eq!((end.deleted, end.released, end.indexes()), (deleted, released, made.to_vec()), "{pods:?}");
        assert_eq!((end.counts().as_str(), end.completed()), (counts, completed), "{pods:?}");
    }
}

#[test]
fn a_pod_of_an_index_knows_it() {
    let template = json!({"metadata": {"labels": {"job": "u"}, "annotations": {"a": "b"}, "finalizers": ["x"]}, "spec": {
        "initContainers": [{"name": "i", "env": [{"name": "JOB_COMPLETION_INDEX", "value": "mine"}]}], "containers": [{"name": "c"}]}});
    let end = Small::new(json!({"completionMode": "Indexed", "parallelism": 1, "template": template.clone()})).settled();
    let [pod] = &end.made[..] else { panic!() };
    let name = pod["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("j-0-") && name.len() == 9, "{name}");
    assert_eq!(pod["metadata"]["generateName"], "j-0-");
    assert_eq!(pod["metadata"]["annotations"], json!({"a": "b", pods::INDEX: "0"}));
    assert_eq!(pod["metadata"]["labels"], json!({"job": "u", pods::INDEX: "0"}));
    assert_eq!(pod["metadata"]["finalizers"], json!(["x", pods::TRACKING]));
    assert_eq!((&pod["spec"]["hostname"], &pod["metadata"]["ownerReferences"][0]["blockOwnerDeletion"]), (&json!("j-0"), &json!(true)));
    let env =
        json!([{"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": format!("metadata.labels['{}']", pods::INDEX)}}}]);
    assert_eq!(pod["spec"]["containers"][0]["env"], env);
    assert_eq!(pod["spec"]["initContainers"][0]["env"], json!([{"name": "JOB_COMPLETION_INDEX", "value": "mine"}]));
    assert_eq!(end.events, [format!("SuccessfulCreate: Created pod: {name}")]);
    let plain = Small::new(json!({"parallelism": 1, "template": template})).settled();
    assert_eq!((&plain.made[0]["metadata"]["generateName"], plain.made[0]["spec"].get("hostname")), (&json!("j-"), None));
    assert_eq!(plain.made[0]["spec"]["containers"][0].get("env"), None);
}

#[test]
fn a_job_is_complete_when_enough_succeeded() {
    let complete = ["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"];
    let indexed = json!({"completions": 3, "completionMode": "Indexed"});
    let cases: [(&str, Value, &[&str], &str); 6] = [
        ("job finish", json!({}), &["5 Succeeded"], "0/0/0 5/0"),
        ("WQ job all finished", json!({"completions": null}), &["2 Succeeded"], "0/0/0 2/0"),
        ("WQ job all finished despite one failure", json!({"completions": null}), &["1 Succeeded", "1 Failed"], "0/0/0 1/1"),
        ("indexed job completed", indexed, &["1 Succeeded #0", "1 Failed #1", "1 Succeeded #1", "1 Succeeded #2"], "0/0/0 3/1"),
        ("nothing to complete", json!({"completions": 0}), &[], "0/0/0 0/0"),
        ("suspended when it was done", json!({"suspend": true, "completions": 1}), &["1 Succeeded"], "0/0/0 1/0"),
    ];
    for (name, spec, pods, counts) in cases {
        let end = Small::new(spec).with(pods).settled();
        assert_eq!((end.conditions(), end.counts().as_str()), (complete.map(str::to_owned).to_vec(), counts), "{name}");
        assert_eq!(
            (&end.job["status"]["completionTime"], &end.events),
            (&json!(NOW), &vec!["Completed: Job completed".to_owned()]),
            "{name}"
        );
        assert_eq!(end.job["status"]["uncountedTerminatedPods"], json!({}), "{name}");
        assert_eq!(end.statuses, 2, "{name}: what it comes to, and that it has");
    }
    let many = Small::new(json!({"completions": 1})).with(&["2 Succeeded"]).settled();
    assert_eq!(
        many.events,
        ["TooManySucceededPods: Too many succeeded pods running after completion count reached", "Completed: Job completed"]
    );
}

#[test]
fn a_job_fails_once_its_pods_are_gone() {
    let failed = |why: &str| vec![format!("FailureTarget=True {why}"), format!("Failed=True {why}")];
    let end = Small::new(json!({"backoffLimit": 0})).with(&["1 Failed"]).deleting().settled();
    assert_eq!((end.conditions(), end.counts().as_str()), (failed("BackoffLimitExceeded"), "0/0/0 0/1"));
    assert_eq!(end.events, ["BackoffLimitExceeded: Job has reached the specified backoff limit"]);
    let indexed = json!({"completions": 3, "backoffLimit": 0, "completionMode": "Indexed"});
    let mut end = Small::new(indexed).with(&["1 Succeeded #0", "1 Failed #1", "1 Running #2 ready"]).settled();
    assert_eq!(
        (end.conditions(), end.counts().as_str(), end.completed()),
        (failed("BackoffLimitExceeded")[..1].to_vec(), "0/0/1 1/2", "0")
    );
    assert_eq!((end.released, end.deleted), (3, 1));
    end.pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let end = end.settled();
    assert_eq!((end.conditions(), end.counts().as_str()), (failed("BackoffLimitExceeded"), "0/0/0 1/2"));
    assert_eq!(end.job["status"].get("completionTime"), None);
    let held =
        Small::new(json!({})).with(&["1 Running"]).status(json!({"conditions": [{"type": "FailureTarget", "status": "False"}]})).settled();
    assert_eq!((held.counts().as_str(), held.made.len()), ("2/0/0 0/0", 1), "what does not hold is ignored");
}

/// `TestSyncJobPastDeadline`.
#[test]
fn a_job_that_runs_for_too_long_fails() {
    let spec =
        |deadline: i64, suspend: bool| json!({"activeDeadlineSeconds": deadline, "parallelism": 1, "completions": 1, "suspend": suspend});
    let start = json!({"startTime": "2026-11-30T11:59:45Z"});
    let late = Small::new(spec(10, false)).with(&["1 Running"]).status(start.clone()).settled();
    assert_eq!((late.conditions(), late.counts().as_str()), (vec!["FailureTarget=True DeadlineExceeded".to_owned()], "0/0/1 0/1"));
    let none = Small::new(spec(10, false)).status(start.clone()).settled();
    assert_eq!(none.conditions(), ["FailureTarget=True DeadlineExceeded", "Failed=True DeadlineExceeded"]);
    assert_eq!(none.events, ["DeadlineExceeded: Job was active longer than specified deadline"]);
    let early = Small::new(spec(20, false)).with(&["1 Running"]).status(start.clone()).settled();
    assert_eq!((early.conditions().len(), early.again), (0, Some(std::time::Duration::from_secs(5))));
    let first = Small::new(spec(0, false)).settled();
    assert_eq!((first.conditions().len(), first.made.len()), (2, 0), "before any pod");
    let suspended = Small::new(spec(10, true)).status(start).settled();
    assert_eq!((suspended.conditions(), suspended.again), (vec!["Suspended=True JobSuspended".to_owned()], None));
}

/// `TestJobBackoffForOnFailure`.
#[test]
fn restarts_of_containers_count_where_they_are_restarted() {
    let failed = |limit: i32, parallelism: i32, restarts: &[i32], phase: &str| {
        let template = json!({"metadata": {"labels": {"job": "u"}}, "spec": {"restartPolicy": "OnFailure", "containers": []}});
        let mut small = Small::new(json!({"backoffLimit": limit, "parallelism": parallelism, "template": template}));
        small = small.with(&[format!("{} {phase}", restarts.len()).as_str()]);
        for (pod, restarts) in small.pods.iter_mut().zip(restarts) {
            pod["status"]["containerStatuses"] = json!([{"name": "c", "restartCount": restarts - restarts / 2}]);
            pod["status"]["initContainerStatuses"] = json!([{"name": "i", "restartCount": restarts / 2}]);
        }
        let end = small.settled();
        end.conditions() == ["FailureTarget=True BackoffLimitExceeded"]
    };
    assert!(!failed(0, 1, &[0], "Running"));
    assert!(!failed(1, 1, &[0], "Running"));
    for phase in ["Running", "Pending"] {
        assert!(failed(0, 1, &[1], phase) && failed(1, 1, &[1], phase) && failed(2, 5, &[2], phase) && failed(2, 5, &[1, 1], phase));
    }
    assert!(!failed(3, 1, &[1, 1], "Running"));
}

/// `TestJobBackoffOnRestartPolicyNever`, and the cases of back-off in `TestControllerSyncJob`.
#[test]
fn pods_come_again_later_and_later() {
    let seconds = std::time::Duration::from_secs;
    let mut small = Small::new(json!({"parallelism": 1, "completions": 1})).settled();
    for wait in [10, 20, 40, 80, 160, 320] {
        let ended = rfc3339(small.now);
        let last = small.pods.last_mut().unwrap();
        last["status"] =
            json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 1, "finishedAt": ended}}}]});
        let made = small.made.len();
        small = small.settled();
        assert_eq!((small.again, small.made.len()), (Some(seconds(wait)), made), "{}", small.counts());
        small.now = small.now.checked_add(seconds(wait)).unwrap();
        small = small.settled();
        assert_eq!(small.made.len(), made + 1);
    }
    let last = small.pods.last_mut().unwrap();
    last["status"] = json!({"phase": "Failed"});
    let end = small.settled();
    assert_eq!((end.counts().as_str(), end.conditions().len(), end.made.len()), ("0/0/0 0/7", 2, 7));
}

#[test]
fn a_suspended_job_has_no_pods_and_begins_anew() {
    let spec = |suspend: bool| json!({"parallelism": 2, "completions": 4, "suspend": suspend});
    let mut small = Small::new(spec(false)).with(&["2 Running ready"]).settled();
    assert_eq!(small.job["status"]["startTime"], NOW);
    small.job["spec"]["suspend"] = true.into();
    let mut small = small.settled();
    assert_eq!((small.conditions(), small.counts().as_str()), (vec!["Suspended=True JobSuspended".to_owned()], "0/0/2 0/0"));
    assert_eq!((small.deleted, small.released, small.job["status"].get("startTime")), (2, 2, None));
    assert_eq!(small.events[2..], ["Suspended: Job suspended"]);
    small.pods.clear();
    small.job["spec"]["suspend"] = false.into();
    small.now = "2026-11-30T13:00:00Z".parse().unwrap();
    let small = small.settled();
    assert_eq!(
        (small.conditions(), small.counts().as_str(), small.made.len()),
        (vec!["Suspended=False JobResumed".to_owned()], "2/0/0 0/0", 2)
    );
    assert_eq!(small.job["status"]["startTime"], "2026-11-30T13:00:00Z");
    assert!(small.events.contains(&"Resumed: Job resumed".to_owned()));
    let going = Small::new(spec(true)).with(&["2 Running"]).deleting().settled();
    assert_eq!((going.conditions().len(), going.counts().as_str(), going.released, going.deleted), (0, "2/0/0 0/0", 2, 0));
}

#[test]
fn a_job_that_goes_lets_its_pods_go() {
    let going = Small::new(json!({})).with(&["1 Pending", "1 Running", "1 Succeeded"]).deleting().settled();
    assert_eq!((going.counts().as_str(), going.released, going.made.len()), ("2/0/0 1/0", 3, 0));
}

/// `TestTrackJobStatusAndRemoveFinalizers`.
#[test]
fn an_end_is_counted_once() {
    let uncounted = |succeeded: &[&str], failed: &[&str]| json!({"startTime": NOW, "active": 2, "succeeded": 2, "failed": 3, "uncountedTerminatedPods": {"succeeded": succeeded, "failed": failed}});
    // Named, and not released yet; named and released; named and gone; released before it was named in this life of the controller.
    let small = Small::new(json!({"parallelism": 0, "completions": 50})).with(&[
        "1 Succeeded",
        "1 Failed",
        "1 Succeeded counted",
        "1 Failed counted",
        "1 Succeeded counted",
    ]);
    let end = small.status(uncounted(&["u0", "u2", "gone"], &["u1", "u3", "lost"])).settled();
    assert_eq!((end.counts().as_str(), end.released), ("0/0/0 5/6", 2));
    assert_eq!(end.job["status"]["uncountedTerminatedPods"], json!({}));
    // It failed, was named, and says now that it succeeded.
    let end = Small::new(json!({"parallelism": 0}))
        .with(&["1 Succeeded"])
        .status(json!({"uncountedTerminatedPods": {"failed": ["u0"]}}))
        .settled();
    assert_eq!(end.counts(), "0/0/0 0/1");
    let mut many = Small::new(json!({"parallelism": 0, "completions": 5000})).with(&["1100 Succeeded"]);
    let mut named = 0;
    while many.step() {
        named = named.max(many.job["status"]["uncountedTerminatedPods"]["succeeded"].as_array().map_or(0, Vec::len));
    }
    assert_eq!((many.counts().as_str(), many.released, named, many.statuses), ("0/0/0 1100/0", 1100, 500, 4));
    // Indexes that are out of range now are not counted any more.
    let indexed = json!({"completionMode": "Indexed", "parallelism": 0, "completions": 4});
    let end = Small::new(indexed)
        .with(&["1 Succeeded #1", "1 Succeeded #3"])
        .status(json!({"succeeded": 4, "completedIndexes": "0,3-5"}))
        .settled();
    assert_eq!((end.counts().as_str(), end.completed(), end.released), ("0/0/0 3/0", "0,1,3", 2));
}

/// Whoever is killed after any write leaves what the next needs: nothing is counted twice, and nothing is lost.
#[test]
fn no_end_is_lost_when_the_controller_is_killed() {
    let pods = ["3 Succeeded", "2 Failed", "1 Running"];
    let whole = Small::new(json!({"completions": 10, "parallelism": 1})).with(&pods).settled();
    for killed_after in 0..14 {
        let mut small = Small::new(json!({"completions": 10, "parallelism": 1})).with(&pods);
        let mut left = killed_after;
        'killed: loop {
            let plan = decide(&small.world()).plan;
            if plan.actions.iter().all(|action| matches!(action, Action::Event { .. })) {
                break;
            }
            for action in plan.actions {
                if left == 0 {
                    break 'killed;
                }
                left -= usize::from(!matches!(action, Action::Event { .. }));
                small.carry_out(action);
            }
        }
        let small = small.settled();
        assert_eq!((small.counts(), small.pods.len()), (whole.counts(), whole.pods.len()), "killed after {killed_after} writes");
    }
}

/// Upstream's `TestGetPodsForJob`, `TestSyncJobWhenManagedBy` is of [`Jobs::observe`].
#[test]
fn pods_are_adopted_and_let_go() {
    let mut small = Small::new(json!({"parallelism": 1})).with(&["1 Running", "1 Running"]);
    small.pods[0]["metadata"]["ownerReferences"] = Value::Null;
    small.pods[0]["metadata"]["finalizers"] = Value::Null;
    small.pods[1]["metadata"]["labels"] = json!({"job": "other"});
    let end = small.settled();
    assert_eq!((end.made.len(), end.counts().as_str()), (0, "1/0/0 0/0"));
    assert_eq!(end.pods[0]["metadata"]["finalizers"], json!([pods::TRACKING]));
    assert_eq!(
        (&end.pods[0]["metadata"]["ownerReferences"][0]["uid"], &end.pods[1]["metadata"]["ownerReferences"]),
        (&json!("u"), &json!([]))
    );
    assert_eq!(end.pods[1]["metadata"]["finalizers"], json!([]));
}

#[test]
fn what_is_refused_is_not_told_of_as_done() {
    let creates = |action: &Action| matches!(action, Action::Create { .. });
    let mut small = Small::new(json!({})).with(&["1 Succeeded"]);
    small.refuses = creates;
    (0..5).for_each(|_| _ = small.step());
    assert_eq!((small.counts().as_str(), small.made.len(), small.released), ("0/0/0 1/0", 0, 1), "what ended is counted all the same");
    small.refuses = |_| false;
    assert_eq!(small.settled().counts(), "2/0/0 1/0");
    let mut small = Small::new(json!({"backoffLimit": 0})).with(&["2 Running", "1 Failed"]);
    small.refuses = |action| matches!(action, Action::Delete { .. });
    (0..5).for_each(|_| _ = small.step());
    assert_eq!((small.counts().as_str(), small.conditions().len()), ("2/0/0 0/1", 0), "no end is told while pods go on");
    small.refuses = |_| false;
    assert_eq!(small.settled().conditions(), ["FailureTarget=True BackoffLimitExceeded"]);
}

/// `TestSyncJobWithJobPodFailurePolicy`; the rules themselves are tested beside them.
#[test]
fn failures_are_judged() {
    let rule = |action: &str| json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [1]}}]});
    let spec =
        |action: &str| json!({"podFailurePolicy": rule(action), "podReplacementPolicy": "Failed", "parallelism": 1, "backoffLimit": 0});
    let fails = Small::new(spec("FailJob")).with(&["1 Failed", "1 Running"]).settled();
    assert_eq!((fails.conditions(), fails.counts().as_str()), (vec!["FailureTarget=True PodFailurePolicy".to_owned()], "0/0/1 0/2"));
    let why = &fails.job["status"]["conditions"][0]["message"];
    assert_eq!(why, "Container c for pod d/p0000 failed with exit code 1 matching FailJob rule at index 0");
    let ignored = Small::new(spec("Ignore")).with(&["1 Failed"]).settled();
    assert_eq!((ignored.conditions().len(), ignored.counts().as_str(), ignored.released, ignored.made.len()), (0, "1/0/0 0/0", 1, 1));
    let counted = Small::new(spec("Count")).with(&["1 Failed"]).settled();
    assert_eq!(counted.conditions(), ["FailureTarget=True BackoffLimitExceeded", "Failed=True BackoffLimitExceeded"]);
    let target = json!({"conditions": [{"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy", "message": "of one that is gone"}]});
    let told = Small::new(spec("Count")).with(&["1 Failed"]).status(target).settled();
    assert_eq!(
        (told.conditions()[1].as_str(), &told.events[..]),
        ("Failed=True PodFailurePolicy", &["PodFailurePolicy: of one that is gone".to_owned()][..])
    );
    // One that is being deleted is waited for.
    let going = Small::new(spec("Count")).with(&["1 Running going"]).settled();
    assert_eq!((going.counts().as_str(), going.made.len(), going.released), ("0/0/1 0/0", 0, 0));
}

/// `TestSyncJobWithJobBackoffLimitPerIndex`.
#[test]
fn indexes_fail_one_by_one() {
    let spec = |more: Value| {
        let mut all =
            json!({"completionMode": "Indexed", "parallelism": 2, "completions": 2, "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let failures = |small: &mut Small, at: usize, count: &str| small.pods[at]["metadata"]["annotations"][pods::FAILURES] = count.into();
    // Tried again: the successor is told how often.
    let again = Small::new(spec(json!({}))).with(&["1 Failed #0", "1 Running #1"]).settled();
    assert_eq!((again.counts().as_str(), again.indexes(), again.released), ("2/0/0 0/1", vec!["0"], 1));
    assert_eq!(again.made[0]["metadata"]["annotations"], json!({pods::INDEX: "0", pods::FAILURES: "1"}));
    assert_eq!(again.job["status"]["failedIndexes"], "");
    // Not yet: until its successor is there it keeps its finalizer, and is not counted.
    let mut young = Small::new(spec(json!({}))).with(&["1 Failed #0", "1 Running #1"]);
    young.pods[0]["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = NOW.into();
    let young = young.settled();
    assert_eq!((young.counts().as_str(), young.released, young.again), ("1/0/0 0/0", 0, Some(std::time::Duration::from_secs(10))));
    // Too often.
    let mut last = Small::new(spec(json!({}))).with(&["1 Failed #0", "1 Running #1"]);
    failures(&mut last, 0, "1");
    let mut last = last.settled();
    assert_eq!((last.counts().as_str(), last.released, &last.job["status"]["failedIndexes"]), ("1/0/0 0/1", 1, &json!("0")));
    last.pods[1]["status"]["phase"] = "Succeeded".into();
    let last = last.settled();
    assert_eq!((last.conditions()[1].as_str(), last.counts().as_str(), last.completed()), ("Failed=True FailedIndexes", "0/0/0 1/1", "1"));
    assert_eq!(last.events.last().unwrap(), "FailedIndexes: Job has failed indexes");
    let mut most = Small::new(spec(json!({"completions": 4, "maxFailedIndexes": 1}))).with(&["1 Failed #0", "1 Failed #2"]);
    failures(&mut most, 0, "1");
    failures(&mut most, 1, "5");
    let most = most.settled();
    assert_eq!(
        (most.conditions()[1].as_str(), &most.job["status"]["failedIndexes"]),
        ("Failed=True MaxFailedIndexesExceeded", &json!("0,2"))
    );
    let rule = |action: &str| json!({"podFailurePolicy": {"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [1]}}]}, "podReplacementPolicy": "Failed"});
    let at_once = Small::new(spec(rule("FailIndex"))).with(&["1 Failed #0", "1 Running #1"]).settled();
    assert_eq!((&at_once.job["status"]["failedIndexes"], at_once.made.len()), (&json!("0"), 0));
    let ignored = Small::new(spec(rule("Ignore"))).with(&["1 Failed #0", "1 Running #1"]).settled();
    assert_eq!(ignored.made[0]["metadata"]["annotations"], json!({pods::INDEX: "0", pods::FAILURES: "0", pods::IGNORED: "1"}));
    assert_eq!(ignored.counts(), "2/0/0 0/0");
}

/// `TestSyncJobWithJobSuccessPolicy`.
#[test]
fn some_may_be_enough() {
    let policy = json!({"rules": [{"succeededIndexes": "0,1", "succeededCount": 1}]});
    let spec = json!({"completionMode": "Indexed", "parallelism": 3, "completions": 3, "successPolicy": policy});
    let mut met = Small::new(spec.clone()).with(&["1 Succeeded #1", "1 Running #0", "1 Running #2"]).settled();
    assert_eq!((met.conditions(), met.counts().as_str()), (vec!["SuccessCriteriaMet=True SuccessPolicy".to_owned()], "0/0/2 1/0"));
    assert_eq!((met.deleted, met.released), (2, 3), "who is stopped has not failed");
    met.pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let met = met.settled();
    assert_eq!((met.conditions()[1].as_str(), met.counts().as_str()), ("Complete=True SuccessPolicy", "0/0/0 1/0"));
    assert_eq!(met.job["status"]["conditions"][1]["message"], "Matched rules at index 0");
    // Failure comes first; but what was said first stays.
    let mut both = spec.clone();
    both["backoffLimit"] = 0.into();
    let failed = Small::new(both.clone()).with(&["1 Succeeded #1", "1 Failed #2"]).settled();
    assert_eq!(failed.conditions()[1], "Failed=True BackoffLimitExceeded");
    let said = json!({"startTime": NOW, "conditions": [{"type": "SuccessCriteriaMet", "status": "True", "reason": "SuccessPolicy", "message": "m"}]});
    let stays = Small::new(both).with(&["1 Succeeded #1", "1 Failed #2"]).status(said).settled();
    assert_eq!(stays.conditions()[1], "Complete=True SuccessPolicy");
}

/// A Job of a thousand pods that all run at once, and end at once: as few writes as upstream makes.
#[test]
fn a_thousand_pods_take_few_writes_of_the_status() {
    for mode in ["NonIndexed", "Indexed"] {
        let mut small = Small::new(json!({"parallelism": 1000, "completions": 1000, "completionMode": mode})).settled();
        assert_eq!((small.made.len(), small.statuses), (1000, 2), "{mode}: five hundred at a time");
        small.pods.iter_mut().for_each(|pod| pod["status"]["phase"] = "Succeeded".into());
        let end = small.settled();
        let by_phase = end.conditions().len();
        // Named (or told as indexes), then counted, and named beside; and what it comes to, and that it has.
        let wanted = if mode == "Indexed" { 4 } else { 5 };
        assert_eq!((end.counts().as_str(), by_phase, end.released, end.statuses), ("0/0/0 1000/0", 2, 1000, wanted), "{mode}");
    }
}

#[test]
fn what_the_metrics_tell_is_named_as_upstream_names_it() {
    let outcome = |spec: Value, pods: &[&str]| decide(&Small::new(spec).with(pods).world()).outcome;
    let made = outcome(json!({}), &[]);
    assert_eq!((made.doing, made.creations), ("pods_created", (2, "new")));
    assert_eq!(outcome(json!({}), &["2 Running"]).doing, "tracking");
    assert_eq!(outcome(json!({}), &["3 Running"]).doing, "pods_deleted");
    assert_eq!(outcome(json!({"backoffLimit": 0}), &["1 Failed"]).doing, "reconciling");
    assert_eq!(outcome(json!({"podReplacementPolicy": "Failed"}), &["1 Failed"]).creations, (2, "recreate_failed"));
    assert_eq!(outcome(json!({}), &["1 Running going"]).creations.1, "recreate_terminating_or_failed");
    let rule = json!({"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}]});
    assert_eq!(outcome(json!({"podFailurePolicy": rule}), &["3 Failed"]).judged, BTreeMap::from([("Ignore", 3)]));
}
