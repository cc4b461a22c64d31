//! runtime.v1.proto, events.proto -> Rust: messages and clients, without a protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["runtime.v1.proto", "events.proto"];
    files.iter().for_each(|file| println!("cargo:rerun-if-changed={file}"));
    tonic_prost_build::configure().build_server(false).compile_fds(protox::compile(files, ["."])?)?;
    Ok(())
}
