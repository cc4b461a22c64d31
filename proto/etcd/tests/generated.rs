//! rpc.proto -> Rust: what stands in `src/generated` is what it compiles to.

#[path = "../../tests/generated.rs"]
mod generated;

#[test]
fn the_code_in_the_tree_is_what_the_protocols_say() {
    generated::is_what_they_say(env!("CARGO_MANIFEST_DIR"), &["rpc.proto"], &["etcdserverpb.rs"]);
}
