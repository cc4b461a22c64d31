//! A directory of manifests -> pods that this node runs whatever the API says.
//!
//! Upstream: `pkg/kubelet/config/file_linux.go`, `common.go`.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::{
    annotations::{CONFIG_HASH, CONFIG_SEEN, CONFIG_SOURCE},
    faults::catch,
    k8s::api::core::v1::{Pod, Toleration},
    task::Group,
    time::{self, Timestamp},
};
use client::Object;
use rustix::fs::inotify::WatchFlags;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{inotify::Watcher, meta, pods::Event};

/// Upstream's `fileCheckFrequency`, used only where the kernel cannot tell.
const CHECK_EVERY: Duration = Duration::from_secs(20);
/// Of one manifest, in bytes (upstream: `maxConfigLength`).
const MANIFEST_BYTES_MAX: u64 = 10 << 20;
/// Of a name that becomes one of a file.
const NAME_MAX: usize = 253;
/// Writers are given this long to finish.
const SETTLE: Duration = Duration::from_millis(50);

/// Reads the directory, makes it where it is not there, and sends all its pods now and whenever something in it changes.
pub fn follow(dir: PathBuf, node_name: String, events: mpsc::Sender<Event>, group: &Group) -> io::Result<()> {
    fs::create_dir_all(&dir)?;
    let mut watcher = watch(&dir).inspect_err(|error| tracing::warn!(%error, "failed to watch static pod manifests; polling them")).ok();
    group.spawn_loop(
        "static pods",
        Box::pin(async move {
            loop {
                let (path, node) = (dir.clone(), node_name.clone());
                let read = tokio::task::spawn_blocking(move || read(&path, &node)).await.map_err(io::Error::other);
                match read.flatten() {
                    Ok(read) => {
                        if events.send(Event::Manifests(read.into_iter().map(Arc::new).collect())).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, dir = %dir.display(), "failed to read static pod manifests; static pods stay as they are");
                        tokio::time::sleep(CHECK_EVERY).await;
                        continue;
                    }
                }
                let Some(events) = &watcher else {
                    tokio::time::sleep(CHECK_EVERY).await;
                    continue;
                };
                if let Err(error) = events.next().await {
                    tracing::error!(%error, "failed to watch static pod manifests; polling them");
                    watcher = None;
                }
                tokio::time::sleep(SETTLE).await;
            }
        }),
    );
    Ok(())
}

fn watch(dir: &Path) -> io::Result<Watcher> {
    let watcher = Watcher::new()?;
    let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO | WatchFlags::DELETE;
    watcher.add(dir, flags | WatchFlags::ONLYDIR)?;
    Ok(watcher)
}

/// All pods of the directory, in the order of their files' names; none where it is not there. What is no pod is logged and left out.
///
/// # Errors
/// Where the directory cannot be read: what is in it is not known then.
fn read(dir: &Path, node_name: &str) -> io::Result<Vec<Pod>> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut paths = listed.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| path.is_file() && !path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".")));
    paths.sort();
    let mut pods: Vec<Pod> = Vec::new();
    for path in paths {
        let parsed = catch("static pods", || parse(&text_of(&path)?, &path, node_name));
        match parsed.map_err(|panic| panic.to_string()).flatten() {
            Ok(pod) if pods.iter().any(|other| same_name(other, &pod)) => {
                tracing::error!(file = %path.display(), "another manifest has a pod of this name")
            }
            Ok(pod) => pods.push(pod),
            Err(error) => tracing::error!(file = %path.display(), error, "failed to read static pod manifest"),
        }
    }
    Ok(pods)
}

fn text_of(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|e| e.to_string())?;
    file.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > MANIFEST_BYTES_MAX { Err(format!("longer than {MANIFEST_BYTES_MAX} bytes")) } else { Ok(text) }
}

fn same_name(a: &Pod, b: &Pod) -> bool {
    a.metadata.name == b.metadata.name && a.metadata.namespace == b.metadata.namespace
}

fn parse(text: &str, path: &Path, node_name: &str) -> Result<Pod, String> {
    let options = serde_yaml::options! { legacy_octal_numbers: true };
    let value: Value = serde_yaml::from_str_with_options(text, options).map_err(|e| e.to_string())?;
    if (value["apiVersion"].as_str(), value["kind"].as_str()) != (Some("v1"), Some("Pod")) {
        return Err(format!("not a v1 Pod: {} {}", value["apiVersion"], value["kind"]));
    }
    let seen = Pod::read(value.to_string().as_bytes()).map_err(|e| e.to_string())?;
    let mut pod = seen.fault.map_or(Ok(seen.object), Err)?;
    let name = pod.metadata.name.clone().filter(|name| !name.is_empty()).ok_or("metadata.name: Required value")?;
    let spec = pod.spec.as_mut().filter(|spec| !spec.containers.is_empty()).ok_or("spec.containers: Required value")?;
    spec.node_name = Some(node_name.into());
    // Not evicted when the node has problems.
    let tolerance = Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Toleration::default() };
    spec.tolerations.get_or_insert_default().push(tolerance);
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.termination_grace_period_seconds.get_or_insert(30);
    let uid = pod.metadata.uid.clone().unwrap_or_else(|| uid(&value, path, node_name));
    pod.metadata.name = Some(format!("{name}-{}", node_name.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    pod.metadata.uid = Some(uid.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    let own = [(CONFIG_HASH, uid), (CONFIG_SEEN, time::rfc3339(Timestamp::now())), (CONFIG_SOURCE, "file".into())];
    annotations.extend(own.map(|(key, value)| (key.to_owned(), value)));
    pod.status = None;
    pathable(&pod)?;
    Ok(pod)
}

/// No validation of the API server stands before a manifest: what becomes a file's name must be one.
fn pathable(pod: &Pod) -> Result<(), String> {
    let containers = meta::containers(pod).map(|c| ("container's name", c.name.as_str()));
    let volumes = meta::spec(pod).and_then(|s| s.volumes.as_deref()).unwrap_or_default().iter().map(|v| ("volume's name", v.name.as_str()));
    let own = [("metadata.name", meta::name(pod)), ("metadata.namespace", meta::namespace(pod)), ("metadata.uid", meta::uid(pod))];
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= NAME_MAX && !name.contains(['/', '\0']);
    match own.into_iter().chain(containers).chain(volumes).find(|(_, name)| !is_name(name)) {
        Some((field, name)) => Err(format!("{field}: Invalid value: {name:?}")),
        None => Ok(()),
    }
}

/// A pod as if it stood in a manifest; whether it was read: for the fuzz targets.
pub fn rehearse(pod: &Pod) -> bool {
    let manifest = serde_json::to_string(pod).unwrap_or_default();
    parse(&manifest, Path::new("/manifests/pod.json"), "n1").is_ok()
}

/// Of content and place: a changed file is another pod.
fn uid(value: &Value, path: &Path, node_name: &str) -> String {
    let digest = Sha256::digest(format!("{value}host:{node_name}file:{}", path.display()));
    api::hex(&digest[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta;

    #[test]
    fn manifests_become_pods_of_this_node() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("web.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: b}]}\n");
        write("again.json", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"z"},"spec":{"containers":[{"name":"a","image":"b"}]}}"#);
        write(".hidden", "no");
        write("broken.yaml", "a: [");
        write("other.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n");
        let pods = read(dir.path(), "N1").unwrap();
        assert_eq!(pods.iter().map(meta::name).collect::<Vec<_>>(), ["z-n1", "web-n1"]);
        assert!(pods.iter().all(|pod| meta::is_static(pod) && meta::namespace(pod) == "default" && meta::uid(pod).len() == 32));
        let before = meta::uid(&pods[1]).to_owned();
        write("web.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: c}]}\n");
        assert_ne!(before, meta::uid(&read(dir.path(), "N1").unwrap()[1]));
    }

    #[test]
    fn a_file_is_no_other_file_s_fault_and_what_cannot_be_read_is_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = |name: &str, more: &str| {
            let text = format!(
                r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"{more}}},"spec":{{"containers":[{{"name":"a","image":"b","ports":[null],"args":null}}],"volumes":null}}}}"#
            );
            fs::write(dir.path().join(format!("{}.json", name.replace('/', "-"))), text).unwrap();
        };
        manifest("nulls", r#","labels":null,"creationTimestamp":null"#);
        for (name, more) in [("a/b", ""), ("up", r#","uid":"../../etc""#), ("dots", r#","namespace":"..""#), ("types", r#","labels":[7]"#)]
        {
            manifest(name, more);
        }
        fs::write(dir.path().join("long.yaml"), vec![b' '; usize::try_from(MANIFEST_BYTES_MAX).unwrap() + 1]).unwrap();
        fs::write(dir.path().join("latin.yaml"), b"\xe4").unwrap();
        let names = |dir: &Path| read(dir, "n1").map(|pods| pods.iter().map(|pod| meta::name(pod).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(dir.path()).unwrap(), ["nulls-n1"]);
        assert_eq!(names(&dir.path().join("nowhere")).unwrap(), Vec::<String>::new());
        assert!(names(&dir.path().join("nulls.json")).is_err(), "no directory");
    }
}
