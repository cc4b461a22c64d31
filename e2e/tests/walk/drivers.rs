//! A CSI driver of a node: claims get its volumes, which are written to, kept, made larger, held over the agent's end, and gone with their claims.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
};

use crate::terminal::Terminal;

const CLASS: &str = "---
{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: folders.example.com}, spec: {
  attachRequired: true, podInfoOnMount: true, fsGroupPolicy: File, volumeLifecycleModes: [Persistent, Ephemeral]}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: folders}, provisioner: folders.example.com,
  volumeBindingMode: WaitForFirstConsumer, allowVolumeExpansion: true}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {
  storageClassName: folders, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
";

const POD: &str = "---
{apiVersion: v1, kind: Pod, metadata: {name: NAME}, spec: {terminationGracePeriodSeconds: 1, securityContext: {fsGroup: 4321},
  containers: [{name: c, image: 'busybox:1.35', command: [sleep, '3600'], volumeMounts: [
    {name: data, mountPath: /data}, {name: own, mountPath: /own, readOnly: true}]}],
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}, {name: own, csi: {driver: folders.example.com}}]}}
";

/// The program, as long as it is held.
struct Driver(Child);

impl Driver {
    fn start(t: &Terminal, state: &Path) -> Self {
        let server = t.server.lock();
        let kubelet = server.data_dir().join("agent/kubelet");
        let mut command = Command::new(env!("CARGO_BIN_EXE_csidriver"));
        command.args(["--name", "folders.example.com", "--node", "walk-node", "--state"]).arg(state);
        command.arg("--kubelet").arg(kubelet).arg("--kubeconfig").arg(server.kubeconfig());
        Self(command.spawn().expect("the driver was built with the tests"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn drivers(t: &Terminal) {
    let state: PathBuf = t.server.lock().scratch().join("folders");
    let driver = Driver::start(t, &state);
    t.until(
        "kubectl get csinode walk-node -o jsonpath='{.spec.drivers[*].name} {.spec.drivers[*].allocatable.count}'",
        "^folders.example.com 16$",
    );
    t.run("kubectl get node walk-node -o jsonpath='{.metadata.labels.folders\\.example\\.com/node}'").matches("^walk-node$");
    t.file("class.yaml", CLASS);
    t.run("kubectl create -f class.yaml");
    t.file("one.yaml", &POD.replace("NAME", "one"));
    t.run("kubectl create -f one.yaml");
    t.run("kubectl wait --for=condition=Ready pod/one --timeout=90s");
    t.run("kubectl get pvc data").matches("^data +Bound +pvc-[-0-9a-f]+ +1Gi +RWO +folders ");
    let volume = t.value("kubectl get pvc data -o jsonpath='{.spec.volumeName}'");
    t.run("kubectl exec one -- sh -c 'echo kept > /data/file; stat -c %g /data; cat /own/pod'").matches("^4321$").matches("^one$");
    t.run(&format!("cat {}/{volume}/data/file", state.display())).matches("^kept$");
    // Another pod finds it.
    t.run("kubectl delete pod one");
    t.until_gone(&format!("ls {}/{volume}", state.display()), "^staged$");
    t.run(&format!("ls {}", state.display())).lacks("csi-");
    t.file("two.yaml", &POD.replace("NAME", "two"));
    t.run("kubectl create -f two.yaml");
    t.run("kubectl wait --for=condition=Ready pod/two --timeout=90s");
    t.run("kubectl exec two -- cat /data/file").matches("^kept$");
    // It grows while it is used, and all of skiff is killed before its node has done its part.
    t.run("kubectl patch pvc data -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"2Gi\"}}}}'");
    t.until(&format!("cat {}/{volume}/size", state.display()), "^2147483648$");
    t.kill_skiff();
    drop(driver);
    let driver = Driver::start(t, &state);
    t.start_skiff();
    t.run("kubectl wait --for=condition=Ready pod/two --timeout=90s");
    t.until("kubectl get pvc data", "^data +Bound +pvc-[-0-9a-f]+ +2Gi ");
    t.run(&format!("cat {}/{volume}/node-size", state.display())).matches("^2147483648$");
    t.run("kubectl get pod two -o jsonpath='{.status.containerStatuses[0].restartCount}'").matches("^0$");
    t.run("kubectl exec two -- sh -c 'cat /data/file; echo more >> /data/file'").matches("^kept$");
    // The pod goes, and then the claim with all that is in it.
    t.run("kubectl delete pod two");
    t.run("kubectl delete pvc data");
    t.until_gone("kubectl get pv", &volume);
    t.until_gone(&format!("ls {}", state.display()), &volume);
    let mounted =
        format!("grep {} /proc/self/mountinfo || true", t.server.lock().data_dir().join("agent/kubelet/plugins/kubernetes.io").display());
    t.run(&mounted).matches(r"\A\z");
    drop(driver);
    let registry = t.server.lock().data_dir().join("agent/kubelet/plugins_registry");
    t.run(&format!("rm {}/folders.example.com-reg.sock", registry.display()));
    t.until_gone("kubectl get csinode walk-node -o jsonpath='{.spec.drivers[*].name}'", "folders");
    t.run("kubectl delete storageclass folders; kubectl delete csidriver folders.example.com");
}
