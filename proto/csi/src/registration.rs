//! A socket in the node agent's directory of plugins -> who serves there, and told whether it was taken.
//!
//! Source: `pkg/kubelet/pluginmanager/operationexecutor/operation_generator.go`.

use std::{path::Path, time::Duration};

use crate::{
    call::{MESSAGE_BYTES_MAX, Result, channel, within},
    pluginregistration::{InfoRequest, RegistrationStatus, registration_client::RegistrationClient},
};

/// Upstream waits ten seconds for the connection and one for the answer.
const INFO_BOUND: Duration = Duration::from_secs(10);
/// Upstream's `notifyTimeoutDuration`.
const NOTIFY_BOUND: Duration = Duration::from_secs(5);

pub use crate::pluginregistration::PluginInfo as Info;

/// A plugin that makes itself known.
#[derive(Clone, Debug)]
pub struct Plugin {
    client: RegistrationClient<tonic::transport::Channel>,
}

impl Plugin {
    pub fn at(socket: &Path) -> Self {
        Self { client: RegistrationClient::new(channel(socket)).max_decoding_message_size(MESSAGE_BYTES_MAX) }
    }

    /// # Errors
    /// The plugin's, or that it did not answer in time.
    pub async fn info(&self) -> Result<Info> {
        let mut client = self.client.clone();
        within(INFO_BOUND, InfoRequest {}, |r| async move { client.get_info(r).await }).await
    }

    /// Tells it that it was taken, or why not.
    ///
    /// # Errors
    /// The plugin's, or that it did not answer in time.
    pub async fn notify(&self, taken: std::result::Result<(), &str>) -> Result<()> {
        let mut client = self.client.clone();
        let status = RegistrationStatus { plugin_registered: taken.is_ok(), error: taken.err().unwrap_or_default().to_owned() };
        within(NOTIFY_BOUND, status, |r| async move { client.notify_registration_status(r).await }).await.map(drop)
    }
}
