//! Services: by address, by name, by variable, by a node's port; what stays pending and what is only a name.

use crate::terminal::Terminal;

const CLIENT: &str = "kubectl run client --image=busybox:1.35 --command -- sh -c 'trap exit TERM; while true; do sleep 1; done'";

/// A deployment of three, its service, and a client that was started after it.
fn three_and_a_client(t: &Terminal) {
    t.run("kubectl create deployment hello --image=hello:v1 --replicas=3");
    t.run("kubectl expose deployment hello --port=80 --target-port=8080").expect("service/hello exposed");
    t.run("kubectl rollout status deployment/hello --timeout=90s");
    t.run(CLIENT);
    t.run("kubectl wait --for=condition=Ready pod/client --timeout=90s");
    t.until("kubectl get endpoints hello -o jsonpath='{.subsets[*].addresses[*].ip}'", r"^\S+ \S+ \S+$");
}

pub fn cluster_ip(t: &Terminal) {
    three_and_a_client(t);
    t.run("kubectl get services").matches(r"^hello +ClusterIP +10\.\d+\.\d+\.\d+ +<none> +80/TCP ");
    t.run("kubectl describe service hello").matches("^TargetPort: +8080/TCP$").matches(r"^Endpoints: +10\.\d+\.\d+\.\d+:8080,");
    t.run("kubectl get endpointslices -l kubernetes.io/service-name=hello").matches("^hello-.* IPv4 +8080 ");
    let address = t.value("kubectl get service hello -o jsonpath='{.spec.clusterIP}'");
    t.until(&format!("kubectl exec client -- timeout 5 wget -qO- http://{address}/"), "^Hello from v1 on hello-");
    for name in ["hello", "hello.cluster-ip", "hello.cluster-ip.svc", "hello.cluster-ip.svc.cluster.local"] {
        t.run(&format!("kubectl exec client -- timeout 5 wget -qO- http://{name}/")).expect("Hello from v1 on hello-");
    }
    t.run("kubectl exec client -- sh -c 'timeout 5 wget -qO- http://$HELLO_SERVICE_HOST:$HELLO_SERVICE_PORT/'")
        .expect("Hello from v1 on hello-");
    t.run("kubectl exec client -- env").expect(&format!("HELLO_SERVICE_HOST={address}")).matches(r"^HELLO_PORT=tcp://10\..*:80$");
    t.run("kubectl exec client -- nslookup hello.cluster-ip.svc.cluster.local").expect(&address);
    t.run("kubectl exec client -- nslookup kubernetes.default.svc.cluster.local").matches("^Address");
    t.run("kubectl exec client -- cat /etc/resolv.conf")
        .matches("^search cluster-ip.svc.cluster.local svc.cluster.local cluster.local")
        .expect("ndots:5");
    t.run(&format!("curl -sS --max-time 5 http://{address}/")).expect("Hello from v1");
    // A service without pods refuses, one of a pod to itself works.
    t.run("kubectl create service clusterip empty --tcp=80");
    t.fails("kubectl exec client -- timeout 3 wget -qO- http://empty/");
    let pod = t.value("kubectl get pods -l app=hello -o jsonpath='{.items[0].metadata.name}'");
    t.run("kubectl scale deployment hello --replicas=1");
    t.until_gone("kubectl get pods -l app=hello", "(?s)(hello-.*){2}");
    let pod = if t.run("kubectl get pods -l app=hello -o name").text().contains(&pod) {
        pod
    } else {
        t.value("kubectl get pods -l app=hello -o jsonpath='{.items[0].metadata.name}'")
    };
    t.until(&format!("kubectl exec {pod} -- timeout 5 wget -qO- http://{address}/"), &format!("^Hello from v1 on {pod}$"));
    // Headless: the pods' own addresses.
    t.run("kubectl create service clusterip hello-bare --clusterip=None --dry-run=client -o yaml | sed 's/app: hello-bare/app: hello/' | kubectl create -f -");
    let own = t.value(&format!("kubectl get pod {pod} -o jsonpath='{{.status.podIP}}'"));
    t.until("kubectl exec client -- nslookup hello-bare.cluster-ip.svc.cluster.local", &format!("^Address.*{own}$"));
}

pub fn node_port(t: &Terminal) {
    t.run("kubectl create deployment hello --image=hello:v1 --replicas=3");
    t.run("kubectl rollout status deployment/hello --timeout=90s");
    t.run("kubectl expose deployment hello --type=NodePort --port=8080").expect("service/hello exposed");
    t.run("kubectl get service hello").matches(r"^hello +NodePort +10\.\d+\.\d+\.\d+ +<none> +8080:3\d{4}/TCP ");
    let port = t.value("kubectl get service hello -o jsonpath='{.spec.ports[0].nodePort}'");
    let node = t.value("kubectl get nodes -o jsonpath='{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}'");
    t.until(&format!("curl -sS --max-time 5 http://{node}:{port}/"), "^Hello from v1 on hello-");
    // 60 answers of three pods: that one of them stays silent by chance happens once in ten billion walks.
    let many = format!("for i in $(seq 60); do curl -sS --max-time 5 http://{node}:{port}/; done | sort | uniq -c");
    t.until(&many, "(?s)(on hello-.*){3}");
    let names = t.value("kubectl get pods -l app=hello -o jsonpath='{.items[*].metadata.name}'");
    let shown = t.run(&many);
    names.split_whitespace().fold(shown, |shown, name| shown.expect(name));
    t.run("kubectl patch service hello -p '{\"spec\":{\"sessionAffinity\":\"ClientIP\"}}'");
    t.until(&format!("{many} | wc -l"), "^1$");
    t.run("kubectl delete service hello").expect("service \"hello\" deleted");
    t.until_gone(&format!("curl -sS --max-time 2 http://{node}:{port}/"), "Hello");
}

pub fn other_types(t: &Terminal) {
    three_and_a_client(t);
    t.run("kubectl create service externalname elsewhere --external-name=hello.other-types.svc.cluster.local")
        .expect("service/elsewhere created");
    t.run("kubectl get service elsewhere").matches("^elsewhere +ExternalName +<none> +hello.other-types.svc.cluster.local +<none> ");
    t.until(
        "kubectl exec client -- nslookup elsewhere.other-types.svc.cluster.local",
        "canonical name = hello.other-types.svc.cluster.local",
    );
    t.until("kubectl exec client -- timeout 5 wget -qO- http://elsewhere/", "^Hello from v1");
    t.run("kubectl expose deployment hello --name=balanced --type=LoadBalancer --port=80 --target-port=8080")
        .expect("service/balanced exposed");
    t.run("kubectl get service balanced").matches(r"^balanced +LoadBalancer +10\.\S+ +<pending> +80:3\d{4}/TCP ");
    // It works inside all the same.
    t.until("kubectl exec client -- timeout 5 wget -qO- http://balanced/", "^Hello from v1");
    // (An event; old kubectls also ask for Endpoints, of which stock warns.)
    t.run("kubectl describe service balanced").lacks("Warning ");
    t.file("named.yaml", "---
{apiVersion: v1, kind: Pod, metadata: {name: named, labels: {app: named}}, spec: {containers: [
  {name: a, image: 'hello:v2', ports: [{name: web, containerPort: 8080}]}, {name: b, image: 'nginx:1.22', ports: [{name: pages, containerPort: 80}]}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: named}, spec: {selector: {app: named}, ports: [
  {name: one, port: 81, targetPort: web}, {name: two, port: 82, targetPort: pages}]}}");
    t.run("kubectl create -f named.yaml");
    t.run("kubectl wait --for=condition=Ready pod/named --timeout=90s");
    t.until("kubectl exec client -- timeout 5 wget -qO- http://named:81/", "^Hello from v2 on named");
    t.until("kubectl exec client -- timeout 5 wget -qO- http://named:82/", "Welcome to nginx!");
}

/// The rules stand in a table that the node's own program can show, and nowhere else.
pub fn tables(t: &Terminal) {
    t.run("kubectl create deployment hello --image=hello:v1 --replicas=2");
    t.run("kubectl expose deployment hello --port=80 --target-port=8080");
    t.run("kubectl rollout status deployment/hello --timeout=90s");
    let address = t.value("kubectl get service hello -o jsonpath='{.spec.clusterIP}'");
    t.until("nft list table ip kube-proxy", &format!(r"{address} \. tcp \. 80 \. 1 : 10\.\d+\.\d+\.\d+ \. 8080"));
    t.run("nft list ruleset").expect("map @service-endpoints");
    t.until(&format!("for i in $(seq 40); do curl -sS --max-time 5 http://{address}/; done | sort | uniq -c"), "(?s)(on hello-.*){2}");
    t.run("iptables-save").expect("SKIFF-FORWARD").lacks("KUBE-SVC-");
    t.run("kubectl scale deployment hello --replicas=0");
    t.until("nft list set ip kube-proxy rejected-ips", &format!(r"{address} \. tcp \. 80"));
    t.fails(&format!("curl -sS --max-time 2 http://{address}/")).lacks("timed out");
}
