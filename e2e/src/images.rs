//! Debian's packages -> container images for the tests, made on this machine, so that no registry is needed.

pub mod debian;
mod oci;
mod rootfs;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use oci::Recipe;

use crate::images::debian::said;

/// Makes every image below `dir` and returns the archives (OCI image layouts in a tar file).
///
/// - `busybox` (also `busybox:1.35`): a shell and its tools,
/// - `nginx` (also `nginx:1.22`): "Welcome to nginx!" on port 80, its logs on stdout, with a shell and openssl,
/// - `hello:v1`, `hello:v2`: an HTTP server on port 8080 that answers its version and host name; `/healthz` is a file
///   (`/www/healthz`) that a test may remove.
///
/// # Errors
/// What could not be found or fetched, with the command that failed.
pub fn make(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let busybox = debian::file(dir, "busybox-static", "bin/busybox")?;
    let mut archives = vec![make_busybox(dir, &busybox)?, make_nginx(dir, &busybox)?];
    for version in ["v1", "v2"] {
        archives.push(make_hello(dir, &busybox, version)?);
    }
    Ok(archives)
}

/// Imports an archive into the containerd that listens on `socket`, where the kubelet's images are.
///
/// # Errors
/// `ctr` is missing, or what it said.
pub fn import(socket: &Path, archive: &Path) -> anyhow::Result<()> {
    let socket = socket.display().to_string();
    let archive = archive.display().to_string();
    said("ctr", &["--address", &socket, "--namespace", "k8s.io", "images", "import", &archive]).map(drop)
}

fn make_busybox(dir: &Path, busybox: &Path) -> anyhow::Result<PathBuf> {
    let root = dir.join("busybox");
    rootfs::shell(&root, busybox)?;
    let recipe = Recipe {
        names: &["docker.io/library/busybox:latest", "docker.io/library/busybox:1.35"],
        entrypoint: &[],
        command: &["sh"],
        ports: &[],
    };
    oci::archive(dir, "busybox", &recipe)
}

fn make_nginx(dir: &Path, busybox: &Path) -> anyhow::Result<PathBuf> {
    let root = dir.join("nginx");
    rootfs::shell(&root, busybox)?;
    rootfs::nginx(&root, dir)?;
    let recipe = Recipe {
        names: &["docker.io/library/nginx:latest", "docker.io/library/nginx:1.22", "docker.io/library/nginx:1.22.1"],
        entrypoint: &[],
        command: &["nginx", "-g", "daemon off;"],
        ports: &["80/tcp"],
    };
    oci::archive(dir, "nginx", &recipe)
}

fn make_hello(dir: &Path, busybox: &Path, version: &str) -> anyhow::Result<PathBuf> {
    let name = format!("hello-{version}");
    let root = dir.join(&name);
    rootfs::shell(&root, busybox)?;
    rootfs::hello(&root, version)?;
    let reference = format!("docker.io/library/hello:{version}");
    let recipe = Recipe { names: &[&reference], entrypoint: &["/bin/hello"], command: &[], ports: &["8080/tcp"] };
    oci::archive(dir, &name, &recipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_archive_is_a_whole_image_layout() {
        let dir = std::env::temp_dir().join(format!("e2e-images-{}", std::process::id()));
        let archives = make(&dir).unwrap();
        assert_eq!(archives.len(), 4);
        for archive in &archives {
            let archive = archive.display().to_string();
            let index = said("tar", &["-xOf", &archive, "index.json"]).unwrap();
            let index: serde_json::Value = serde_json::from_str(&index).unwrap();
            let manifest = index["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
            let manifest = said("tar", &["-xOf", &archive, &format!("blobs/{manifest}")]).unwrap();
            let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
            let list = said("tar", &["-tf", &archive]).unwrap();
            for part in [&manifest["config"], &manifest["layers"][0]] {
                let blob = part["digest"].as_str().unwrap().replace(':', "/");
                assert!(list.contains(&blob), "{archive}: {blob} is not among\n{list}");
            }
        }
        // nginx starts from what was put together, with nothing of this machine.
        let root = dir.join("nginx").display().to_string();
        if said("id", &["-u"]).unwrap().trim() == "0" {
            said("chroot", &[&root, "nginx", "-v"]).unwrap();
            said("chroot", &[&root, "openssl", "version"]).unwrap();
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
