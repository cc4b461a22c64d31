//! What a fresh cluster contains: YAML, embedded -> objects, made where they are missing.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, bail};
use api::{GroupResource, Key};
use apiserver::engine::Engine;
use serde_json::Value;

const DNS: &str = include_str!("../manifests/dns.yaml");

/// The kinds that our manifests have, and where they are kept.
const KINDS: [(&str, &str, &str); 4] = [
    ("ServiceAccount", "", "serviceaccounts"),
    ("Service", "", "services"),
    ("ClusterRole", "rbac.authorization.k8s.io", "clusterroles"),
    ("ClusterRoleBinding", "rbac.authorization.k8s.io", "clusterrolebindings"),
];

/// Makes the objects that are not there; what a user changed stays as it is.
pub async fn apply(engine: &Arc<Engine>, cluster_dns: IpAddr) -> anyhow::Result<()> {
    for object in objects(cluster_dns)? {
        let resource = resource(&object)?;
        let of = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = Key::new(&of("/metadata/namespace"), &of("/metadata/name"));
        if engine.cached(&resource, &key).is_some() {
            continue;
        }
        match engine.create(&resource, &key.namespace, object, &kinds::auth::system_user()).await {
            // Another server on the same store was quicker.
            Err(status) if status.reason != "AlreadyExists" => return Err(status.into()),
            _ => {}
        }
    }
    Ok(())
}

fn objects(cluster_dns: IpAddr) -> anyhow::Result<Vec<Value>> {
    serde_yaml::from_multiple(&DNS.replace("${CLUSTER_DNS}", &cluster_dns.to_string())).context("manifests/dns.yaml")
}

fn resource(object: &Value) -> anyhow::Result<GroupResource> {
    let found = KINDS.iter().find(|(kind, ..)| object["kind"] == *kind);
    let Some((_, group, resource)) = found else { bail!("manifests/dns.yaml: {} is no kind that manifests have", object["kind"]) };
    Ok(GroupResource::new(group, resource))
}

#[cfg(test)]
mod tests {
    use api::{k8s::api::core::v1::Service, task::Group};
    use client::kube::{Api, api::ListParams};
    use door::Door;

    use super::*;

    #[test]
    fn every_object_is_of_a_kind_that_is_known() {
        let all = objects("10.96.0.10".parse().unwrap()).unwrap();
        let resources: Vec<String> = all.iter().map(|object| resource(object).unwrap().resource).collect();
        assert_eq!(resources, ["serviceaccounts", "clusterroles", "clusterrolebindings", "services"]);
        assert_eq!(all[3]["spec"]["clusterIP"], "10.96.0.10");
        // The account that DNS comes as is the one that is bound.
        assert_eq!([&all[0]["metadata"]["name"], &all[2]["subjects"][0]["name"]], [proxy::dns::ACCOUNT; 2]);
    }

    #[tokio::test]
    async fn what_is_there_stays_and_dns_may_read() {
        let group = Group::new();
        let door = Door::new(&group).await;
        let dns = door.client("system:serviceaccount:kube-system:coredns", &["system:serviceaccounts"]);
        let services = Api::<Service>::all(dns);
        assert!(services.list(&ListParams::default()).await.is_err(), "not yet");
        for _ in 0..2 {
            apply(&door.engine, "10.96.0.10".parse().unwrap()).await.unwrap();
            let names: Vec<_> = services.list(&ListParams::default()).await.unwrap().items.into_iter().map(|s| s.metadata.name).collect();
            assert_eq!(names, [Some("kube-dns".to_owned())]);
        }
        group.stop();
    }
}
