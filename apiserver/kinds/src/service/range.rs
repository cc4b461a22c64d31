//! A network -> its addresses that can be given out, as numbers. Source: `pkg/registry/core/service/ipallocator/ipallocator.go`.

use std::{fmt, net::IpAddr, ops::Range as Span};

use ipnet::IpNet;

use crate::{config::Config, net};

/// Shortest prefix that is given out of, for IPv6.
const PREFIX_V6_MIN: u8 = 64;

/// One network that cluster IPs are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range(IpNet);

/// What the numbers of addresses are counted in: all of IPv4, or one /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Line {
    V4,
    V6(u64),
}

impl Range {
    /// The range that the flags name, in their order: the first is the default family's.
    pub fn configured(config: &Config) -> Vec<Self> {
        config.service_cidrs.iter().map(|cidr| Self(cidr.trunc())).collect()
    }

    /// `None` where it is no network that anything is given out of.
    pub fn parse(cidr: &str) -> Option<Self> {
        let net = cidr.parse::<IpNet>().ok()?.trunc();
        (net.addr().is_ipv4() || net.prefix_len() >= PREFIX_V6_MIN).then_some(Self(net))
    }

    pub fn family(self) -> &'static str {
        net::family(self.0.network())
    }

    /// The address that stands for it, which is given to nobody.
    pub fn network(self) -> IpAddr {
        self.0.network()
    }

    pub fn line(self) -> Line {
        place(self.0.network()).0
    }

    /// Whether the address can be given out of it: neither the network's own nor, of IPv4, the broadcast address.
    pub fn has(self, address: IpAddr) -> bool {
        let (line, number) = place(address);
        line == self.line() && self.span().contains(&number)
    }

    /// The numbers of all that can be given out.
    pub fn span(self) -> Span<u64> {
        let first = place(self.0.network()).1.saturating_add(1);
        let last = place(self.0.broadcast()).1;
        // The last number of a line is no number of a span: nobody misses one address of a /64.
        first..if self.0.addr().is_ipv4() { last } else { last.saturating_add(1) }
    }

    /// Where the part begins that addresses are given out of first; the numbers below are for who asks for a certain one (KEP-3070).
    pub fn reserved_end(self) -> u64 {
        let bits = u32::from(self.0.max_prefix_len() - self.0.prefix_len());
        let size = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
        let span = self.span();
        span.start.saturating_add(reserved(size, 16, 256)).min(span.end)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an address stands.
pub fn place(address: IpAddr) -> (Line, u64) {
    match address {
        IpAddr::V4(four) => (Line::V4, u64::from(u32::from(four))),
        IpAddr::V6(six) => {
            let number = u128::from(six);
            // Cut on purpose: the halves.
            (Line::V6((number >> 64) as u64), number as u64)
        }
    }
}

/// The address of a number that [`place`] gave.
pub fn address(line: Line, number: u64) -> IpAddr {
    match line {
        Line::V4 => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        Line::V6(high) => IpAddr::V6((u128::from(high) << 64 | u128::from(number)).into()),
    }
}

/// The band that is given out last: a `step`th of the range, at least 16 and at most `max`; none of a small range (KEP-3070, KEP-3668).
pub fn reserved(size: u64, step: u64, max: u64) -> u64 {
    if size <= 16 { 0 } else { (size / step).clamp(16, max) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cidr: &str) -> Range {
        Range::parse(cidr).unwrap()
    }

    #[test]
    fn only_hosts_are_given_out() {
        let small = range("10.96.0.0/28");
        for inside in ["10.96.0.1", "10.96.0.14"] {
            assert!(small.has(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.96.0.0", "10.96.0.15", "10.96.0.16", "10.95.255.255", "::1", "::a60:1"] {
            assert!(!small.has(outside.parse().unwrap()), "{outside}");
        }
        let six = range("fd00::/112");
        assert!(
            six.has("fd00::ffff".parse().unwrap()) && !six.has("fd00::".parse().unwrap()) && !six.has("fd00:0:0:1::1".parse().unwrap())
        );
        assert_eq!([range("10.0.0.0/31"), range("10.0.0.0/32"), range("fd00::/128")].map(|r| r.span().is_empty()), [true; 3]);
        assert_eq!([range("10.96.0.0/12"), range("fd00::/112")].map(|r| r.span().end - r.span().start), [(1 << 20) - 2, 65535]);
        assert_eq!(Range::parse("fd00::/63"), None);
        assert_eq!(range("fd00::/64").span(), 1..u64::MAX);
    }

    #[test]
    fn numbers_and_addresses_correspond() {
        for text in ["0.0.0.0", "10.96.0.1", "255.255.255.255", "fd00::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            let given: IpAddr = text.parse().unwrap();
            let (line, number) = place(given);
            assert_eq!(address(line, number), given);
        }
    }

    #[test]
    fn the_band_for_certain_ones_is_upstreams() {
        assert_eq!((reserved(16, 16, 256), reserved(32, 16, 256), reserved(4096, 16, 256), reserved(2768, 32, 128)), (0, 16, 256, 86));
        assert_eq!(range("10.96.0.0/12").reserved_end(), range("10.96.0.0/12").span().start + 256);
        assert_eq!(range("10.96.0.0/28").reserved_end(), range("10.96.0.0/28").span().start);
    }
}
