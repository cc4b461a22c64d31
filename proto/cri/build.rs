//! runtime.v1.proto -> Rust: messages and clients, without a protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=runtime.v1.proto");
    let files = protox::compile(["runtime.v1.proto"], ["."])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
