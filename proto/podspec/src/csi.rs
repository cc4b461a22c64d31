//! Volumes of CSI drivers -> the names by which control plane and nodes speak of them.
//!
//! Source: `pkg/volume/csi/{csi_plugin,csi_attacher}.go`, `GetUniqueVolumeName` in `pkg/volume/util/util.go`.

use api::{
    hex,
    k8s::api::{
        core::v1::{CSIPersistentVolumeSource, PersistentVolume},
        storage::v1::CSIDriverSpec,
    },
};
use sha2::{Digest, Sha256};

/// What the names of such volumes begin with, in `status.volumesAttached` and `status.volumesInUse` of nodes.
pub const PREFIX: &str = "kubernetes.io/csi/";

/// What a volume of a driver is.
pub fn source(volume: &PersistentVolume) -> Option<&CSIPersistentVolumeSource> {
    volume.spec.as_ref()?.csi.as_ref()
}

/// As nodes name the volume: `kubernetes.io/csi/<driver>^<handle>`.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("{PREFIX}{driver}^{handle}")
}

/// [`unique_name`] of a volume of a driver.
pub fn name_of(volume: &PersistentVolume) -> Option<String> {
    source(volume).map(|csi| unique_name(&csi.driver, &csi.volume_handle))
}

/// Driver and handle of a [`unique_name`]; `None` for volumes of other plugins. No driver's name has a `^`.
pub fn split(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PREFIX)?.split_once('^')
}

/// The name of the `VolumeAttachment` of a volume and a node: `csi-<sha256>`. Upstream: `getAttachmentName`.
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex(Sha256::new().chain_update(handle).chain_update(driver).chain_update(node).finalize()))
}

/// Whether volumes of the driver are attached before they are had; where nobody described the driver they are. Upstream: `skipAttach`.
pub fn is_attachable(driver: Option<&CSIDriverSpec>) -> bool {
    driver.and_then(|driver| driver.attach_required) != Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        let name = unique_name("hostpath.csi.k8s.io", "vol^1");
        assert_eq!(name, "kubernetes.io/csi/hostpath.csi.k8s.io^vol^1");
        assert_eq!(split(&name), Some(("hostpath.csi.k8s.io", "vol^1")));
        assert_eq!((split("kubernetes.io/iscsi/x"), split("kubernetes.io/csi/nothing")), (None, None));
        // printf '%s' test-voltest-drivertest-node | sha256sum
        let wanted = "csi-9b6f67330b7785ca42789ece3ed80d1edd7f35bc1d40caa6fa09f0fcb672883d";
        assert_eq!(attachment_name("test-vol", "test-driver", "test-node"), wanted);
    }
}
