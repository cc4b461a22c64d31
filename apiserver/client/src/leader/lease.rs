//! A Lease <-> what an election reads and writes of it. Source: client-go `resourcelock/leaselock.go`.

use api::{
    k8s::{
        api::coordination::v1::{Lease, LeaseSpec},
        apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    },
    names::segment,
};
use kube::{Error, api::PostParams};

use super::election::{Answer, Ask, Record, Seen};
use crate::{
    is_open,
    watch::{get, requests, send},
};

/// Where the Leases of the control plane stand.
pub(super) const NAMESPACE: &str = "kube-system";

/// One Lease of the API.
pub(super) struct Lock {
    pub client: kube::Client,
    pub name: &'static str,
    /// What others may have written beside the record: it is kept.
    pub kept: ObjectMeta,
}

impl Lock {
    pub async fn ask(&mut self, ask: &Ask) -> Answer {
        match self.carry_out(ask).await {
            Ok(lease) => {
                let seen = seen(&lease);
                self.kept = lease.metadata;
                if *ask == Ask::Read { Answer::Read(seen) } else { Answer::Written(seen.rev) }
            }
            Err(Error::Api(status)) if status.code == 404 && *ask == Ask::Read => Answer::Read(Seen { record: None, rev: 0 }),
            Err(Error::Api(status)) if [404, 409].contains(&status.code) => Answer::Conflict,
            Err(error) => {
                if !is_open(&error) {
                    tracing::warn!(lease = self.name, %error, "the lease may not be written");
                }
                tracing::debug!(lease = self.name, %error, "the lease was not written or read");
                Answer::Open
            }
        }
    }

    async fn carry_out(&self, ask: &Ask) -> Result<Lease, Error> {
        let requests = requests::<Lease>(Some(NAMESPACE));
        let params = PostParams::default();
        let request = match ask {
            Ask::Read => return get::<Lease>(&self.client, Some(NAMESPACE), self.name).await.map(|seen| seen.object),
            Ask::Create(record) => requests.create(&params, body(&self.object(record, None))?),
            Ask::Update(record, rev) => requests.replace(&segment(self.name), &params, body(&self.object(record, Some(*rev)))?),
        };
        send::<Lease>(&self.client, request.map_err(Error::BuildRequest)?).await.map(|seen| seen.object)
    }

    fn object(&self, record: &Record, rev: Option<u64>) -> Lease {
        let named = ObjectMeta { name: Some(self.name.into()), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() };
        let metadata = match rev {
            None => named,
            Some(rev) => {
                let ObjectMeta { labels, annotations, finalizers, owner_references, .. } = self.kept.clone();
                ObjectMeta { resource_version: Some(rev.to_string()), labels, annotations, finalizers, owner_references, ..named }
            }
        };
        let spec = LeaseSpec {
            holder_identity: Some(record.holder.clone()),
            lease_duration_seconds: Some(record.lease_seconds),
            acquire_time: record.acquired.map(MicroTime),
            renew_time: record.renewed.map(MicroTime),
            lease_transitions: Some(record.transitions),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }
}

/// What the Lease says.
pub(super) fn seen(lease: &Lease) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    let record = Record {
        holder: spec.holder_identity.unwrap_or_default(),
        lease_seconds: spec.lease_duration_seconds.unwrap_or_default(),
        acquired: spec.acquire_time.map(|at| at.0),
        renewed: spec.renew_time.map(|at| at.0),
        transitions: spec.lease_transitions.unwrap_or_default(),
    };
    Seen { record: Some(record), rev: lease.metadata.resource_version.as_deref().and_then(|rev| rev.parse().ok()).unwrap_or(0) }
}

fn body(lease: &Lease) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(lease).map_err(Error::SerdeError)
}

#[cfg(test)]
mod tests {
    use api::time::Timestamp;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_others_wrote_beside_the_record_is_kept() {
        let service = tower::service_fn(async |_: http::Request<kube::client::Body>| {
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
        });
        let kept = ObjectMeta { labels: Some([("a".to_owned(), "b".to_owned())].into()), uid: Some("u".into()), ..ObjectMeta::default() };
        let lock = Lock { client: kube::Client::new(service, "default"), name: "kube-scheduler", kept };
        let at = Some(Timestamp::UNIX_EPOCH);
        let record = Record { holder: "us".into(), lease_seconds: 15, acquired: at, renewed: at, transitions: 2 };
        let updated = lock.object(&record, Some(7));
        assert_eq!(seen(&updated), Seen { record: Some(record.clone()), rev: 7 });
        let time = "1970-01-01T00:00:00.000000Z";
        assert_eq!(
            serde_json::to_value(&updated).unwrap(),
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "kube-scheduler", "namespace": "kube-system", "resourceVersion": "7", "labels": {"a": "b"}},
                "spec": {"holderIdentity": "us", "leaseDurationSeconds": 15, "acquireTime": time, "renewTime": time, "leaseTransitions": 2},
            })
        );
        assert_eq!(lock.object(&record, None).metadata.labels, None, "one that is made anew");
    }
}
