//! `/proc/PID/net/dev` -> bytes and errors of each interface that the process has.

use std::fs;

use serde::Serialize;

/// As upstream's `InterfaceStats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

/// cAdvisor's `defaultNetworkInterfaceName` (`pkg/kubelet/stats/helper.go`).
pub const DEFAULT_INTERFACE: &str = "eth0";

/// Of the network that a process has; of our own, which is the node's, without one. The loopback is left out.
pub fn interfaces(pid: Option<u32>) -> Vec<Interface> {
    let of = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    parse(&fs::read_to_string(format!("/proc/{of}/net/dev")).unwrap_or_default())
}

fn parse(text: &str) -> Vec<Interface> {
    let one = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied();
        Some(Interface { name: name.trim().to_owned(), rx_bytes: at(0)?, rx_errors: at(2)?, tx_bytes: at(8)?, tx_errors: at(10)? })
    };
    text.lines().filter_map(one).filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:     840      10    0    0    0     0          0         0      840      10    0    0    0     0       0          0\n  \
            eth0: 1234 5 1 0 0 0 0 0 5678 9 2 0 0 0 0 0\n";
        let wanted = Interface { name: "eth0".into(), rx_bytes: 1234, rx_errors: 1, tx_bytes: 5678, tx_errors: 2 };
        assert_eq!(parse(text), [wanted]);
    }
}
