//! version, cluster-info, config, api-resources, explain, top: the first lines of the notes.

use crate::{aboard::Kubectl, terminal::Terminal};

pub fn about(t: &Terminal) {
    t.run("kubectl version").matches("Server Version.*36").expect("Client Version");
    t.run("kubectl version -o json").expect("\"serverVersion\"").expect("\"minor\": \"36\"");
    t.run("kubectl cluster-info").matches("Kubernetes control plane.* is running at .*https://127.0.0.1:");
    t.run("kubectl get --raw /healthz").expect("ok");
    t.run("kubectl get --raw '/readyz?verbose'").expect("[+]").expect("readyz check passed");
    t.run("kubectl get --raw /metrics | head -n 50").expect("# TYPE");
    t.run("kubectl get componentstatuses").matches("^etcd-0 +Healthy +ok").expect("scheduler");
    // With no node there is nothing to measure.
    t.run("kubectl get --raw /apis/metrics.k8s.io/v1beta1/nodes").expect("NodeMetricsList");
    t.run("kubectl get apiservice v1beta1.metrics.k8s.io").matches("^v1beta1.metrics.k8s.io +Local +True ");
}

pub fn config(t: &Terminal) {
    t.run("kubectl config get-contexts")
        .matches(r"^CURRENT +NAME +CLUSTER +AUTHINFO +NAMESPACE$")
        .matches(r"^\* +skiff +skiff +skiff +config$");
    t.run("kubectl config current-context").matches("^skiff$");
    t.run("kubectl config view").matches("server: https://127.0.0.1:[0-9]+$").matches("DATA\\+OMITTED|REDACTED").lacks("PRIVATE KEY");
    t.run("kubectl config set-context other --cluster=skiff --user=skiff --namespace=kube-system").expect("Context \"other\" created.");
    t.run("kubectl config use-context other").expect("Switched to context \"other\".");
    t.run("kubectl get serviceaccounts").matches("^default ");
    t.run("kubectl config use-context skiff").expect("Switched to context \"skiff\".");
    t.run("kubectl config delete-context other").expect("deleted context other");
}

pub fn discovery(t: &Terminal) {
    t.run("kubectl api-resources")
        .matches("^pods +po +v1 +true +Pod$")
        .matches("^namespaces +ns +v1 +false +Namespace$")
        .matches("^deployments +deploy +apps/v1 +true +Deployment$")
        .matches("^clusterroles .*false +ClusterRole$");
    t.run("kubectl api-resources --namespaced=false -o name").matches("^nodes$").lacks("pods");
    t.run("kubectl api-resources --api-group=apps -o wide").expect("deployments").expect("deletecollection");
    t.run("kubectl api-versions").matches("^v1$").matches("^apps/v1$").matches("^rbac.authorization.k8s.io/v1$");
    t.run("kubectl explain pod.spec.containers")
        .matches("KIND: +Pod")
        .expect("DESCRIPTION")
        .expect("FIELDS")
        .matches("^ +image\\s+<string>");
    t.run("kubectl explain deployment.spec.strategy.rollingUpdate").expect("maxSurge").expect("maxUnavailable");
    t.run("kubectl explain pod --recursive").expect("livenessProbe").expect("terminationGracePeriodSeconds");
    t.fails("kubectl explain pod.spec.nothing").expect("nothing");
    t.fails("kubectl get nothings").expect("the server doesn't have a resource type \"nothings\"");
    if t.kubectl == Kubectl::Newer {
        t.run("kubectl explain pod.spec.containers.image").expect("FIELD: image <string>");
    }
}
