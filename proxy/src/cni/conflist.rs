//! The node's pod network -> the file that a container runtime reads.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde_json::json;

use super::{BRIDGE, PLUGIN};

const FILE: &str = "10-skiff.conflist";

/// The pod network of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Of the network, and of the directory of its leases: letters, digits, `-`, `_`, `.`.
    pub name: String,
    pub bridge: String,
    /// The node's own part of the cluster CIDR (`spec.podCIDR`).
    pub pod_cidr: IpNet,
    /// The first address of `pod_cidr` where `None`.
    pub gateway: Option<IpAddr>,
    /// Bytes; 0 leaves the kernel's default.
    pub mtu: u32,
    /// Holds `<name>/leases.json`.
    pub data_dir: PathBuf,
}

impl NetworkConfig {
    /// The network `skiff` over the bridge [`BRIDGE`].
    pub fn new(pod_cidr: IpNet, data_dir: &Path) -> Self {
        Self { name: "skiff".into(), bridge: BRIDGE.into(), pod_cidr, gateway: None, mtu: 0, data_dir: data_dir.into() }
    }
}

/// Writes the conflist into `dir` (the runtime's `conf_dir`), whole or not at all. Returns its path; leaves an equal file alone.
///
/// # Errors
/// What the file system says.
pub fn write_conflist(dir: &Path, network: &NetworkConfig) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let path = dir.join(FILE);
    let text = text(network);
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(path);
    }
    let fresh = dir.join(format!(".{FILE}.new"));
    fs::write(&fresh, text)?;
    fs::rename(&fresh, &path)?;
    Ok(path)
}

fn text(network: &NetworkConfig) -> String {
    let mut ipam = json!({"type": PLUGIN, "subnet": network.pod_cidr.to_string(), "dataDir": network.data_dir});
    if let Some(gateway) = network.gateway {
        ipam["gateway"] = json!(gateway);
    }
    let plugin =
        json!({"type": PLUGIN, "bridge": network.bridge, "mtu": network.mtu, "ipam": ipam, "capabilities": {"portMappings": true}});
    // 0.4.0 is what every runtime in use reads.
    format!("{:#}\n", json!({"cniVersion": "0.4.0", "name": network.name, "plugins": [plugin]}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_written_twice_without_harm() {
        let dir = tempfile::tempdir().unwrap();
        let network = NetworkConfig::new("10.244.0.0/24".parse().unwrap(), Path::new("/var/lib/x"));
        for _ in 0..2 {
            let path = write_conflist(dir.path(), &network).unwrap();
            let read: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            assert_eq!(read["plugins"][0]["ipam"]["subnet"], "10.244.0.0/24");
            assert_eq!(read["plugins"][0]["capabilities"]["portMappings"], true);
        }
    }
}
