//! What a fresh cluster contains: YAML, embedded -> objects, made where they are missing.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, bail};
use api::{GroupResource, Key};
use apiserver::engine::Engine;
use serde_json::Value;

const DNS: &str = include_str!("../../manifests/dns.yaml");
const NODES: &str = include_str!("../../manifests/nodes.yaml");
const STORAGE: &str = include_str!("../../manifests/storage.yaml");
const RBAC: &str = "rbac.authorization.k8s.io";

/// Makes the objects that are not there; what a user changed stays as it is.
pub async fn apply(engine: &Arc<Engine>, cluster_dns: IpAddr, local_storage: bool) -> anyhow::Result<()> {
    for object in documents(&DNS.replace("${CLUSTER_DNS}", &cluster_dns.to_string()))?.into_iter().chain(documents(NODES)?) {
        make(engine, object).await?;
    }
    if local_storage {
        make(engine, storage_class(engine)?).await?;
    }
    Ok(())
}

/// The default class, unless there is another default one already: the newest would be it.
fn storage_class(engine: &Arc<Engine>) -> anyhow::Result<Value> {
    let mut class: Value = serde_yaml::from_str(STORAGE).context("an embedded manifest")?;
    if engine.cached_list(&resource("StorageClass")?, None).iter().any(|stored| kinds::storageclass::is_default(&stored.value())) {
        class["metadata"]["annotations"] = Value::Null;
    }
    Ok(class)
}

async fn make(engine: &Arc<Engine>, object: Value) -> anyhow::Result<()> {
    let of = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (resource, key) = (resource(&of("/kind"))?, Key::new(&of("/metadata/namespace"), &of("/metadata/name")));
    if engine.cached(&resource, &key).is_some() {
        return Ok(());
    }
    match engine.create(&resource, &key.namespace, object, &kinds::auth::system_user()).await {
        // Another server on the same store was quicker.
        Err(status) if status.reason != "AlreadyExists" => Err(status.into()),
        _ => Ok(()),
    }
}

fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    text.split("\n---\n").map(|one| serde_yaml::from_str(one).context("an embedded manifest")).collect()
}

/// Of the kinds that manifests have.
fn resource(kind: &str) -> anyhow::Result<GroupResource> {
    let (group, resource) = match kind {
        "StorageClass" => ("storage.k8s.io", "storageclasses"),
        "Service" => ("", "services"),
        "ClusterRole" => (RBAC, "clusterroles"),
        "ClusterRoleBinding" => (RBAC, "clusterrolebindings"),
        _ => bail!("a manifest of kind {kind:?}"),
    };
    Ok(GroupResource::new(group, resource))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::cluster_config::ClusterConfig;
    use api::task::Group;
    use client::kube::{Api, api::ListParams};
    use serde_json::json;

    #[tokio::test]
    async fn nodes_and_who_joins_may_read_what_is_told() {
        let group = Group::new();
        let door = door::Door::new(&group).await;
        apply(&door.engine, "10.96.0.10".parse().unwrap(), true).await.unwrap();
        apply(&door.engine, "10.96.0.10".parse().unwrap(), true).await.unwrap();
        let config = kinds::Config {
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            cluster_domain: "a.example".into(),
            ..kinds::Config::default()
        };
        let (pods, dns) = ("10.244.0.0/16", "10.96.0.10".parse().unwrap());
        crate::server::cluster_info::publish_for_kubeadm(&door.engine, &config, pods, dns).await.unwrap();
        let told = ClusterConfig { cluster_cidrs: vec![pods.parse().unwrap()], cluster_dns: dns, cluster_domain: "a.example".into() };
        let node = door.client("system:node:a", &["system:nodes", "system:authenticated"]);
        assert_eq!(ClusterConfig::ask(&node, &crate::flags::ClusterFlags::default()).await.unwrap(), told);
        let newcomer = door.client("system:bootstrap:abcdef", &["system:bootstrappers:kubeadm:default-node-token", "system:authenticated"]);
        assert!(ClusterConfig::ask(&newcomer, &crate::flags::ClusterFlags::default()).await.is_ok());
        let stranger = door.client("somebody", &["system:authenticated"]);
        assert!(ClusterConfig::ask(&stranger, &crate::flags::ClusterFlags::default()).await.is_err());
        let slices: Api<api::k8s::api::discovery::v1::EndpointSlice> = Api::all(node);
        assert!(slices.list(&ListParams::default()).await.is_ok(), "a node serves Services as itself");
        group.stop();
    }

    #[tokio::test]
    async fn the_class_is_the_default_one_where_there_is_no_other() {
        let other = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "other"}, "provisioner": "example.com/p"});
        let mut default = other.clone();
        default["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
        for (first, is_wanted, is_there, is_default) in
            [(None, true, true, true), (Some(other), true, true, true), (Some(default), true, true, false), (None, false, false, false)]
        {
            let group = Group::new();
            let door = door::Door::new(&group).await;
            if let Some(first) = first {
                make(&door.engine, first).await.unwrap();
            }
            apply(&door.engine, "10.96.0.10".parse().unwrap(), is_wanted).await.unwrap();
            let ours = door.engine.cached(&resource("StorageClass").unwrap(), &Key::new("", "skiff-local"));
            let marked = ours.as_ref().is_some_and(|ours| kinds::storageclass::is_default(&ours.value()));
            assert_eq!((ours.is_some(), marked), (is_there, is_default));
            group.stop();
        }
    }
}
