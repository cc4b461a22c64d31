//! downwardAPI -> a directory of the pod's own fields, in memory.
//!
//! Source: `pkg/volume/downwardapi/downwardapi.go`.

use api::k8s::api::core::v1::{PersistentVolume, Volume};
use async_trait::async_trait;

use crate::volumes::{
    files,
    payload::{Payload, Reading, mode},
    plugin::{Mounted, VolumePlugin, VolumeToMount},
};

pub struct DownwardApi;

#[async_trait]
impl VolumePlugin for DownwardApi {
    fn name(&self) -> &'static str {
        "downward-api"
    }

    fn can_support(&self, volume: &Volume, _claimed: Option<&PersistentVolume>) -> bool {
        volume.downward_api.is_some()
    }

    fn requires_remount(&self) -> bool {
        true
    }

    async fn set_up(&self, volume: VolumeToMount) -> Result<Mounted, String> {
        files::in_memory(self.name(), volume, payload).await
    }
}

pub fn payload(volume: &Volume, reading: &Reading<'_>) -> Option<Result<Payload, String>> {
    let source = volume.downward_api.as_ref()?;
    Some(reading.downward(source.items.as_deref().unwrap_or_default(), mode(source.default_mode)))
}
