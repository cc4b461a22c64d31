//! `skiff up --nodes 3`, on a machine of the test's own: three nodes of one machine, and nothing left of them.

use std::time::Instant;

use e2e::nodes::World;

#[test]
fn one_machine_is_three_nodes() {
    let world = World::new();
    world.switch("lan", Some("10.8.0.1/24"));
    let machine = world.machine("learner", &["lan=10.8.0.10/24", "via=10.8.0.1", "dns=10.8.0.1"]);
    let before = machine.sh("ls /run/netns /sys/class/net; iptables-save | grep -c skiff || true");
    let images = world.images();
    machine.sh(&format!("mkdir -p /var/lib/skiff/agent/images && cp {}/*.tar /var/lib/skiff/agent/images/", images.display()));
    let skiff = world.deployment().join("skiff").display().to_string();
    let up =
        format!("{skiff} up --nodes 3 --eviction-hard 'memory.available<100Mi' --node-labels tier=all --kubeconfig /etc/skiff/kubeconfig");
    machine.sh("mkdir -p /etc/skiff");
    let since = Instant::now();
    let said = machine.sh(&up);
    eprintln!("three nodes are Ready after {:?}", since.elapsed());
    for wanted in ["node learner is Ready", "node node-2 is Ready", "node node-3 is Ready"] {
        assert!(said.contains(wanted), "{said}");
    }
    let nodes = machine.kubectl("get nodes --no-headers");
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 3, "{nodes}");
    // What was said of nodes holds for each.
    assert_eq!(machine.kubectl("get nodes -l tier=all --no-headers").lines().count(), 3);
    for node in ["node-2", "node-3"] {
        let told = machine.sh(&format!("cat /var/lib/skiff/nodes/{node}/root/etc/skiff/config.yaml"));
        assert!(told.contains("memory.available<104857600"), "{told}");
    }
    machine.kubectl("create deployment web --image=hello:v1 --replicas=6");
    machine.kubectl("rollout status deployment/web --timeout=120s");
    let ips = machine.kubectl("get pods -l app=web -o jsonpath='{range .items[*]}{.spec.nodeName}={.status.podIP} {end}'");
    for node in ["learner", "node-2", "node-3"] {
        let ip = ips.split(' ').find_map(|one| one.strip_prefix(&format!("{node}="))).unwrap_or_else(|| panic!("no pod on {node}: {ips}"));
        machine.sh(&format!("curl -sf -m 3 http://{ip}:8080/"));
    }

    // Stopped and brought up again, the pods are those that they were.
    let pods = "get pods -l app=web --no-headers --sort-by=.metadata.name -o custom-columns=:.metadata.uid,:.status.containerStatuses[0].containerID";
    let running = machine.kubectl(pods);
    machine.sh(&format!("{skiff} down"));
    machine.sh(&up);
    assert_eq!(machine.kubectl(pods), running);
    machine.sh(&format!("KUBECONFIG=/etc/skiff/kubeconfig {skiff} reset"));
    assert_eq!(machine.sh("ls /run/netns /sys/class/net; iptables-save | grep -c skiff || true"), before);
    assert_eq!(machine.sh("find /sys/fs/cgroup -name 'skiff*' -o -name 'kubepods*'; pgrep -x 'skiff|containerd' || true"), "");
    world.end();
}
