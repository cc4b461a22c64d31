//! The built binary's own words: version, help, and what it refuses before it does anything.

use std::{
    collections::HashMap,
    path::Path,
    process::{Command, Output},
};

fn skiff(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_skiff")).args(args).env_clear().output().unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn it_says_its_version_and_the_one_it_serves() {
    let out = skiff(&["version"]);
    assert!(out.status.success());
    let text = said(&out.stdout);
    assert!(text.starts_with(&format!("skiff {} (Kubernetes v1.36.", env!("CARGO_PKG_VERSION"))), "{text}");
}

#[test]
fn completions_know_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let text = said(&skiff(&["completion", shell]).stdout);
        for verb in ["up", "server", "kubeconfig", "check", "down", "reset"] {
            assert!(text.contains(verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn a_wrong_flag_or_key_is_refused_in_words() {
    let out = skiff(&["server", "--secure-prot", "1"]);
    assert!(!out.status.success() && said(&out.stderr).contains("--secure-port"), "{out:?}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("skiff.yaml");
    std::fs::write(&file, "secure-prot: 1\n").unwrap();
    let out = skiff(&["server", "--config", file.to_str().unwrap()]);
    assert!(!out.status.success() && said(&out.stderr).contains("unknown key \"secure-prot\""), "{out:?}");
}

#[test]
fn somebody_elses_folder_is_refused_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("member"), "theirs").unwrap();
    let out = skiff(&["server", "--secure-port", "1", "--data-dir", dir.path().to_str().unwrap()]);
    assert!(!out.status.success() && said(&out.stderr).contains("left untouched"), "{out:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Before anything is made, and in words that name the flag and the range.
#[test]
fn ranges_that_are_not_served_are_refused_at_once() {
    let both = "10.1.0.0/16,fd00::/108";
    for (verb, flag, ranges, words) in [
        ("server", "--service-cluster-ip-range", both, "services of two families are not served yet"),
        ("server", "--service-cluster-ip-range", "10.1.0.0/16,10.2.0.0/16", "must be of different IP family"),
        ("server", "--cluster-cidr", "10.1.0.0/16,10.2.0.0/16", "they are not configured as dual stack"),
        ("up", "--cluster-cidr", both, "--cluster-cidr: fd00::/108 is IPv6, which skiff's nodes do not serve yet"),
        ("up", "--service-cluster-ip-range", both, "services of two families are not served yet"),
        (
            "up",
            "--service-cluster-ip-range",
            "fd00::/108",
            "--service-cluster-ip-range: fd00::/108 is IPv6, which skiff's nodes do not serve yet",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = skiff(&[verb, flag, ranges, "--data-dir", dir.path().to_str().unwrap()]);
        assert!(!out.status.success() && said(&out.stderr).contains(words), "{out:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{verb} {flag}");
    }
}

/// A machine without programs, overlay and cgroups: this one, with other folders where they are.
const BARE: &str = "set -e
mount --make-rprivate /
mount -t tmpfs none /usr/sbin 2>/dev/null
mount -t tmpfs none /sys/fs/cgroup
mount -t tmpfs none /lib/modules || true
echo nodev sysfs > \"$DIR/filesystems\"
mount --bind \"$DIR/filesystems\" /proc/filesystems
PATH=/nowhere exec \"$SKIFF\" check";

#[test]
fn check_names_what_is_lacking_and_the_command_that_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    // Without a namespace of its own nothing is hidden: the tests run as root.
    command.args(["--mount", "/bin/sh", "-c", BARE]).env("DIR", dir.path()).env("SKIFF", env!("CARGO_BIN_EXE_skiff"));
    let out = command.output().unwrap();
    let text = said(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{text}{}", said(&out.stderr));
    let mended = lacking(&text);
    let wanted = [
        ("containerd", "apt-get install -y containerd"),
        ("ctr (comes with containerd)", "apt-get install -y containerd"),
        ("runc", "apt-get install -y runc"),
        ("iptables-restore", "apt-get install -y iptables"),
        ("overlay file system", "modprobe overlay"),
        ("cgroups", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"),
    ];
    for (what, mend) in wanted {
        assert_eq!(mended.get(what).map(String::as_str), Some(mend), "{what}:\n{text}");
    }
    assert!(text.contains("this machine lacks 6 of 8 things for `skiff up`"), "{text}");
    assert!(text.contains(" \u{2713} root\n"), "{text}");
}

/// `make test` installs them: nothing is lacking then, and each program that is needed comes from the package that is named.
#[test]
fn check_is_content_with_this_machine_and_names_the_right_packages() {
    let out = Command::new(env!("CARGO_BIN_EXE_skiff")).arg("check").output().unwrap();
    let text = said(&out.stdout);
    assert!(out.status.success() && text.ends_with("this machine can run `skiff up`\n"), "{text}");
    assert!(!text.contains("mend with"), "{text}");
    for (program, package) in [("containerd", "containerd"), ("ctr", "containerd"), ("runc", "runc"), ("iptables-restore", "iptables")] {
        let path = ["/usr/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(program)).into_iter().find(|path| path.is_file());
        let path = path.unwrap_or_else(|| panic!("no {program}")).canonicalize().unwrap();
        let owner = said(&Command::new("dpkg").arg("-S").arg(&path).output().unwrap().stdout);
        assert!(owner.starts_with(&format!("{package}:")), "{}: {owner}", path.display());
    }
}

/// What is lacking -> what mends it.
fn lacking(text: &str) -> HashMap<String, String> {
    let lines: Vec<&str> = text.lines().collect();
    let lacks = lines.iter().zip(lines.iter().skip(1));
    lacks
        .filter_map(|(what, mend)| Some((what.strip_prefix(" \u{2717} ")?.into(), mend.trim().strip_prefix("mend with: ")?.into())))
        .collect()
}
