//! projected -> a directory of what several sources show, tokens among them, in memory.
//!
//! Source: `pkg/volume/projected/projected.go`.

use api::k8s::api::core::v1::{PersistentVolume, Volume};
use async_trait::async_trait;

use crate::volumes::{
    files,
    payload::{Payload, Reading},
    plugin::{Mounted, VolumePlugin, VolumeToMount},
};

pub struct Projected;

#[async_trait]
impl VolumePlugin for Projected {
    fn name(&self) -> &'static str {
        "projected"
    }

    fn can_support(&self, volume: &Volume, _claimed: Option<&PersistentVolume>) -> bool {
        volume.projected.is_some()
    }

    fn requires_remount(&self) -> bool {
        true
    }

    async fn set_up(&self, volume: VolumeToMount) -> Result<Mounted, String> {
        files::in_memory(self.name(), volume, payload).await
    }
}

pub fn payload(volume: &Volume, reading: &Reading<'_>) -> Option<Result<Payload, String>> {
    volume.projected.as_ref().map(|source| reading.projected(source))
}
