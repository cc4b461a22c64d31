//! A pod's volume -> what its driver is told of it, and what is recorded.
//!
//! Source: `getSourceFromSpec`, `getPodInfoAttrs`, `makeVolumeHandle` in `pkg/volume/csi`; `asCSIAccessModeV1` in `csi_client.go`.

use std::collections::BTreeMap;

use api::{
    hex,
    k8s::api::core::v1::{Pod, SecretReference},
};
use csi::{
    Supports,
    v1::{
        VolumeCapability,
        volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode},
    },
};
use sha2::{Digest, Sha256};

use crate::{
    meta,
    volumes::{
        claims,
        ownership::fs_group,
        plugin::{Identity, Mode, NodeVolume, VolumeToMount},
    },
};

const DRIVER: &str = "driverName";
const HANDLE: &str = "volumeHandle";
const LIFECYCLE: &str = "volumeLifecycleMode";
/// Recorded of volumes that are attached: their name stands among those in use.
pub const ATTACHABLE: &str = "attachable";
pub const EPHEMERAL: &str = "Ephemeral";
pub const PERSISTENT: &str = "Persistent";
/// Between a driver's name and a handle, as upstream's unique names have it.
const SEPARATOR: &str = "^";

/// One volume of a driver, as a pod has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    pub driver: String,
    pub handle: String,
    /// It stands in the pod itself, and lives as long.
    pub is_ephemeral: bool,
    pub read_only: bool,
    pub fs_type: String,
    pub attributes: BTreeMap<String, String>,
    pub access_modes: Vec<String>,
    pub mount_options: Vec<String>,
    /// Namespaces and names of Secrets.
    pub stage_secret: Option<(String, String)>,
    pub publish_secret: Option<(String, String)>,
    pub expand_secret: Option<(String, String)>,
}

impl Spec {
    /// # Errors
    /// It is no volume of a driver, or names none.
    pub fn of(volume: &VolumeToMount) -> Result<Self, String> {
        let spec = match &volume.volume.csi {
            Some(_) => Self::inline(volume),
            None => Self::persistent(volume).ok_or("it is not a volume of a CSI driver")?,
        };
        if spec.driver.is_empty() || spec.handle.is_empty() {
            return Err("the CSI driver name or the volume handle is empty".into());
        }
        Ok(spec)
    }

    fn inline(volume: &VolumeToMount) -> Self {
        let (csi, pod) = (volume.volume.csi.clone().unwrap_or_default(), volume.pod());
        let digest = Sha256::digest(format!("{}{}", meta::uid(pod), volume.volume.name));
        let secret = csi.node_publish_secret_ref.map(|secret| (meta::namespace(pod).to_owned(), secret.name));
        Self {
            driver: csi.driver,
            handle: format!("csi-{}", hex(digest)),
            is_ephemeral: true,
            read_only: csi.read_only == Some(true),
            fs_type: csi.fs_type.unwrap_or_default(),
            attributes: csi.volume_attributes.unwrap_or_default(),
            publish_secret: secret,
            ..Self::default()
        }
    }

    fn persistent(volume: &VolumeToMount) -> Option<Self> {
        let spec = volume.persistent()?.spec.clone()?;
        let csi = spec.csi?;
        let named = |secret: Option<SecretReference>| {
            let secret = secret?;
            Some((secret.namespace.unwrap_or_default(), secret.name.unwrap_or_default())).filter(|(_, name)| !name.is_empty())
        };
        Some(Self {
            driver: csi.driver,
            handle: csi.volume_handle,
            is_ephemeral: false,
            read_only: claims::is_read_only(&volume.volume),
            fs_type: csi.fs_type.unwrap_or_default(),
            attributes: csi.volume_attributes.unwrap_or_default(),
            access_modes: spec.access_modes.unwrap_or_default(),
            mount_options: spec.mount_options.unwrap_or_default(),
            stage_secret: named(csi.node_stage_secret_ref),
            publish_secret: named(csi.node_publish_secret_ref),
            expand_secret: named(csi.node_expand_secret_ref),
        })
    }

    /// What unpublishing and unstaging it take, when no object names it any more.
    pub fn identity(&self) -> Identity {
        let recorded = [(DRIVER, self.driver.as_str()), (HANDLE, &self.handle), (LIFECYCLE, self.lifecycle())];
        Identity {
            handle: format!("{}{SEPARATOR}{}", self.driver, self.handle),
            attributes: recorded.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    }

    pub fn lifecycle(&self) -> &'static str {
        if self.is_ephemeral { EPHEMERAL } else { PERSISTENT }
    }

    /// How it is to be had. The pod's group stands there where the driver gives volumes to groups itself.
    pub fn capability(&self, volume: &VolumeToMount, supports: Supports) -> VolumeCapability {
        let group = fs_group(volume.pod()).filter(|_| supports.mount_group).map(|group| group.to_string());
        let access_type = match volume.mode {
            Mode::Block => AccessType::Block(BlockVolume {}),
            Mode::Filesystem => AccessType::Mount(MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags: self.mount_options.clone(),
                volume_mount_group: group.unwrap_or_default(),
            }),
        };
        let mode = access_mode(self.access_modes.first().map_or("ReadWriteOnce", String::as_str), supports);
        VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), access_type: Some(access_type) }
    }
}

fn access_mode(mode: &str, supports: Supports) -> access_mode::Mode {
    use access_mode::Mode;
    match mode {
        "ReadWriteOnce" if supports.single_node_multi_writer => Mode::SingleNodeMultiWriter,
        "ReadWriteOncePod" if supports.single_node_multi_writer => Mode::SingleNodeSingleWriter,
        "ReadWriteOnce" | "ReadWriteOncePod" => Mode::SingleNodeWriter,
        "ReadOnlyMany" => Mode::MultiNodeReaderOnly,
        "ReadWriteMany" => Mode::MultiNodeMultiWriter,
        _ => Mode::Unknown,
    }
}

/// What a driver is told of the pod, where it wants to know.
pub fn pod_info(pod: &Pod, is_ephemeral: bool) -> [(String, String); 5] {
    let account = meta::spec(pod).and_then(|spec| spec.service_account_name.as_deref()).unwrap_or_default();
    [
        ("pod.name", meta::name(pod)),
        ("pod.namespace", meta::namespace(pod)),
        ("pod.uid", meta::uid(pod)),
        ("serviceAccount.name", account),
        ("ephemeral", if is_ephemeral { "true" } else { "false" }),
    ]
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value.to_owned()))
}

/// A volume as its record has it.
pub struct Recorded<'a> {
    pub driver: &'a str,
    pub handle: &'a str,
    pub is_ephemeral: bool,
}

impl<'a> Recorded<'a> {
    /// # Errors
    /// The record does not say whose it is.
    pub fn of(node: &'a NodeVolume) -> Result<Self, String> {
        let of = |key: &str| node.attributes.get(key).map(String::as_str).filter(|text| !text.is_empty());
        let missing = || format!("the record of {:?} does not name its CSI driver and volume", node.handle);
        Ok(Self {
            driver: of(DRIVER).ok_or_else(missing)?,
            handle: of(HANDLE).ok_or_else(missing)?,
            is_ephemeral: of(LIFECYCLE) == Some(EPHEMERAL),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_told_apart_where_the_driver_does() {
        let able = Supports { single_node_multi_writer: true, ..Supports::default() };
        let of = |mode: &str| [access_mode(mode, Supports::default()), access_mode(mode, able)].map(|mode| mode.as_str_name());
        assert_eq!(of("ReadWriteOnce"), ["SINGLE_NODE_WRITER", "SINGLE_NODE_MULTI_WRITER"]);
        assert_eq!(of("ReadWriteOncePod"), ["SINGLE_NODE_WRITER", "SINGLE_NODE_SINGLE_WRITER"]);
        assert_eq!(of("ReadOnlyMany"), ["MULTI_NODE_READER_ONLY"; 2]);
        assert_eq!(of("ReadWriteMany"), ["MULTI_NODE_MULTI_WRITER"; 2]);
    }

    #[test]
    fn what_is_recorded_names_the_driver_and_the_volume() {
        let spec = Spec { driver: "d".into(), handle: "h^1".into(), ..Spec::default() };
        let identity = spec.identity();
        assert_eq!(identity.handle, "d^h^1");
        let node = |attributes| NodeVolume { handle: "x".into(), attributes, staging: "/s".into(), device: None };
        let node_volume = node(identity.attributes);
        let recorded = Recorded::of(&node_volume).unwrap();
        assert_eq!((recorded.driver, recorded.handle, recorded.is_ephemeral), ("d", "h^1", false));
        assert!(Recorded::of(&node(BTreeMap::new())).is_err());
    }
}
