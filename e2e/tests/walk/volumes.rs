//! Volumes: settings and secrets that change under a running pod, downward facts, and the account's token at work.

use crate::terminal::Terminal;

const POD: &str = "---
{apiVersion: v1, kind: Pod, metadata: {name: reader, labels: {app: reader}, annotations: {note: first}}, spec: {
  terminationGracePeriodSeconds: 1, serviceAccountName: robot,
  containers: [{name: c, image: 'busybox:1.35', command: [sleep, '3600'], volumeMounts: [
    {name: settings, mountPath: /settings}, {name: login, mountPath: /login, readOnly: true}, {name: facts, mountPath: /facts},
    {name: one, mountPath: /one/file, subPath: colour}, {name: shared, mountPath: /shared}, {name: ram, mountPath: /ram}]},
    {name: d, image: 'busybox:1.35', command: [sleep, '3600'], volumeMounts: [{name: shared, mountPath: /shared}]}],
  volumes: [
    {name: settings, configMap: {name: settings}},
    {name: one, configMap: {name: settings}},
    {name: login, secret: {secretName: login, defaultMode: 0400}},
    {name: shared, emptyDir: {}}, {name: ram, emptyDir: {medium: Memory}},
    {name: facts, downwardAPI: {items: [
      {path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: note, fieldRef: {fieldPath: \"metadata.annotations['note']\"}}]}}]}}
";

pub fn volumes(t: &Terminal) {
    t.run("kubectl create configmap settings --from-literal=colour=blue --from-literal=size=big");
    t.run("kubectl create serviceaccount robot");
    t.file("reader.yaml", POD);
    t.run("kubectl create -f reader.yaml");
    // The secret is not there yet: the pod waits for it.
    t.until("kubectl describe pod reader", "FailedMount .*secret \"login\" not found");
    t.run("kubectl get pod reader").matches("^reader +0/2 +ContainerCreating ");
    t.run("kubectl create secret generic login --from-literal=password=s3cret");
    t.run("kubectl wait --for=condition=Ready pod/reader --timeout=180s");
    t.run("kubectl exec reader -c c -- cat /settings/colour /settings/size /one/file").matches(r"\Abluebigblue\z");
    t.run("kubectl exec reader -c c -- cat /login/password").matches(r"\As3cret\z");
    t.run("kubectl exec reader -c c -- stat -L -c %a /login/password").matches("^400$");
    t.fails("kubectl exec reader -c c -- sh -c 'echo x > /login/password'").expect("Read-only file system");
    t.run("kubectl exec reader -c c -- cat /facts/labels /facts/note").matches("^app=\"reader\"").expect("first");
    t.run("kubectl exec reader -c c -- sh -c 'echo both > /shared/file; mount | grep /ram'").expect("tmpfs");
    t.run("kubectl exec reader -c d -- cat /shared/file").matches("^both$");
    // What changes there changes here, but not below a subPath.
    t.run("kubectl patch configmap settings -p '{\"data\":{\"colour\":\"red\",\"size\":null}}'");
    t.run("kubectl patch secret login -p '{\"stringData\":{\"password\":\"changed\"}}'");
    t.run("kubectl label pod reader seen=yes");
    t.until("kubectl exec reader -c c -- cat /settings/colour", r"\Ared\z");
    t.until("kubectl exec reader -c c -- cat /login/password", r"\Achanged\z");
    t.until("kubectl exec reader -c c -- cat /facts/labels", "^seen=\"yes\"");
    t.run("kubectl exec reader -c c -- ls /settings").lacks("size");
    t.run("kubectl exec reader -c c -- cat /one/file").matches(r"\Ablue\z");
    t.run("kubectl delete pod reader");
}

const KEEPER: &str = "---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: keeper}, spec: {replicas: 1, strategy: {type: Recreate}, selector: {matchLabels: {app: keeper}},
  template: {metadata: {labels: {app: keeper}}, spec: {terminationGracePeriodSeconds: 1, securityContext: {fsGroup: 4321},
    containers: [{name: c, image: 'busybox:1.35', command: [sleep, '3600'], volumeMounts: [{name: data, mountPath: /data}, {name: data, mountPath: /part, subPath: part}]}],
    volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]}}}}
";

/// A claim of the default class: its data outlive pods and skiff, and go with it.
pub fn claims(t: &Terminal) {
    t.run("kubectl get storageclass").matches("^skiff-local \\(default\\) +skiff.dev/local +Delete +WaitForFirstConsumer +true ");
    t.file("keeper.yaml", KEEPER);
    t.run("kubectl create -f keeper.yaml");
    t.run("kubectl rollout status deployment/keeper --timeout=90s");
    t.run("kubectl get pvc data").matches("^data +Bound +pvc-[-0-9a-f]+ +1Gi +RWO +skiff-local ");
    let volume = t.value("kubectl get pvc data -o jsonpath='{.spec.volumeName}'");
    let path = t.value(&format!("kubectl get pv {volume} -o jsonpath='{{.spec.local.path}}'"));
    t.run("kubectl exec deployment/keeper -- sh -c 'echo kept > /data/file; echo too > /part/file; stat -c %g /data'").matches("^4321$");
    t.run(&format!("cat {path}/file {path}/part/file")).matches("^kept$").matches("^too$");
    t.run("kubectl delete pod -l app=keeper");
    t.run("kubectl rollout status deployment/keeper --timeout=90s");
    t.run("kubectl exec deployment/keeper -- cat /data/file /part/file").matches("^kept$").matches("^too$");
    assert!(t.stop_skiff().success());
    t.start_skiff();
    t.run("kubectl wait --for=condition=Ready pod --all --timeout=90s");
    t.run("kubectl exec deployment/keeper -- cat /data/file").matches("^kept$");
    t.run("kubectl delete pod -l app=keeper");
    t.run("kubectl rollout status deployment/keeper --timeout=90s");
    t.run("kubectl exec deployment/keeper -- cat /data/file").matches("^kept$");
    // Held while it is used.
    t.run("kubectl delete pvc data --wait=false");
    t.run("kubectl get pvc data").matches("^data +Terminating ");
    t.run(&format!("cat {path}/file")).matches("^kept$");
    t.run("kubectl delete deployment keeper");
    t.until_gone("kubectl get pvc", "^data ");
    t.until_gone("kubectl get pv", &volume);
    t.fails(&format!("ls {path}")).expect("No such file");
}

pub fn account(t: &Terminal) {
    t.run("kubectl create serviceaccount robot");
    t.run("kubectl create role reader --verb=get,list --resource=pods");
    t.run("kubectl create rolebinding read --role=reader --serviceaccount=account:robot");
    let overrides = r#"{"spec":{"serviceAccountName":"robot","terminationGracePeriodSeconds":1}}"#;
    t.run(&format!("kubectl run inside --image=nginx:1.22 --overrides='{overrides}'"));
    t.run("kubectl wait --for=condition=Ready pod/inside --timeout=90s");
    let home = "/var/run/secrets/kubernetes.io/serviceaccount";
    t.run(&format!("kubectl exec inside -- ls {home}")).matches("^ca.crt$").matches("^namespace$").matches("^token$");
    t.run(&format!("kubectl exec inside -- cat {home}/namespace")).matches(r"\Aaccount\z");
    t.run(&format!("kubectl exec inside -- cat {home}/ca.crt")).expect("BEGIN CERTIFICATE");
    // Against the mounted CA, under the name that the service has.
    let ask = |path: &str, header: &str| {
        format!(
            "kubectl exec inside -- sh -c 'printf \"GET /{path} HTTP/1.1\\r\\nHost: kubernetes.default.svc\\r\\nConnection: close\\r\\n{header}\\r\\n\" | \
             timeout 10 openssl s_client -quiet -CAfile {home}/ca.crt -verify_return_error \
             -verify_hostname kubernetes.default.svc -servername kubernetes.default.svc -connect kubernetes.default.svc:443 2>/dev/null'"
        )
    };
    let token = format!("Authorization: Bearer $(cat {home}/token)\\r\\n");
    t.until(&ask("api/v1/namespaces/account/pods/inside", &token), "^HTTP/1.1 200 OK").matches("\"kind\": ?\"Pod\"").expect("walk-node");
    t.run(&ask("api/v1/namespaces/account/secrets", &token))
        .expect("403 Forbidden")
        .expect("system:serviceaccount:account:robot")
        .expect("cannot list resource");
    t.run(&ask("api/v1/pods", "")).matches("40[13] ");
    t.run(&ask("version", "Authorization: Bearer forged\\r\\n")).expect("401 Unauthorized");
}
