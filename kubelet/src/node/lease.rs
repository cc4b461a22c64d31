//! A node's name -> its Lease, renewed while we live.
//!
//! Upstream: `component-helpers/apimachinery/lease/controller.go`, KEP-589.

use std::time::Duration;

use api::{
    k8s::{
        api::coordination::v1::{Lease, LeaseSpec},
        apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
    },
    time::Timestamp,
};
use client::kube::{
    self, Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

const NAMESPACE: &str = "kube-node-lease";
/// Upstream's `nodeLeaseDurationSeconds`; it is renewed four times in that time.
const DURATION_SECONDS: i32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(200);

/// Why it was not renewed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Refused(#[from] kube::Error),
    /// The client itself waits longer than a Lease lasts.
    #[error("no answer within {RENEW_EVERY:?}")]
    Silent,
}

pub async fn renew(client: Client, node_name: String, node_uid: String) {
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let mut pause = RETRY_MIN;
    loop {
        let tried = tokio::time::timeout(RENEW_EVERY, once(&leases, &node_name, &node_uid)).await;
        match tried.unwrap_or_else(|_| Err(Failed::Silent)) {
            Ok(()) => pause = RENEW_EVERY,
            Err(error) => {
                tracing::warn!(%error, "failed to update node lease");
                pause = (pause.min(RENEW_EVERY / 2) * 2).min(RENEW_EVERY);
            }
        }
        tokio::time::sleep(pause).await;
        if pause == RENEW_EVERY {
            // A failure after this begins with a short pause again.
            pause = RETRY_MIN;
        }
    }
}

async fn once(leases: &Api<Lease>, node_name: &str, node_uid: &str) -> Result<(), Failed> {
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"holderIdentity": node_name, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now}});
    match leases.patch(node_name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            leases.create(&PostParams::default(), &lease(node_name, node_uid, now)).await?;
            Ok(())
        }
        done => Ok(done.map(drop)?),
    }
}

fn lease(node_name: &str, node_uid: &str, now: MicroTime) -> Lease {
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node_name.into(),
        uid: node_uid.into(),
        ..OwnerReference::default()
    };
    Lease {
        metadata: ObjectMeta {
            name: Some(node_name.into()),
            namespace: Some(NAMESPACE.into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node_name.into()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_silent_is_asked_again_while_the_lease_lasts() {
        let asked = Arc::<AtomicUsize>::default();
        let count = asked.clone();
        let silent = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
        });
        let renewing = renew(Client::new(silent, "default"), "n1".into(), "u1".into());
        let lasts = Duration::from_secs(DURATION_SECONDS.unsigned_abs().into());
        assert!(tokio::time::timeout(lasts, renewing).await.is_err());
        assert!(asked.load(Ordering::Relaxed) >= 3, "{asked:?}");
    }
}
