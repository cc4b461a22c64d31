//! The configuration's file, read anew when it changes; and the KMSs, asked from time to time.
//!
//! Source: apiserver `pkg/server/options/encryptionconfig/controller/controller.go`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout_at};

use super::{AtRest, Encryption};
use crate::health::{Check, Checked};

/// `EncryptionConfigFileChangePollDuration`
pub const LOOK_EACH: Duration = Duration::from_secs(60);
/// What changed and cannot be used is tried again after the first, then half as often each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), LOOK_EACH);
/// `minKMSPluginCloseGracePeriod`: so long new KMSs have to be well.
const HEALTHY_WITHIN: Duration = Duration::from_secs(10);
const ASK_EACH: Duration = Duration::from_millis(100);
/// How often is looked which KMS is to be asked.
const TICK: Duration = Duration::from_secs(1);

/// Reads the file anew when it is another one, each `each`; what cannot be used is told and left, and goes on as it was.
pub async fn follow(at_rest: Arc<AtRest>, path: PathBuf, each: Duration) {
    let (mut pause, mut told) = (each, String::new());
    loop {
        sleep(pause).await;
        match reload(&at_rest, &path).await {
            Ok(()) => (pause, told) = (each, String::new()),
            Err(error) => {
                if error != told {
                    tracing::error!(error, path = %path.display(), "error processing encryption config file");
                }
                pause = if told.is_empty() { RETRY.0.min(each) } else { (pause * 2).min(RETRY.1).min(each) };
                told = error;
            }
        }
    }
}

async fn reload(at_rest: &AtRest, path: &Path) -> Result<(), String> {
    let name = path.display().to_string();
    let read = tokio::fs::read_to_string(path).await;
    let text = read.map_err(|error| format!("error reading encryption provider configuration file {name:?}: {error}"))?;
    let hash: [u8; 32] = Sha256::digest(&text).into();
    if at_rest.encryption().is_some_and(|now| now.hash == hash) {
        return Ok(());
    }
    let fresh = Arc::new(Encryption::read(&name, &text, true).await?);
    healthy(&fresh).await.map_err(|why| format!("health check for new transformers failed, {why}"))?;
    at_rest.change(fresh);
    tracing::info!(path = name, "loaded new encryption config");
    Ok(())
}

async fn healthy(fresh: &Encryption) -> Result<(), String> {
    let patience: Duration = 2 * fresh.kms().iter().map(|kms| kms.timeout()).sum::<Duration>();
    let until = Instant::now() + patience.max(HEALTHY_WITHIN);
    loop {
        let Ok(checked) = timeout_at(until, all(fresh)).await else { return Err("context deadline exceeded".into()) };
        match checked {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() + ASK_EACH >= until => return Err(why),
            Err(_) => sleep(ASK_EACH).await,
        }
    }
}

/// Asks each KMS when it is time, for as long as the server runs.
pub async fn poll(at_rest: Arc<AtRest>) {
    loop {
        sleep(TICK).await;
        if let Some(encryption) = at_rest.encryption() {
            join_all(encryption.kms().iter().map(|kms| kms.poll())).await;
        }
    }
}

/// The health check `kms-providers`: all of them, as they are configured now.
pub fn check(at_rest: &Arc<AtRest>) -> Check {
    let at_rest = at_rest.clone();
    Arc::new(move || {
        let encryption = at_rest.encryption();
        Box::pin(async move {
            match encryption {
                Some(encryption) => all(&encryption).await,
                None => Ok(()),
            }
        })
    })
}

/// `kmsHealthChecker`
async fn all(encryption: &Encryption) -> Checked {
    let checks = encryption
        .kms()
        .iter()
        .enumerate()
        .map(|(at, kms)| async move { kms.check().await.map_err(|why| format!("kms-provider-{at}: {why}")) });
    let errors: Vec<String> = join_all(checks).await.into_iter().filter_map(Result::err).collect();
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        all => Err(format!("[{}]", all.join(", "))),
    }
}
