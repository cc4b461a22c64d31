//! Who issues certificates -> the node server's, renewed long before it expires, while it serves.
//!
//! Upstream: `client-go/util/certificate/certificate_manager.go`.

use std::{sync::Arc, time::Duration};

use api::{certificate::Identity, task::Group, time::Timestamp};
use client::certificate::{Life, until};
use futures::future::BoxFuture;

use crate::server::{Serving, TlsError};

/// After a renewal that failed: the first pause, doubled up to the second.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// How long issuing may take.
const ISSUE_MAX: Duration = Duration::from_secs(900);

/// Makes a new serving certificate each time; users see the error.
pub type Issuer = Arc<dyn Fn() -> BoxFuture<'static, Result<Identity, String>> + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no serving certificate: {0}")]
    Issue(String),
    #[error("serving certificate: {0}")]
    Tls(#[from] TlsError),
}

/// Gets the first certificate, and then a new one whenever most of the life of the last is over, until `group` stops.
///
/// # Errors
/// Where there is no first one. Later failures are logged and tried again.
pub async fn start(issuer: Issuer, group: &Group) -> Result<Arc<Serving>, Error> {
    let first = issue(&issuer).await?;
    let serving = Serving::new(&first.chain_pem, &first.key_pem)?;
    group.spawn_loop("serving certificate", Box::pin(keep_fresh(serving.clone(), issuer)));
    Ok(serving)
}

async fn keep_fresh(serving: Arc<Serving>, issuer: Issuer) {
    loop {
        // Renewals of nodes that started together are spread.
        let (from, to) = serving.life();
        let at = Life { from, to }.renew_at(rand::random_range(0.0..1.0));
        // Never at once: an issuer may give what is as good as expired.
        until(at.max(Timestamp::now() + RETRY_MIN)).await;
        let mut pause = RETRY_MIN;
        while let Err(error) = renew(&serving, &issuer).await {
            tracing::error!(%error, "failed to rotate serving certificate; retrying");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        tracing::info!("serving certificate rotated");
    }
}

async fn renew(serving: &Serving, issuer: &Issuer) -> Result<(), Error> {
    let issued = issue(issuer).await?;
    Ok(serving.replace(&issued.chain_pem, &issued.key_pem)?)
}

async fn issue(issuer: &Issuer) -> Result<Identity, Error> {
    let issued = tokio::time::timeout(ISSUE_MAX, issuer()).await;
    issued.unwrap_or_else(|_| Err(format!("no answer within {ISSUE_MAX:?}"))).map_err(Error::Issue)
}
