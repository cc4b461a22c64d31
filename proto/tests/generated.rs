//! Protocols -> Rust: what a crate keeps in `src/generated` is what they compile to. The one body of `tests/generated.rs` of each.
//!
//! It is kept in the tree so that nobody who builds skiff must build a compiler of protocols first.
//! `GENERATE=1 cargo test -p CRATE --test generated` writes it anew, after a change of the protocols or of the compiler.

use std::{env, fs, path::Path};

/// `root` is the crate's folder, where its protocols lie. Messages and clients.
#[allow(dead_code)]
pub fn is_what_they_say(root: &str, protocols: &[&str], generated: &[&str]) {
    compare(root, protocols, generated, false);
}

/// The same, and servers: of protocols that somebody of ours serves.
#[allow(dead_code)]
pub fn of_both_sides(root: &str, protocols: &[&str], generated: &[&str]) {
    compare(root, protocols, generated, true);
}

fn compare(root: &str, protocols: &[&str], generated: &[&str], with_servers: bool) {
    let (root, fresh) = (Path::new(root), tempfile::tempdir().unwrap());
    let protocols = protox::compile(protocols, [root]).unwrap();
    let builder = tonic_prost_build::configure().build_server(with_servers).emit_rerun_if_changed(false);
    builder.out_dir(fresh.path()).compile_fds(protocols).unwrap();
    for name in generated {
        let (kept, made) = (root.join("src/generated").join(name), fs::read_to_string(fresh.path().join(name)).unwrap());
        if env::var_os("GENERATE").is_some() {
            fs::write(&kept, made).unwrap();
        } else {
            assert!(fs::read_to_string(&kept).unwrap_or_default() == made, "{}: stale, see proto/tests/generated.rs", kept.display());
        }
    }
}
