//! rpc.proto -> Rust: what stands in `src/generated` is what it compiles to.
//!
//! It is kept in the tree so that nobody who builds skiff must build a compiler of protocols first.
//! `GENERATE=1 cargo test -p etcdpb --test generated` writes it anew, after a change of the protocols or of the compiler.

use std::{env, fs, path::Path};

const PROTOCOLS: [&str; 1] = ["rpc.proto"];
const GENERATED: [&str; 1] = ["etcdserverpb.rs"];

#[test]
fn the_code_in_the_tree_is_what_the_protocols_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().unwrap();
    let protocols = protox::compile(PROTOCOLS, [root]).unwrap();
    tonic_prost_build::configure().build_server(false).emit_rerun_if_changed(false).out_dir(fresh.path()).compile_fds(protocols).unwrap();
    for name in GENERATED {
        let (kept, made) = (root.join("src/generated").join(name), fs::read_to_string(fresh.path().join(name)).unwrap());
        if env::var_os("GENERATE").is_some() {
            fs::write(&kept, made).unwrap();
        } else {
            assert!(fs::read_to_string(&kept).unwrap_or_default() == made, "{}: stale, see tests/generated.rs", kept.display());
        }
    }
}
