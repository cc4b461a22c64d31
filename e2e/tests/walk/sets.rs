//! ReplicationController and ReplicaSet: the count is kept.

use crate::terminal::Terminal;

const RC: &str = "\
apiVersion: v1
kind: ReplicationController
metadata: {name: web}
spec:
  replicas: 3
  selector: {app: web}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: nginx, image: 'nginx:1.22', ports: [{containerPort: 80}]}]
";

const RS: &str = "\
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [front, middle]}]}
  template:
    metadata: {labels: {app: web, tier: front}}
    spec:
      containers: [{name: nginx, image: 'nginx:1.22'}]
";

pub fn replication_controller(t: &Terminal) {
    t.file("set.yaml", RC);
    t.run("kubectl create -f set.yaml").expect("replicationcontroller/web created");
    keeps(t, "rc");
    t.run("kubectl describe rc web").matches("^Replicas: +4 current / 4 desired$").matches("SuccessfulCreate .*Created pod: web-");
    t.run("kubectl delete rc web").expect("replicationcontroller \"web\" deleted");
    t.until_gone("kubectl get pods", "web-");
}

pub fn replica_set(t: &Terminal) {
    t.file("set.yaml", RS);
    t.run("kubectl create -f set.yaml").expect("replicaset.apps/web created");
    keeps(t, "rs");
    t.run("kubectl describe rs web").matches("^Replicas: +4 current / 4 desired$").matches("SuccessfulCreate .*Created pod: web-");
    // A pod that no longer matches is let go, and another takes its place.
    let pod = t.value("kubectl get pods -o name | head -n 1");
    t.run(&format!("kubectl label {pod} tier=back --overwrite")).expect("labeled");
    t.until("kubectl get pods -l tier=front", "(?s)(1/1 +Running.*){4}");
    t.run(&format!("kubectl get {pod} -o jsonpath='{{.metadata.ownerReferences}}'")).lacks("ReplicaSet");
    t.run(&format!("kubectl delete {pod}"));
    // What the scaling down above ended may still be on its way.
    t.until_gone("kubectl get pods", "(?s)(web-.*){5}");
    // Its pods may be left behind, and are taken up again.
    t.run("kubectl delete rs web --cascade=orphan");
    t.run("kubectl get pods -l app=web").times(4, "Running");
    let names = t.value("kubectl get pods -o name | sort");
    t.run("sed -i 's/replicas: 3/replicas: 4/' set.yaml && kubectl create -f set.yaml");
    t.until("kubectl get rs web", "^web +4 +4 +4 ");
    // Where the news of a pod that was left behind comes after that of the set, one more is made and goes again, as upstream's would.
    t.until("kubectl get pods -o name | sort", &format!(r"\A{names}\s*\z"));
    t.run("kubectl delete -f set.yaml");
    t.until_gone("kubectl get pods", "web-");
}

/// A deleted pod is replaced; fewer and more.
fn keeps(t: &Terminal, kind: &str) {
    t.until(&format!("kubectl get {kind} web"), "^web +3 +3 +3 ");
    t.run("kubectl get pods").times(3, "1/1").matches("^web-[a-z0-9]{5} ");
    let pod = t.value("kubectl get pods -o jsonpath='{.items[0].metadata.name}'");
    t.run(&format!("kubectl delete pod {pod}")).expect(&format!("pod \"{pod}\" deleted"));
    t.until("kubectl get pods", "(?s)(1/1 +Running.*){3}").lacks(&pod);
    t.until(&format!("kubectl get {kind} web"), "^web +3 +3 +3 ");
    t.run(&format!("kubectl scale {kind} web --replicas=2")).expect("/web scaled");
    t.until(&format!("kubectl get {kind} web"), "^web +2 +2 +2 ");
    t.until_gone("kubectl get pods", "(?s)(web-.*){3}").times(2, "1/1");
    t.run(&format!("kubectl scale {kind} web --replicas=4")).expect("/web scaled");
    t.until(&format!("kubectl get {kind} web"), "^web +4 +4 +4 ");
    t.run("kubectl get pods").times(4, "1/1");
    t.fails(&format!("kubectl scale {kind} web --current-replicas=9 --replicas=1")).expect("Expected replicas to be 9, was 4");
}
