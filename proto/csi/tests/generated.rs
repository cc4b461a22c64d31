//! csi.proto, registration.proto -> Rust: what stands in `src/generated` is what they compile to.

#[path = "../../tests/generated.rs"]
mod generated;

#[test]
fn the_code_in_the_tree_is_what_the_protocols_say() {
    generated::of_both_sides(env!("CARGO_MANIFEST_DIR"), &["csi.proto", "registration.proto"], &["csi.v1.rs", "pluginregistration.rs"]);
}
