//! System namespaces that are gone -> made again. Source: `pkg/controlplane/controller/systemnamespaces`.
//!
//! Without `kube-node-lease` no node can renew its lease, and soon all of them count as silent.

use std::{sync::Arc, time::Duration};

use apiserver::engine::Engine;

use super::bootstrap::make_namespaces;

/// Upstream looks each minute. A node that cannot renew its lease is silent after less than that.
const LOOK_EACH: Duration = Duration::from_secs(10);

/// Looks after them for as long as the server runs.
pub async fn keep_namespaces(engine: Arc<Engine>) {
    loop {
        tokio::time::sleep(LOOK_EACH).await;
        if let Err(status) = make_namespaces(&engine).await {
            tracing::warn!(error = status.message, "system namespaces not made; trying again");
        }
    }
}
