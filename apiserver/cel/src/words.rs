//! Functions of addresses, URLs, quantities, versions and formats. Source: apiserver `pkg/cel/library/{ip,cidr,urls,quantity,semver,format}.go`.

mod goerrors;

use std::{cmp::Ordering, net::IpAddr, rc::Rc, str::FromStr};

use api::{name_rules, quantity::Quantity};

use super::value::{Failure, Meter, Semver, Text, V};
use crate::schema::formats;

type Found<'v> = Result<Option<V<'v>>, Failure>;

pub fn call<'v>(run: &mut Meter, name: &str, arguments: &[V<'v>]) -> Found<'v> {
    run.spend(1)?;
    match arguments {
        [V::Text(text), ..] => made(name, text, &arguments[1..]),
        [V::Ip(address)] => Ok(of_ip(name, *address)),
        [V::Cidr(address, length), rest @ ..] => Ok(of_cidr(name, *address, *length, rest)),
        [V::Url(url)] => Ok(of_url(name, url)),
        [V::Quantity(quantity), rest @ ..] => of_quantity(name, *quantity, rest),
        [V::Semver(version), rest @ ..] => Ok(of_version(name, version, rest)),
        [V::Format(format), V::Text(text)] if name == "validate" => Ok(Some(validated(format, text))),
        [] => Ok(name.strip_prefix("format.").filter(|format| is_format(format)).map(|format| V::Format(format.into()))),
        _ => Ok(None),
    }
}

fn made<'v>(name: &str, text: &Text<'v>, rest: &[V<'v>]) -> Found<'v> {
    Ok(Some(match (name, rest) {
        ("isIP", []) => V::Bool(address(text).is_some()),
        ("ip", []) => match address(text) {
            Some(address) => V::Ip(address),
            None => {
                let why = goerrors::address(text);
                return Failure::of(format!("IP Address {} parse error during conversion from string: {why}", api::quoted(text)));
            }
        },
        ("ip.isCanonical", []) => match address(text) {
            Some(address) => V::Bool(address.to_string() == **text),
            None => return Failure::of(format!("IP Address {:?} parse error", &**text)),
        },
        ("isCIDR", []) => V::Bool(cidr(text).is_some()),
        ("cidr", []) => match cidr(text) {
            Some((address, length)) => V::Cidr(address, length),
            None => return Failure::of(format!("network address parse error during conversion from string: {:?}", &**text)),
        },
        ("isURL", []) => V::Bool(formats::is_uri(text)),
        ("url", []) if formats::is_uri(text) => V::Url(text.clone()),
        ("url", []) => {
            let why = goerrors::url(text);
            return Failure::of(format!("URL parse error during conversion from string: parse {}: {why}", api::quoted(text)));
        }
        ("isQuantity", []) => V::Bool(Quantity::parse(text).is_ok()),
        ("quantity", []) => match Quantity::parse(text) {
            Ok(quantity) => V::Quantity(quantity),
            Err(why) => return Failure::of(why),
        },
        ("isSemver", [] | [V::Bool(_)]) => V::Bool(version(text, matches!(rest, [V::Bool(true)])).is_some()),
        ("semver", [] | [V::Bool(_)]) => match version(text, matches!(rest, [V::Bool(true)])) {
            Some(version) => V::Semver(Rc::new(version)),
            None => return Failure::of("No Major.Minor.Patch elements found"),
        },
        ("format.named", []) => V::Optional(is_format(text).then(|| Rc::new(V::Format((&**text).into())))),
        _ => return Ok(None),
    }))
}

/// No zones, no IPv4 within IPv6.
fn address(text: &str) -> Option<IpAddr> {
    IpAddr::from_str(text).ok().filter(|address| !matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some()))
}

fn cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (head, bits) = text.split_once('/')?;
    let is_plain = bits == "0" || !bits.starts_with('0') && bits.bytes().all(|byte| byte.is_ascii_digit());
    let (address, length) = (address(head)?, bits.parse::<u8>().ok().filter(|_| is_plain)?);
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

fn of_ip<'v>(name: &str, address: IpAddr) -> Option<V<'v>> {
    let is_multicast_link_local = match address {
        IpAddr::V4(four) => four.octets()[..3] == [224, 0, 0],
        IpAddr::V6(six) => six.segments()[0] & 0xff0f == 0xff02,
    };
    let is_link_local = match address {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.segments()[0] & 0xffc0 == 0xfe80,
    };
    let is_broadcast = matches!(address, IpAddr::V4(four) if four.is_broadcast());
    Some(V::Bool(match name {
        "family" => return Some(V::Int(if address.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => address.is_unspecified(),
        "isLoopback" => address.is_loopback(),
        "isLinkLocalMulticast" => is_multicast_link_local,
        "isLinkLocalUnicast" => is_link_local,
        "isGlobalUnicast" => {
            !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !is_link_local && !is_broadcast
        }
        _ => return None,
    }))
}

fn of_cidr<'v>(name: &str, network: IpAddr, length: u8, rest: &[V<'v>]) -> Option<V<'v>> {
    let inner = |value: &V<'v>, of_text: fn(&str) -> Option<(IpAddr, u8)>| match value {
        V::Ip(address) => Some((*address, if address.is_ipv4() { 32 } else { 128 })),
        V::Cidr(address, length) => Some((*address, *length)),
        V::Text(text) => of_text(text),
        _ => None,
    };
    let single = |text: &str| address(text).map(|address| (address, if address.is_ipv4() { 32 } else { 128 }));
    Some(match (name, rest) {
        ("containsIP", [value]) => {
            V::Bool(inner(value, single).is_some_and(|(address, _)| masked(address, length) == masked(network, length)))
        }
        ("containsCIDR", [value]) => {
            V::Bool(inner(value, cidr).is_some_and(|(address, bits)| bits >= length && masked(address, length) == masked(network, length)))
        }
        ("ip", []) => V::Ip(network),
        ("masked", []) => V::Cidr(masked(network, length), length),
        ("prefixLength", []) => V::Int(length.into()),
        _ => return None,
    })
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(four) => IpAddr::V4((u32::from(four) & u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0)).into()),
        IpAddr::V6(six) => IpAddr::V6((u128::from(six) & u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0)).into()),
    }
}

fn of_url<'v>(name: &str, url: &str) -> Option<V<'v>> {
    let (scheme, rest) = if url.starts_with('/') { ("", url) } else { url.split_once(':').unwrap_or(("", url)) };
    let (head, query) =
        rest.split('#').next().unwrap_or_default().split_once('?').unwrap_or((rest.split(['#', '?']).next().unwrap_or_default(), ""));
    let (host, path) = match head.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", head),
    };
    let host = host.rsplit('@').next().unwrap_or_default();
    let (name_of_host, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    };
    Some(match name {
        "getScheme" => V::text(scheme),
        "getHost" => V::text(host),
        "getHostname" => V::text(name_of_host.trim_start_matches('[').trim_end_matches(']')),
        "getPort" => V::text(port),
        "getEscapedPath" => V::text(path),
        "getQuery" => {
            let mut out: Vec<(V<'v>, Vec<V<'v>>)> = Vec::new();
            for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                let (key, value) = (V::text(decoded(key)), V::text(decoded(value)));
                match out.iter_mut().find(|(other, _)| super::compare::equal(other, &key)) {
                    Some((_, values)) => values.push(value),
                    None => out.push((key, vec![value])),
                }
            }
            V::Map(Rc::new(out.into_iter().map(|(key, values)| (key, V::list(values))).collect()))
        }
        _ => return None,
    })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let value = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.extend(value);
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn of_quantity<'v>(name: &str, quantity: Quantity, rest: &[V<'v>]) -> Found<'v> {
    let other = match rest {
        [V::Quantity(other)] => Some(*other),
        [V::Int(units)] if matches!(name, "add" | "sub") => Some(Quantity::from_units(*units)),
        _ => None,
    };
    let is_whole = || quantity.partial_cmp(&Quantity::from_units(quantity.units())) == Some(Ordering::Equal);
    Ok(Some(match (name, other) {
        ("add", Some(other)) => V::Quantity(quantity.plus(other)),
        ("sub", Some(other)) => V::Quantity(quantity.minus(other)),
        ("compareTo", Some(other)) => V::Int(quantity.partial_cmp(&other).map_or(0, |order| order as i64)),
        ("isLessThan", Some(other)) => V::Bool(quantity < other),
        ("isGreaterThan", Some(other)) => V::Bool(quantity > other),
        ("sign", None) => V::Int(if quantity.is_zero() {
            0
        } else if quantity.is_negative() {
            -1
        } else {
            1
        }),
        ("isInteger", None) => V::Bool(is_whole()),
        ("asInteger", None) if is_whole() => V::Int(quantity.units()),
        ("asInteger", None) => return Failure::of("cannot convert value to integer"),
        ("asApproximateFloat", None) => V::Double(if is_whole() { quantity.units() as f64 } else { quantity.milli() as f64 / 1000.0 }),
        _ => return Ok(None),
    }))
}

fn version(text: &str, normalizes: bool) -> Option<Semver> {
    let text = if normalizes { text.strip_prefix('v').unwrap_or(text) } else { text };
    let text = match text.split_once('+') {
        Some((head, build)) if build.split('.').all(is_identifier) => head,
        Some(_) => return None,
        None => text,
    };
    let (numbers, pre) = text.split_once('-').map_or((text, None), |(numbers, pre)| (numbers, Some(pre)));
    let mut parts: Vec<&str> = numbers.split('.').collect();
    while normalizes && parts.len() < 3 {
        parts.push("0");
    }
    let [major, minor, patch] = parts.as_slice() else { return None };
    let number = |part: &str| {
        let part = if normalizes { part.trim_start_matches('0') } else { part };
        let part = if part.is_empty() && normalizes { "0" } else { part };
        let is_plain = part == "0" || !part.starts_with('0') && !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if is_plain { part.parse().ok() } else { None }
    };
    let pre: Vec<String> = pre.map(|pre| pre.split('.').map(str::to_owned).collect()).unwrap_or_default();
    let is_good =
        |part: &String| is_identifier(part) && (part == "0" || !part.starts_with('0') || part.bytes().any(|byte| !byte.is_ascii_digit()));
    pre.iter().all(is_good).then_some(Semver { numbers: [number(major)?, number(minor)?, number(patch)?], pre })
}

fn is_identifier(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn of_version<'v>(name: &str, version: &Semver, rest: &[V<'v>]) -> Option<V<'v>> {
    let number = |at: usize| i64::try_from(version.numbers[at]).map_or(V::Int(i64::MAX), V::Int);
    Some(match (name, rest) {
        ("major", []) => number(0),
        ("minor", []) => number(1),
        ("patch", []) => number(2),
        ("compareTo", [V::Semver(other)]) => V::Int(precedence(version, other) as i64),
        ("isLessThan", [V::Semver(other)]) => V::Bool(precedence(version, other) == Ordering::Less),
        ("isGreaterThan", [V::Semver(other)]) => V::Bool(precedence(version, other) == Ordering::Greater),
        _ => return None,
    })
}

fn precedence(a: &Semver, b: &Semver) -> Ordering {
    let part = |a: &String, b: &String| match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => a.cmp(b),
    };
    let pre = match (a.pre.is_empty(), b.pre.is_empty()) {
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        _ => {
            let differing = a.pre.iter().zip(&b.pre).map(|(a, b)| part(a, b)).find(|order| *order != Ordering::Equal);
            differing.unwrap_or(a.pre.len().cmp(&b.pre.len()))
        }
    };
    a.numbers.cmp(&b.numbers).then(pre)
}

fn is_format(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "dns1123Label",
        "dns1123Subdomain",
        "dns1035Label",
        "qualifiedName",
        "dns1123LabelPrefix",
        "dns1123SubdomainPrefix",
        "dns1035LabelPrefix",
        "labelValue",
        "uri",
        "uuid",
        "byte",
        "date",
    ];
    NAMES.contains(&name) || name == "datetime"
}

/// What is wrong with the text, or nothing.
fn validated<'v>(format: &str, text: &str) -> V<'v> {
    let whole = text.strip_suffix('-').unwrap_or(text);
    let of = |format: &str, why: &str| if formats::is(format, text) { Vec::new() } else { vec![why.to_owned()] };
    let errors = match format {
        "dns1123Label" => name_rules::dns_label(text),
        "dns1123LabelPrefix" => name_rules::dns_label(whole),
        "dns1123Subdomain" => name_rules::dns_subdomain(text),
        "dns1123SubdomainPrefix" => name_rules::dns_subdomain(whole),
        "dns1035Label" => name_rules::dns_1035_label(text),
        "dns1035LabelPrefix" => name_rules::dns_1035_label(whole),
        "qualifiedName" => name_rules::qualified(text),
        "labelValue" => name_rules::label_value(text),
        "uri" => of("uri", "invalid URI"),
        "uuid" => of("uuid", "does not match the UUID format"),
        "byte" => of("byte", "invalid base64"),
        "date" => of("date", "invalid date"),
        _ => of("datetime", "invalid datetime"),
    };
    let errors: Vec<V<'v>> = errors.into_iter().map(V::text).collect();
    V::Optional((!errors.is_empty()).then(|| Rc::new(V::list(errors))))
}
