//! ReplicationController and ReplicaSet: the count is kept. DaemonSet and StatefulSet: each node has one, each pod its own name.

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

const DS: &str = "\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: hello, image: 'hello:v1'}]
";

const STS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  serviceName: web
  selector: {matchLabels: {app: web}}
  updateStrategy: {rollingUpdate: {partition: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: hello, image: 'hello:v1', ports: [{containerPort: 8080}]}]
";

pub fn daemon_set(t: &Terminal) {
    t.file("set.yaml", DS);
    t.run("kubectl create -f set.yaml").expect("daemonset.apps/agent created");
    t.run("kubectl rollout status ds/agent --timeout=60s").expect("daemon set \"agent\" successfully rolled out");
    t.run("kubectl get ds agent").matches("^agent +1 +1 +1 +1 +1 +<none> ");
    t.run("kubectl get pods -o wide").matches("^agent-[a-z0-9]{5} +1/1 +Running .* walk-node ");
    // A node that is not to take pods keeps it, and gets it again; draining passes it by.
    t.run("kubectl cordon walk-node");
    t.run("kubectl delete pod -l app=agent");
    t.until("kubectl get pods", "^agent-[a-z0-9]{5} +1/1 +Running");
    t.fails("kubectl drain walk-node --timeout=5s --pod-selector=app=agent").expect("cannot delete DaemonSet-managed Pods");
    t.run("kubectl drain walk-node --timeout=5s --pod-selector=app=agent --ignore-daemonsets").matches("node/walk-node (drained|evicted)");
    t.run("kubectl uncordon walk-node");
    t.run("kubectl set image ds/agent hello=hello:v2").expect("daemonset.apps/agent image updated");
    t.run("kubectl rollout status ds/agent --timeout=60s").expect("successfully rolled out");
    t.until("kubectl get ds agent -o wide", "^agent +1 +1 +1 +1 +1 .* hello:v2 ");
    t.run("kubectl rollout history ds/agent").matches("^1 +<none>$").matches("^2 +<none>$");
    t.run("kubectl rollout undo ds/agent").expect("daemonset.apps/agent rolled back");
    t.run("kubectl rollout status ds/agent --timeout=60s").expect("successfully rolled out");
    t.until("kubectl get pods -o jsonpath='{.items[*].spec.containers[0].image}'", r"^hello:v1$");
    t.run("kubectl get controllerrevisions").matches(r"^agent-[a-z0-9]+ +daemonset.apps/agent +2 ").matches("daemonset.apps/agent +3 ");
    t.run("kubectl describe ds agent").matches("SuccessfulCreate .*Created pod: agent-").matches("Desired Number of Nodes Scheduled: 1");
    t.run("kubectl label node walk-node agent=no");
    t.run("kubectl patch ds agent -p '{\"spec\":{\"template\":{\"spec\":{\"nodeSelector\":{\"agent\":\"yes\"}}}}}'");
    t.until("kubectl get ds agent", "^agent +0 +0 +0 +0 +0 +agent=yes ");
    t.until_gone("kubectl get pods", "agent-");
    t.run("kubectl label node walk-node agent-");
    t.run("kubectl delete ds agent").expect("daemonset.apps \"agent\" deleted");
    t.until_gone("kubectl get controllerrevisions", "agent-");
}

pub fn stateful_set(t: &Terminal) {
    t.file("set.yaml", STS);
    t.run("kubectl create -f set.yaml").expect("statefulset.apps/web created");
    t.run("kubectl rollout status sts/web --timeout=60s").matches("(?i)statefulset rolling update complete|partitioned roll out complete");
    t.run("kubectl get sts web").matches("^web +2/2 ");
    t.run("kubectl get pods -l app=web").matches("^web-0 +1/1 +Running").matches("^web-1 +1/1 +Running");
    // Each has the name that its peers know it by.
    t.run("kubectl exec web-1 -- hostname").matches("^web-1$");
    let own = t.value("kubectl get pod web-0 -o jsonpath='{.status.podIP}'");
    t.until("kubectl exec web-1 -- nslookup web-0.web.stateful-set.svc.cluster.local", &format!("^Address.*{own}$"));
    t.run("kubectl get pod web-1 -o jsonpath='{.metadata.labels}'")
        .expect("\"apps.kubernetes.io/pod-index\":\"1\"")
        .expect("\"statefulset.kubernetes.io/pod-name\":\"web-1\"");
    // Only what is above the partition is new, and who is deleted comes again as it was.
    let images = "kubectl get pods -l app=web -o jsonpath='{.items[*].spec.containers[0].image}'";
    t.run("kubectl set image sts/web hello=hello:v2").expect("statefulset.apps/web image updated");
    t.run("kubectl rollout status sts/web --timeout=60s").matches("(?i)partitioned roll out complete: 1 new pods");
    t.run(images).expect("hello:v1 hello:v2");
    t.run("kubectl delete pod web-0").expect("pod \"web-0\" deleted");
    t.until("kubectl get sts web", "^web +2/2 ");
    t.run(images).expect("hello:v1 hello:v2");
    t.run("kubectl rollout history sts/web").matches("^1 +<none>$").matches("^2 +<none>$");
    t.run("kubectl scale sts web --replicas=1").expect("statefulset.apps/web scaled");
    t.until_gone("kubectl get pods", "web-1");
    t.run("kubectl describe sts web").matches("SuccessfulCreate .*[Cc]reate Pod web-0 in StatefulSet web successful");
    t.run("kubectl delete -f set.yaml").expect("statefulset.apps \"web\" deleted");
    t.until_gone("kubectl get pods,controllerrevisions", "web-");
}
