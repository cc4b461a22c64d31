//! The platform -> how the `skiff` program is linked; the network plugin's small program, which it carries.

use std::{env, ffi::OsString, path::PathBuf, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    compile_plugin();
    // A position-independent program's 57,000 relative relocations as bitmaps: 2 MB less. Needs glibc 2.36 (Debian 12), which says so where it is older.
    let target = |part: &str| env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    if (target("OS"), target("ENV"), target("ARCH")) == ("linux".into(), "gnu".into(), "x86_64".into()) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// `src/node/cni_shim.rs` -> `OUT_DIR/plugin`, by the compiler alone: one file that needs nothing but std, and is made to be small.
fn compile_plugin() {
    println!("cargo:rerun-if-changed=src/node/cni_shim.rs");
    let var = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let to = PathBuf::from(var("OUT_DIR")).join("plugin");
    let small = ["opt-level=s", "panic=abort", "strip=symbols", "lto=fat", "codegen-units=1"];
    let mut compiler = Command::new(var("RUSTC"));
    compiler.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "plugin", "--target"]).arg(var("TARGET"));
    compiler.args(small.iter().flat_map(|option| ["-C", option])).arg("-o").arg(to).arg("src/node/cni_shim.rs");
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        compiler.arg("-C").arg([OsString::from("linker="), linker].into_iter().collect::<OsString>());
    }
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    compiler.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    let done = compiler.status().unwrap_or_else(|error| panic!("{compiler:?}: {error}"));
    assert!(done.success(), "{compiler:?}: {done}");
}
