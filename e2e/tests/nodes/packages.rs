//! The package in a root that debootstrap makes, and `install.sh`: on machines that have no way to the internet.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{
    images::debian::said,
    nodes::{Machine, World},
};

/// What the package depends on, and what a test looks with.
const WANTED: &str = "containerd,runc,iptables,iproute2,procps,curl";
const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lasting"}, "spec": {"containers": [{"name": "c", "image": "busybox:1.35", "command": ["sleep", "100000"]}]}}"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn package(world: &World, kind: &str, version: &str) -> PathBuf {
    let mut command = Command::new(root().join("deploy/package.sh"));
    command.arg(kind).arg(e2e::skiff()).arg(version).env("PACKAGE_DIR", world.scratch());
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    PathBuf::from(String::from_utf8_lossy(&done.stdout).trim())
}

/// A minimal Debian of this machine's mirror.
fn debian(world: &World) -> PathBuf {
    let dir = world.scratch().join("debian");
    let mirror = said("apt-get", &["indextargets", "--format", "$(REPO_URI)", "Identifier: Packages", "Label: Debian"]).unwrap();
    let mirror = mirror.lines().next().expect("apt-get knows a Debian mirror: apt-get update").to_owned();
    let include = format!("--include={WANTED}");
    said("debootstrap", &["--variant=minbase", &include, "bookworm", &dir.display().to_string(), &mirror]).unwrap();
    dir
}

/// Onto the disk of a machine that is off.
fn copy(machine: &Machine<'_>, path: &Path) -> String {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let dir = machine.disk().join("root/srv");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(path, dir.join(&name)).unwrap();
    format!("/srv/{name}")
}

#[test]
fn the_package_installs_upgrades_and_goes() {
    let world = World::new();
    world.switch("lan", Some("10.8.0.1/24"));
    let (old, new) = (package(&world, "deb", "1.0.0"), package(&world, "deb", "1.0.1"));
    let root = debian(&world);
    let machine = world.machine("fresh", &["lan=10.8.0.10/24", "via=10.8.0.1", &format!("root={}", root.display())]);
    machine.off();
    let (old, new) = (copy(&machine, &old), copy(&machine, &new));
    for archive in
        std::fs::read_dir(world.images()).unwrap().flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "tar"))
    {
        copy(&machine, &archive.path());
    }
    machine.boot();
    machine.sh(&format!("dpkg -i {old}"));
    machine.sh("/usr/share/skiff/provision.sh server --network 10.8.0.0/24 --images /srv --set 'eviction-hard=memory.available<100Mi'");
    let as_admin = "curl -sf --cacert /tmp/ca --cert /tmp/crt --key /tmp/key";
    for (field, file) in [("certificate-authority-data", "ca"), ("client-certificate-data", "crt"), ("client-key-data", "key")] {
        // On one line, or folded.
        let value = format!(
            "/{field}:/ {{ on = 1; sub(/.*{field}: *(>-)?/, \"\"); gsub(/[ \"]/, \"\"); printf \"%s\", $0; next }} on && /^ *[A-Za-z0-9+\\/=]+$/ {{ gsub(/ /, \"\"); printf \"%s\", $0; next }} {{ on = 0 }}"
        );
        machine.sh(&format!("awk '{value}' /etc/skiff/kubeconfig | base64 -d >/tmp/{file} && test -s /tmp/{file}"));
    }
    let pods = "https://127.0.0.1:6443/api/v1/namespaces/default/pods";
    machine.sh(&format!("for i in $(seq 100); do {as_admin} https://127.0.0.1:6443/api/v1/namespaces/default/serviceaccounts/default >/dev/null && break; sleep 0.2; done"));
    machine.sh(&format!("{as_admin} -H 'Content-Type: application/json' -d '{POD}' {pods}"));
    let pid = machine.sh("for i in $(seq 300); do pgrep -fx 'sleep 100000' && exit 0; sleep 0.2; done; exit 1");

    machine.sh(&format!("dpkg -i {new}"));
    assert_eq!(machine.sh("dpkg-query -W -f '${Version}' skiff"), "1.0.1");
    // What systemd's restart is elsewhere.
    machine.sh("skiff down && /usr/share/skiff/provision.sh start");
    assert_eq!(machine.sh("pgrep -fx 'sleep 100000'"), pid, "the pod was restarted");

    machine.sh("dpkg -r skiff");
    assert_eq!(machine.sh("pgrep -l 'skiff|containerd|runc|pause' || true; pgrep -fx 'sleep 100000' || true"), "");
    assert_eq!(
        machine.sh(
            "ls /sys/class/net | grep -E 'skiff|veth' || true; find /sys/fs/cgroup -name 'kubepods*'; iptables-save | grep KUBE || true"
        ),
        ""
    );
    machine.sh("test -e /var/lib/skiff/skiff-data && test -e /etc/skiff/config.yaml");
    machine.sh("dpkg -P skiff");
    assert_eq!(machine.sh("ls -A /var/lib/skiff; ls -d /etc/skiff 2>/dev/null || true; dpkg-query -W skiff 2>/dev/null || true"), "");
    world.end();
}

#[test]
fn the_installer_needs_no_internet_where_the_files_lie_beside_it() {
    let world = World::new();
    world.switch("lan", Some("10.8.0.1/24"));
    let archive = package(&world, "tar", "1.0.0");
    let machine = world.machine("offline", &["lan=10.8.0.10/24"]);
    machine.sh(&format!("mkdir /srv/a && cd /srv/a && tar -xzf {} && ln -s {} skiff/images", archive.display(), world.images().display()));
    let options = "server --network 10.8.0.0/24 --set 'eviction-hard=memory.available<100Mi'";
    machine.sh(&format!("/srv/a/skiff/install.sh {options}"));
    machine.kubectl("wait --for=condition=Ready node/offline --timeout=30s");
    machine.kubectl("run web --image=hello:v1");
    machine.kubectl("wait --for=condition=Ready pod/web --timeout=90s");
    // Alone it says what it lacks; with the archive's place it fetches, and trusts nothing that is not what it should be.
    machine.sh("cp /srv/a/skiff/install.sh /srv/install.sh");
    let alone = machine.try_sh(&format!("/srv/install.sh {options}"));
    assert!(!alone.ok && alone.err.contains("SKIFF_URL"), "{}", alone.err);
    let fetch = format!("SKIFF_URL=file://{} /srv/install.sh {options}", world.scratch().display());
    machine.sh(&fetch);
    std::fs::write(world.scratch().join("skiff-amd64.tar.gz"), "another").unwrap();
    std::fs::write(world.scratch().join("skiff-arm64.tar.gz"), "another").unwrap();
    let torn = machine.try_sh(&fetch);
    assert!(!torn.ok && torn.err.contains("not what it should be"), "{}", torn.err);
    world.end();
}
