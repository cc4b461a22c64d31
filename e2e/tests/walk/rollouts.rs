//! Deployment: rolled out, looked back on, undone, blocked by a bad image.

use crate::terminal::{Shown, Terminal};

const HELLO: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello, labels: {app: hello}}
spec:
  replicas: 4
  selector: {matchLabels: {app: hello}}
  strategy: STRATEGY
  template:
    metadata: {labels: {app: hello}}
    spec:
      containers:
      - name: hello
        image: hello:v1
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 30}
";

/// Rows of a deployment as it changes: pods there, pods available.
const ROWS: &str =
    "kubectl get deployment hello -w -o custom-columns=N:.metadata.name,ALL:.status.replicas,AVAILABLE:.status.availableReplicas";

pub fn rollout(t: &Terminal) {
    t.run("kubectl create deployment hello --image=hello:v1 --replicas=3").expect("deployment.apps/hello created");
    t.run("kubectl rollout status deployment/hello --timeout=90s").expect("deployment \"hello\" successfully rolled out");
    t.run("kubectl get deployments").matches("^hello +3/3 +3 +3 ");
    t.run("kubectl get rs -o wide").matches("^hello-[a-z0-9]+ +3 +3 +3 .* hello:v1 ");
    t.run("kubectl annotate deployment hello kubernetes.io/change-cause='the first'");
    t.run("kubectl set image deployment/hello hello=hello:v2").expect("deployment.apps/hello image updated");
    t.run("kubectl annotate deployment hello kubernetes.io/change-cause='the second' --overwrite");
    t.run("kubectl rollout status deployment/hello --timeout=90s").expect("successfully rolled out");
    t.until("kubectl get rs -o wide", "^hello-[a-z0-9]+ +0 +0 +0 .* hello:v1 ").matches("^hello-[a-z0-9]+ +3 +3 +3 .* hello:v2 ");
    answers(t, "v2");
    t.run("kubectl rollout history deployment/hello")
        .matches("^REVISION +CHANGE-CAUSE$")
        .matches("^1 +the first$")
        .matches("^2 +the second$");
    t.run("kubectl rollout history deployment/hello --revision=1").expect("hello:v1");
    t.run("kubectl rollout undo deployment/hello").expect("deployment.apps/hello rolled back");
    t.run("kubectl rollout status deployment/hello --timeout=90s").expect("successfully rolled out");
    answers(t, "v1");
    t.run("kubectl rollout history deployment/hello").matches("^2 +the second$").matches("^3 +the first$").lacks("\n1 ");
    t.run("kubectl rollout undo deployment/hello --to-revision=2").expect("rolled back");
    t.run("kubectl rollout status deployment/hello --timeout=90s");
    answers(t, "v2");
    t.fails("kubectl rollout undo deployment/hello --to-revision=77").expect("unable to find specified revision 77");
    t.run("kubectl rollout restart deployment/hello").expect("deployment.apps/hello restarted");
    t.run("kubectl rollout status deployment/hello --timeout=90s");
    t.run("kubectl rollout pause deployment/hello").expect("deployment.apps/hello paused");
    t.run("kubectl set image deployment/hello hello=hello:v1");
    t.until("kubectl get deployment hello", "^hello +3/3 +0 +3 ");
    t.run("kubectl rollout resume deployment/hello").expect("deployment.apps/hello resumed");
    t.run("kubectl rollout status deployment/hello --timeout=90s");
    answers(t, "v1");
    t.run("kubectl describe deployment hello").matches("Scaled up replica set hello-").matches("Available +True +MinimumReplicasAvailable");
    t.run("kubectl delete deployment hello").expect("deployment.apps \"hello\" deleted");
    t.until_gone("kubectl get rs,pods", "hello-");
}

pub fn surge(t: &Terminal) {
    t.file("hello.yaml", &HELLO.replace("STRATEGY", "{type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}"));
    let rows = rows_of_update(t);
    assert!(rows.iter().any(|row| row.0 == 5), "it never went above 4: {rows:?}");
    assert!(rows.iter().all(|row| row.0 <= 5 && row.1 >= 4), "at most 5, and 4 always available: {rows:?}");
    t.run("kubectl delete deployment hello");
    t.until_gone("kubectl get pods", "hello-");
    t.file("hello.yaml", &HELLO.replace("STRATEGY", "{type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 50%}}"));
    let rows = rows_of_update(t);
    assert!(rows.iter().any(|row| row.1 < 4), "it never went below 4: {rows:?}");
    assert!(rows.iter().all(|row| row.0 <= 4 && row.1 >= 2), "at most 4, and 2 always available: {rows:?}");
}

pub fn recreate(t: &Terminal) {
    t.file("hello.yaml", &HELLO.replace("STRATEGY", "{type: Recreate}"));
    let rows = rows_of_update(t);
    assert!(rows.iter().any(|row| row.1 == 0), "the old ones must be gone first: {rows:?}");
    assert!(rows.iter().all(|row| row.0 <= 4), "never more than 4: {rows:?}");
    t.run("kubectl describe deployment hello").matches("^StrategyType: +Recreate$");
}

pub fn bad_image(t: &Terminal) {
    t.file("hello.yaml", &HELLO.replace("STRATEGY", "{type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}"));
    t.run("kubectl apply -f hello.yaml");
    t.run("kubectl rollout status deployment/hello --timeout=90s");
    t.run("kubectl set image deployment/hello hello=registry.invalid/hello:none");
    t.until("kubectl get pods", "ErrImagePull|ImagePullBackOff");
    t.until("kubectl get pods", "ImagePullBackOff").times(3, "1/1");
    t.fails("kubectl rollout status deployment/hello --timeout=2s").expect("Waiting for deployment \"hello\" rollout to finish");
    t.run("kubectl get deployment hello").matches("^hello +3/4 +2 +3 ");
    t.until("kubectl get events", "Failed to pull image \"registry.invalid/hello:none\"").matches("Back-off pulling image");
    answers(t, "v1");
    t.run("kubectl rollout undo deployment/hello").expect("rolled back");
    t.run("kubectl rollout status deployment/hello --timeout=90s").expect("successfully rolled out");
    t.until("kubectl get deployment hello", "^hello +4/4 +4 +4 ");
    t.until_gone("kubectl get pods", "ImagePullBackOff|ErrImagePull|Terminating");
}

/// Applies `hello.yaml`, updates it, and returns each state that the deployment was seen in: (all, available).
fn rows_of_update(t: &Terminal) -> Vec<(u32, u32)> {
    t.run("kubectl apply -f hello.yaml");
    t.run("kubectl rollout status deployment/hello --timeout=90s").expect("successfully rolled out");
    t.until("kubectl get deployment hello", "^hello +4/4 +4 +4 ");
    let watch = t.start(ROWS);
    watch.until("^hello +4 +4$");
    t.run("kubectl set image deployment/hello hello=hello:v2").expect("image updated");
    t.run("kubectl rollout status deployment/hello --timeout=90s").expect("successfully rolled out");
    answers(t, "v2");
    rows(&watch.until(r"(?s)\d+\n.*^hello +4 +4\n\z"))
}

fn rows(shown: &Shown) -> Vec<(u32, u32)> {
    let number = |word: Option<&str>| word.and_then(|w| w.parse().ok()).unwrap_or(0);
    let words = shown.text().lines().filter(|l| l.starts_with("hello ")).map(|l| l.split_whitespace().collect::<Vec<_>>());
    words.map(|w| (number(w.get(1).copied()), number(w.get(2).copied()))).collect()
}

/// Every pod that is ready answers with this version.
fn answers(t: &Terminal, version: &str) {
    let all = "for p in $(kubectl get pods -l app=hello -o jsonpath='{range .items[?(@.status.containerStatuses[0].ready==true)]}{.status.podIP} {end}'); \
               do curl -sS --max-time 5 http://$p:8080/; done";
    t.until(all, &format!("^Hello from {version} on hello-")).lacks(if version == "v1" { "from v2" } else { "from v1" });
}
