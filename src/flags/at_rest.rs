//! Flags -> how objects stand in the store. Names are kube-apiserver's (`pkg/server/options/etcd.go`).

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use api::task::Group;
use apiserver::{
    at_rest::{AtRest, Encryption, Media, reload},
    health::{Health, Where},
};
use clap::Args;

/// What upstream keeps as JSON, whatever is said (the codecs of its extension and aggregator servers).
const JSON_GROUPS: &[&str] = &["apiextensions.k8s.io", "apiregistration.k8s.io"];

/// How objects stand in the store.
#[derive(Args, Clone, Debug)]
pub struct AtRestFlags {
    /// Which objects are encrypted in the store, and how (apiserver.config.k8s.io/v1, EncryptionConfiguration)
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Read that file anew when it changes
    #[arg(long, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub encryption_provider_config_automatic_reload: bool,
    /// How built-in objects are written to the store; all forms are read
    #[arg(long, value_name = "TYPE", default_value = "application/json", value_parser = ["application/json", "application/vnd.kubernetes.protobuf"])]
    pub storage_media_type: String,
}

impl AtRestFlags {
    /// Each KMS is asked once whether it is there.
    ///
    /// # Errors
    /// What is wrong with the file, in upstream's words.
    pub async fn open(&self) -> anyhow::Result<Arc<AtRest>> {
        let media = match self.storage_media_type.as_str() {
            "application/vnd.kubernetes.protobuf" => Media::Protobuf { but: JSON_GROUPS },
            _ => Media::Json,
        };
        let Some(file) = &self.encryption_provider_config else {
            if self.encryption_provider_config_automatic_reload {
                bail!("--encryption-provider-config-automatic-reload must be set with --encryption-provider-config");
            }
            return Ok(AtRest::reading(None, media, kinds::older::STORED));
        };
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(|| {
            format!("error while parsing file: error while loading file: error reading encryption provider configuration file {name:?}")
        })?;
        let read = Encryption::read(&name, &text, self.encryption_provider_config_automatic_reload).await;
        Ok(AtRest::reading(Some(read.map_err(anyhow::Error::msg)?), media, kinds::older::STORED))
    }

    /// What goes on while the server runs: KMSs are asked, the file is looked at. And the check `kms-providers`, where there may be some.
    pub fn keep(&self, at_rest: &Arc<AtRest>, group: &Group, health: &Health) {
        let Some(file) = &self.encryption_provider_config else { return };
        let reloads = self.encryption_provider_config_automatic_reload;
        let has_kms = at_rest.encryption().is_some_and(|encryption| !encryption.kms().is_empty());
        if reloads {
            group.spawn_loop("encryption configuration", reload::follow(at_rest.clone(), file.clone(), reload::LOOK_EACH));
        }
        if reloads || has_kms {
            group.spawn_loop("key management", reload::poll(at_rest.clone()));
            health.add(Where::Everywhere, "kms-providers", reload::check(at_rest));
        }
    }
}
