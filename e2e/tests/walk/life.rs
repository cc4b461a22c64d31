//! A pod's life: init containers and hooks in order, probes, host network and ports, where its variables come from, how it ends.

use crate::terminal::Terminal;

const ORDER: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: order}
spec:
  terminationGracePeriodSeconds: 20
  volumes:
  - name: notes
    emptyDir: {}
  - name: outside
    hostPath: {path: OUTSIDE, type: DirectoryOrCreate}
  initContainers:
  - name: first
    image: busybox:1.35
    command: [sh, -c, 'sleep 1; echo first >> /notes/log']
    volumeMounts: [{name: notes, mountPath: /notes}]
  - name: second
    image: busybox:1.35
    command: [sh, -c, 'echo second >> /notes/log']
    volumeMounts: [{name: notes, mountPath: /notes}]
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, 'trap \"echo term >> /outside/log; exit 0\" TERM; until grep -q post /notes/log; do sleep 1; done; echo main >> /notes/log; while true; do sleep 1; done']
    volumeMounts: [{name: notes, mountPath: /notes}, {name: outside, mountPath: /outside}]
    lifecycle:
      postStart: {exec: {command: [sh, -c, 'echo post >> /notes/log']}}
      preStop: {exec: {command: [sh, -c, 'echo prestop >> /outside/log']}}
";

pub fn init_and_hooks(t: &Terminal) {
    t.run("mkdir -p outside && chmod 777 outside");
    let outside = t.value("cd outside && pwd");
    t.file("order.yaml", &ORDER.replace("OUTSIDE", &outside));
    t.run("kubectl create -f order.yaml");
    t.run("kubectl wait --for=condition=Ready pod/order --timeout=90s");
    t.until("kubectl exec order -c main -- cat /notes/log", "^main$").matches(r"\Afirst\nsecond\npost\nmain\n\z");
    t.run("kubectl describe pod order").expect("Init Containers:").matches("Reason: +Completed");
    t.run("kubectl logs order -c first").lacks("Error");
    t.run("kubectl delete pod order").expect("deleted");
    t.run("cat outside/log").matches(r"\Aprestop\nterm\n\z");
    t.file(
        "fails.yaml",
        "---
{apiVersion: v1, kind: Pod, metadata: {name: fails}, spec: {restartPolicy: Never,
  initContainers: [{name: i, image: 'busybox:1.35', command: [sh, -c, 'exit 4']}],
  containers: [{name: c, image: 'busybox:1.35', command: [sh, -c, 'echo never']}]}}",
    );
    t.run("kubectl create -f fails.yaml");
    t.until("kubectl get pod fails", "Init:Error");
    t.run("kubectl get pod fails -o jsonpath='{.status.phase}'").matches("^Failed$");
}

const READY: &str = "---
{apiVersion: v1, kind: Pod, metadata: {name: ready, labels: {app: ready}}, spec: {containers: [{name: c, image: 'hello:v1',
  readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: exec}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'busybox:1.35',
  command: [sleep, '3600'], readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: ready}, spec: {selector: {app: ready}, ports: [{port: 80, targetPort: 8080}]}}
";

pub fn readiness(t: &Terminal) {
    t.file("ready.yaml", READY);
    t.run("kubectl create -f ready.yaml");
    t.until("kubectl get pod ready", "^ready +1/1 +Running +0 ");
    t.until("kubectl get endpoints ready", r"^ready +10\.\d+\.\d+\.\d+:8080 ");
    t.run("kubectl exec ready -- rm /www/healthz");
    t.until("kubectl get pod ready", "^ready +0/1 +Running +0 ");
    t.until("kubectl describe pod ready", "Unhealthy +.*Readiness probe failed: HTTP probe failed with statuscode: 404");
    t.until("kubectl get endpoints ready", "^ready +<none> |^ready +[0-9]+s$");
    t.run("kubectl exec ready -- touch /www/healthz");
    t.until("kubectl get endpoints ready", r"^ready +10\.\d+\.\d+\.\d+:8080 ");
    t.until("kubectl get pod ready", "^ready +1/1 +Running +0 ");
    // The same by a command.
    t.until("kubectl describe pod exec", "Unhealthy +.*Readiness probe failed: cat: can't open '/tmp/ready'");
    t.run("kubectl get pod exec").matches("^exec +0/1 +Running +0 ");
    t.run("kubectl exec exec -- touch /tmp/ready");
    t.run("kubectl wait --for=condition=Ready pod/exec --timeout=60s");
    t.run("kubectl exec exec -- rm /tmp/ready");
    t.until("kubectl get pod exec", "^exec +0/1 +Running +0 ");
}

// Probes are given time: what fails is what they find, not a machine that is busy.
const ALIVE: &str = "---
{apiVersion: v1, kind: Pod, metadata: {name: exec}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'busybox:1.35',
  command: [sh, -c, 'touch /tmp/alive; sleep 3600'],
  livenessProbe: {exec: {command: [cat, /tmp/alive]}, initialDelaySeconds: 1, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: http}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'hello:v1',
  livenessProbe: {httpGet: {path: /healthz, port: 8080}, initialDelaySeconds: 1, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 2}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: tcp}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'hello:v1',
  startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1},
  livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 30}}]}}
";

pub fn liveness(t: &Terminal) {
    t.file("alive.yaml", ALIVE);
    t.run("kubectl create -f alive.yaml");
    t.run("kubectl wait --for=condition=Ready pod --all --timeout=90s").times(3, "condition met");
    t.run("kubectl get pods").times(3, "1/1");
    t.run("kubectl exec exec -- rm /tmp/alive");
    t.until("kubectl get pod exec", "^exec +1/1 +Running +1 ");
    t.run("kubectl exec exec -- ls /tmp/alive").expect("/tmp/alive");
    t.until("kubectl describe pod exec", "Unhealthy +.*Liveness probe failed: cat: can't open '/tmp/alive'")
        .matches("Killing +.*Container c failed liveness probe, will be restarted");
    t.run("kubectl exec http -- rm /www/healthz");
    t.until("kubectl get pod http", "^http +1/1 +Running +1 ");
    t.until("kubectl describe pod http", "Unhealthy +.*Liveness probe failed: HTTP probe failed with statuscode: 404");
    t.run("kubectl get pod tcp").matches("^tcp +1/1 +Running +0 ");
}

const ON_HOST: &str = "---
{apiVersion: v1, kind: Pod, metadata: {name: onhost}, spec: {hostNetwork: true, terminationGracePeriodSeconds: 1, containers: [
  {name: c, image: 'hello:v1', env: [{name: PORT, value: '18181'}]}]}}
";

const HOST_PORT: &str = "---
{apiVersion: v1, kind: Pod, metadata: {name: hostport}, spec: {terminationGracePeriodSeconds: 1, containers: [
  {name: c, image: 'hello:v2', ports: [{containerPort: 8080, hostPort: 18182}]}]}}
";

pub fn host(t: &Terminal) {
    t.file("onhost.yaml", ON_HOST);
    t.file("hostport.yaml", HOST_PORT);
    t.run("kubectl create -f onhost.yaml -f hostport.yaml").times(2, "created");
    t.run("kubectl wait --for=condition=Ready pod --all --timeout=90s").times(2, "condition met");
    let node = t.value("kubectl get node walk-node -o jsonpath='{.status.addresses[?(@.type==\"InternalIP\")].address}'");
    t.run("kubectl get pod onhost -o jsonpath='{.status.podIP}'").matches(&format!("^{node}$"));
    t.until(&format!("curl -sS --max-time 5 http://{node}:18181/"), "^Hello from v1 on ");
    t.run("kubectl get pod hostport -o jsonpath='{.status.podIP}'").matches(r"^10\.");
    t.until(&format!("curl -sS --max-time 5 http://{node}:18182/"), "^Hello from v2 on hostport$");
    t.run("curl -sS --max-time 5 http://127.0.0.1:18182/").matches("^Hello from v2 on hostport$");
    // The port is taken: a second pod that asks for it has no node.
    t.run("sed 's/name: hostport/name: late/' hostport.yaml | kubectl create -f -").expect("pod/late created");
    t.until("kubectl describe pod late", "FailedScheduling .*didn't have free ports for the requested pod ports");
    t.run("kubectl delete pod hostport").expect("deleted");
    t.run("kubectl wait --for=condition=Ready pod/late --timeout=90s");
    t.until(&format!("curl -sS --max-time 5 http://{node}:18182/"), "^Hello from v2 on late$");
    t.run("kubectl delete pods --all").expect("deleted");
    t.fails(&format!("curl -sS --max-time 2 http://{node}:18182/"));
}

const CLASSES: &str = "---
{apiVersion: v1, kind: Pod, metadata: {name: guaranteed}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'busybox:1.35',
  command: [sleep, '3600'], resources: {limits: {cpu: 50m, memory: 32Mi}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: burstable}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'busybox:1.35',
  command: [sleep, '3600'], resources: {requests: {cpu: 10m, memory: 16Mi}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: besteffort}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'busybox:1.35',
  command: [sleep, '3600']}]}}
";

/// A class is more than a word: a cgroup of its own, and who is killed first.
pub fn classes(t: &Terminal) {
    t.file("classes.yaml", CLASSES);
    t.run("kubectl create -f classes.yaml");
    t.run("kubectl wait --for=condition=Ready pod --all --timeout=90s").times(3, "condition met");
    for (pod, class, below, score) in [
        // Not every machine lets its root lower the score: a container without CAP_SYS_RESOURCE does not.
        ("guaranteed", "Guaranteed", "", "(-997|0)"),
        ("burstable", "Burstable", "/burstable", r"9\d\d"),
        ("besteffort", "BestEffort", "/besteffort", "1000"),
    ] {
        t.run(&format!("kubectl get pod {pod} -o jsonpath='{{.status.qosClass}}'")).matches(&format!("^{class}$"));
        t.run(&format!("kubectl exec {pod} -- cat /proc/1/oom_score_adj")).matches(&format!("^{score}$"));
        let uid = t.value(&format!("kubectl get pod {pod} -o jsonpath='{{.metadata.uid}}'"));
        t.run(&format!("find /sys/fs/cgroup -type d -name pod{uid}")).matches(&format!("/kubepods[^/]*{below}/pod{uid}$"));
    }
}

const ENV: &str = "---
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {COLOUR: blue, SIZE: big}}
---
{apiVersion: v1, kind: Secret, metadata: {name: login}, stringData: {password: s3cret}}
---
{apiVersion: v1, kind: Pod, metadata: {name: env, labels: {app: env}}, spec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{name: c,
  image: 'busybox:1.35', command: [sh, -c, 'env; echo args $0 $1; id; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; true'],
  args: ['$(ONE)-$(TWO)', '$$(ONE)'],
  securityContext: {runAsUser: 1000, runAsGroup: 2000},
  resources: {limits: {memory: 64Mi, cpu: 200m}},
  envFrom: [{configMapRef: {name: settings}}],
  env: [{name: ONE, value: '1'}, {name: TWO, value: '$(ONE)2'},
    {name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}},
    {name: SHADE, valueFrom: {configMapKeyRef: {name: settings, key: COLOUR}}},
    {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}},
    {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}},
    {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}},
    {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: lacks}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'busybox:1.35',
  envFrom: [{configMapRef: {name: none}}]}]}}
";

pub fn environment(t: &Terminal) {
    t.file("env.yaml", ENV);
    t.run("kubectl create -f env.yaml");
    t.until("kubectl get pod env", "Completed");
    let shown = t.run("kubectl logs env");
    for line in [
        "COLOUR=blue",
        "SIZE=big",
        "ONE=1",
        "TWO=12",
        "PASSWORD=s3cret",
        "SHADE=blue",
        "POD=env",
        "NODE=walk-node",
        "LIMIT=67108864",
        "args 1-12 \\$\\(ONE\\)",
        "uid=1000 gid=2000.*",
        "67108864",
        r"IP=10\.\d+\.\d+\.\d+",
        r"KUBERNETES_SERVICE_HOST=10\.\d+\.\d+\.\d+",
        "HOSTNAME=env",
    ] {
        shown.clone().matches(&format!("^{line}$"));
    }
    t.until("kubectl get pod lacks", "CreateContainerConfigError");
    t.until("kubectl describe pod lacks", "configmap \"none\" not found");
    t.run("kubectl create configmap none --from-literal=A=1");
    t.until("kubectl get pod lacks", "Completed|CrashLoopBackOff|Running");
}
