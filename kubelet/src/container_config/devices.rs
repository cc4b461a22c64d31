//! Container + the pod's volumes -> the block devices that it has.
//!
//! Source: `makeBlockVolumes` in `pkg/kubelet/kubelet_pods.go`.

use api::k8s::api::core::v1::Container;

use super::ConfigError;
use crate::context::PodContext;

/// All devices of one container.
///
/// # Errors
/// [`ConfigError`] in upstream's words.
pub fn of(cx: &PodContext, container: &Container) -> Result<Vec<cri::Device>, ConfigError> {
    let one = |device: &api::k8s::api::core::v1::VolumeDevice| {
        let refused = |why| Err(ConfigError::Refused(why));
        if !device.device_path.starts_with('/') {
            return refused(format!("error DevicePath `{}` must be an absolute path", device.device_path));
        }
        let Some(found) = cx.volumes.as_ref().and_then(|v| v.device(&device.name)) else {
            return refused(format!("cannot find volume {:?} to pass into container {:?}", device.name, container.name));
        };
        Ok(cri::Device {
            container_path: device.device_path.clone(),
            host_path: found.path.display().to_string(),
            permissions: if found.read_only { "r" } else { "mrw" }.into(),
        })
    };
    container.volume_devices.iter().flatten().map(one).collect()
}
