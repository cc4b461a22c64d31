//! The platform -> how the `skiff` program is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // A position-independent program's 57,000 relative relocations as bitmaps: 2 MB less, and less to do in each exec (the network
    // plugin is one, twice a pod). Needs glibc 2.36 (Debian 12), which says so where it is older.
    let target = |part: &str| std::env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    if (target("OS"), target("ENV"), target("ARCH")) == ("linux".into(), "gnu".into(), "x86_64".into()) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
