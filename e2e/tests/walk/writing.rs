//! patch, apply, diff and prune: changing what is there.

use crate::{aboard::Kubectl, terminal::Terminal};

pub fn patch(t: &Terminal) {
    t.run("kubectl create deployment web --image=nginx:1.22 --replicas=0");
    t.run(r#"kubectl patch deployment web -p '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"busybox:1.35"}]}}}}'"#)
        .expect("deployment.apps/web patched");
    t.run("kubectl get deployment web -o jsonpath='{.spec.template.spec.containers[*].name}'").expect("nginx").expect("side");
    t.run(r#"kubectl patch deployment web -p '{"spec":{"template":{"spec":{"containers":[{"name":"side","$patch":"delete"}]}}}}'"#);
    t.run("kubectl get deployment web -o jsonpath='{.spec.template.spec.containers[*].name}'").matches("^nginx$");
    t.run(r#"kubectl patch deployment web --type=merge -p '{"metadata":{"labels":{"tier":"front"}},"spec":{"paused":true}}'"#);
    t.run("kubectl get deployment web -o jsonpath='{.metadata.labels.tier} {.spec.paused}'").matches("^front true$");
    t.run(r#"kubectl patch deployment web --type=json -p '[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"nginx:1.22.1"},{"op":"remove","path":"/metadata/labels/tier"}]'"#);
    t.run("kubectl get deployment web -o jsonpath='{.spec.template.spec.containers[0].image}{.metadata.labels.tier}'")
        .matches("^nginx:1.22.1$");
    t.run(r#"kubectl patch deployment web -p '{"spec":{"paused":true}}'"#).expect("deployment.apps/web patched (no change)");
    t.fails(r#"kubectl patch deployment web --type=json -p '[{"op":"test","path":"/spec/paused","value":false}]'"#);
    t.fails(r#"kubectl patch deployment web -p '{"spec":{"replicas":"many"}}'"#).matches("cannot|invalid|Invalid");
    t.fails(r#"kubectl patch deployment web --type=merge -p '{"spec":{"replicas":-1}}'"#).expect("must be greater than or equal to 0");
    t.run("kubectl set env deployment/web COLOUR=blue").expect("deployment.apps/web env updated");
    t.run("kubectl set env deployment/web --list").expect("COLOUR=blue");
    t.run("kubectl set resources deployment/web --limits=cpu=100m,memory=32Mi").expect("deployment.apps/web resource requirements updated");
    t.run("kubectl set image deployment/web nginx=nginx:1.22").expect("deployment.apps/web image updated");
    t.run("kubectl get deployment web -o yaml | sed 's/replicas: 0/replicas: 2/' | kubectl replace -f -")
        .expect("deployment.apps/web replaced");
    t.run("kubectl get deployment web -o jsonpath='{.spec.replicas}'").matches("^2$");
    t.run("EDITOR=\"sed -i s/progressDeadlineSeconds:.600/progressDeadlineSeconds:\\ 300/\" kubectl edit deployment web")
        .expect("deployment.apps/web edited");
    t.run("kubectl get deployment web -o jsonpath='{.spec.progressDeadlineSeconds}'").matches("^300$");
}

const FIRST: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web, first: 'yes'}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: nginx
        image: nginx:1.22
        env:
        - {name: ONE, value: '1'}
        - {name: TWO, value: '2'}
        ports: [{containerPort: 80}]
";

/// Three times: what the file no longer says goes, what others set stays.
pub fn apply(t: &Terminal) {
    t.file("web.yaml", FIRST);
    t.run("kubectl apply -f web.yaml").expect("deployment.apps/web created");
    t.run("kubectl get deployment web -o yaml").expect("kubectl.kubernetes.io/last-applied-configuration");
    t.run("kubectl apply -f web.yaml").expect("deployment.apps/web unchanged");
    // Others change what the file does not say.
    t.run("kubectl scale deployment web --replicas=1").expect("deployment.apps/web scaled");
    t.run("kubectl annotate deployment web owner=others");
    t.run("sed -i \"s/, first: 'yes'//; s/  replicas: 0//; s/nginx:1.22/nginx:1.22.1/; /TWO/d\" web.yaml");
    t.fails("kubectl diff -f web.yaml").matches("^-.*image: nginx:1.22$").matches(r"^\+.*image: nginx:1.22.1$").matches("^-.*name: TWO");
    t.run("kubectl apply -f web.yaml").expect("deployment.apps/web configured");
    t.run("kubectl diff -f web.yaml").lacks("image");
    let all = "{.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env[*].name} {.metadata.labels} {.metadata.annotations.owner}";
    let shown = t.run(&format!("kubectl get deployment web -o jsonpath='{all}'"));
    shown.expect("nginx:1.22.1 ONE ").lacks("TWO").lacks("first").expect("others");
    t.run("sed -i \"s/value: '1'/value: 'one'/; /labels: {app: web}}/s/app: web/app: web/\" web.yaml; printf '  minReadySeconds: 3\\n' >> web.yaml");
    t.run("kubectl apply -f web.yaml").expect("deployment.apps/web configured");
    t.run("kubectl get deployment web -o jsonpath='{.spec.minReadySeconds} {.spec.template.spec.containers[0].env[0].value}'")
        .matches("^3 one$");
    t.run("kubectl apply view-last-applied deployment web").expect("minReadySeconds: 3");
    t.run("sed 's/name: web,/name: other,/' web.yaml | kubectl apply -f -").expect("deployment.apps/other created");
    t.run("kubectl apply -f web.yaml --dry-run=server").matches(r"deployment.apps/web (unchanged|configured) \(server dry run\)");
    t.run("kubectl delete -f web.yaml").expect("deployment.apps \"web\" deleted");
}

pub fn prune(t: &Terminal) {
    let configmap = |name: &str| {
        format!("---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, labels: {{set: one}}}}, data: {{a: b}}}}\n")
    };
    t.file("set/a.yaml", &configmap("a"));
    t.file("set/b.yaml", &configmap("b"));
    t.run("kubectl create configmap by-hand --from-literal=a=b");
    t.run("kubectl label configmap by-hand set=one");
    let allow = match t.kubectl {
        Kubectl::Old => "--prune-whitelist=core/v1/ConfigMap",
        Kubectl::Newer => "--prune-allowlist=core/v1/ConfigMap",
    };
    let apply = format!("kubectl apply -f set --prune -l set=one {allow}");
    t.run(&apply).expect("configmap/a created").expect("configmap/b created").lacks("pruned");
    t.run("rm set/b.yaml");
    t.run(&apply).expect("configmap/a unchanged").expect("configmap/b pruned");
    // What was not applied is nobody's to prune.
    t.run("kubectl get configmaps -o name").expect("configmap/a").expect("configmap/by-hand").lacks("configmap/b\n");
}
