use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-11-30T12:00:30Z";
const CREATED: &str = "2026-11-30T11:30:10Z";

fn cron_job(spec: &Value, status: &Value) -> Arc<CronJob> {
    let mut all = json!({"schedule": "*/10 * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
        "jobTemplate": {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": {"template": {"spec": {"containers": []}}}}});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let metadata = json!({"name": "tick", "namespace": "d", "uid": "u", "resourceVersion": "1", "creationTimestamp": CREATED});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": all, "status": status})).unwrap())
}

fn job(name: &str, annotations: &Value, status: &Value) -> Arc<Job> {
    let owner = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "u", "controller": true}]);
    let metadata =
        json!({"name": name, "namespace": "d", "uid": format!("u-{name}"), "annotations": annotations, "ownerReferences": owner});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": {"template": {}}, "status": status})).unwrap())
}

/// One that was made for the time.
fn made(at: &str, status: &Value) -> Arc<Job> {
    let minutes = at.parse::<Timestamp>().unwrap().as_second() / 60;
    job(&format!("tick-{minutes}"), &json!({SCHEDULED: at}), status)
}

fn over(how: &str, at: &str) -> Value {
    json!({"startTime": at, "completionTime": at, "conditions": [{"type": how, "status": "True"}]})
}

fn active(jobs: &[&Arc<Job>]) -> Value {
    jobs.iter().map(|job| json!({"name": job.metadata.name, "namespace": "d", "uid": job.metadata.uid})).collect()
}

fn planned(cron_job: &Arc<CronJob>, jobs: &[&Arc<Job>]) -> Plan {
    let jobs = jobs.iter().map(|job| Arc::clone(job)).collect();
    plan(&World { cron_job: cron_job.clone(), jobs, now: NOW.parse().unwrap(), zone: TimeZone::UTC })
}

/// Words for the actions: `create NAME`, `delete PATH`, `REASON: message`, `status {...}`.
fn words(plan: &Plan) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Create { object, .. } => format!("create {}", object["metadata"]["name"].as_str().unwrap()),
        Action::Delete { path, .. } => format!("delete {}", path.rsplit('/').next().unwrap()),
        Action::Event { reason, message, .. } => format!("{reason}: {message}"),
        Action::Update { object, .. } => format!("status {}", object["status"]),
        other => format!("{other:?}"),
    };
    plan.actions.iter().map(word).collect()
}

#[test]
fn a_job_is_made_for_the_newest_time_that_is_over() {
    let plan = planned(&cron_job(&json!({}), &json!({})), &[]);
    let name = format!("tick-{}", "2026-11-30T12:00:00Z".parse::<Timestamp>().unwrap().as_second() / 60);
    assert_eq!(words(&plan), [format!("create {name}"), format!("SuccessfulCreate: Created job {name}")]);
    assert_eq!(plan.again, Some(Duration::from_millis(570_100)), "until ten past");
    let Action::Create { object, path, .. } = &plan.actions[0] else { panic!() };
    assert_eq!(path, "/apis/batch/v1/namespaces/d/jobs");
    assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(object["metadata"]["annotations"], json!({"c": "d", SCHEDULED: "2026-11-30T12:00:00Z"}));
    assert_eq!(
        (&object["metadata"]["ownerReferences"][0]["uid"], &object["spec"]["template"]["spec"]),
        (&json!("u"), &json!({"containers": []}))
    );
    let zoned = planned(&cron_job(&json!({"timeZone": "Asia/Tokyo", "schedule": "0 21 * * *"}), &json!({})), &[]);
    let Action::Create { object, .. } = &zoned.actions[0] else { panic!("{zoned:?}") };
    assert_eq!(object["metadata"]["annotations"][SCHEDULED], "2026-11-30T21:00:00+09:00");
}

#[test]
fn what_was_made_is_told_of_once() {
    let job = made("2026-11-30T12:00:00Z", &json!({}));
    let plan = planned(&cron_job(&json!({}), &json!({})), &[&job]);
    let [status] = &words(&plan)[..] else { panic!("{plan:?}") };
    assert!(status.contains("\"lastScheduleTime\":\"2026-11-30T12:00:00Z\"") && status.contains("\"uid\":\"u-tick-"), "{status}");
    let told = cron_job(&json!({}), &json!({"lastScheduleTime": "2026-11-30T12:00:00Z", "active": active(&[&job])}));
    assert_eq!(words(&planned(&told, &[&job])), [""; 0]);
    // It is gone, or over.
    let name = job.metadata.name.as_deref().unwrap();
    let gone = words(&planned(&told, &[]));
    assert_eq!(
        gone,
        ["status {\"lastScheduleTime\":\"2026-11-30T12:00:00Z\"}".to_owned(), format!("MissingJob: Active job went missing: {name}")]
    );
    let done = made("2026-11-30T12:00:00Z", &over("Complete", "2026-11-30T12:00:20Z"));
    let seen = words(&planned(&told, &[&done]));
    assert!(seen[0].contains("\"lastSuccessfulTime\":\"2026-11-30T12:00:20Z\"") && !seen[0].contains("active"), "{seen:?}");
    assert_eq!(seen[1..], [format!("SawCompletedJob: Saw completed job: {name}, condition: Complete")]);
}

#[test]
fn others_jobs_are_wondered_at_and_lead_nowhere() {
    let told = cron_job(&json!({"suspend": true}), &json!({}));
    let manual = job("by-hand", &json!({"cronjob.kubernetes.io/instantiate": "manual"}), &json!({}));
    let wanted = ["UnexpectedJob: Saw a job that the controller did not create or forgot: by-hand"];
    assert_eq!(words(&planned(&told, &[&manual])), wanted);
    // One that says it was for a time to come would keep all jobs until then from being made.
    let future = made("2999-01-01T00:00:00Z", &json!({}));
    assert!(words(&planned(&told, &[&future]))[0].starts_with("UnexpectedJob"));
}

#[test]
fn who_runs_still_is_waited_for_or_replaced() {
    let job = made("2026-11-30T11:50:00Z", &json!({}));
    let status = json!({"lastScheduleTime": "2026-11-30T11:50:00Z", "active": active(&[&job])});
    let of = |policy: &str| planned(&cron_job(&json!({"concurrencyPolicy": policy}), &status), &[&job]);
    assert_eq!(words(&of("Allow")).len(), 2);
    let forbid = words(&of("Forbid"));
    assert_eq!(forbid, ["JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid"]);
    let replace = words(&of("Replace"));
    let name = job.metadata.name.as_deref().unwrap();
    assert!(replace[0].starts_with("status {\"lastScheduleTime\":\"2026-11-30T11:50:00Z\"}"), "{replace:?}");
    assert_eq!(replace[1..3], [format!("delete {name}"), format!("SuccessfulDelete: Deleted job {name}")]);
    assert!(replace[3].starts_with("create tick-"));
}

#[test]
fn nothing_is_started_that_is_not_to_be() {
    let of = |spec: Value| words(&planned(&cron_job(&spec, &json!({})), &[]));
    assert_eq!(of(json!({"suspend": true})), [""; 0]);
    assert_eq!(of(json!({"schedule": "15 12 * * *"})), [""; 0]);
    let late = of(json!({"startingDeadlineSeconds": 10}));
    assert_eq!(late, [""; 0], "what is older than the deadline is not looked for");
    assert!(of(json!({"schedule": "59 23 31 2 *"}))[0].starts_with("InvalidSchedule: invalid schedule: 59 23 31 2 * : time difference"));
    assert!(of(json!({"schedule": "x"}))[0].starts_with("UnparseableSchedule: unparseable schedule: \"x\" : expected exactly 5 fields"));
    assert_eq!(
        of(json!({"timeZone": "Mars/Phobos"})),
        ["UnknownTimeZone: invalid timeZone: \"Mars/Phobos\": unknown time zone Mars/Phobos"]
    );
    let zoned = of(json!({"schedule": "CRON_TZ=UTC */10 * * * *"}));
    assert!(
        zoned[0].starts_with("UnsupportedSchedule: CRON_TZ or TZ used in schedule \"CRON_TZ=UTC */10 * * * *\" is not") && zoned.len() == 3
    );
    assert!(of(json!({"schedule": "* * * * *"})).len() == 2, "thirty missed times are few");
    let many = planned(&cron_job(&json!({"schedule": "@every 10s"}), &json!({})), &[]);
    assert!(words(&many)[0].starts_with("TooManyMissedTimes: too many missed start times."), "{many:?}");
}

#[test]
fn the_oldest_that_are_over_go() {
    let jobs: Vec<Arc<Job>> =
        (1..6).map(|n| made(&format!("2026-11-30T11:0{n}:00Z"), &over("Complete", &format!("2026-11-30T11:0{n}:30Z")))).collect();
    let failed = made("2026-11-30T11:09:00Z", &over("Failed", "2026-11-30T11:09:30Z"));
    let all: Vec<&Arc<Job>> = jobs.iter().chain([&failed]).collect();
    let told = cron_job(&json!({"suspend": true}), &json!({"lastSuccessfulTime": "2026-11-30T11:05:30Z"}));
    let deleted: Vec<String> = words(&planned(&told, &all)).into_iter().filter(|word| word.starts_with("delete")).collect();
    let names: Vec<String> = jobs[..2].iter().map(|job| format!("delete {}", job.metadata.name.as_deref().unwrap())).collect();
    assert_eq!(deleted, names);
}

#[test]
fn what_was_over_before_it_was_told_of_is_not_made_again() {
    let spec = json!({"successfulJobsHistoryLimit": 0});
    let done = made("2026-11-30T12:00:00Z", &over("Complete", "2026-11-30T12:00:10Z"));
    let plan = planned(&cron_job(&spec, &json!({})), &[&done]);
    let said = words(&plan);
    assert!(said[0].contains("\"lastScheduleTime\":\"2026-11-30T12:00:00Z\"") && said[1].starts_with("delete"), "{said:?}");
    let Action::Update { object, .. } = &plan.actions[0] else { panic!() };
    assert_eq!(words(&planned(&cron_job(&spec, &object["status"]), &[])), [""; 0], "it is gone, and its time is over");
}

/// What is refused ends a plan: a policy may keep jobs that are over.
#[test]
fn jobs_are_made_before_those_that_are_too_many_are_deleted() {
    let old = made("2026-11-30T11:40:00Z", &over("Complete", "2026-11-30T11:40:10Z"));
    let said = words(&planned(&cron_job(&json!({"successfulJobsHistoryLimit": 0}), &json!({})), &[&old]));
    let at = |begin: &str| said.iter().position(|word| word.starts_with(begin)).unwrap_or_else(|| panic!("{said:?}"));
    assert!(at("create") < at("delete"), "{said:?}");
}

#[test]
fn whatever_the_api_admits_ends() {
    let numbers = [json!(0), json!(1), json!(i64::MAX)];
    let times = ["0001-01-01T00:00:00Z", "2026-11-30T12:00:00Z", "9999-12-30T00:00:00Z"];
    for (deadline, last) in numbers.iter().flat_map(|n| times.iter().map(move |t| (n, t))) {
        for schedule in ["* * 1-27 2 *", "@every 1s", "@every 2562047h", ", * * * *"] {
            let spec = json!({"schedule": schedule, "startingDeadlineSeconds": deadline, "concurrencyPolicy": null});
            planned(&cron_job(&spec, &json!({"lastScheduleTime": last, "active": [{}]})), &[]);
        }
    }
}
