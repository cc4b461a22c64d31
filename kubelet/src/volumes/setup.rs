//! A pod's volume list -> directories, mounts and files on this node; and all of that removed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use api::k8s::api::core::v1::{Pod, Volume};

use super::{
    Error, Mounted, atomic, empty_dir, host_path, mount_table,
    objects::All,
    ownership::fs_group,
    payload::{self, Optional, Payload, Reading, Tokened, mode},
    private::Private,
};
use crate::{downward::Allocatable, meta};

/// Where a pod's files stand on this node.
pub struct Place {
    /// `<root>/pods/<uid>`.
    pub pod_dir: PathBuf,
    pub private: Arc<Private>,
    pub allocatable: Allocatable,
}

/// Sets up every volume of the pod.
///
/// # Errors
/// A `FailedMount` line for each that failed; the others are done.
pub fn all(place: &Place, pod: &Pod, objects: &All, tokens: &Tokened) -> Result<BTreeMap<String, Mounted>, Vec<String>> {
    let reading = Reading { pod, all: objects, tokens, allocatable: place.allocatable };
    let (mut mounted, mut failed) = (BTreeMap::new(), Vec::new());
    for volume in meta::spec(pod).and_then(|s| s.volumes.as_deref()).unwrap_or_default() {
        match one(place, volume, &reading) {
            Ok(done) => drop(mounted.insert(volume.name.clone(), done)),
            Err(why) => failed.push(format!("MountVolume.SetUp failed for volume {:?} : {why}", volume.name)),
        }
    }
    if failed.is_empty() { Ok(mounted) } else { Err(failed) }
}

/// Unmounts all below a pod's directories, on disk and in memory, then deletes them.
///
/// # Errors
/// [`Error::TearDown`]; nothing is deleted of a directory while anything below it is still mounted.
pub fn remove(pod_dir: &Path, private: &Path) -> Result<(), Error> {
    [pod_dir, private].into_iter().try_for_each(|dir| {
        let failed = |why: String| Error::TearDown { path: dir.display().to_string(), why };
        if !dir.exists() {
            return Ok(());
        }
        mount_table::unmount_below(dir).map_err(|e| failed(format!("unmount: {e}")))?;
        // A bind mount still there would have its source's files deleted.
        let left = mount_table::below(dir).map_err(|e| failed(e.to_string()))?;
        if let Some(point) = left.first() {
            return Err(failed(format!("{} is still mounted", point.display())));
        }
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error.to_string())),
            _ => Ok(()),
        }
    })
}

fn one(place: &Place, volume: &Volume, reading: &Reading<'_>) -> Result<Mounted, String> {
    let dir = |plugin: &str| place.pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(&volume.name);
    let in_memory = |plugin: &str, files: &Payload| {
        // An earlier version mounted each there; containers that run see that one.
        let old = dir(plugin);
        if mount_table::is_mounted(&old).map_err(|e| e.to_string())? {
            return filled(old, files, reading.pod);
        }
        let path = place.private.of_pod(meta::uid(reading.pod)).join(plugin).join(&volume.name);
        place.private.make(&path)?;
        place.private.admit(reading.pod, &path, payload::size(files))?;
        filled(path, files, reading.pod)
    };
    if let Some(source) = &volume.empty_dir {
        let path = dir("empty-dir");
        let ready = place.pod_dir.join("plugins/kubernetes.io~empty-dir").join(&volume.name).join("ready");
        empty_dir::set_up(&path, &ready, source, reading.pod, place.allocatable)?;
        return Ok(Mounted { path, read_only: false });
    }
    if let Some(source) = &volume.host_path {
        return Ok(Mounted { path: host_path::set_up(source)?, read_only: false });
    }
    if let Some(c) = &volume.config_map {
        let files = reading.config_map(&c.name, c.items.as_deref(), mode(c.default_mode), Optional::of(c.optional))?;
        let path = dir("configmap");
        empty_dir::make(&path).map_err(|e| e.to_string())?;
        return filled(path, &files, reading.pod);
    }
    if let Some(s) = &volume.secret {
        let name = s.secret_name.as_deref().unwrap_or_default();
        let files = reading.secret(name, s.items.as_deref(), mode(s.default_mode), Optional::of(s.optional))?;
        return in_memory("secret", &files);
    }
    if let Some(source) = &volume.projected {
        return in_memory("projected", &reading.projected(source)?);
    }
    if let Some(source) = &volume.downward_api {
        let files = reading.downward(source.items.as_deref().unwrap_or_default(), mode(source.default_mode))?;
        return in_memory("downward-api", &files);
    }
    Err(format!("volumes of type {:?} are not supported", kind(volume)))
}

fn filled(path: PathBuf, files: &Payload, pod: &Pod) -> Result<Mounted, String> {
    atomic::write(&path, files, fs_group(pod))?;
    Ok(Mounted { path, read_only: true })
}

/// The name of the source's field.
fn kind(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let mut keys = value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).filter(|key| key != "name");
    keys.next().unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, sync::Arc};

    use super::*;
    use crate::container_config::testing::pod;

    #[test]
    fn secrets_are_in_memory_and_go_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let private = Arc::new(Private::below(dir.path()));
        let place = Place { pod_dir: dir.path().join("pods/u1"), private: private.clone(), allocatable: Allocatable::default() };
        let p = pod(r#"{"containers":[{"name":"a"}],"volumes":[{"name":"s","secret":{"secretName":"s","defaultMode":256}},
            {"name":"h","hostPath":{"path":"/etc","type":"Directory"}},
            {"name":"d","downwardAPI":{"items":[{"path":"n","fieldRef":{"fieldPath":"metadata.name"}}]}}]}"#);
        let mut objects = All { namespace: "default".into(), ..All::default() };
        let secret = serde_json::from_str(r#"{"metadata":{"name":"s"},"data":{"x":"c2VjcmV0"}}"#).unwrap();
        objects.fetched.secrets.insert("s".into(), Arc::new(secret));
        let done = match all(&place, &p, &objects, &Tokened::new()) {
            Err(lines) if lines[0].contains("mount tmpfs") => return eprintln!("skipped: {lines:?}"),
            done => done.unwrap(),
        };
        let secret = &done["s"].path;
        assert_eq!(fs::read_to_string(secret.join("x")).unwrap(), "secret");
        assert_eq!(fs::metadata(secret.join("x")).unwrap().mode() & 0o777, 0o400);
        assert!(secret.starts_with(private.of_pod("u1")));
        assert_eq!(done["h"], Mounted { path: "/etc".into(), read_only: false });
        assert_eq!(fs::read_to_string(done["d"].path.join("n")).unwrap(), "web");
        for _ in 0..2 {
            remove(&place.pod_dir, &private.of_pod("u1")).unwrap();
            assert!(!place.pod_dir.exists() && !secret.exists() && Path::new("/etc").exists());
        }
        mount_table::unmount_below(dir.path()).unwrap();
    }
}
