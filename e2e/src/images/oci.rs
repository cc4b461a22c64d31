//! A root file system -> an OCI image layout in a tar archive (image-spec 1.0).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::{Value, json};

use super::debian::said;

/// What an image says about itself.
pub struct Recipe<'a> {
    /// Full names, as `docker.io/library/nginx:1.22`.
    pub names: &'a [&'a str],
    pub entrypoint: &'a [&'a str],
    pub command: &'a [&'a str],
    /// As `80/tcp`.
    pub ports: &'a [&'a str],
}

/// Packs `<dir>/<name>` as the one layer of an image into `<dir>/<name>.tar`.
///
/// # Errors
/// What could not be read or written.
pub fn archive(dir: &Path, name: &str, recipe: &Recipe) -> anyhow::Result<PathBuf> {
    let layout = dir.join(format!("{name}.oci"));
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let layer = tar(&dir.join(name), &dir.join(format!("{name}.layer")))?;
    let layer = blob(&layout, "application/vnd.oci.image.layer.v1.tar", &layer)?;
    let config = text(&layout, "application/vnd.oci.image.config.v1+json", &config(recipe, &layer["digest"]))?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer]});
    let manifest = text(&layout, media_type, &manifest)?;
    let entry = |name: &&str| {
        let mut entry = manifest.clone();
        entry["annotations"] = json!({"io.containerd.image.name": name});
        entry
    };
    let index = json!({"schemaVersion": 2, "manifests": recipe.names.iter().map(entry).collect::<Vec<_>>()});
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar(&layout, &dir.join(format!("{name}.tar")))
}

fn config(recipe: &Recipe, layer: &Value) -> Value {
    let ports: serde_json::Map<String, Value> = recipe.ports.iter().map(|port| ((*port).to_owned(), json!({}))).collect();
    json!({
        "architecture": architecture(), "os": "linux",
        "config": {
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": recipe.entrypoint, "Cmd": recipe.command, "ExposedPorts": ports, "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The same tree gives the same bytes.
fn tar(tree: &Path, to: &Path) -> anyhow::Result<PathBuf> {
    let (tree, target) = (tree.display().to_string(), to.display().to_string());
    let same = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
    // Named one by one: readers of archives look for `index.json`, not for `./index.json`.
    let listed = said("ls", &["-A", &tree])?;
    let members: Vec<&str> = listed.lines().collect();
    said("tar", &[&same[..], &["-C", &tree, "-cf", &target], &members].concat())?;
    Ok(to.to_owned())
}

fn text(layout: &Path, media_type: &str, content: &Value) -> anyhow::Result<Value> {
    let file = layout.join("content");
    fs::write(&file, content.to_string())?;
    blob(layout, media_type, &file)
}

/// Moves a file among the blobs and describes it.
fn blob(layout: &Path, media_type: &str, file: &Path) -> anyhow::Result<Value> {
    let sum = said("sha256sum", &[&file.display().to_string()])?;
    let sum = sum.split_whitespace().next().context("sha256sum prints a sum")?.to_owned();
    let size = fs::metadata(file)?.len();
    fs::rename(file, layout.join("blobs/sha256").join(&sum))?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{sum}"), "size": size}))
}
