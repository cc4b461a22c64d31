//! A service port -> the names of its chains, as upstream's kube-proxy makes them: sixteen letters of a hash.

use sha2::{Digest, Sha256};

use crate::model::{Endpoint, ServicePort};

/// Prefixes of the chains that are made per service port.
pub const PREFIXES: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];

/// Endpoints for the policy Cluster.
pub fn cluster(service_port: &ServicePort) -> String {
    of("KUBE-SVC-", service_port)
}

/// Endpoints for the policy Local.
pub fn local(service_port: &ServicePort) -> String {
    of("KUBE-SVL-", service_port)
}

/// What comes from outside.
pub fn external(service_port: &ServicePort) -> String {
    of("KUBE-EXT-", service_port)
}

/// Who may use the balancer's addresses.
pub fn firewall(service_port: &ServicePort) -> String {
    of("KUBE-FW-", service_port)
}

pub fn endpoint(service_port: &ServicePort, endpoint: Endpoint) -> String {
    format!("KUBE-SEP-{}", hash(&format!("{}{}{endpoint}", service_port.name, service_port.protocol.word())))
}

fn of(prefix: &str, service_port: &ServicePort) -> String {
    format!("{prefix}{}", hash(&format!("{}{}", service_port.name, service_port.protocol.word())))
}

/// The first 16 letters of the base32 (RFC 4648) of the SHA-256.
fn hash(text: &str) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(text);
    // Ten bytes are sixteen groups of five bits.
    let bits = digest.iter().take(10).fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..16).rev().map(|group| LETTERS.get((bits >> (group * 5) & 31) as usize).map_or('A', |b| char::from(*b))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_upstream() {
        // ns1/svc1:p80 over TCP with the endpoint 10.180.0.1:80, the standing example of upstream's tests.
        assert_eq!(hash("ns1/svc1:p80tcp"), "XPGD46QRK7WJZT7O");
        assert_eq!(hash("ns1/svc1:p80tcp10.180.0.1:80"), "SXIVWICOYRO3J4NJ");
    }
}
