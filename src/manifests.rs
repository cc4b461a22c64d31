//! What a fresh cluster contains: YAML, embedded -> objects, made where they are missing.

use std::{net::IpAddr, sync::Arc};

use anyhow::Context;
use api::{GroupResource, Key};
use apiserver::engine::Engine;
use serde_json::Value;

const DNS: &str = include_str!("../manifests/dns.yaml");

/// Makes the objects that are not there; what a user changed stays as it is.
pub async fn apply(engine: &Arc<Engine>, cluster_dns: IpAddr) -> anyhow::Result<()> {
    let object: Value = serde_yaml::from_str(&DNS.replace("${CLUSTER_DNS}", &cluster_dns.to_string())).context("manifests/dns.yaml")?;
    let services = GroupResource::new("", "services");
    let of = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let key = Key::new(&of("/metadata/namespace"), &of("/metadata/name"));
    if engine.cached(&services, &key).is_some() {
        return Ok(());
    }
    match engine.create(&services, &key.namespace, object, &kinds::auth::system_user()).await {
        // Another server on the same store was quicker.
        Err(status) if status.reason != "AlreadyExists" => Err(status.into()),
        _ => Ok(()),
    }
}
