//! Upstream's published API (OpenAPI documents, generated definitions, types) -> the data files of `kinds/src/schema`: described definitions and
//! parameters (gzip), a bare table of their structure, a table of protobuf field numbers, and one of how internal types print.
//!
//! Run: `cargo run --manifest-path xtask/Cargo.toml UPSTREAM` from the repository's root, where UPSTREAM is a checkout of Kubernetes.

mod definitions;
mod enums;
mod internal;
mod parameters;
mod table;
mod wire;

use std::{env, fs, io::Write, path::Path};

use flate2::{Compression, GzBuilder};
use serde_json::{Map, Value};

fn main() {
    let upstream = env::args_os().nth(1).expect("the argument is a checkout of Kubernetes");
    let upstream = Path::new(&upstream);
    let out = Path::new("apiserver/kinds/src/schema");
    let mut definitions = definitions::read(upstream);
    enums::put(upstream, &mut definitions);
    let wire = wire::render(upstream);
    let table = table::render(&definitions, &wire);
    let mut described: Map<String, Value> = definitions.into_iter().collect();
    let count = described.len();
    described.extend(parameters::read(upstream));
    let text = serde_json::to_vec(&described).expect("JSON values can be written");
    let mut gz = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gz.write_all(&text).expect("writing to memory");
    let packed = gz.finish().expect("writing to memory");
    println!("{count} definitions, {} bytes described ({} packed), {} bytes bare", text.len(), packed.len(), table.len());
    fs::write(out.join("internal.txt"), internal::render(upstream)).expect("run from the repository's root");
    fs::write(out.join("wire.txt"), wire).expect("run from the repository's root");
    fs::write(out.join("definitions.json.gz"), packed).expect("the directory can be written");
    fs::write(out.join("structure.txt"), table).expect("the directory can be written");
}
