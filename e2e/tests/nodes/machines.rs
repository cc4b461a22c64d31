//! The machines themselves: that they are apart from this one, stay what they were, and go without a trace.

use std::time::Duration;

use e2e::{eventually, nodes::World};

#[test]
fn a_machine_has_a_disk_a_network_and_processes_of_its_own() {
    let world = World::new();
    world.switch("lan", Some("192.168.56.1/24"));
    let a = world.machine("a", &["lan=192.168.56.10/24", "dns=192.168.56.1"]);
    assert_eq!(a.sh("hostname; cat /etc/hostname; cat /etc/resolv.conf"), "a\na\nnameserver 192.168.56.1\n");
    assert_eq!(a.sh("ls /sys/class/net | xargs; ip -br -4 address show eth0 | awk '{print $3}'"), "eth0 lo\n192.168.56.10/24\n");
    assert_eq!(a.sh("ls /run/netns; ps -e -o comm= | grep -vE '^(ps|grep|sh|machine.sh|sleep)$' || echo none"), "none\n");
    // The cgroups begin where the machine does.
    assert!(a.sh("cat /proc/self/cgroup").lines().all(|line| line.ends_with(":/init") || line.ends_with(":/")));
    a.sh("echo kept >/etc/kept; echo kept >/var/lib/skiff/kept; echo gone >/run/gone; for tree in $(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs); do mkdir ${tree%/*}/kubepods; done; ip netns add pod");
    a.sh("ip link add skiff0 type bridge; setsid sleep 1000 >/dev/null 2>&1 & true");
    assert!(!std::path::Path::new("/etc/kept").exists());

    a.off();
    assert!(world.running().is_empty());
    a.boot();
    assert_eq!(
        a.sh("cat /etc/kept /var/lib/skiff/kept; ls /run/gone 2>/dev/null; ls -A /run/netns; ls /sys/class/net | xargs"),
        "kept\nkept\neth0 lo\n"
    );
    a.off();
    a.empty_disk();
    a.boot();
    assert!(!a.try_sh("ls /etc/kept").ok);
    world.end();
}

#[tokio::test]
async fn machines_are_connected_as_their_switches_are() {
    let world = World::new();
    world.switch("near", Some("10.8.0.1/24"));
    world.switch("far", Some("10.9.0.1/24"));
    world.switch("home", None);
    world.router("gate", &["near=10.8.0.254/24", "far=10.9.0.254/24"]);
    world.router("nat", &["home=192.168.1.1/24", "far=10.9.0.253/24", "nat=far"]);
    let near = world.machine("near-1", &["near=10.8.0.10/24", "via=10.8.0.254"]);
    let beside = world.machine("near-2", &["near=10.8.0.11/24", "via=10.8.0.254"]);
    let far = world.machine("a-machine-with-a-long-name", &["far=10.9.0.10/24", "via=10.9.0.254"]);
    let hidden = world.machine("hidden", &["home=192.168.1.10/24", "via=192.168.1.1"]);
    assert_eq!(world.running(), ["a-machine-with-a-long-name", "hidden", "near-1", "near-2"]);

    let reaches = |from: &e2e::nodes::Machine<'_>, to: &str| from.try_sh(&format!("busybox ping -c 1 -W 1 {to}")).ok;
    assert!(reaches(&near, "10.8.0.11") && reaches(&near, "10.9.0.10") && reaches(&far, "10.8.0.11"));
    // NAT: from inside only, and not under its own address.
    assert!(reaches(&hidden, "10.9.0.10") && !reaches(&far, "192.168.1.10"));
    far.sh("ip route add 192.168.1.0/24 via 10.9.0.253");
    assert!(!reaches(&far, "192.168.1.10"));

    beside.cut("near");
    assert!(!reaches(&near, "10.8.0.11"));
    beside.heal("near");
    eventually("the cable is in again", Duration::from_secs(10), async || reaches(&near, "10.8.0.11")).await;
    drop((near, beside, far, hidden));
    world.end();
}

#[test]
fn what_a_killed_test_left_is_removed_by_the_next() {
    let left = World::new();
    left.switch("lan", None);
    left.machine("a", &["lan=10.8.0.10/24"]).sh("setsid sleep 1000 >/dev/null 2>&1 & for tree in $(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs); do mkdir ${tree%/*}/kubepods; done");
    // Neither ended nor dropped.
    let world = left.abandon();
    assert!(world.running().is_empty());
    world.end();
}
