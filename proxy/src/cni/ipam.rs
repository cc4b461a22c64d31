//! A range and its leases -> the next free address. Pure.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::spec::{Fault, Ipam, Owner, PortMapping};

/// A subnet that pods get addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub subnet: Ipv4Net,
    pub gateway: Ipv4Addr,
}

/// Who has which address: what is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// The address given last: the search goes on after it, so that an address rests as long as possible before it is given again.
    pub last: Option<Ipv4Addr>,
    pub leases: BTreeMap<Ipv4Addr, Lease>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    #[serde(flatten)]
    pub owner: Owner,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
}

impl Range {
    /// The gateway is the first address where none is named.
    ///
    /// # Errors
    /// Code 7 where the subnet is missing, not IPv4, too small, or without the gateway.
    pub fn of(ipam: &Ipam) -> Result<Self, Fault> {
        let subnet: Ipv4Net = match ipam.subnet.parse() {
            Ok(ipnet::IpNet::V4(net)) => net.trunc(),
            Ok(ipnet::IpNet::V6(_)) => {
                return Err(Fault::config(format!("ipam.subnet {:?}: IPv6 pod networks are not supported", ipam.subnet)));
            }
            Err(_) => return Err(Fault::config(format!("ipam.subnet {:?} is not a CIDR", ipam.subnet))),
        };
        if subnet.prefix_len() > 30 {
            return Err(Fault::config(format!("ipam.subnet {subnet} is too small: it has no room for a gateway and a pod")));
        }
        let gateway = ipam.gateway.unwrap_or_else(|| offset(subnet, 1));
        if !subnet.contains(&gateway) {
            return Err(Fault::config(format!("ipam.gateway {gateway} is not in {subnet}")));
        }
        Ok(Self { subnet, gateway })
    }

    fn size(&self) -> u32 {
        // At least 4, as the prefix is at most 30.
        u32::MAX >> self.subnet.prefix_len()
    }

    fn allows(&self, address: Ipv4Addr) -> bool {
        address != self.gateway && address != self.subnet.network() && address != self.subnet.broadcast()
    }
}

impl Leases {
    /// The owner's address, if it has one.
    pub fn of(&self, owner: &Owner) -> Option<Ipv4Addr> {
        self.leases.iter().find(|(_, lease)| lease.owner == *owner).map(|(address, _)| *address)
    }

    /// The owner's address, taken if it had none; asking again gives the same.
    ///
    /// # Errors
    /// Code 11 (try again later) where the range is exhausted.
    pub fn take(&mut self, range: Range, owner: &Owner, ports: &[PortMapping]) -> Result<Ipv4Addr, Fault> {
        let held = self.of(owner).filter(|a| range.subnet.contains(a));
        let Some(address) = held.or_else(|| self.next_free(range)) else {
            return Err(Fault::new(11, format!("no IP addresses available in {}", range.subnet), format!("{} leases", self.leases.len())));
        };
        self.leases.retain(|a, lease| lease.owner != *owner || *a == address);
        self.leases.insert(address, Lease { owner: owner.clone(), ports: ports.to_vec() });
        self.last = Some(address);
        Ok(address)
    }

    /// Gives back all that the owner has; true if it had something.
    pub fn free(&mut self, owner: &Owner) -> Option<Lease> {
        let address = self.of(owner)?;
        self.leases.remove(&address)
    }

    pub fn has_free(&self, range: Range) -> bool {
        self.next_free(range).is_some()
    }

    fn next_free(&self, range: Range) -> Option<Ipv4Addr> {
        let size = range.size();
        let start = self.last.filter(|a| range.subnet.contains(a)).map_or(0, |a| u32::from(a) - u32::from(range.subnet.network()));
        let candidates = (1..=size).map(|step| offset(range.subnet, (start + step) % (size + 1)));
        candidates.chain([offset(range.subnet, start)]).find(|a| range.allows(*a) && !self.leases.contains_key(a))
    }
}

fn offset(subnet: Ipv4Net, by: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).wrapping_add(by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(subnet: &str) -> Range {
        Range::of(&Ipam { subnet: subnet.into(), ..Ipam::default() }).unwrap()
    }

    fn owner(n: usize) -> Owner {
        Owner { container: format!("c{n}"), ifname: "eth0".into() }
    }

    #[test]
    fn nonsense_ranges_are_refused() {
        for subnet in ["", "10.0.0.0", "10.0.0.0/31", "fd00::/64", "10.0.0.0/33"] {
            assert_eq!(Range::of(&Ipam { subnet: subnet.into(), ..Ipam::default() }).unwrap_err().code, 7, "{subnet}");
        }
        let elsewhere = Ipam { subnet: "10.0.0.0/24".into(), gateway: Some([10, 0, 1, 1].into()), ..Ipam::default() };
        assert_eq!(Range::of(&elsewhere).unwrap_err().code, 7);
    }

    #[test]
    fn addresses_go_round_and_rest_before_they_come_again() {
        let (range, mut leases) = (range("10.0.0.0/29"), Leases::default());
        let given: Vec<u8> = (0..5).map(|n| leases.take(range, &owner(n), &[]).unwrap().octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert_eq!(leases.take(range, &owner(9), &[]).unwrap_err().code, 11);
        assert!(leases.free(&owner(1)).is_some());
        assert!(leases.free(&owner(1)).is_none());
        assert_eq!(leases.take(range, &owner(9), &[]).unwrap().octets()[3], 3);
        leases.free(&owner(0));
        leases.free(&owner(4));
        assert_eq!(leases.take(range, &owner(10), &[]).unwrap().octets()[3], 6);
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice_and_asking_again_changes_nothing(steps in proptest::collection::vec((0usize..40, any::<bool>()), 1..200)) {
            let (range, mut leases) = (range("10.9.0.0/27"), Leases::default());
            for (n, take) in steps {
                if !take {
                    leases.free(&owner(n));
                    prop_assert_eq!(leases.of(&owner(n)), None);
                    continue;
                }
                let held = leases.of(&owner(n));
                match leases.take(range, &owner(n), &[]) {
                    Ok(address) => {
                        prop_assert!(range.allows(address) && range.subnet.contains(&address));
                        prop_assert!(held.is_none_or(|h| h == address));
                        prop_assert_eq!(leases.of(&owner(n)), Some(address));
                    }
                    Err(_) => prop_assert_eq!(leases.leases.len(), 29),
                }
            }
            let mut owners: Vec<_> = leases.leases.values().map(|l| l.owner.container.clone()).collect();
            owners.sort();
            owners.dedup();
            prop_assert_eq!(owners.len(), leases.leases.len());
        }
    }
}
