//! Where the API server is reached -> the `kubernetes` Service in `default`, its Endpoints and its EndpointSlice.
//!
//! Source: `pkg/controlplane/controller/kubernetesservice`, `pkg/controlplane/reconcilers`.

use std::{net::SocketAddr, sync::Arc};

use api::{GroupResource, Key, Status};
use apiserver::engine::Engine;
use serde_json::{Value, json};

use crate::{Config, auth::system_user};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// Makes or mends the three objects. Runs at each start; `advertised` is what pods' connections are led to.
///
/// # Errors
/// The first write that failed.
pub async fn kubernetes_service(engine: &Arc<Engine>, config: &Config, advertised: SocketAddr) -> Result<(), Status> {
    let address = config.kubernetes_address().to_string();
    let family = if advertised.is_ipv6() { "IPv6" } else { "IPv4" };
    let metadata = json!({"name": NAME, "namespace": NAMESPACE, "labels": {"component": "apiserver", "provider": "kubernetes"}});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": advertised.port()}],
        },
    });
    ensure(engine, &GroupResource::new("", "services"), service, "/spec/ports").await?;
    let skipped = json!({"name": NAME, "namespace": NAMESPACE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}});
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": skipped,
        "subsets": [{"addresses": [{"ip": advertised.ip()}], "ports": [{"name": "https", "port": advertised.port(), "protocol": "TCP"}]}],
    });
    ensure(engine, &GroupResource::new("", "endpoints"), endpoints, "/subsets").await?;
    let labelled = json!({"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": labelled, "addressType": family,
        "endpoints": [{"addresses": [advertised.ip()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": advertised.port(), "protocol": "TCP"}],
    });
    let slices = GroupResource::new("discovery.k8s.io", "endpointslices");
    ensure(engine, &slices, slice.clone(), "/endpoints").await?;
    ensure(engine, &slices, slice, "/ports").await
}

/// Creates the object, or sets the part at `pointer` where it differs.
async fn ensure(engine: &Arc<Engine>, gr: &GroupResource, object: Value, pointer: &str) -> Result<(), Status> {
    let key = Key::new(NAMESPACE, NAME);
    let Some(found) = engine.cached(gr, &key) else {
        return engine.create(gr, NAMESPACE, object, &system_user()).await.map(drop);
    };
    let wanted = object.pointer(pointer).cloned().unwrap_or_default();
    if found.value().pointer(pointer).is_some_and(|there| covers(there, &wanted)) {
        return Ok(());
    }
    let change = move |current: &mut Value| {
        if let Some(part) = current.pointer_mut(pointer) {
            *part = wanted.clone();
        }
        Ok(())
    };
    engine.update(gr, &key, "", &system_user(), &change).await.map(drop)
}

/// Whether all that is wanted stands there; defaults may stand beside it.
fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted.iter().all(|(k, w)| there.get(k).is_some_and(|t| covers(t, w))),
        (Value::Array(there), Value::Array(wanted)) => there.len() == wanted.len() && there.iter().zip(wanted).all(|(t, w)| covers(t, w)),
        (there, wanted) => there == wanted,
    }
}
