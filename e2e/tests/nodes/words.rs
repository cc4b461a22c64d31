//! What cannot join -> words that help.

use e2e::nodes::{Machine, World};

use crate::{
    cluster::{Cluster, NETWORK, SERVER_URL, TOKEN},
    traffic::Told,
};

#[test]
fn who_cannot_join_is_told_why() {
    let world = World::new();
    let cluster = Cluster::new(&world);
    let told = Told(&cluster);
    // As Vagrant makes them: the NAT first.
    world.switch("nat-stranger", Some("10.0.2.2/24"));
    let stranger = world.machine("stranger", &["nat-stranger=10.0.2.15/24", "private=192.168.56.20/24", "via=10.0.2.2"]);
    let skiff = e2e::skiff().display().to_string();
    let fails = |what: &str, command: &str, options: &[&str], wanted: &[&str]| {
        let line = format!("{command} --server {SERVER_URL} {}", options.join(" "));
        let said = stranger.try_sh(&line);
        let text = format!("{}{}", said.out, said.err);
        assert!(!said.ok && wanted.iter().all(|words| text.contains(words)), "{what}: {line} said\n{text}");
    };
    let token = format!("--token {TOKEN}");
    let agent = format!("timeout 40 {skiff} agent --node-ip 192.168.56.20");
    fails(
        "a wrong token",
        &agent,
        &["--token abcdef.fedcba9876543210"],
        &["does not know the secret of token abcdef", "skiff token create"],
    );
    fails("a token that is cut", &agent, &["--token abcdef.0123"], &["was all of it copied"]);
    fails(
        "a wrong hash",
        &agent,
        &[&token, &format!("--ca-hash sha256:{}", "0".repeat(64))],
        &["is not the one that is expected", "skiff token create"],
    );
    fails("a taken name", &agent, &[&token, "--node-name agent1"], &["node name \"agent1\" is taken", "--node-name"]);
    for off in ["+1h", "-1h"] {
        let check = format!("LD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketime.so.1) FAKETIME={off} timeout 40 {skiff} check");
        fails("a clock that is an hour off", &check, &[&token], &["this machine's clock is 3"]);
    }
    let check = format!("timeout 40 {skiff} check --server {SERVER_URL} --token {TOKEN}");
    this_machine(&stranger, &skiff, &check);
    clones(&cluster, &stranger, &check);
    ways(&world, &cluster, &stranger, &check);

    // And with all of it right it joins; what stands between its pods and others it says by itself.
    stranger.sh("rm -rf /var/lib/skiff/* && ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth1");
    let images = world.images().display().to_string();
    // Once.
    let token = cluster.server.sh(&format!("{skiff} token create --one-time")).trim().to_owned();
    stranger.provision(&["agent", "--server", SERVER_URL, "--network", NETWORK, "--token", &token, "--images", &images]);
    let log = stranger.sh("cat /var/log/skiff.log");
    assert!(log.contains("warning: UDP port 8472 is that of another VXLAN device, flannel.1"), "{log}");
    let another = world.machine("another", &["private=192.168.56.21/24"]);
    let said = another.try_sh(&format!("timeout 40 {skiff} agent --node-ip 192.168.56.21 --server {SERVER_URL} --token {token}"));
    let wanted = "is for one node, and \"stranger\" has joined with it. Make another with `skiff token create`";
    assert!(!said.ok && format!("{}{}", said.out, said.err).contains(wanted), "{said:?}");
    told.end();
    world.end();
}

/// `skiff check` says this, and whether it is well.
fn says(machine: &Machine<'_>, check: &str, is_well: bool, wanted: &[&str]) {
    let said = machine.try_sh(check);
    assert_eq!(said.ok, is_well, "{check}:\n{}{}", said.out, said.err);
    for words in wanted {
        assert!(said.out.contains(words), "{words}, of {check}:\n{}{}", said.out, said.err);
    }
}

/// Firewalls, what other pod networks left, ports, Vagrant's NAT: found, and gone with the very command that is said to mend it.
fn this_machine(stranger: &Machine<'_>, skiff: &str, check: &str) {
    says(stranger, check, true, &["pods' MTU 1450, of eth1 1500", "node address 192.168.56.20"]);
    let closed = "ct state established,related accept";
    let nft = format!(
        "nft 'add table inet mine; add chain inet mine incoming {{ type filter hook input priority 0; policy drop; }}; add rule inet mine incoming {closed}; add rule inet mine incoming iif lo accept'"
    );
    let iptables = "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT && iptables -P INPUT DROP";
    let ufw = "mkdir -p /etc/ufw && echo ENABLED=yes >/etc/ufw/ufw.conf && touch /usr/sbin/ufw && chmod +x /usr/sbin/ufw";
    let vxlan = "ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth1";
    let bridge = "ip link add cni0 type bridge && ip address add 10.244.7.1/24 dev cni0";
    let no_tunnel = format!("{check} --tunnel=false");
    for (made, check, wanted) in [
        (ufw, no_tunnel.as_str(), "ufw allow 10250/tcp"),
        (iptables, no_tunnel.as_str(), "iptables -I INPUT -p tcp --dport 10250 -j ACCEPT"),
        (
            nft.as_str(),
            no_tunnel.as_str(),
            "nft insert rule inet mine incoming tcp dport 10250 accept && nft insert rule inet mine incoming udp dport 8472 accept",
        ),
        (vxlan, check, "ip link del flannel.1"),
        (bridge, check, "ip link del cni0"),
    ] {
        stranger.sh(made);
        says(stranger, check, false, &[wanted]);
        let said = stranger.try_sh(check).out;
        let line = said
            .lines()
            .find_map(|line| line.trim().strip_prefix("mend with: ").filter(|mend| mend.contains(wanted)))
            .expect("it was just there");
        // What follows in words is for people.
        let command = line.split([',', '(']).next().unwrap_or_default().trim();
        if made == ufw {
            stranger.sh("rm /usr/sbin/ufw");
        } else {
            stranger.sh(command);
        }
        says(stranger, check, true, &[]);
    }
    stranger.sh("nft add table inet firewalld");
    says(
        stranger,
        check,
        false,
        &["firewalld is active", "firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16 && firewall-cmd --reload"],
    );
    stranger.sh("nft delete table inet firewalld; nft delete table inet mine; iptables -P INPUT ACCEPT; iptables -F INPUT");

    stranger.sh("mkdir -p /etc/cni/net.d && echo '{}' >/etc/cni/net.d/10-other.conflist");
    says(stranger, check, true, &[" ! pod network", "/etc/cni/net.d/10-other.conflist"]);
    stranger.sh("rm -r /etc/cni/net.d");
    let taken = stranger.background("busybox nc -l -p 10250");
    stranger.sh("for i in $(seq 100); do ss -ltn | grep -q ':10250 ' && exit 0; sleep 0.05; done; exit 1");
    says(stranger, check, false, &["port 10250/tcp", "another program has it"]);
    drop(taken);

    // The trap: where no server says which network is meant, the default route does.
    for check in [format!("{skiff} check"), format!("{check} --node-ip 10.0.2.15")] {
        says(
            stranger,
            &check,
            false,
            &["10.0.2.15 is what VirtualBox's NAT gives to every machine", "`--node-ip 192.168.56.20` (on eth1)"],
        );
    }
}

/// Two machines with one machine-id: told where the token may list nodes; where not, how to see it.
fn clones(cluster: &Cluster<'_>, stranger: &Machine<'_>, check: &str) {
    let [agent, _] = &cluster.agents;
    let own = stranger.sh("cat /etc/machine-id");
    stranger.sh(&format!("echo {} >/etc/machine-id", agent.sh("cat /etc/machine-id").trim()));
    says(stranger, check, true, &["kubectl get nodes -o custom-columns=NAME:.metadata.name,MACHINE-ID:.status.nodeInfo.machineID"]);
    says(stranger, &format!("{check} --node-name agent1"), false, &["node name agent1", "it has this machine's machine-id, too"]);
    cluster.server.kubectl("create clusterrole see-nodes --verb=list --resource=nodes");
    cluster.server.kubectl("create clusterrolebinding see-nodes --clusterrole=see-nodes --group=system:bootstrappers");
    says(stranger, check, false, &["node agent1 has this machine's machine-id", "systemd-machine-id-setup"]);
    stranger.sh(&format!("echo {} >/etc/machine-id", own.trim()));
    says(stranger, check, true, &[]);
    cluster.server.kubectl("delete clusterrolebinding/see-nodes clusterrole/see-nodes");
}

/// Ways that take shorter packets than the interface: one that says so, and one that loses long ones.
fn ways(world: &World, cluster: &Cluster<'_>, stranger: &Machine<'_>, check: &str) {
    world.switch("beyond", None);
    world.router("gate", &["private=192.168.56.254/24", "beyond=10.9.0.254/24"]);
    world.at_router("gate", "ip link set eth0 mtu 1400");
    let beyond = world.machine("beyond-1", &["beyond=10.9.0.10/24", "via=10.9.0.254"]);
    cluster.server.sh("ip route add 10.9.0.0/24 via 192.168.56.254");
    says(
        &beyond,
        check,
        false,
        &["eth0 takes packets of 1500 bytes, but the way to the server only such of 1400", "ip link set eth0 mtu 1400"],
    );
    beyond.off();
    cluster.server.sh("ip link set eth1 mtu 1400");
    says(stranger, check, false, &["eth1 takes packets of 1500 bytes, but the way to the server only such of 1280"]);
    cluster.server.sh("ip link set eth1 mtu 1500; ip route del 10.9.0.0/24 || true");
}
