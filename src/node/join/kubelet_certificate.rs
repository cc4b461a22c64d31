//! A join token, once -> a certificate of the node's own, renewed before it ends, while everything runs.
//!
//! Upstream: `pkg/kubelet/certificate/{bootstrap,kubelet.go}`, client-go `util/certificate/certificate_manager.go`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::Context;
use api::{certificate::Identity, csr::FOREIGN_ADDRESS, task::Group, time::Timestamp};
use apiserver::certs::look;
use client::{
    certificate::{self, Error, Life, Wanted, new_key, obtain, self_signed, tls, until},
    kube::{self, Client},
    transport::Transport,
};
use parking_lot::Mutex;

use crate::node::{join_token::JoinToken, kept::Kept};

/// Until somebody has signed: who approves by hand needs that long.
const CLIENT_BOUND: Duration = Duration::from_secs(600);
/// A node's server that has nothing to show does not wait longer for the cluster's signature; one of its own stands in for it.
const SERVING_BOUND: Duration = Duration::from_secs(60);
/// While there is something to show: kube-controller-manager approves no serving certificates, so that a person may have to. Upstream: `certificateWaitTimeout`;
/// a minute less, since the kubelet gives up then.
const APPROVAL_BOUND: Duration = Duration::from_secs(840);
/// Of the first one: until the node has been registered, about.
const FIRST_LIFE: Duration = Duration::from_secs(3);
const OWN_LIFE: Duration = Duration::from_secs(3600);
/// After a renewal that failed: the first pause, doubled up to the second.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(600);

/// Who the node is to servers, and what it keeps of that.
#[derive(Clone)]
pub struct Member {
    pub node: String,
    /// PEM
    pub ca: String,
    pub kept: Kept,
    pub transport: Transport,
    pub join_token: Option<JoinToken>,
}

impl Member {
    /// Gets the first certificate for who was invited. From here on the transport shows it.
    ///
    /// # Errors
    /// What the cluster says, in its words.
    pub async fn join(&self, join_token: &JoinToken) -> anyhow::Result<()> {
        let client = self.transport.with_token(&join_token.token.text())?.client();
        self.obtain(&client, &self.kept.join_key()?).await
    }

    /// Renews the certificate before it ends, until the group stops.
    pub fn keep_fresh(&self, life: Life, group: &Group) {
        group.spawn_loop("client certificate", Box::pin(self.clone().rotate(life)));
    }

    async fn rotate(self, mut life: Life) {
        loop {
            // Never at once: what was signed may be as good as expired.
            until(life.renew_at(rand::random_range(0.0..1.0)).max(Timestamp::now() + RETRY_MIN)).await;
            let mut pause = RETRY_MIN;
            while let Err(error) = self.renew_once(life).await {
                tracing::error!(error = format!("{error:#}"), expires = %life.to, "failed to rotate client certificate; retrying");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
            // What was just kept can be read.
            life = self.kept.client().ok().flatten().and_then(|identity| certificate::life(&identity).ok()).unwrap_or(life);
            tracing::info!(until = %life.to, "client certificate rotated");
        }
    }

    /// As the node. Where the servers do not take its certificate any more, with the token, if there is one that lasts: whether it has expired is theirs to
    /// say, whose clocks the cluster goes by.
    pub async fn renew_once(&self, life: Life) -> anyhow::Result<()> {
        let error = match self.renew(&self.transport.client()).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match &self.join_token {
            Some(join_token) if is_refused(&error) || life.is_over(Timestamp::now()) => {
                let joined = self.join(join_token).await;
                joined.context("the certificate is not taken any more, and so, perhaps, is the token")
            }
            None if life.is_over(Timestamp::now()) => Err(error
                .context("the certificate has expired: start the agent with a new --token (`skiff token create` on a server prints one)")),
            _ => Err(error),
        }
    }

    pub async fn renew(&self, client: &Client) -> anyhow::Result<()> {
        self.obtain(client, &self.kept.next_key()?).await
    }

    async fn obtain(&self, client: &Client, key: &str) -> anyhow::Result<()> {
        let identity = obtain(client, &Wanted::node_client(&self.node), key, CLIENT_BOUND).await?;
        let shown = tls(&self.ca, Some(&identity)).map_err(anyhow::Error::msg)?;
        self.kept.set_client(&self.ca, &identity);
        self.transport.set_tls(shown);
        Ok(())
    }

    /// Who makes the certificates of the node's own server.
    ///
    /// The cluster signs for addresses that the node has reported, which it does once it serves: the first one is its own, and is replaced at once.
    pub fn serving(&self, host_name: &str, address: IpAddr) -> kubelet::Issuer {
        let (member, wanted) = (self.clone(), Wanted::node_serving(&self.node, vec![host_name.to_owned()], vec![address]));
        // What was kept is the first, so that a start needs no server.
        let first = self.kept.serving().ok().flatten().filter(|kept| is_good(kept, &wanted));
        let held = Arc::new(Mutex::new(first.as_ref().and_then(|kept| certificate::life(kept).ok())));
        let first = Arc::new(Mutex::new(first));
        Arc::new(move || {
            let (member, wanted, held) = (member.clone(), wanted.clone(), held.clone());
            let first = first.lock().take();
            Box::pin(async move {
                if let Some(kept) = first {
                    return Ok(kept);
                }
                let last = *held.lock();
                let identity = match last {
                    None => self_signed(&wanted, FIRST_LIFE, Timestamp::now()).map_err(|error| error.to_string())?,
                    Some(last) => member.serving_now(&wanted, last).await?,
                };
                *held.lock() = certificate::life(&identity).ok();
                Ok(identity)
            })
        })
    }

    /// For what is wanted; where others are called so as well, for the node's name, by which the API server knows it at any address.
    async fn signed(&self, wanted: &Wanted, bound: Duration) -> Result<Identity, Error> {
        let client = self.transport.client();
        match obtain(&client, wanted, &new_key()?, bound).await {
            Err(Error::Denied { reason, message, .. }) if reason == FOREIGN_ADDRESS => {
                tracing::warn!(message, "the cluster does not sign for all that this machine is called; asking for the node's name alone");
                let by_name = Wanted::node_serving(&self.node, vec![self.node.clone()], Vec::new());
                obtain(&client, &by_name, &new_key()?, bound).await
            }
            done => done,
        }
    }

    /// `held`: how long the last one is good. While it is, a failure is told; after it, a certificate of our own is better than none.
    async fn serving_now(&self, wanted: &Wanted, held: Life) -> Result<Identity, String> {
        let error = match self.signed(wanted, patience(held, Timestamp::now())).await {
            Ok(identity) => {
                self.kept.set_serving(&identity);
                return Ok(identity);
            }
            Err(error) => error,
        };
        if !held.is_over(Timestamp::now()) {
            return Err(error.to_string());
        }
        tell_own(&error);
        own(wanted, Timestamp::now()).map_err(|error| error.to_string())
    }
}

/// How long a signature is waited for: as long as what is held is good, within bounds.
fn patience(held: Life, now: Timestamp) -> Duration {
    Duration::try_from(held.to.duration_since(now)).unwrap_or_default().clamp(SERVING_BOUND, APPROVAL_BOUND)
}

/// It serves for [`OWN_LIFE`] from now; most of its life is over already, so that a signed one is asked for at once, and an approval is never missed.
fn own(wanted: &Wanted, now: Timestamp) -> Result<Identity, Error> {
    self_signed(wanted, 10 * OWN_LIFE, before(now, 9 * OWN_LIFE))
}

fn before(now: Timestamp, span: Duration) -> Timestamp {
    now.checked_sub(span).unwrap_or(now)
}

/// Servers do not know who we are.
fn is_refused(error: &anyhow::Error) -> bool {
    let of_api = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(Error::Create(error)) => Some(&**error),
        _ => None,
    });
    matches!(of_api, Some(kube::Error::Api(status)) if status.code == 401)
}

fn tell_own(error: &Error) {
    let minutes = OWN_LIFE.as_secs() / 60;
    tracing::warn!(%error, minutes, "the cluster has not signed a serving certificate; serving with one of our own, which servers that check it refuse");
}

/// Signed by somebody, not over, and of all our addresses.
fn is_good(kept: &Identity, wanted: &Wanted) -> bool {
    let Ok(seen) = look(&kept.chain_pem) else { return false };
    let covers = wanted.dns.iter().all(|name| seen.dns.contains(name)) && wanted.addresses.iter().all(|one| seen.addresses.contains(one));
    covers && certificate::life(kept).is_ok_and(|life| !life.is_over(Timestamp::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_approves_by_hand_may_take_their_time_and_nothing_expired_is_shown_meanwhile() {
        let (now, wanted) = (Timestamp::now(), Wanted::node_serving("a", vec!["a".into()], Vec::new()));
        let stands_in = certificate::life(&own(&wanted, now).unwrap()).unwrap();
        assert!(stands_in.renew_at(0.0) <= now && stands_in.renew_at(0.999) <= now, "a signed one is asked for at once");
        assert!(!stands_in.is_over(now + OWN_LIFE - Duration::from_secs(2)) && stands_in.is_over(now + OWN_LIFE));
        assert_eq!(patience(stands_in, now), APPROVAL_BOUND);
        let first = Life { from: now, to: now + FIRST_LIFE };
        assert_eq!(patience(first, now), SERVING_BOUND);
        assert_eq!(patience(first, now + OWN_LIFE), SERVING_BOUND);
        let ending = Life { from: now, to: now + Duration::from_secs(300) };
        assert_eq!(patience(ending, now), Duration::from_secs(300));
    }

    #[test]
    fn a_kept_certificate_serves_while_it_is_good_and_fits() {
        let wanted =
            |addresses: &[&str]| Wanted::node_serving("a", vec!["a".into()], addresses.iter().map(|one| one.parse().unwrap()).collect());
        let now = Timestamp::now();
        let own = self_signed(&wanted(&["10.0.0.5", "127.0.0.1"]), Duration::from_secs(60), now).unwrap();
        assert!(is_good(&own, &wanted(&["10.0.0.5"])));
        assert!(!is_good(&own, &wanted(&["10.0.0.6"])), "the machine has another address");
        let old = self_signed(&wanted(&["10.0.0.5"]), Duration::ZERO, now).unwrap();
        assert!(!is_good(&old, &wanted(&["10.0.0.5"])));
    }
}
