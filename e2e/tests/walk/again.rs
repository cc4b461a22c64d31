//! skiff stopped and started: pods go on running, and are taken up again.

use crate::terminal::Terminal;

pub fn restart(t: &Terminal) {
    t.run("kubectl create deployment hello --image=hello:v1 --replicas=2");
    t.run("kubectl expose deployment hello --type=NodePort --port=8080");
    t.run("kubectl rollout status deployment/hello --timeout=90s");
    let port = t.value("kubectl get service hello -o jsonpath='{.spec.ports[0].nodePort}'");
    let node = t.value("kubectl get nodes -o jsonpath='{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}'");
    let page = format!("curl -sS --max-time 5 http://{node}:{port}/");
    t.until(&page, "^Hello from v1 on hello-");
    let each = "{range .items[*]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let state = format!("kubectl get pods -o jsonpath='{each}' | sort");
    let before = t.value(&state);
    let status = t.stop_skiff();
    assert!(status.success(), "skiff ended with {status}");
    t.fails("kubectl get pods");
    t.run(&page).expect("Hello from v1");
    t.start_skiff();
    t.run("kubectl wait --for=condition=Ready pod --all --timeout=90s");
    assert_eq!(t.value(&state), before, "pods were restarted");
    t.run(&page).expect("Hello from v1");
    // It goes on caring for them.
    let pod = t.value("kubectl get pods -o jsonpath='{.items[0].metadata.name}'");
    t.run(&format!("kubectl exec {pod} -- hostname")).expect(&pod);
    t.run(&format!("kubectl logs {pod}")).expect("hello v1 on");
    t.run(&format!("kubectl delete pod {pod}"));
    t.until("kubectl get deployment hello", "^hello +2/2 +2 +2 ");
    t.run("kubectl create deployment new --image=nginx:1.22");
    t.run("kubectl rollout status deployment/new --timeout=90s").expect("successfully rolled out");
}
