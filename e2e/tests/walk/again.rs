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
    let before = pods(t);
    let status = t.stop_skiff();
    assert!(status.success(), "skiff ended with {status}");
    t.fails("kubectl get pods");
    t.run(&page).expect("Hello from v1");
    t.start_skiff();
    t.run("kubectl wait --for=condition=Ready pod --all --timeout=90s");
    assert_eq!(pods(t), before, "pods were restarted");
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

/// The same without a farewell, with clients that were looking on: client-go's informer behind `rollout status` lists and watches again.
pub fn killed(t: &Terminal) {
    t.run("kubectl create deployment hello --image=hello:v1 --replicas=2");
    t.run("kubectl expose deployment hello --port=80 --target-port=8080");
    t.run("kubectl rollout status deployment/hello --timeout=90s");
    let address = t.value("kubectl get service hello -o jsonpath='{.spec.clusterIP}'");
    let page = format!("curl -sS --max-time 5 http://{address}/");
    t.until(&page, "^Hello from v1 on hello-");
    t.run("kubectl set image deployment/hello hello=registry.invalid/hello:none");
    let looking = t.start("kubectl rollout status deployment/hello");
    looking.until("Waiting for deployment \"hello\" rollout to finish");
    let before = pods(t);
    t.run("kubectl create configmap written --from-literal=a=b");
    t.kill_skiff();
    t.fails("kubectl get pods");
    t.run(&page).expect("Hello from v1 on hello-");
    t.start_skiff();
    t.run("kubectl get configmap written");
    assert_eq!(pods(t), before, "pods were restarted");
    t.run("kubectl set image deployment/hello hello=hello:v2");
    looking.until("deployment \"hello\" successfully rolled out");
    t.until(&page, "^Hello from v2 on hello-");
    t.until_gone("kubectl get pods", "ImagePull|Terminating").times(2, "1/1");
}

/// Pods that run, each with what a restart would change.
fn pods(t: &Terminal) -> String {
    let each = "{range .items[?(@.status.containerStatuses[0].ready==true)]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[0].containerID} \
                {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    t.value(&format!("kubectl get pods -o jsonpath='{each}' | sort"))
}
