//! The bench itself, small: it prints its table and fails on wrong results only, never on time.

use std::{path::Path, process::Command};

#[test]
fn every_row_does_what_it_says() {
    let skiff = std::env::var_os("SKIFF_BIN").map_or_else(|| Path::new(env!("CARGO_BIN_EXE_bench")).with_file_name("skiff"), Into::into);
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.arg("--skiff").arg(skiff).args(["--scale", "small"]);
    // Nodes want root, containerd, and the machine's iptables.
    if rustix::process::geteuid().is_root() {
        bench.arg("--up");
    }
    // Its output is inherited, so that the table is seen also when all is well.
    let ended = bench.status().expect("the bench was built with this test");
    assert!(ended.success(), "a row's check failed: {ended}");
}
