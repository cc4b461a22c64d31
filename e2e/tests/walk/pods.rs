//! One pod: created, looked at, entered, reached, followed, copied from.

use std::net::TcpListener;

use crate::{aboard::free_port, terminal::Terminal};

const NGINX: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: nginx, labels: {app: nginx}}
spec:
  containers:
  - name: nginx
    image: nginx:1.22
    ports: [{containerPort: 80}]
";

pub fn first_pod(t: &Terminal) {
    t.file("nginx.yaml", NGINX);
    t.run("kubectl create -f nginx.yaml").expect("pod/nginx created");
    t.run("kubectl wait --for=condition=Ready pod/nginx --timeout=90s").expect("pod/nginx condition met");
    t.run("kubectl get pods").matches("^NAME +READY +STATUS +RESTARTS +AGE$").matches("^nginx +1/1 +Running +0 ");
    t.run("kubectl get pods -o wide").matches(r"^nginx +1/1 +Running +0 +\S+ +10\.\d+\.\d+\.\d+ +walk-node +<none> +<none>$");
    t.run("kubectl get pod nginx -o yaml").expect("phase: Running").expect("hostIP:").expect("containerID: containerd://");
    t.until("kubectl describe pod nginx", "Started +.*kubelet.* Started container nginx|Started .* Container started")
        .matches("^Status: +Running$")
        .matches("^Node: +walk-node/")
        .matches("Successfully assigned first-pod/nginx to walk-node")
        .matches("Container image \"nginx:1.22\" already present on machine")
        .matches("^ +Container ID: +containerd://");
    let address = t.value("kubectl get pod nginx -o jsonpath='{.status.podIP}'");
    t.run(&format!("curl -sS --max-time 5 http://{address}/")).expect("Welcome to nginx!");
    t.run("kubectl get --raw /api/v1/namespaces/first-pod/pods/nginx/proxy/").expect("Welcome to nginx!");
    t.run("kubectl delete -f nginx.yaml").expect("pod \"nginx\" deleted");
    t.fails("kubectl get pod nginx").expect("Error from server (NotFound): pods \"nginx\" not found");
    t.fails(&format!("curl -sS --max-time 2 http://{address}/"));
}

const TWO: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: nginx:1.22
  - name: tool
    image: busybox:1.35
    command: [sleep, '3600']
";

pub fn exec(t: &Terminal) {
    t.run("kubectl run nginx --image=nginx --image-pull-policy=IfNotPresent").expect("pod/nginx created");
    t.file("two.yaml", TWO);
    t.run("kubectl create -f two.yaml");
    t.run("kubectl wait --for=condition=Ready pod/nginx pod/two --timeout=90s").times(2, "condition met");
    t.run("kubectl exec nginx -- hostname").matches("^nginx$");
    t.run("kubectl exec nginx -- nginx -v").expect("nginx version: nginx/");
    t.run("echo 'echo from-$((20+22)); exit' | kubectl exec -i nginx -- sh").matches("^from-42$");
    at_a_terminal(t);
    t.fails("kubectl exec nginx -- sh -c 'echo words; exit 7'").expect("words").expect("command terminated with exit code 7");
    t.fails("kubectl exec nginx -- no-such-program").matches("no-such-program|executable file not found");
    t.run("kubectl exec two -c tool -- ps").expect("sleep 3600");
    t.run("kubectl exec two -c web -- nginx -v").expect("nginx/");
    t.run("kubectl exec two -- ls /usr/sbin/nginx").expect("/usr/sbin/nginx");
    t.fails("kubectl exec two -c none -- ls").expect("none");
    t.run("head -c 300000 /dev/urandom > big; kubectl exec -i nginx -- sha256sum < big | cut -c1-64 > a; sha256sum big | cut -c1-64 | cmp - a");
    // Two containers of a pod are one machine.
    t.run("kubectl exec two -c tool -- wget -qO- http://localhost/").expect("Welcome to nginx!");
    let address = t.value("kubectl get pod nginx -o jsonpath='{.status.podIP}'");
    t.run(&format!("kubectl exec two -c tool -- ping -c 2 {address}")).expect("2 packets received").expect("0% packet loss");
    t.run(&format!("kubectl exec two -c tool -- wget -qO- http://{address}/")).expect("Welcome to nginx!");
    t.run("kubectl exec two -c tool -- wget -qO- http://example.invalid/ 2>&1 || true").expect("bad address");
}

/// Somebody sits there, reads, and types.
fn at_a_terminal(t: &Terminal) {
    let mut shell = t.sit_down("kubectl exec -it nginx -- sh");
    shell.until("^/ # ");
    shell.types("tty; echo from-$((20+22))\n");
    shell.until(r"^from-42\s*$").matches(r"^/dev/pts/\d+\s*$").expect("echo from-$((20+22))");
    shell.types("stty size\n");
    shell.until(r"^33 101\s*$");
    shell.types("ls /usr/sbin/nginx\n");
    shell.until(r"^/usr/sbin/nginx\s*$");
    // Control-C is the program's in there, not kubectl's.
    shell.types("echo beg$((0))n; sleep 1000\n");
    shell.until(r"^beg0n\s*$");
    shell.types("\x03");
    shell.types("echo after-$((1+1))\n");
    shell.until(r"^after-2\s*$");
    shell.types("exit 5\n");
    shell.ends(5).expect("command terminated with exit code 5");
    let mut shell = t.sit_down("kubectl exec -it two -c tool -- sh");
    shell.until("^/ # ");
    shell.types("ps | grep '[s]leep 3600'; exit\n");
    shell.ends(0).matches(r"^ +\d+ .*sleep 3600\s*$");
}

const TO_ATTACH: &str = "---
{apiVersion: v1, kind: Pod, metadata: {name: ticks}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'busybox:1.35',
  command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo tick $i; sleep 1; done']}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: reader}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'busybox:1.35',
  stdin: true, command: [sh, -c, 'while read line; do echo \"got $line\"; done']}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: once}, spec: {restartPolicy: Never, containers: [{name: c, image: 'busybox:1.35',
  stdin: true, stdinOnce: true, command: [sh, -c, 'while read line; do echo \"got $line\"; done; echo the end']}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: shell}, spec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [
  {name: other, image: 'busybox:1.35', command: [sleep, '3600']}, {name: c, image: 'busybox:1.35', stdin: true, tty: true, command: [sh]}]}}
";

pub fn attach(t: &Terminal) {
    t.file("attach.yaml", TO_ATTACH);
    t.run("kubectl create -f attach.yaml").times(4, "created");
    t.run("kubectl wait --for=condition=Ready pod --all --timeout=90s").times(4, "condition met");
    let ticks = t.start("kubectl attach ticks");
    ticks.until(r"(?s)^tick \d+$.*^tick \d+$");
    drop(ticks);
    // What is written there arrives; who goes away takes nothing with him.
    for word in ["one", "two"] {
        let reader = t.start(&format!("(echo {word}; sleep 100) | kubectl attach -i reader"));
        reader.until(&format!("^got {word}$"));
    }
    t.until("kubectl logs reader", "^got two$").matches("^got one$");
    t.run("echo three | kubectl attach -i once").matches("^got three$").matches("^the end$");
    t.until("kubectl get pod once", "^once +0/1 +Completed +0 ");
    t.fails("kubectl attach once").expect("cannot attach a container in a completed pod; current phase is Succeeded");
    t.fails("kubectl attach shell -c none").expect("none");

    let mut shell = t.sit_down("kubectl attach -it shell -c c");
    shell.until("If you don't see a command prompt, try pressing enter");
    shell.types("\n");
    shell.until("^/ # ");
    shell.types("echo from-$((20+22)); kept=$((6*7)); tty\n");
    shell.until(r"^from-42\s*$");
    shell.until(r"^/dev/pts/\d+\s*$");
    shell.types("stty size\n");
    shell.until(r"^33 101\s*$");
    drop(shell);
    let mut shell = t.sit_down("kubectl attach -it shell -c c");
    shell.types("\n");
    shell.until("# ");
    shell.types("echo kept-$kept\n");
    shell.until(r"^kept-42\s*$");
    shell.types("exit 3\n");
    shell.ends(0);
    let exit = "{.status.containerStatuses[?(@.name==\"c\")].state.terminated.exitCode}";
    t.until(&format!("kubectl get pod shell -o jsonpath='{exit}'"), "^3$");
}

/// `kubectl run -it --rm`: a pod for as long as somebody sits there.
pub fn run_interactive(t: &Terminal) {
    let mut shell = t.sit_down("kubectl run box --image=busybox:1.35 -it --rm --restart=Never -- sh");
    shell.until("If you don't see a command prompt, try pressing enter");
    shell.types("\n");
    shell.until("/ # ");
    shell.types("hostname; echo $((20+22))\n");
    shell.until(r"^box\s*$");
    shell.until(r"^42\s*$");
    shell.types("exit\n");
    shell.ends(0).expect("pod \"box\" deleted");
    t.fails("kubectl get pod box").expect("not found");
}

/// As it stands in the notes; who has something on that port is told.
fn forward_8080(t: &Terminal) {
    let free = TcpListener::bind(("127.0.0.1", 8080));
    assert!(free.is_ok(), "port 8080 of this machine is taken, which the walk needs: `ss -ltnp sport = :8080` says by whom");
    drop(free);
    let forward = t.start("kubectl port-forward nginx 8080:80");
    forward.until("Forwarding from 127.0.0.1:8080 -> 80");
    t.run("curl -sS --max-time 10 http://localhost:8080/").expect("<h1>Welcome to nginx!</h1>");
    forward.until("Handling connection for 8080");
}

pub fn port_forward(t: &Terminal) {
    t.run("kubectl run nginx --image=nginx:1.22 --port=80");
    t.run("kubectl wait --for=condition=Ready pod/nginx --timeout=90s");
    forward_8080(t);
    let port = free_port();
    let forward = t.start(&format!("kubectl port-forward pod/nginx {port}:80"));
    forward.until(&format!("Forwarding from 127.0.0.1:{port} -> 80"));
    for _ in 0..3 {
        t.run(&format!("curl -sS --max-time 10 http://127.0.0.1:{port}/")).expect("Welcome to nginx!");
    }
    t.run(&format!("for i in 1 2 3 4 5; do curl -sS --max-time 10 http://127.0.0.1:{port}/ & done; wait"))
        .times(5, "<h1>Welcome to nginx!</h1>");
    forward.until(&format!("Handling connection for {port}"));
    drop(forward);
    t.fails(&format!("curl -sS --max-time 2 http://127.0.0.1:{port}/"));
    let forward = t.start(&format!("kubectl port-forward nginx {port}:81"));
    forward.until("Forwarding from");
    t.fails(&format!("curl -sS --max-time 10 http://127.0.0.1:{port}/"));
    forward.until("an error occurred forwarding|error forwarding|refused");
    t.run("kubectl delete pod nginx --now").expect("pod \"nginx\" deleted");
    t.fails(&format!("kubectl port-forward nginx {port}:80")).expect("not found");
}

pub fn logs(t: &Terminal) {
    t.run("kubectl run count --image=busybox:1.35 --restart=Never -- sh -c 'i=0; while true; do i=$((i+1)); echo line $i; sleep 1; done'");
    t.run("kubectl wait --for=condition=Ready pod/count --timeout=90s");
    let follow = t.start("kubectl logs --follow count");
    follow.until("^line 1$").lacks("line 9");
    follow.until("^line 4$");
    drop(follow);
    t.until("kubectl logs count", "^line 5$").matches("^line 1$");
    t.run("kubectl logs count --tail=1").matches(r"^line \d+$").lacks("line 1\n");
    t.run("kubectl logs count --timestamps --tail=1").matches(r"^\d{4}-\d\d-\d\dT.*Z line \d+$");
    t.run("kubectl logs count --since=1h").matches("^line 1$");
    t.run("kubectl logs count --limit-bytes=6").matches("^line 1$");
    t.fails("kubectl logs count -c other").expect("other");
    t.run("kubectl run once --image=busybox:1.35 --restart=Never -- sh -c 'echo out; echo err >&2'");
    t.until("kubectl get pod once", "^once +0/1 +Completed ");
    t.run("kubectl logs once").matches("^out$").matches("^err$");
    t.run("kubectl run again --image=busybox:1.35 -- sh -c 'echo run $(cat /tmp/x); sleep 2; exit 3'");
    t.until("kubectl get pod again", "^again .* [1-9][0-9]* ");
    t.until("kubectl logs again --previous", "^run");
    t.until("kubectl get pod again", "CrashLoopBackOff");
    t.until("kubectl describe pod again", "Exit Code: +3").expect("Back-off restarting failed container");
    t.run("kubectl run asked --image=busybox:1.35 --restart=Never --rm -i --quiet -- sh -c 'sleep 2; echo answered'").expect("answered");
    t.run("kubectl delete pods --all --grace-period=1").expect("deleted");
}

pub fn cp(t: &Terminal) {
    t.run("kubectl run nginx --image=nginx:1.22");
    t.run("kubectl wait --for=condition=Ready pod/nginx --timeout=90s");
    t.file("page.html", "<p>a page of ours</p>\n");
    t.run("kubectl cp page.html nginx:/usr/share/nginx/html/ours.html");
    t.run("kubectl exec nginx -- wget -qO- http://localhost/ours.html").expect("a page of ours");
    t.run("kubectl exec nginx -- sh -c 'echo changed > /tmp/there'");
    t.run("kubectl cp nginx:/tmp/there here && cat here").matches("^changed$");
    t.run("mkdir -p tree/sub && echo deep > tree/sub/file && kubectl cp tree nginx:/tmp/tree");
    t.run("kubectl exec nginx -- cat /tmp/tree/sub/file").matches("^deep$");
    t.run("head -c 3000000 /dev/urandom > big && kubectl cp big nginx:/tmp/big && kubectl cp nginx:/tmp/big back && cmp big back");
    t.fails("kubectl cp nginx:/tmp/none none && test -s none");
}
