//! An address or a network as text -> what is wrong with it, in upstream's words. Source: apimachinery `pkg/util/validation/ip.go`.
//!
//! The rules are the strict ones (`StrictIPCIDRValidation`, on since 1.36).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub use apiserver::connect::is_global_unicast;

/// Parses an address as upstream's `ParseIPSloppy` does: leading zeros in IPv4 parts are passed over.
pub fn parse(value: &str) -> Option<IpAddr> {
    value.parse().ok().or_else(|| without_zeros(value).parse::<Ipv4Addr>().ok().map(IpAddr::V4))
}

/// Parses a network as upstream's `ParseCIDRSloppy` does; its address may have bits beyond the prefix.
pub fn parse_network(value: &str) -> Option<IpNet> {
    let (address, bits) = value.split_once('/')?;
    IpNet::new(parse(address)?, prefix_length(bits)?).ok()
}

/// `IPv4` or `IPv6`, as `ipFamilies` and `addressType` write it.
pub fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// `IsValidIPForLegacyField`
pub fn ip(value: &str) -> Vec<String> {
    if parse(value).is_none() {
        return vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()];
    }
    match value.parse::<IpAddr>() {
        Err(_) => vec!["must not have leading 0s".into()],
        Ok(IpAddr::V6(six)) if six.to_ipv4_mapped().is_some() => vec!["must not be an IPv4-mapped IPv6 address".into()],
        Ok(_) => Vec::new(),
    }
}

/// `IsValidIP`: as [`ip`], and in canonical form.
pub fn canonical_ip(value: &str) -> Vec<String> {
    let errors = ip(value);
    match value.parse::<IpAddr>() {
        Ok(address) if errors.is_empty() && address.to_string() != value => vec![format!("must be in canonical form (\"{address}\")")],
        _ => errors,
    }
}

/// `IsValidCIDRForLegacyField`
pub fn cidr(value: &str) -> Vec<String> {
    let invalid = || vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()];
    let Some((address, bits)) = value.split_once('/') else { return invalid() };
    let Some(network) = parse_network(value) else { return invalid() };
    let address_read = network.addr();
    if address.parse::<IpAddr>().is_err() || (bits.len() > 1 && bits.starts_with('0')) {
        return vec!["must not have leading 0s in IP or prefix length".into()];
    }
    match address_read {
        IpAddr::V6(six) if six.to_ipv4_mapped().is_some() => vec!["must not have an IPv4-mapped IPv6 address".into()],
        _ if network.addr() != network.network() => vec!["must not have bits set beyond the prefix length".into()],
        _ => Vec::new(),
    }
}

/// `IsValidCIDR`: as [`cidr`], and in canonical form.
pub fn canonical_cidr(value: &str) -> Vec<String> {
    let errors = cidr(value);
    match value.parse::<IpNet>() {
        Ok(network) if errors.is_empty() && network.to_string() != value => vec![format!("must be in canonical form (\"{network}\")")],
        _ => errors,
    }
}

/// `IsValidInterfaceAddress`: an address with the length of its network's prefix.
pub fn interface_address(value: &str) -> Vec<String> {
    let Some(network) = parse_network(value) else {
        return vec!["must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".into()];
    };
    let mapped = match network.addr() {
        IpAddr::V6(six) => six.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    };
    let canonical = match mapped {
        Some(four) => format!("{four}/{}", network.prefix_len().saturating_sub(96)),
        None => format!("{}/{}", network.addr(), network.prefix_len()),
    };
    if value == canonical { Vec::new() } else { vec![format!("must be in canonical form ({canonical:?})")] }
}

/// `ValidateEndpointIP`: an address that traffic may be sent to.
pub fn endpoint_ip(value: &str) -> Vec<String> {
    // As Go: an IPv4 address is one in its IPv6 clothes, too.
    let Some(address) = parse(value).map(|address| address.to_canonical()) else { return vec!["must be a valid IP address".into()] };
    let mut errors = Vec::new();
    if address.is_unspecified() {
        errors.push(format!("may not be unspecified ({value})"));
    }
    if address.is_loopback() {
        errors.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".into());
    }
    if is_link_local(address) {
        errors.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".into());
    }
    if is_link_local_multicast(address) {
        errors.push("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into());
    }
    errors
}

/// `GetWarningsForIP`: how an address that is let pass should rather be written. `path` is the field.
pub fn ip_warning(path: &str, value: &str) -> Option<String> {
    let address = parse(value)?;
    match value.parse::<IpAddr>() {
        Err(_) => Some(format!("{path}: non-standard IP address \"{value}\" is invalid: use \"{address}\"")),
        Ok(IpAddr::V6(six)) => match six.to_ipv4_mapped() {
            Some(four) => Some(format!("{path}: non-standard IP address \"{value}\" is invalid: use \"{four}\"")),
            None => canonical_warning(path, "address", value, &six.to_string()),
        },
        Ok(_) => None,
    }
}

/// `GetWarningsForCIDR`
pub fn cidr_warning(path: &str, value: &str) -> Option<String> {
    let network = parse_network(value)?;
    let (canonical, single) = (network.trunc().to_string(), format!("{}/{}", network.addr(), network.max_prefix_len()));
    if network.addr() != network.network() {
        let what = format!("{path}: CIDR value \"{value}\" is ambiguous in this context");
        return Some(format!("{what} (should be \"{canonical}\" or \"{single}\"?)"));
    }
    match value.parse::<IpNet>() {
        Ok(read) if !matches!(read.addr(), IpAddr::V6(six) if six.to_ipv4_mapped().is_some()) => {
            if read.addr().is_ipv6() {
                canonical_warning(path, "CIDR value", value, &canonical)
            } else {
                None
            }
        }
        _ => Some(format!("{path}: non-standard CIDR value \"{value}\" is invalid: use \"{canonical}\"")),
    }
}

fn canonical_warning(path: &str, what: &str, value: &str, canonical: &str) -> Option<String> {
    let text = || format!("{path}: IPv6 {what} \"{value}\" should be in RFC 5952 canonical format (\"{canonical}\")");
    (canonical != value).then(text)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.octets()[..3] == [224, 0, 0],
        IpAddr::V6(six) => Ipv6Addr::segments(&six)[0] & 0xff0f == 0xff02,
    }
}

fn without_zeros(value: &str) -> String {
    let strip = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    value.split('.').map(strip).collect::<Vec<_>>().join(".")
}

fn prefix_length(bits: &str) -> Option<u8> {
    if bits.bytes().all(|b| b.is_ascii_digit()) { bits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_strict() {
        let bad = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        let cases: [(&str, &[&str]); 7] = [
            ("10.0.0.1", &[]),
            ("2001:db8::1", &[]),
            ("010.0.0.1", &["must not have leading 0s"]),
            ("::ffff:10.0.0.1", &["must not be an IPv4-mapped IPv6 address"]),
            ("10.0.0", &[bad]),
            ("10.0.0.256", &[bad]),
            ("", &[bad]),
        ];
        for (value, errors) in cases {
            assert_eq!(ip(value), errors, "{value}");
        }
        assert_eq!(canonical_ip("2001:DB8::1"), ["must be in canonical form (\"2001:db8::1\")"]);
    }

    #[test]
    fn networks_are_strict() {
        let bad = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        let cases: [(&str, &[&str]); 7] = [
            ("10.244.0.0/24", &[]),
            ("fd00::/64", &[]),
            ("10.244.0.1/24", &["must not have bits set beyond the prefix length"]),
            ("10.244.0.0/024", &["must not have leading 0s in IP or prefix length"]),
            ("10.244.0.0", &[bad]),
            ("10.244.0.0/33", &[bad]),
            ("10.244.0.0/+8", &[bad]),
        ];
        for (value, errors) in cases {
            assert_eq!(cidr(value), errors, "{value}");
        }
    }

    #[test]
    fn endpoints_are_reachable_addresses() {
        let cases = [
            ("10.0.0.1", 0),
            ("0.0.0.0", 1),
            ("127.0.0.1", 1),
            ("169.254.1.1", 1),
            ("224.0.0.1", 1),
            ("fe80::1", 1),
            ("ff02::1", 1),
            ("x", 1),
        ];
        for (value, count) in cases {
            assert_eq!(endpoint_ip(value).len(), count, "{value}");
        }
    }

    #[test]
    fn warnings_name_the_better_form() {
        let text = "spec.x: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")";
        assert_eq!(ip_warning("spec.x", "FD00::1").as_deref(), Some(text));
        assert_eq!(ip_warning("spec.x", "fd00::1"), None);
        assert!(cidr_warning("spec.x", "FD00::/64").is_some());
    }
}
