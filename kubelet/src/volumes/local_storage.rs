//! This node's own volumes whose claims are gone -> deleted, and then their directories.
//!
//! Only what a volume says that nobody has any more, and that is to be deleted: a directory that no volume names stays. Upstream has nothing like it;
//! k3s' local-path-provisioner runs a pod for each.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use api::{k8s::api::core::v1::PersistentVolume, names::segment};
use client::{kube, watch};
use http::Request;
use podspec::claims::{LOCAL_PROVISIONER, PROVISIONED_BY, annotation};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Manager, mount_table, plugin::blocking, plugins::LOCAL_VOLUME, removal::remove_all};
use crate::dirs;

/// Between two looks at directories that no pod here has.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const REQUEST_BOUND: Duration = Duration::from_secs(10);
/// Beside the directories of volumes: those whose volume is gone.
const GONE: &str = ".gone";

/// Runs until its task ends.
pub async fn keep_clean(manager: Manager) {
    loop {
        sleep(LOOK_EVERY).await;
        look(&manager).await;
    }
}

/// Looks once.
pub async fn look(manager: &Manager) {
    let root_dir = manager.shared.root_dir.clone();
    let gone = root_dir.clone();
    if let Err(why) = blocking(move || empty_gone(&gone)).await {
        tracing::warn!(why, "failed to delete what is left of local volumes");
    }
    let unused = blocking(move || unused(&root_dir).map_err(|e| e.to_string())).await;
    let unused = unused.unwrap_or_else(|why| {
        tracing::warn!(why, "failed to look at local storage");
        Vec::new()
    });
    for path in unused {
        if let Err(why) = settle(&manager.shared.client, &path).await {
            tracing::warn!(path = %path.display(), why, "failed to delete a local volume");
        }
    }
}

/// Those of our directories that no pod of this node has.
fn unused(root_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let storage = dirs::storage(root_dir);
    let entries = match fs::read_dir(&storage) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let is_ours =
        |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name().to_string_lossy().starts_with("pvc-");
    let all: BTreeSet<PathBuf> = entries.filter_map(Result::ok).filter(is_ours).map(|entry| entry.path()).collect();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let used = used(root_dir)?;
    Ok(all.difference(&used).cloned().collect())
}

/// Where the links of all pods lead.
///
/// # Errors
/// What the file system says, but for pods that go meanwhile.
pub fn used(root_dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut used = BTreeSet::new();
    let pods = match fs::read_dir(root_dir.join("pods")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(used),
        pods => pods?,
    };
    for pod in pods {
        let links = dirs::volumes(root_dir, &pod?.file_name().to_string_lossy()).join(format!("{}{LOCAL_VOLUME}", dirs::PLUGIN));
        match fs::read_dir(links) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            links => {
                for link in links? {
                    match fs::read_link(link?.path()) {
                        // A device's file system is mounted there.
                        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {}
                        path => _ = used.insert(path?),
                    }
                }
            }
        }
    }
    Ok(used)
}

/// Deletes the volume, and the directory after it, where that is over.
async fn settle(client: &kube::Client, path: &Path) -> Result<(), String> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.split('_').next().unwrap_or_default();
    let read = timeout(REQUEST_BOUND, watch::get::<PersistentVolume>(client, None, name)).await.map_err(|late| late.to_string())?;
    let volume = match read {
        Ok(seen) => seen.object,
        // None of that name, or none of ours: nobody said that it is to go.
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !is_over(&volume, path) {
        return Ok(());
    }
    let gone = path.to_owned();
    blocking(move || unmounted(&gone)).await?;
    // Nothing is removed before the server has said that the very volume that was looked at goes.
    match timeout(REQUEST_BOUND, delete(client, name, &volume)).await.map_err(|late| late.to_string())? {
        Ok(()) => {}
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    }
    tracing::info!(volume = name, path = %path.display(), "deleted a local volume");
    let gone = path.to_owned();
    blocking(move || put_aside(&gone).and_then(|aside| remove(&aside))).await
}

/// The very state of the volume that was looked at.
async fn delete(client: &kube::Client, name: &str, volume: &PersistentVolume) -> Result<(), kube::Error> {
    let of = &volume.metadata;
    let options = json!({"preconditions": {"uid": of.uid, "resourceVersion": of.resource_version}}).to_string().into_bytes();
    let path = format!("/api/v1/persistentvolumes/{}", segment(name));
    let request = Request::delete(path).header("content-type", "application/json").body(options).map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(drop)
}

/// Where it is emptied, if need be by a later run: no volume has it any more.
fn put_aside(path: &Path) -> Result<PathBuf, String> {
    let gone = path.with_file_name(GONE);
    let aside = gone.join(path.file_name().unwrap_or_default());
    let told = |error: io::Error| error.to_string();
    match fs::DirBuilder::new().mode(0o700).create(&gone) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(told(error)),
        _ => fs::rename(path, &aside).map_err(told)?,
    }
    let made = dirs::storage_made(path.parent().unwrap_or(path)).join(path.file_name().unwrap_or_default());
    match fs::remove_file(made) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(told(error)),
        _ => Ok(aside),
    }
}

/// What an earlier run put aside. One that cannot go keeps none of the others.
fn empty_gone(root_dir: &Path) -> Result<(), String> {
    let entries = match fs::read_dir(dirs::storage(root_dir).join(GONE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| e.to_string())?,
    };
    let mut done = Ok(());
    for entry in entries {
        done = done.and(entry.map_err(|e| e.to_string()).and_then(|entry| remove(&entry.path())));
    }
    done
}

/// The volume is this directory, it was made for a claim that is gone, and it is not to be kept.
fn is_over(volume: &PersistentVolume, path: &Path) -> bool {
    let (spec, phase) = (volume.spec.as_ref(), volume.status.as_ref().and_then(|status| status.phase.as_deref()));
    annotation(&volume.metadata, PROVISIONED_BY) == Some(LOCAL_PROVISIONER)
        && phase == Some("Released")
        && spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete")
        && spec.and_then(|spec| spec.local.as_ref()).is_some_and(|local| Path::new(&local.path) == path)
}

/// The directory and all below it; links themselves, and nothing that is mounted there.
fn remove(path: &Path) -> Result<(), String> {
    unmounted(path)?;
    remove_all(path).map_err(|e| e.to_string())
}

fn unmounted(path: &Path) -> Result<(), String> {
    let points = mount_table::below(path).map_err(|e| e.to_string())?;
    points.first().map_or(Ok(()), |point| Err(format!("{} is mounted", point.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_pod_has_is_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("kubelet");
        let storage = dirs::storage(&root);
        assert!(unused(&root).unwrap().is_empty());
        for name in ["pvc-1_n_a", "pvc-2_n_b", "somebody"] {
            fs::create_dir_all(storage.join(name)).unwrap();
        }
        fs::write(storage.join("pvc-file"), "").unwrap();
        symlink("/etc", storage.join("pvc-link")).unwrap();
        let links = dirs::volumes(&root, "u1").join(format!("{}{LOCAL_VOLUME}", dirs::PLUGIN));
        fs::create_dir_all(&links).unwrap();
        fs::create_dir_all(dirs::volumes(&root, "u2")).unwrap();
        symlink(storage.join("pvc-1_n_a"), links.join("v")).unwrap();
        assert_eq!(unused(&root).unwrap(), [storage.join("pvc-2_n_b")]);
        fs::remove_file(links.join("v")).unwrap();
        assert_eq!(unused(&root).unwrap().len(), 2);
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, other) = (dir.path().join("pvc-1"), dir.path().join("other"));
        fs::create_dir_all(volume.join("deep")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "").unwrap();
        symlink(&other, volume.join("deep/link")).unwrap();
        remove(&volume).unwrap();
        remove(&volume).unwrap();
        assert!(!volume.exists() && other.join("kept").exists());
    }

    #[tokio::test]
    async fn a_directory_goes_with_a_volume_that_is_over_alone() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [
            ("Released", "Delete", LOCAL_PROVISIONER, true, true),
            ("Bound", "Delete", LOCAL_PROVISIONER, true, false),
            ("Released", "Retain", LOCAL_PROVISIONER, true, false),
            ("Released", "Delete", "example.com/p", true, false),
            ("Released", "Delete", LOCAL_PROVISIONER, false, false),
        ];
        for (phase, policy, by, is_it, goes) in rows {
            let path = dir.path().join("pvc-1_n_a");
            fs::create_dir_all(&path).unwrap();
            let named = if is_it { path.clone() } else { dir.path().join("pvc-1_n_b") };
            let body = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pvc-1", "uid": "u", "annotations": {PROVISIONED_BY: by}},
                "spec": {"persistentVolumeReclaimPolicy": policy, "local": {"path": named}}, "status": {"phase": phase}});
            let asked = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
            let seen = asked.clone();
            let client = answering(body, move |request| {
                seen.lock().push(request.method().clone());
                200
            });
            settle(&client, &path).await.unwrap();
            assert_eq!((path.exists(), asked.lock().contains(&http::Method::DELETE)), (!goes, goes), "{phase} {policy} {by} {is_it}");
        }
    }

    /// A server that has this volume, and answers with the code that is said to it.
    fn answering(volume: serde_json::Value, code: impl Fn(&Request<kube::client::Body>) -> u16 + Clone + Send + 'static) -> kube::Client {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let code = code(&request);
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "", "message": "no"});
            let body = if code == 200 { volume.to_string() } else { status.to_string() };
            let reply = http::Response::builder().status(code).body(kube::client::Body::from(body.into_bytes()));
            async { Ok::<_, std::convert::Infallible>(reply.unwrap()) }
        });
        kube::Client::new(service, "default")
    }

    #[tokio::test]
    async fn nothing_is_removed_that_the_server_has_not_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dirs::storage(dir.path()).join("pvc-1_n_a");
        fs::create_dir_all(path.join("data")).unwrap();
        let body = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pvc-1", "uid": "u", "resourceVersion": "7", "annotations": {PROVISIONED_BY: LOCAL_PROVISIONER}},
            "spec": {"persistentVolumeReclaimPolicy": "Delete", "local": {"path": path}}, "status": {"phase": "Released"}});
        // Another one by now, gone for another reason, refused, not answered well.
        for code in [409, 404, 403, 500] {
            let client = answering(body.clone(), move |request| if request.method() == http::Method::DELETE { code } else { 200 });
            assert_eq!(settle(&client, &path).await.is_ok(), matches!(code, 404 | 409), "{code}");
            assert!(path.join("data").exists(), "{code}");
        }
        let asked = std::sync::Arc::new(parking_lot::Mutex::new(0));
        let seen = asked.clone();
        let client = answering(body, move |_| {
            *seen.lock() += 1;
            200
        });
        settle(&client, &path).await.unwrap();
        assert_eq!((path.exists(), *asked.lock()), (false, 2));
        // What a run that was killed had put aside goes at the next look.
        fs::create_dir_all(path.join("data")).unwrap();
        let aside = put_aside(&path).unwrap();
        assert!(aside.join("data").exists() && unused(dir.path()).unwrap().is_empty());
        empty_gone(dir.path()).unwrap();
        assert!(!aside.exists());
    }
}
