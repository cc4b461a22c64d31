//! IPv4 or IPv6 -> what differs between them: words, numbers, the ranges that are the node's own.
//!
//! All that writes rules is made once for each family that is served, as upstream's proxiers are (`pkg/proxy/metaproxier`).

use std::net::IpAddr;

use ipnet::IpNet;

/// What addresses an object of the proxy deals with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Those that pods and services have on our nodes. What is of another one is left out; a range of another one is refused at start.
    pub const SERVED: &[Self] = &[Self::V4];

    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn of_net(net: IpNet) -> Self {
        Self::of(net.addr())
    }

    pub fn is_served(self) -> bool {
        Self::SERVED.contains(&self)
    }

    /// As `ipFamilies` and `addressType` have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// What cannot be on another node. Of IPv6 it is one address.
    pub fn loopback(self) -> IpNet {
        let (ip, bits) = match self {
            Self::V4 => (IpAddr::from([127, 0, 0, 0]), 8),
            Self::V6 => (IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16]), 128),
        };
        IpNet::new_assert(ip, bits)
    }

    pub fn multicast(self) -> IpNet {
        let (ip, bits) = match self {
            Self::V4 => (IpAddr::from([224, 0, 0, 0]), 4),
            Self::V6 => (IpAddr::from([0xff00, 0, 0, 0, 0, 0, 0, 0u16]), 8),
        };
        IpNet::new_assert(ip, bits)
    }

    /// `AF_INET` and `AF_INET6`, which netfilter's numbers are too.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Those of this family.
    pub fn pick(self, ips: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
        ips.into_iter().filter(|ip| Self::of(*ip) == self).collect()
    }

    /// The range of this family, of a list that has at most one of each.
    pub fn pick_net(self, nets: &[IpNet]) -> Option<IpNet> {
        nets.iter().copied().find(|net| Self::of_net(*net) == self)
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}
