//! A directory of manifests -> pods that this node runs whatever the API says.
//!
//! Upstream: `pkg/kubelet/config/file_linux.go`, `common.go`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::{
    k8s::api::core::v1::{Pod, Toleration},
    task::Group,
    time::{self, Timestamp},
};
use rustix::fs::inotify::WatchFlags;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{pods::Event, server::Watcher};

/// Upstream's `fileCheckFrequency`, used only where the kernel cannot tell.
const CHECK_EVERY: Duration = Duration::from_secs(20);
/// Writers are given this long to finish.
const SETTLE: Duration = Duration::from_millis(50);

/// Reads the directory, makes it where it is not there, and tells of all its pods now and whenever something in it changes.
pub fn follow(dir: PathBuf, node_name: String, events: mpsc::Sender<Event>, group: &Group) -> io::Result<()> {
    fs::create_dir_all(&dir)?;
    let mut watcher = watch(&dir).inspect_err(|error| tracing::warn!(%error, "manifests are looked for by time")).ok();
    group.spawn_loop(
        "static pods",
        Box::pin(async move {
            loop {
                let (path, node) = (dir.clone(), node_name.clone());
                let read = tokio::task::spawn_blocking(move || read(&path, &node)).await.unwrap_or_default();
                if events.send(Event::Manifests(read.into_iter().map(Arc::new).collect())).await.is_err() {
                    return;
                }
                let Some(told) = &watcher else {
                    tokio::time::sleep(CHECK_EVERY).await;
                    continue;
                };
                if let Err(error) = told.next().await {
                    tracing::error!(%error, "manifests are looked for by time");
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

/// All pods of the directory, in the order of their files' names. What is no pod is logged and left out.
fn read(dir: &Path, node_name: &str) -> Vec<Pod> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.is_file() && !path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".")));
    paths.sort();
    let mut pods: Vec<Pod> = Vec::new();
    for path in paths {
        let parsed = fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|text| parse(&text, &path, node_name));
        match parsed {
            Ok(pod) if pods.iter().any(|other| same_name(other, &pod)) => {
                tracing::error!(file = %path.display(), "a pod of that name is there already")
            }
            Ok(pod) => pods.push(pod),
            Err(error) => tracing::error!(file = %path.display(), error, "no static pod"),
        }
    }
    pods
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
    let mut pod: Pod = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
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
    let own = [("config.hash", uid), ("config.seen", time::rfc3339(Timestamp::now())), ("config.source", "file".into())];
    annotations.extend(own.map(|(key, value)| (format!("kubernetes.io/{key}"), value)));
    pod.status = None;
    Ok(pod)
}

/// Of content and place: a changed file is another pod.
fn uid(value: &Value, path: &Path, node_name: &str) -> String {
    let digest = Sha256::digest(format!("{value}host:{node_name}file:{}", path.display()));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
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
        let pods = read(dir.path(), "N1");
        assert_eq!(pods.iter().map(meta::name).collect::<Vec<_>>(), ["z-n1", "web-n1"]);
        assert!(pods.iter().all(|pod| meta::is_static(pod) && meta::namespace(pod) == "default" && meta::uid(pod).len() == 32));
        let before = meta::uid(&pods[1]).to_owned();
        write("web.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: c}]}\n");
        assert_ne!(before, meta::uid(&read(dir.path(), "N1")[1]));
    }
}
