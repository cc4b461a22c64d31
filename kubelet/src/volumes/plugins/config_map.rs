//! configMap -> a directory of its keys, on disk.
//!
//! Source: `pkg/volume/configmap/configmap.go`.

use api::k8s::api::core::v1::{PersistentVolume, Volume};
use async_trait::async_trait;

use crate::volumes::{
    files,
    payload::{Optional, Payload, Reading, mode},
    plugin::{Mounted, VolumePlugin, VolumeToMount},
};

pub struct ConfigMap;

#[async_trait]
impl VolumePlugin for ConfigMap {
    fn name(&self) -> &'static str {
        "configmap"
    }

    fn can_support(&self, volume: &Volume, _claimed: Option<&PersistentVolume>) -> bool {
        volume.config_map.is_some()
    }

    fn requires_remount(&self) -> bool {
        true
    }

    async fn set_up(&self, volume: VolumeToMount) -> Result<Mounted, String> {
        files::on_disk(self.name(), volume, payload).await
    }
}

pub fn payload(volume: &Volume, reading: &Reading<'_>) -> Option<Result<Payload, String>> {
    let source = volume.config_map.as_ref()?;
    Some(reading.config_map(&source.name, source.items.as_deref(), mode(source.default_mode), Optional::of(source.optional)))
}
