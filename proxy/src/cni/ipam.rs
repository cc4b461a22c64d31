//! A range and its leases -> the next free address. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::spec::{Fault, Ipam, Owner, PortMapping};
use crate::family::Family;

/// A subnet that pods get addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub subnet: IpNet,
    pub gateway: IpAddr,
}

/// Who has which address: what is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// The address given last: the search goes on after it, so that an address rests as long as possible before it is given again.
    pub last: Option<IpAddr>,
    pub leases: BTreeMap<IpAddr, Lease>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    #[serde(flatten)]
    pub owner: Owner,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
}

impl Range {
    /// The range of a network that is served.
    ///
    /// # Errors
    /// As [`Range::new`], and code 7 for a family that is not served.
    pub fn of(ipam: &Ipam) -> Result<Self, Fault> {
        let range = Self::new(ipam)?;
        if !range.family().is_served() {
            return Err(Fault::config(format!("ipam.subnet {:?}: {} pod networks are not supported", ipam.subnet, range.family())));
        }
        Ok(range)
    }

    /// The gateway is the first address where none is named.
    ///
    /// # Errors
    /// Code 7 where the subnet is missing, too small, or without the gateway.
    fn new(ipam: &Ipam) -> Result<Self, Fault> {
        let Ok(subnet) = ipam.subnet.parse().map(|net: IpNet| net.trunc()) else {
            return Err(Fault::config(format!("ipam.subnet {:?} is not a CIDR", ipam.subnet)));
        };
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Err(Fault::config(format!("ipam.subnet {subnet} is too small: it has no room for a gateway and a pod")));
        }
        let gateway = ipam.gateway.unwrap_or_else(|| offset(subnet, 1));
        if !subnet.contains(&gateway) {
            return Err(Fault::config(format!("ipam.gateway {gateway} is not in {subnet}")));
        }
        Ok(Self { subnet, gateway })
    }

    pub fn family(&self) -> Family {
        Family::of_net(self.subnet)
    }

    /// The bits by which addresses of the range differ: the offset of the last one.
    fn host_bits(&self) -> u128 {
        number(self.subnet.hostmask())
    }

    /// IPv6 knows no broadcast. Source: `host-local`, `range.go`.
    fn allows(&self, address: IpAddr) -> bool {
        let broadcast = address == self.subnet.broadcast() && self.family() == Family::V4;
        address != self.gateway && address != self.subnet.network() && !broadcast
    }
}

impl Leases {
    /// The owner's address, if it has one.
    pub fn of(&self, owner: &Owner) -> Option<IpAddr> {
        self.leases.iter().find(|(_, lease)| lease.owner == *owner).map(|(address, _)| *address)
    }

    /// The owner's address, taken if it had none; asking again gives the same.
    ///
    /// # Errors
    /// Code 11 (try again later) where the range is exhausted.
    pub fn take(&mut self, range: Range, owner: &Owner, ports: &[PortMapping]) -> Result<IpAddr, Fault> {
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

    /// Of the addresses that are looked at, all but a few are leased: a range may have more than could be counted.
    fn next_free(&self, range: Range) -> Option<IpAddr> {
        let mask = range.host_bits();
        let start = self.last.filter(|a| range.subnet.contains(a)).map_or(0, |a| number(a) & mask);
        let candidates = (1..=mask).map(|step| offset(range.subnet, start.wrapping_add(step) & mask));
        candidates.chain([offset(range.subnet, start)]).find(|a| range.allows(*a) && !self.leases.contains_key(a))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn offset(subnet: IpNet, by: u128) -> IpAddr {
    let address = number(subnet.network()).wrapping_add(by);
    match subnet {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(address).unwrap_or(u32::MAX).into()),
        IpNet::V6(_) => IpAddr::V6(address.into()),
    }
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

    fn last_byte(address: Result<IpAddr, Fault>) -> u8 {
        (number(address.unwrap()) & 255) as u8
    }

    #[test]
    fn nonsense_ranges_are_refused() {
        for subnet in ["", "10.0.0.0", "10.0.0.0/31", "fd00::/64", "10.0.0.0/33"] {
            assert_eq!(Range::of(&Ipam { subnet: subnet.into(), ..Ipam::default() }).unwrap_err().code, 7, "{subnet}");
        }
        let elsewhere = Ipam { subnet: "10.0.0.0/24".into(), gateway: Some([10, 0, 1, 1].into()), ..Ipam::default() };
        assert_eq!(Range::of(&elsewhere).unwrap_err().code, 7);
    }

    /// As `host-local` gives them: all but the subnet's own address and the gateway's. A range of 2^64 addresses costs what its leases do.
    #[test]
    fn a_range_of_ipv6_is_handed_out_without_being_counted() {
        let of = |subnet: &str| Range::new(&Ipam { subnet: subnet.into(), ..Ipam::default() });
        let (range, mut leases) = (of("fd00:77::/64").unwrap(), Leases::default());
        assert_eq!((range.family(), range.gateway), (Family::V6, "fd00:77::1".parse().unwrap()));
        let given: Vec<String> = (0..1000).map(|n| leases.take(range, &owner(n), &[]).unwrap().to_string()).collect();
        assert_eq!((given[0].as_str(), given[999].as_str()), ("fd00:77::2", "fd00:77::3e9"));
        assert_eq!(leases.take(range, &owner(7), &[]).unwrap().to_string(), given[7], "asking again changes nothing");
        assert!(leases.free(&owner(0)).is_some() && leases.has_free(range));
        assert_eq!(leases.take(range, &owner(1000), &[]).unwrap().to_string(), "fd00:77::3ea", "what came back rests");
        leases.last = Some("fd00:77::ffff:ffff:ffff:fffe".parse().unwrap());
        let next: Vec<String> = (2000..2002).map(|n| leases.take(range, &owner(n), &[]).unwrap().to_string()).collect();
        assert_eq!(
            next,
            ["fd00:77::ffff:ffff:ffff:ffff", "fd00:77::2"],
            "the last one is an address as any, and then the first free one comes"
        );
        let kept: Leases = serde_json::from_slice(&serde_json::to_vec(&leases).unwrap()).unwrap();
        assert_eq!(kept, leases);
        assert_eq!(leases.leases.len(), 1002);
        let (small, mut leases) = (of("fd00::/126").unwrap(), Leases::default());
        let given: Vec<u8> = (0..2).map(|n| last_byte(leases.take(small, &owner(n), &[]))).collect();
        assert_eq!((given, leases.take(small, &owner(9), &[]).unwrap_err().code), (vec![2, 3], 11));
        assert_eq!(Leases::default().take(of("::/0").unwrap(), &owner(9), &[]).unwrap().to_string(), "::2");
        assert_eq!(of("fd00::/127").unwrap_err().code, 7);
        let elsewhere = Ipam { subnet: "fd00::/64".into(), gateway: Some([10, 0, 0, 1].into()), ..Ipam::default() };
        assert_eq!(Range::new(&elsewhere).unwrap_err().code, 7);
    }

    #[test]
    fn addresses_go_round_and_rest_before_they_come_again() {
        let (range, mut leases) = (range("10.0.0.0/29"), Leases::default());
        let given: Vec<u8> = (0..5).map(|n| last_byte(leases.take(range, &owner(n), &[]))).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert_eq!(leases.take(range, &owner(9), &[]).unwrap_err().code, 11);
        assert!(leases.free(&owner(1)).is_some());
        assert!(leases.free(&owner(1)).is_none());
        assert_eq!(last_byte(leases.take(range, &owner(9), &[])), 3);
        leases.free(&owner(0));
        leases.free(&owner(4));
        assert_eq!(last_byte(leases.take(range, &owner(10), &[])), 6);
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
