//! A pod that was admitted -> all that the node agent reads of it before it asks a runtime: for the fuzz targets.

use std::{io, path::Path, sync::Arc};

use api::{
    k8s::api::core::v1::{Node, Pod, Service},
    time::Timestamp,
};

use crate::{container_config, env::Fetched, pods, static_pods, volumes};

/// What came of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(hidden)]
pub struct Rehearsed {
    /// Calls that its plans came to, from nothing to its end.
    pub calls: usize,
    /// Parts of its sandbox's and containers' configs.
    pub parts: usize,
    /// Volumes with files.
    pub volumes: usize,
    /// Whether it can stand in a manifest.
    pub is_static: bool,
}

/// What a pod is read beside.
#[doc(hidden)]
#[derive(Clone, Default)]
pub struct Beside {
    pub node: Option<Arc<Node>>,
    pub services: Vec<Arc<Service>>,
    pub fetched: Fetched,
}

/// Its files are written below `dir`, which is the caller's to remove.
///
/// # Errors
/// Where `dir` cannot be written to.
#[doc(hidden)]
pub fn rehearse(pod: &Arc<Pod>, beside: &Beside, dir: &Path, now: Timestamp) -> io::Result<Rehearsed> {
    let files = dir.join("volumes");
    std::fs::create_dir_all(&files)?;
    let mut cx = container_config::testing::context((**pod).clone(), dir);
    cx.node_object.clone_from(&beside.node);
    cx.services.clone_from(&beside.services);
    Ok(Rehearsed {
        calls: pods::rehearse(pod, now),
        parts: container_config::rehearse(&cx, &beside.fetched),
        volumes: volumes::rehearse(pod, &beside.fetched, &files),
        is_static: static_pods::rehearse(pod),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_pod_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let pod = container_config::testing::pod(
            r#"{"containers":[{"name":"c","image":"i","env":[{"name":"K","valueFrom":{"configMapKeyRef":{"name":"m","key":"k"}}}],
                "volumeMounts":[{"name":"m","mountPath":"/m"}],"terminationMessagePath":"/dev/termination-log"}],
            "volumes":[{"name":"m","configMap":{"name":"m"}},{"name":"none","secret":{"secretName":"none"}},{"name":"e","emptyDir":{}},
                {"name":"d","downwardAPI":{"items":[{"path":"a/n","fieldRef":{"fieldPath":"metadata.name"}}]}}]}"#,
        );
        let map = serde_json::from_str(r#"{"metadata":{"name":"m"},"data":{"k":"v"}}"#).unwrap();
        let fetched = Fetched { config_maps: [("m".to_owned(), Arc::new(map))].into(), ..Fetched::default() };
        let beside = Beside { fetched, ..Beside::default() };
        let came = rehearse(&Arc::new(pod), &beside, dir.path(), Timestamp::now()).unwrap();
        // Of the configs: the sandbox's, the environment, the mounts (one more of the volume), and of each of two images two.
        assert_eq!((came.parts, came.volumes, came.is_static), (8, 2, true));
        assert!(came.calls > 4, "{came:?}");
        assert_eq!(std::fs::read(dir.path().join("volumes/0/k")).unwrap(), b"v");
    }
}
