//! What joining machines read and show before they are nodes: `cluster-info` in kube-public, and the token that was chosen beforehand.
//!
//! Source: `cmd/kubeadm/app/phases/bootstraptoken/clusterinfo`. The signatures beside the kubeconfig are the controllers' (`bootstrapsigner`).

use std::{net::IpAddr, sync::Arc};

use api::{
    GroupResource, Key, Status,
    bootstrap::{self, CLUSTER_INFO, CLUSTER_INFO_KUBECONFIG, CLUSTER_INFO_NAMESPACE, Token},
};
use apiserver::engine::Engine;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use kinds::auth::system_user;
use serde_json::{Value, json};

use crate::token::{Made, object};

/// Makes or mends `cluster-info`: anybody may read there where the API is, and which CA it has.
///
/// # Errors
/// The write that failed.
pub async fn publish(engine: &Arc<Engine>, server: &str, ca: &str) -> Result<(), Status> {
    let kubeconfig = kubeconfig(server, ca);
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CLUSTER_INFO, "namespace": CLUSTER_INFO_NAMESPACE},
        "data": {CLUSTER_INFO_KUBECONFIG: kubeconfig},
    });
    ensure(
        engine,
        &GroupResource::new("", "configmaps"),
        &Key::new(CLUSTER_INFO_NAMESPACE, CLUSTER_INFO),
        map,
        (CLUSTER_INFO_KUBECONFIG, &kubeconfig),
    )
    .await
}

/// What `kubeadm join` reads of a cluster: its networks, and how its kubelets are run. Made where it is not there; who changes it has the last word.
///
/// # Errors
/// The first write that failed.
pub async fn publish_for_kubeadm(engine: &Arc<Engine>, config: &kinds::Config, pods: &str, dns: IpAddr) -> Result<(), Status> {
    let services: Vec<String> = config.service_cidrs.iter().map(ToString::to_string).collect();
    let cluster = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nclusterName: skiff\nkubernetesVersion: {}\nnetworking:\n  \
         dnsDomain: {}\n  podSubnet: {pods}\n  serviceSubnet: {}\n",
        apiserver::version::GIT_VERSION.split('+').next().unwrap_or_default(),
        config.cluster_domain,
        services.join(","),
    );
    let kubelet = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nauthentication:\n  anonymous:\n    enabled: false\n  \
         webhook:\n    enabled: true\n  x509:\n    clientCAFile: /etc/kubernetes/pki/ca.crt\nauthorization:\n  mode: Webhook\n\
         clusterDNS:\n- {dns}\nclusterDomain: {}\nrotateCertificates: true\nserverTLSBootstrap: true\nstaticPodPath: /etc/kubernetes/manifests\n",
        config.cluster_domain,
    );
    for (name, field, text) in [("kubeadm-config", "ClusterConfiguration", cluster), ("kubelet-config", "kubelet", kubelet)] {
        let (maps, key) = (GroupResource::new("", "configmaps"), Key::new(bootstrap::NAMESPACE, name));
        if engine.cached(&maps, &key).is_none() {
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": bootstrap::NAMESPACE}, "data": {field: text},
            });
            create(engine, &maps, &key, map).await?;
        }
    }
    Ok(())
}

/// Makes the token that the server was started with, or gives it its secret back. It lasts.
///
/// # Errors
/// The write that failed.
pub async fn make_token(engine: &Arc<Engine>, token: &Token) -> Result<(), Status> {
    let (usages, groups) = (["signing", "authentication"].map(str::to_owned), [bootstrap::NODE_GROUP.to_owned()]);
    let description = "The token that the server was started with (--agent-token).";
    let made = Made { token, expires: None, one_time: false, description, usages: &usages, groups: &groups };
    let key = Key::new(bootstrap::NAMESPACE, &token.secret_name());
    let secret = BASE64_STANDARD.encode(&token.secret);
    ensure(engine, &GroupResource::new("", "secrets"), &key, object(&made), (bootstrap::SECRET, &secret)).await
}

/// Creates the object, or sets this key of its data.
async fn ensure(engine: &Arc<Engine>, gr: &GroupResource, key: &Key, object: Value, (field, value): (&str, &str)) -> Result<(), Status> {
    let Some(found) = engine.cached(gr, key) else {
        return create(engine, gr, key, object).await;
    };
    if found.value()["data"][field] == value {
        return Ok(());
    }
    let change = |current: &mut Value| {
        current["data"][field] = value.into();
        Ok(())
    };
    engine.update(gr, key, "", &system_user(), &change).await.map(drop)
}

async fn create(engine: &Arc<Engine>, gr: &GroupResource, key: &Key, object: Value) -> Result<(), Status> {
    match engine.create(gr, &key.namespace, object, &system_user()).await {
        // Another server on the same store was quicker.
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}

fn kubeconfig(server: &str, ca: &str) -> String {
    let ca = BASE64_STANDARD.encode(ca);
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: {server}\n  name: \"\"\n\
         contexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n"
    )
}

#[cfg(test)]
mod tests {
    use api::task::Group;
    use door::Door;

    use super::*;

    #[test]
    fn the_kubeconfig_is_one() {
        let read: Value = serde_yaml::from_str(&kubeconfig("https://192.0.2.1:6443", "CA")).unwrap();
        assert_eq!(read["clusters"][0]["cluster"], json!({"certificate-authority-data": "Q0E=", "server": "https://192.0.2.1:6443"}));
        assert_eq!(read["kind"], "Config");
    }

    #[tokio::test]
    async fn kubeadm_finds_what_it_reads() {
        let group = Group::new();
        let door = Door::new(&group).await;
        let config = kinds::Config { service_cidrs: vec!["10.96.0.0/16".parse().unwrap()], ..kinds::Config::default() };
        publish_for_kubeadm(&door.engine, &config, "10.244.0.0/16", [10, 96, 0, 10].into()).await.unwrap();
        for (name, field, kind) in
            [("kubeadm-config", "ClusterConfiguration", "ClusterConfiguration"), ("kubelet-config", "kubelet", "KubeletConfiguration")]
        {
            let map = door.engine.get(&GroupResource::new("", "configmaps"), &Key::new("kube-system", name)).await.unwrap().value();
            let read: Value = serde_yaml::from_str(map["data"][field].as_str().unwrap()).unwrap();
            assert_eq!(read["kind"], kind, "{read}");
            if name == "kubeadm-config" {
                assert_eq!(read["networking"]["serviceSubnet"], "10.96.0.0/16");
                assert!(read["kubernetesVersion"].as_str().unwrap().starts_with("v1.36"));
            } else {
                assert_eq!((&read["clusterDNS"][0], &read["serverTLSBootstrap"]), (&json!("10.96.0.10"), &json!(true)));
            }
        }
        group.drain(door::BOUND).await;
    }

    #[tokio::test]
    async fn what_is_published_is_mended() {
        let group = Group::new();
        let door = Door::new(&group).await;
        let read = async || {
            let key = Key::new(CLUSTER_INFO_NAMESPACE, CLUSTER_INFO);
            door.engine.get(&GroupResource::new("", "configmaps"), &key).await.unwrap().value()["data"]["kubeconfig"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        for server in ["https://a:6443", "https://b:6443"] {
            publish(&door.engine, server, "CA").await.unwrap();
            assert_eq!(read().await, kubeconfig(server, "CA"));
        }
        let token = |secret: &str| Token { id: "abcdef".into(), secret: secret.into() };
        for secret in ["0123456789abcdef", "fedcba9876543210"] {
            make_token(&door.engine, &token(secret)).await.unwrap();
            let kept =
                door.engine.get(&GroupResource::new("", "secrets"), &Key::new("kube-system", "bootstrap-token-abcdef")).await.unwrap();
            assert_eq!(kept.value()["data"]["token-secret"], BASE64_STANDARD.encode(secret));
        }
        group.drain(door::BOUND).await;
    }
}
