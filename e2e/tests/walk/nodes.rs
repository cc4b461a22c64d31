//! The node: described, tainted, cordoned, drained.

use crate::terminal::Terminal;

pub fn look(t: &Terminal) {
    t.run("kubectl get nodes").matches(r"^walk-node +Ready +\S+ +\S+ +v1\.36");
    t.run("kubectl get nodes -o wide").matches(r"^walk-node .*containerd://\d");
    t.run("kubectl describe node walk-node")
        .matches("Ready +True .*KubeletReady")
        .expect("Allocatable:")
        .expect("Non-terminated Pods:")
        .matches("^ +cpu +");
    t.until("kubectl get lease walk-node --namespace kube-node-lease", "walk-node");
    t.run("kubectl label node walk-node disk=fast").expect("node/walk-node labeled");
    let pod = |name: &str, disk: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeSelector: {{disk: {disk}}}, containers: [{{name: c, image: 'nginx:1.22'}}]}}}}\n"
        )
    };
    t.file("disk.yaml", &(pod("fast", "fast") + &pod("slow", "slow")));
    t.run("kubectl create -f disk.yaml");
    t.run("kubectl wait --for=condition=Ready pod/fast --timeout=90s");
    t.until(
        "kubectl describe pod slow",
        "FailedScheduling .*0/1 nodes are available: 1 node\\(s\\) didn't match Pod's node affinity/selector",
    );
    t.run("kubectl label node walk-node disk=slow --overwrite");
    t.run("kubectl wait --for=condition=Ready pod/slow --timeout=90s");
    t.run("kubectl label node walk-node disk-");
    t.file("huge.yaml", "---\n{apiVersion: v1, kind: Pod, metadata: {name: huge}, spec: {containers: [{name: c, image: 'nginx:1.22', resources: {requests: {cpu: '9999'}}}]}}");
    t.run("kubectl create -f huge.yaml");
    t.until("kubectl describe pod huge", "0/1 nodes are available: 1 Insufficient cpu");
    t.run("kubectl get pod huge").matches("^huge +0/1 +Pending ");
}

/// What is used, without anything installed.
pub fn top(t: &Terminal) {
    let two = "containers: [{name: web, image: 'nginx:1.22'}, {name: tool, image: 'busybox:1.35', command: [sleep, '3600']}]";
    t.file("top.yaml", &format!("---\n{{apiVersion: v1, kind: Pod, metadata: {{name: two, labels: {{app: two}}}}, spec: {{{two}}}}}\n"));
    t.run("kubectl create -f top.yaml");
    t.run("kubectl wait --for=condition=Ready pod/two --timeout=90s");
    t.until("kubectl top node", r"^walk-node +\d+m +\d+% +\d+Mi +\d+%").matches(r"^NAME +CPU\(cores\) +");
    t.until("kubectl top pod -A --containers", r"^top +two +web +\d+m +[1-9]\d*Mi").matches(r"^top +two +tool +\d+m +\d+Mi");
    t.run("kubectl top pod -l app=two").matches(r"^two +\d+m +[1-9]\d*Mi");
    t.run("kubectl get pods.metrics.k8s.io two -o yaml").expect("kind: PodMetrics").matches("^window: ").matches("memory: .*Ki");
    t.run("kubectl get --raw /api/v1/nodes/walk-node/proxy/stats/summary").expect("\"podRef\"").expect("\"usageCoreNanoSeconds\"");
    t.run("kubectl get --raw /api/v1/nodes/walk-node/proxy/metrics/resource").matches(r"^node_memory_working_set_bytes [1-9]");
    t.fails("kubectl auth can-i list pods.metrics.k8s.io --as=someone").matches("^no");
}

pub fn taint(t: &Terminal) {
    t.run("kubectl taint node walk-node only=some:NoSchedule").expect("node/walk-node tainted");
    t.run("kubectl describe node walk-node").matches("^Taints: +only=some:NoSchedule$");
    t.run("kubectl run plain --image=nginx:1.22");
    t.until("kubectl describe pod plain", "FailedScheduling .*had untolerated taint");
    t.run("kubectl get pod plain").matches("^plain +0/1 +Pending ");
    let tolerates = r#"{"spec":{"tolerations":[{"key":"only","operator":"Equal","value":"some","effect":"NoSchedule"}]}}"#;
    t.run(&format!("kubectl run tolerant --image=nginx:1.22 --overrides='{tolerates}'"));
    t.run("kubectl wait --for=condition=Ready pod/tolerant --timeout=90s");
    t.run("kubectl taint node walk-node only-").expect("node/walk-node untainted");
    t.run("kubectl wait --for=condition=Ready pod/plain --timeout=90s");
    // NoExecute sends away what does not tolerate it.
    t.run("kubectl taint node walk-node go=away:NoExecute");
    t.until_gone("kubectl get pods", "plain|tolerant");
    t.run("kubectl taint node walk-node go:NoExecute-");
}

const BUDGET: &str = "---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web}, spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}}
";

pub fn drain(t: &Terminal) {
    t.run("kubectl create deployment web --image=nginx:1.22 --replicas=2");
    t.run("kubectl run alone --image=nginx:1.22");
    t.run("kubectl rollout status deployment/web --timeout=90s");
    t.run("kubectl wait --for=condition=Ready pod/alone --timeout=90s");
    let before = t.value("kubectl get pods -l app=web -o jsonpath='{.items[*].metadata.name}'");
    t.run("kubectl cordon walk-node").expect("node/walk-node cordoned");
    t.run("kubectl get nodes").matches("^walk-node +Ready,SchedulingDisabled ");
    t.run("kubectl run late --image=nginx:1.22");
    t.until("kubectl describe pod late", "0/1 nodes are available: 1 node\\(s\\) were unschedulable");
    let drain = |seconds| {
        let flags = "--ignore-daemonsets --delete-emptydir-data --pod-selector='app in (web),!none'";
        format!("kubectl drain walk-node {flags} --timeout={seconds}s")
    };
    // Evicted, not deleted: a budget that allows none is respected.
    t.file("budget.yaml", BUDGET);
    t.run("kubectl create -f budget.yaml").expect("poddisruptionbudget.policy/web created");
    t.until("kubectl get poddisruptionbudget web", "^web +2 +N/A +0 ");
    t.fails(&drain(7)).matches("evicting pod drain/web-").expect("Cannot evict pod as it would violate the pod's disruption budget");
    before.split_whitespace().fold(t.run("kubectl get pods -l app=web").times(2, "1/1"), |shown, name| shown.expect(name));
    t.run("kubectl delete poddisruptionbudget web");
    t.run(&drain(90)).matches("evicting pod drain/web-").matches("node/walk-node (drained|evicted)");
    t.until("kubectl get pods -l app=web", "(?s)(web-.* Pending.*){2}");
    before.split_whitespace().fold(t.run("kubectl get pods"), |shown, name| shown.lacks(name));
    t.fails("kubectl drain walk-node --ignore-daemonsets --timeout=30s --pod-selector=run=alone").matches("cannot delete Pods|use --force");
    t.run("kubectl drain walk-node --force --timeout=90s --pod-selector=run=alone").expect("alone");
    t.fails("kubectl get pod alone").expect("not found");
    t.run("kubectl uncordon walk-node").expect("node/walk-node uncordoned");
    t.run("kubectl rollout status deployment/web --timeout=90s").expect("successfully rolled out");
    t.run("kubectl wait --for=condition=Ready pod/late --timeout=90s");
    t.run("kubectl delete pod late --wait=false");
    t.run("kubectl wait --for=delete pod/late --timeout=60s");
    t.fails("kubectl wait --for=condition=Ready pod/late --timeout=1s");
    t.fails("kubectl wait --for=condition=Nothing deployment/web --timeout=1s").expect("timed out waiting for the condition");
}
