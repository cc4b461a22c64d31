//! Objects that need no node: namespaces, `create`, labels and selectors, QoS classes, refusals, who may do what.

use crate::{aboard::Kubectl, terminal::Terminal};

pub fn namespaces(t: &Terminal) {
    t.run("kubectl get namespaces").matches("^default +Active ").matches("^kube-system +Active ").matches("^kube-public +Active ");
    t.run("kubectl create namespace blue").expect("namespace/blue created");
    t.fails("kubectl create namespace blue").expect("namespaces \"blue\" already exists");
    t.fails("kubectl create namespace Blue_1").expect("Invalid value: \"Blue_1\"");
    t.run("kubectl create configmap c --from-literal=a=1 --namespace=blue").expect("configmap/c created");
    t.run("kubectl get configmaps --namespace blue").matches("^c +1 ");
    t.fails("kubectl get configmap c").expect("configmaps \"c\" not found");
    t.run("kubectl get configmaps --all-namespaces").matches("^blue +c +1 ").matches("^NAMESPACE ");
    t.run("kubectl describe namespace blue").matches("^Status: +Active$");
    t.run("kubectl delete namespace blue").expect("namespace \"blue\" deleted");
    t.fails("kubectl get namespace blue").expect("namespaces \"blue\" not found");
    t.fails("kubectl get configmap c --namespace blue").expect("not found");
    t.fails("kubectl delete namespace default").expect("forbidden");
}

pub fn create(t: &Terminal) {
    t.run("kubectl create deployment web --image=nginx:1.22 --replicas=3 --port=80").expect("deployment.apps/web created");
    t.until("kubectl get deployment web", "^web +[0-3]/3 +3 ");
    t.run("kubectl create service clusterip web --tcp=80:8080").expect("service/web created");
    t.run("kubectl create service nodeport webs --tcp=80").expect("service/webs created");
    t.run("kubectl create service loadbalancer weblb --tcp=80").expect("service/weblb created");
    t.run("kubectl create service externalname out --external-name=example.com").expect("service/out created");
    t.run("kubectl get services")
        .matches(r"^web +ClusterIP +10\.\d+\.\d+\.\d+ +<none> +80/TCP ")
        .matches(r"^webs +NodePort +10\.\d+\.\d+\.\d+ +<none> +80:3[0-2]\d{3}/TCP ")
        .matches(r"^weblb +LoadBalancer +10\.\d+\.\d+\.\d+ +<pending> +80:3[0-2]\d{3}/TCP ")
        .matches(r"^out +ExternalName +<none> +example.com +<none> ");
    t.file("app.properties", "colour=blue\n");
    t.run("kubectl create configmap settings --from-literal=a=1 --from-file=app.properties").expect("configmap/settings created");
    t.run("kubectl describe configmap settings").expect("colour=blue").expect("app.properties");
    t.run("kubectl create secret generic login --from-literal=user=me --from-literal=password=s3cret").expect("secret/login created");
    t.run("kubectl get secret login").matches("^login +Opaque +2 ");
    t.run("kubectl describe secret login").matches("password: +6 bytes").lacks("s3cret");
    t.run("kubectl get secret login -o jsonpath='{.data.password}' | base64 -d").matches("^s3cret$");
    t.run("kubectl create serviceaccount robot").expect("serviceaccount/robot created");
    match t.kubectl {
        Kubectl::Newer => t.run("kubectl create token robot --duration=20m").matches(r"^ey[\w-]+\.[\w-]+\.[\w-]+$"),
        Kubectl::Old => t.fails("kubectl create token robot").expect("unknown"),
    };
    t.run("kubectl create role reader --verb=get,list --resource=pods").expect("role.rbac.authorization.k8s.io/reader created");
    t.run("kubectl create rolebinding read --role=reader --serviceaccount=create:robot").expect("created");
    t.run("kubectl create deployment shown --image=nginx:1.22 --dry-run=client -o yaml")
        .expect("kind: Deployment")
        .expect("image: nginx:1.22");
    t.run("kubectl create deployment asked --image=nginx:1.22 --dry-run=server").expect("created (server dry run)");
    t.fails("kubectl get deployment asked").expect("not found");
    t.run("kubectl get all").expect("deployment.apps/web").expect("service/web").expect("replicaset.apps/web-");
    t.run("kubectl delete deployment web").expect("deployment.apps \"web\" deleted");
    t.until_gone("kubectl get replicasets,pods", "web-");
}

/// No node has their label: they stay Pending, here and on a node.
const THREE_PODS: &str = r"
---
{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: shop, tier: front, env: prod}},
  spec: {nodeSelector: {walk: nowhere}, containers: [{name: c, image: 'busybox:1.35'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, labels: {app: shop, tier: back, env: test}},
  spec: {nodeSelector: {walk: nowhere}, containers: [{name: c, image: 'busybox:1.35'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c, labels: {app: blog}},
  spec: {nodeSelector: {walk: nowhere}, containers: [{name: c, image: 'busybox:1.35'}]}}
";

pub fn labels(t: &Terminal) {
    t.file("three.yaml", THREE_PODS);
    t.run("kubectl create -f three.yaml").expect("pod/a created").expect("pod/b created").expect("pod/c created");
    t.run("kubectl get pods --show-labels").matches("^a .*app=shop,env=prod,tier=front$").matches("^c .*app=blog$");
    t.run("kubectl get pods -L app,tier").matches("APP +TIER$").matches("^a .*shop +front$");
    let cases = [
        ("app=shop", "a b"),
        ("app!=shop", "c"),
        ("'app in (shop,blog)'", "a b c"),
        ("'env in (prod,test),tier notin (back)'", "a"),
        ("tier", "a b"),
        ("'!tier'", "c"),
        ("'app=shop,env notin (prod)'", "b"),
        ("'app,!env'", "c"),
    ];
    for (selector, names) in cases {
        t.run(&format!("kubectl get pods -l {selector} -o jsonpath='{{.items[*].metadata.name}}'")).matches(&format!("^{names}$"));
    }
    t.run("kubectl get pods -l app=none").expect("No resources found");
    t.fails("kubectl get pods -l 'app in'").expect("unable to parse");
    t.run("kubectl get pods --field-selector=metadata.name=b").matches("^b ").lacks("shop");
    t.run("kubectl get pods --field-selector=status.phase!=Running -o name").times(3, "pod/");
    t.run("kubectl label pod a colour=green").expect("pod/a labeled");
    t.fails("kubectl label pod a colour=red").expect("'colour' already has a value (green), and --overwrite is false");
    t.run("kubectl label pod a colour=red --overwrite").expect("pod/a labeled");
    t.run("kubectl get pods -l colour=red").matches("^a ");
    t.run("kubectl label pod a colour-").matches("pod/a (unlabeled|labeled)");
    t.run("kubectl get pods -l colour").expect("No resources found");
    t.run("kubectl label pods --all seen=yes").expect("pod/a labeled").expect("pod/c labeled");
    t.fails("kubectl label pod a 'bad=b@d'").expect("a valid label must be");
    t.run("kubectl annotate pod a note='hello there'").expect("pod/a annotated");
    t.run("kubectl describe pod a").matches("Annotations: +note: hello there$");
    t.run("kubectl annotate pod a note-").expect("pod/a annotated");
    t.run("kubectl delete pods -l app=shop --grace-period=0 --force").expect("pod \"a\" force deleted").expect("pod \"b\" force deleted");
    t.run("kubectl get pods -o name").matches("^pod/c$").times(1, "pod/");
}

const CLASSES: &str = r"
---
{apiVersion: v1, kind: Pod, metadata: {name: guaranteed}, spec: {containers: [
  {name: c, image: 'busybox:1.35', resources: {limits: {cpu: 100m, memory: 32Mi}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: burstable}, spec: {containers: [
  {name: c, image: 'busybox:1.35', resources: {requests: {cpu: 10m}, limits: {memory: 32Mi}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: besteffort}, spec: {containers: [{name: c, image: 'busybox:1.35'}]}}
";

pub fn qos(t: &Terminal) {
    t.file("classes.yaml", CLASSES);
    t.run("kubectl create -f classes.yaml");
    for (pod, class) in [("guaranteed", "Guaranteed"), ("burstable", "Burstable"), ("besteffort", "BestEffort")] {
        t.run(&format!("kubectl get pod {pod} -o jsonpath='{{.status.qosClass}}'")).matches(&format!("^{class}$"));
        t.run(&format!("kubectl describe pod {pod}")).matches(&format!("^QoS Class: +{class}$"));
    }
    // Limits alone are requests too.
    t.run("kubectl get pod guaranteed -o jsonpath='{.spec.containers[0].resources.requests.cpu}'").matches("^100m$");
    t.run("kubectl create quota q --hard=pods=1 || true").lacks("panic");
}

pub fn bad_input(t: &Terminal) {
    t.file("typo.yaml", "---\n{apiVersion: v1, kind: Pod, metadata: {name: typo}, spec: {contaners: [{name: c, image: 'busybox:1.35'}]}}");
    t.fails("kubectl create -f typo.yaml").expect("contaners");
    t.file("none.yaml", "---\n{apiVersion: v1, kind: Pod, metadata: {name: none}, spec: {containers: []}}");
    t.fails("kubectl create -f none.yaml").expect("spec.containers: Required value");
    t.file(
        "many.yaml",
        "---\n{apiVersion: v1, kind: Pod, metadata: {name: Many}, spec: {restartPolicy: Maybe, containers: [{image: a, name: _}]}}",
    );
    t.fails("kubectl create -f many.yaml")
        .expect("metadata.name: Invalid value")
        .expect("spec.containers[0].name: Invalid value")
        .expect("spec.restartPolicy: Unsupported value: \"Maybe\"");
    t.file("kind.yaml", "---\n{apiVersion: v1, kind: Nothing, metadata: {name: x}}");
    // The newer one first asks whether a custom resource defines it, and there are none of those yet.
    t.fails("kubectl create -f kind.yaml").matches("no matches for kind \"Nothing\"|failed to list CRDs");
    t.file("broken.yaml", "apiVersion: v1\nkind: [\n");
    t.fails("kubectl create -f broken.yaml").expect("yaml");
    t.fails("kubectl get pod nobody").expect("Error from server (NotFound): pods \"nobody\" not found");
    t.fails("kubectl delete pod nobody").expect("not found");
    t.run("kubectl delete pod nobody --ignore-not-found");
}

pub fn access(t: &Terminal) {
    t.run("kubectl auth can-i create pods").matches("^yes$");
    t.run("kubectl auth can-i '*' '*'").matches("^yes$");
    t.fails("kubectl auth can-i list secrets --as=bob").matches("^no");
    t.run("kubectl create serviceaccount robot");
    let robot = "--as=system:serviceaccount:access:robot";
    t.fails(&format!("kubectl auth can-i list pods {robot}")).matches("^no");
    t.fails(&format!("kubectl get pods {robot}")).expect(
        "pods is forbidden: User \"system:serviceaccount:access:robot\" cannot list resource \"pods\" in API group \"\" in the namespace \"access\"",
    );
    t.run("kubectl create role reader --verb=get,list,watch --resource=pods");
    t.run("kubectl create rolebinding read --role=reader --serviceaccount=access:robot");
    t.until(&format!("kubectl auth can-i list pods {robot}"), "^yes$");
    t.run(&format!("kubectl get pods {robot}")).expect("No resources found");
    t.fails(&format!("kubectl delete pod x {robot}")).expect("forbidden");
    t.run(&format!("kubectl auth can-i --list {robot}")).matches(r"^pods +\[\] +\[\] +\[get list watch\]$");
    t.run("kubectl describe role reader").matches(r"pods +\[\] +\[\] +\[get list watch\]");
    t.run("kubectl get clusterroles").matches("^cluster-admin ").matches("^view ");
    t.fails("kubectl --token=wrong --kubeconfig=/dev/null --server=$(kubectl config view -o jsonpath='{.clusters[0].cluster.server}') --insecure-skip-tls-verify get pods")
        .matches("Unauthorized|must be logged in");
}
