//! The Vagrantfile is one that Debian's vagrant takes.

use std::process::Command;

#[test]
fn debians_vagrant_validates_the_vagrantfile() {
    let home = tempfile::tempdir().unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut vagrant = Command::new("vagrant");
    // No provider is installed here: its own settings are looked at by whoever has one.
    vagrant.args(["validate", "--ignore-provider"]).current_dir(root);
    vagrant.env("HOME", home.path()).env("VAGRANT_DOTFILE_PATH", home.path().join("dot")).env("SKIFF_BIN", e2e::skiff());
    let done = vagrant.output().expect("vagrant is installed: deploy/setup.sh test");
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && said.contains("Vagrantfile validated successfully."), "{said}");
}
