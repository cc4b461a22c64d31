//! Sources of the published k8s-openapi crate -> one list of its types: which have a schema, which are kinds, how their lists merge.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use regex::Regex;

const VERSION: &str = "v1_36";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let root = crate_sources().join("src").join(VERSION);
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let mut out = String::new();
    for file in files {
        if let Some(entry) = entry(&root, &file) {
            out.push_str(&entry);
        }
    }
    let target = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("types.rs");
    fs::write(target, format!("types! {{\n{out}}}\n")).expect("OUT_DIR can be written");
}

fn crate_sources() -> PathBuf {
    let cargo = env::var("CARGO").expect("cargo sets CARGO");
    let out = Command::new(cargo).args(["metadata", "--format-version", "1", "--offline"]).output().expect("cargo metadata runs");
    let meta: serde_json::Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let packages = meta["packages"].as_array().expect("cargo metadata lists packages");
    let package = packages.iter().find(|p| p["name"] == "k8s-openapi").expect("k8s-openapi is a dependency");
    let manifest = package["manifest_path"].as_str().expect("a package has a manifest");
    Path::new(manifest).parent().expect("a manifest lies in a directory").to_path_buf()
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the crate's sources can be read") {
        let path = entry.expect("the crate's sources can be read").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// `Pod, core::v1::Pod, kind|plain, [("field", "map|set|atomic", ["key"])];`
fn entry(root: &Path, file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).expect("a source file is UTF-8");
    let name = Regex::new(r"impl crate::schemars::JsonSchema for (\w+) \{").expect("valid").captures(&text)?[1].to_owned();
    let module = file.parent()?.strip_prefix(root).ok()?.iter().map(|c| c.to_string_lossy().into_owned()).collect::<Vec<_>>().join("::");
    let kind = if text.contains(&format!("impl crate::Resource for {name} {{")) { "kind" } else { "plain" };
    Some(format!("  {kind} k8s_openapi::{module}::{name} = [{}];\n", lists(&text)))
}

/// How the lists of the type merge, from its `DeepMerge`.
fn lists(text: &str) -> String {
    let json_names = Regex::new(r#""([^"]+)" => Field::Key_(\w+),"#).expect("valid");
    let merges = Regex::new(r"merge_strategies::list::(atomic|set|map)\(\s*&mut self\.(\w+),[^;]*?(?:;|\&\[([^\]]*)\])").expect("valid");
    let key = Regex::new(r"lhs\.(\w+) == ").expect("valid");
    let mut out = String::new();
    for found in merges.captures_iter(text) {
        let field = &found[2];
        let Some(json) = json_names.captures_iter(text).find(|c| &c[2] == field).map(|c| c[1].to_owned()) else { continue };
        let keys: Vec<String> =
            found.get(3).map(|keys| key.captures_iter(keys.as_str()).map(|k| format!("{:?}", camel(&k[1]))).collect()).unwrap_or_default();
        out.push_str(&format!("({json:?}, {:?}, &[{}]), ", &found[1], keys.join(", ")));
    }
    out
}

fn camel(snake: &str) -> String {
    let snake = snake.trim_end_matches('_');
    let mut out = String::new();
    for (i, part) in snake.split('_').enumerate() {
        let mut chars = part.chars();
        match chars.next() {
            Some(first) if i > 0 => out.extend(first.to_uppercase().chain(chars)),
            Some(first) => out.extend(std::iter::once(first).chain(chars)),
            None => {}
        }
    }
    // Upstream writes these initials in capitals.
    out.replace("hostIp", "hostIP").replace("podIp", "podIP")
}
