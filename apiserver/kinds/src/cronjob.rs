//! CronJob: jobs made at times that a schedule names. Source: `pkg/registry/batch/cronjob`, `pkg/apis/batch/v1/defaults.go`.

mod timezone;

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, Strategy, names};
use serde_json::Value;

use crate::{
    common::{
        self, Path, Read,
        edit::{default_text, default_to, make_child},
        not_negative, one_of,
        read::{name, same},
        selector,
        table::{AGE_COLUMN, CONTAINERS_COLUMN, IMAGES_COLUMN, NAME_COLUMN, age, column, containers_cells, since},
    },
    job, podtemplate,
};

/// A job's name is that of its CronJob with eleven characters more.
const NAME_BYTES_MAX: usize = 52;
const ZONE_IN_SCHEDULE: &str = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    column("Schedule", "string", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron."),
    column(
        "Timezone",
        "string",
        "The time zone name for the given schedule, see https://en.wikipedia.org/wiki/List_of_tz_database_time_zones. If not specified, this will default to the time zone of the kube-controller-manager process. The set of valid time zone names and the time zone offset is loaded from the system-wide time zone database by the API server during CronJob validation and the controller manager during execution. If no system-wide time zone database can be found a bundled version of the database is used instead. If the time zone name becomes invalid during the lifetime of a CronJob or due to a change in host configuration, the controller will stop creating new new Jobs and will create a system event with the reason UnknownTimeZone. More information can be found in https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#time-zones",
    ),
    column(
        "Suspend",
        "boolean",
        "This flag tells the controller to suspend subsequent executions, it does not apply to already started executions.  Defaults to false.",
    ),
    column("Active", "integer", "A list of pointers to currently running jobs."),
    column("Last Schedule", "string", "Information when was the last time the job was successfully scheduled."),
    AGE_COLUMN,
    CONTAINERS_COLUMN,
    IMAGES_COLUMN,
    job::SELECTOR_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["cj"]),
        categories: names(&["all"]),
        subresources: vec![common::status("batch", "v1", "CronJob")],
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind("batch", "v1", "CronJob", "cronjobs", "io.k8s.api.batch.v1", CronJobs)
    }
}

struct CronJobs;

impl Strategy for CronJobs {
    fn default(&self, object: &mut Value) {
        let Some(spec) = make_child(object, "spec") else { return };
        default_text(spec, "concurrencyPolicy", "Allow");
        default_to(spec, "suspend", false);
        default_to(spec, "successfulJobsHistoryLimit", 3);
        default_to(spec, "failedJobsHistoryLimit", 1);
        if let Some(template) = make_child(spec, "jobTemplate") {
            make_child(template, "metadata");
            make_child(template, "spec").into_iter().for_each(job::default_spec);
        }
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        spec(object.at("spec"), None, causes);
        if name(object).len() > NAME_BYTES_MAX {
            causes.invalid("metadata.name", name(object), "must be no more than 52 characters");
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        spec(new.at("spec"), old.at("spec"), causes);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out: Vec<String> = podtemplate::name_warning(new, old).into_iter().collect();
        if old.is_none_or(|old| !same(new.at("spec"), old.at("spec"))) {
            let template = new.at("spec").at("jobTemplate").at("spec");
            out.extend(template.into_iter().flat_map(|spec| job::spec_warnings(spec, Path::new("spec.jobTemplate.spec"))));
        }
        if old.is_some() && new.at("spec").text("schedule").contains("TZ") {
            out.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        out
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let template = spec.at("jobTemplate").at("spec");
        let [names, images] = containers_cells(template.at("template").at("spec"));
        let last = status.at("lastScheduleTime").and_then(Value::as_str).map_or("<none>".to_owned(), |time| since(time, now));
        let zone = spec.at("timeZone").and_then(Value::as_str).unwrap_or("<none>");
        let suspended = spec.flag("suspend").map_or("<unset>", |yes| if yes { "True" } else { "False" });
        vec![
            name(object).into(),
            spec.text("schedule").into(),
            zone.into(),
            suspended.into(),
            status.list("active").len().into(),
            last.into(),
            age(object, now),
            names,
            images,
            selector::print(template.at("selector")).into(),
        ]
    }
}

/// `validateCronJobSpec`
fn spec(spec: Option<&Value>, old: Option<&Value>, causes: &mut FieldErrors) {
    let path = Path::new("spec");
    let (schedule, zone) = (spec.text("schedule"), spec.at("timeZone").and_then(Value::as_str));
    if schedule.is_empty() {
        causes.required(path.field("schedule"), "");
    } else {
        let had_zone = old.text("schedule").contains("TZ");
        schedule_format(schedule, had_zone, zone.is_some(), path.field("schedule"), causes);
    }
    not_negative(spec.int("startingDeadlineSeconds"), path.field("startingDeadlineSeconds"), causes);
    if let Some(zone) = zone.filter(|zone| old.at("timeZone").and_then(Value::as_str) != Some(zone)) {
        for why in timezone::errors(zone) {
            causes.invalid(path.field("timeZone"), zone, &why);
        }
    }
    one_of(spec.text("concurrencyPolicy"), &["Allow", "Forbid", "Replace"], path.field("concurrencyPolicy"), causes);
    job_template(spec.at("jobTemplate"), path.field("jobTemplate"), causes);
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(spec.int(field), path.field(field), causes);
    }
}

fn schedule_format(schedule: &str, had_zone: bool, has_field: bool, path: Path<'_>, causes: &mut FieldErrors) {
    if let Err(why) = api::cron::Schedule::parse(schedule) {
        causes.invalid(path, schedule, &why);
    }
    match (schedule.contains("TZ"), had_zone) {
        (true, true) if has_field => causes.invalid(path, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"),
        (true, false) => causes.invalid(path, schedule, ZONE_IN_SCHEDULE),
        _ => {}
    }
}

/// `ValidateJobTemplateSpec`
fn job_template(template: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let (null, at) = (Value::Null, path.field("spec"));
    let spec = template.at("spec").unwrap_or(&null);
    job::validate::spec(spec, at, causes);
    if let Some(selector) = spec.at("selector") {
        causes.invalid(at.field("selector"), selector.clone(), "`selector` will be auto-generated");
    }
    if spec.is_true("manualSelector") {
        common::not_supported(true, &["nil", "false"], at.field("manualSelector"), causes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(parts: Value) -> Value {
        let pod = json!({"containers": [{"name": "c", "image": "x:1"}], "restartPolicy": "Never"});
        let mut object = json!({"metadata": {"name": "a"}, "spec": {
            "schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {"spec": pod}}}}});
        object["spec"].as_object_mut().unwrap().extend(parts.as_object().cloned().unwrap_or_default());
        CronJobs.default(&mut object);
        object
    }

    fn texts(causes: &FieldErrors) -> Vec<String> {
        causes.0.iter().map(|c| c.text()).collect()
    }

    fn causes(object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        CronJobs.validate_create(object, &mut causes);
        texts(&causes)
    }

    #[test]
    fn defaults_are_upstreams() {
        let found = object(json!({}));
        let spec = &found["spec"];
        assert_eq!(
            (&spec["concurrencyPolicy"], &spec["suspend"], &spec["successfulJobsHistoryLimit"], &spec["failedJobsHistoryLimit"]),
            (&json!("Allow"), &json!(false), &json!(3), &json!(1))
        );
        // A job's own defaults wait for the job.
        assert_eq!(spec["jobTemplate"]["spec"].get("parallelism"), None);
        assert_eq!(spec["jobTemplate"]["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
        assert_eq!(causes(&found), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_is_told() {
        let selector = json!({"spec": {"selector": {}, "manualSelector": true, "template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "x:1"}]}}}});
        let cases = [
            (json!({"schedule": ""}), vec!["spec.schedule: Required value"]),
            (
                json!({"schedule": "TZ=UTC * * * * *"}),
                vec![
                    r#"spec.schedule: Invalid value: "TZ=UTC * * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"#,
                ],
            ),
            (json!({"timeZone": ""}), vec![r#"spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string"#]),
            (
                json!({"concurrencyPolicy": "Maybe"}),
                vec![r#"spec.concurrencyPolicy: Unsupported value: "Maybe": supported values: "Allow", "Forbid", "Replace""#],
            ),
            (
                json!({"jobTemplate": selector}),
                vec![
                    "spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated",
                    r#"spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: "nil", "false""#,
                ],
            ),
        ];
        for (parts, wanted) in cases {
            assert_eq!(causes(&object(parts)), wanted);
        }
        let mut long = object(json!({}));
        long["metadata"]["name"] = json!("c".repeat(53));
        assert!(causes(&long)[0].ends_with("must be no more than 52 characters"));
    }

    #[test]
    fn a_zone_of_before_may_stay() {
        let (old, mut new) =
            (object(json!({"schedule": "TZ=UTC * * * * *", "timeZone": "Gone/Away"})), object(json!({"schedule": "TZ=UTC 1 * * * *"})));
        new["spec"]["timeZone"] = json!("Gone/Away");
        let mut found = FieldErrors::default();
        CronJobs.validate_update(&new, &old, &mut found);
        let wanted = r#"spec.schedule: Invalid value: "TZ=UTC 1 * * * *": cannot use both timeZone field and TZ or CRON_TZ in schedule"#;
        assert_eq!(texts(&found), [wanted]);
        assert_eq!(CronJobs.warnings(&new, Some(&old)).len(), 1);
    }

    #[test]
    fn cells_are_upstreams() {
        let mut found = object(json!({"timeZone": "UTC"}));
        found["status"] = json!({"active": [{}]});
        let cells = CronJobs.cells(&found, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells), json!(["a", "*/5 * * * *", "UTC", "False", 1, "<none>", "<unknown>", "c", "x:1", "<none>"]));
    }
}
