//! The built binary's own words: version, help, and what it refuses before it does anything.

use std::process::{Command, Output};

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
