//! What cannot join -> words that help.

use e2e::nodes::World;

use crate::{
    cluster::{Cluster, NETWORK, SERVER_URL, TOKEN},
    traffic::Told,
};

#[test]
fn who_cannot_join_is_told_why() {
    let world = World::new();
    let cluster = Cluster::new(&world);
    let told = Told(&cluster);
    let stranger = world.machine("stranger", &["private=192.168.56.20/24"]);
    let skiff = e2e::skiff().display().to_string();
    let fails = |what: &str, command: &str, options: &[&str], wanted: &[&str]| {
        let line = format!("{command} --server {SERVER_URL} {}", options.join(" "));
        let said = stranger.try_sh(&line);
        let text = format!("{}{}", said.out, said.err);
        assert!(!said.ok && wanted.iter().any(|words| text.contains(words)), "{what}: {line} said\n{text}");
    };
    let token = format!("--token {TOKEN}");
    let agent = format!("timeout 40 {skiff} agent --node-ip 192.168.56.20");
    fails("a wrong token", &agent, &["--token abcdef.fedcba9876543210"], &["token"]);
    fails("a token that is cut", &agent, &["--token abcdef.0123"], &["was all of it copied"]);
    fails("a wrong hash", &agent, &[&token, &format!("--ca-hash sha256:{}", "0".repeat(64))], &["CA", "hash"]);
    fails("a taken name", &agent, &[&token, "--node-name agent1"], &["agent1"]);
    for off in ["+1h", "-1h"] {
        let check = format!("LD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketime.so.1) FAKETIME={off} timeout 40 {skiff} check");
        fails("a clock that is an hour off", &check, &[&token], &["this machine's clock is 3"]);
    }
    // And with all of it right it joins.
    cluster.server.kubectl("get nodes");
    stranger.sh("rm -rf /var/lib/skiff/*");
    let images = world.images().display().to_string();
    // Once.
    let token = cluster.server.sh(&format!("{skiff} token create --one-time")).trim().to_owned();
    stranger.provision(&["agent", "--server", SERVER_URL, "--network", NETWORK, "--token", &token, "--images", &images]);
    let another = world.machine("another", &["private=192.168.56.21/24"]);
    let said = another.try_sh(&format!("timeout 40 {skiff} agent --node-ip 192.168.56.21 --server {SERVER_URL} --token {token}"));
    let wanted = "is for one node, and \"stranger\" has joined with it. Make another with `skiff token create`";
    assert!(!said.ok && format!("{}{}", said.out, said.err).contains(wanted), "{said:?}");
    told.end();
    world.end();
}
