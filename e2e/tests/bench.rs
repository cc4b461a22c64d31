//! The bench itself, small: it prints its table and fails on wrong results only, never on time.

use std::{ffi::OsString, path::Path, process::Command};

/// What has the machine's only node, or all of its services. The other rows are measured beside these: here nobody looks at how long they take.
const ON_THE_MACHINE: [&str; 6] = ["idle-up", "idle-agent", "idle-etcd", "proxy", "pods", "dns"];

#[test]
fn every_row_does_what_it_says() {
    let skiff: OsString =
        std::env::var_os("SKIFF_BIN").unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_bench")).with_file_name("skiff").into());
    let (on_the_machine, others): (Vec<String>, Vec<String>) =
        names().into_iter().partition(|name| ON_THE_MACHINE.contains(&name.as_str()));
    assert_eq!(on_the_machine.len(), ON_THE_MACHINE.len(), "a row of another name: {on_the_machine:?}");
    let benches = [on_the_machine, others].map(|rows| {
        let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
        bench.arg("--skiff").arg(&skiff).args(["--scale", "small", "--rows", &rows.join(",")]);
        // Nodes want root, containerd, and the machine's iptables.
        if rustix::process::geteuid().is_root() {
            bench.arg("--up");
        }
        // Its output is inherited, so that the table is seen also when all is well.
        bench.spawn().expect("the bench was built with this test")
    });
    let ended = benches.map(|mut bench| bench.wait().expect("it runs"));
    assert!(ended.iter().all(std::process::ExitStatus::success), "a row's check failed: {ended:?}");
}

/// All rows.
fn names() -> Vec<String> {
    let said = Command::new(env!("CARGO_BIN_EXE_bench")).args(["--rows", "list"]).output().expect("the bench was built with this test");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}
