//! Text -> pods and contexts, for tests and the fuzz targets.

use std::{path::Path, sync::Arc};

use api::k8s::api::core::v1::Pod;

use super::qos::OomScores;
use crate::context::{NodeContext, PodContext};

/// A pod `default/web` with uid `u1` and this spec.
#[cfg(test)]
pub fn pod(spec: &str) -> Pod {
    let text = format!(r#"{{"metadata":{{"name":"web","namespace":"default","uid":"u1"}},"spec":{spec}}}"#);
    serde_json::from_str(&text).expect("a well-formed pod")
}

/// A node that keeps everything under `dir`.
pub fn context(pod: Pod, dir: &Path) -> PodContext {
    std::fs::write(dir.join("resolv.conf"), "nameserver 8.8.8.8\nsearch corp\n").expect("a writable directory");
    let node = NodeContext {
        node_name: "n1".into(),
        node_ips: vec!["192.168.0.2".parse().expect("an address")],
        root_dir: dir.join("root"),
        log_dir: dir.join("logs"),
        cluster_dns: vec!["10.96.0.10".parse().expect("an address")],
        cluster_domain: "cluster.local".into(),
        resolv_conf: dir.join("resolv.conf"),
        cgroup_root: "/kubepods".into(),
        master_service_namespace: "default".into(),
        cpu_cfs_quota: true,
        memory_capacity_bytes: 1 << 30,
        sandbox_profile: None,
    };
    PodContext {
        oom_scores: OomScores::of(&pod, node.memory_capacity_bytes),
        node: Arc::new(node),
        node_object: None,
        pod: Arc::new(pod),
        pod_ips: vec!["10.1.0.5".into()],
        services: Vec::new(),
        volumes: None,
    }
}
