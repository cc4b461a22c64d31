//! Job and CronJob: pods that run to their end.

use crate::{aboard::Kubectl, terminal::Terminal};

const INDEXED: &str = "---
{apiVersion: batch/v1, kind: Job, metadata: {name: each}, spec: {completions: 2, parallelism: 2, completionMode: Indexed,
  template: {spec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'busybox:1.35', command: [sh, -c, 'echo $(hostname) has $JOB_COMPLETION_INDEX']}]}}}}
";

const FAILS: &str = "---
{apiVersion: batch/v1, kind: Job, metadata: {name: fails}, spec: {backoffLimit: 3,
  podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]},
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: 'busybox:1.35', command: [sh, -c, 'exit 42']}]}}}}
";

/// Due once a month.
const TICK: &str = "---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: tick}, spec: {schedule: '0 0 1 * *', jobTemplate: {spec: {template: {spec: {
  restartPolicy: OnFailure, containers: [{name: c, image: 'busybox:1.35', command: [echo, tick]}]}}}}}}
";

pub fn job(t: &Terminal) {
    t.file("each.yaml", INDEXED);
    t.file("fails.yaml", FAILS);
    t.run("kubectl create job once --image=busybox:1.35 -- echo done").expect("job.batch/once created");
    t.run("kubectl create -f each.yaml -f fails.yaml").expect("job.batch/each created").expect("job.batch/fails created");
    t.run("kubectl wait --for=condition=Complete job/once job/each --timeout=90s").times(2, "condition met");
    t.run("kubectl get jobs").matches("^once +.*1/1 ").matches("^each +.*2/2 ");
    t.run("kubectl logs job/once").expect("done");
    t.run("kubectl logs -l job-name=each").expect("each-0 has 0").expect("each-1 has 1");
    t.run("kubectl get job each -o jsonpath='{.status.completedIndexes}'").expect("0,1");
    t.run("kubectl describe job each").matches("SuccessfulCreate .*Created pod: each-[01]-").expect("Job completed");
    t.run("kubectl wait --for=condition=Failed job/fails --timeout=90s").expect("condition met");
    t.run("kubectl get job fails -o jsonpath='{.status.conditions[*].message}'").expect("exit code 42 matching FailJob rule at index 0");
    if t.kubectl == Kubectl::Newer {
        cron_job(t);
    }
    t.run("kubectl delete jobs --all").expect("job.batch \"once\" deleted");
    t.until_gone("kubectl get pods", "once-|each-|fails-|tick-");
}

/// One that missed its last time, for it says that the one before was its last.
fn cron_job(t: &Terminal) {
    t.file("tick.yaml", TICK);
    t.run("kubectl create -f tick.yaml").expect("cronjob.batch/tick created");
    t.run(r#"kubectl patch cronjob tick --subresource=status --type=merge -p "{\"status\":{\"lastScheduleTime\":\"$(date -u -d '40 days ago' +%FT%TZ)\"}}""#);
    t.until("kubectl get jobs", "^tick-[0-9]+ +Complete +1/1 ");
    t.until("kubectl get cronjob tick -o jsonpath='{.status.lastSuccessfulTime}'", "T..:");
    t.run("kubectl create job --from=cronjob/tick tick-now").expect("job.batch/tick-now created");
    t.run("kubectl wait --for=condition=Complete job/tick-now --timeout=90s").expect("condition met");
    t.run("kubectl delete cronjob tick").expect("cronjob.batch \"tick\" deleted");
}
