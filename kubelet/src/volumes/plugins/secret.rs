//! secret -> a directory of its keys, in memory.
//!
//! Source: `pkg/volume/secret/secret.go`.

use api::k8s::api::core::v1::{PersistentVolume, Volume};
use async_trait::async_trait;

use crate::volumes::{
    files,
    payload::{Optional, Payload, Reading, mode},
    plugin::{Mounted, VolumePlugin, VolumeToMount},
};

pub struct Secret;

#[async_trait]
impl VolumePlugin for Secret {
    fn name(&self) -> &'static str {
        "secret"
    }

    fn can_support(&self, volume: &Volume, _claimed: Option<&PersistentVolume>) -> bool {
        volume.secret.is_some()
    }

    fn requires_remount(&self) -> bool {
        true
    }

    async fn set_up(&self, volume: VolumeToMount) -> Result<Mounted, String> {
        files::in_memory(self.name(), volume, payload).await
    }
}

pub fn payload(volume: &Volume, reading: &Reading<'_>) -> Option<Result<Payload, String>> {
    let source = volume.secret.as_ref()?;
    let name = source.secret_name.as_deref().unwrap_or_default();
    Some(reading.secret(name, source.items.as_deref(), mode(source.default_mode), Optional::of(source.optional)))
}
