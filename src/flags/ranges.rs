//! `10.0.0.0/8,fd00::/48` -> address ranges: one, or one of each family.

use ipnet::IpNet;

/// Of pods, unless flags say another.
pub const PODS: &str = "10.244.0.0/16";

/// One range, or two of different families; the first one's family is that of what has but one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(Vec<IpNet>);

impl Ranges {
    pub fn list(&self) -> &[IpNet] {
        &self.0
    }
}

impl std::fmt::Display for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(IpNet::to_string).collect();
        f.write_str(&all.join(","))
    }
}

/// `--cluster-cidr`. Source: `validateCIDRs` of `cmd/kube-controller-manager/app/core.go`.
pub fn of_pods(text: &str) -> Result<Ranges, String> {
    let all = parse(text)?;
    let count = all.len();
    if count > 1 && !has_both_families(&all) {
        return Err(format!("len of ClusterCIDRs=={count} and they are not configured as dual stack (at least one from each IPFamily"));
    }
    if count > 2 {
        return Err(format!("length of clusterCIDRs is:{count} more than max allowed of 2"));
    }
    Ok(Ranges(all))
}

/// `--service-cluster-ip-range`. Source: `validateClusterIPFlags` of `cmd/kube-apiserver/app/options/validation.go`.
pub fn of_services(text: &str) -> Result<Ranges, String> {
    let all = parse(text)?;
    if all.len() > 2 {
        return Err("--service-cluster-ip-range must not contain more than two entries".into());
    }
    if all.len() == 2 && !has_both_families(&all) {
        return Err("--service-cluster-ip-range[0] and --service-cluster-ip-range[1] must be of different IP family".into());
    }
    Ok(Ranges(all))
}

fn parse(text: &str) -> Result<Vec<IpNet>, String> {
    let one = |part: &str| part.parse().map(|net: IpNet| net.trunc()).map_err(|_| format!("invalid CIDR address: {part}"));
    text.split(',').map(one).collect()
}

fn has_both_families(all: &[IpNet]) -> bool {
    all.iter().any(|net| net.addr().is_ipv4()) && all.iter().any(|net| net.addr().is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_one_or_one_of_each_family() {
        let cases = [
            ("10.0.0.0/8", Ok("10.0.0.0/8"), Ok("10.0.0.0/8")),
            ("10.1.2.3/8", Ok("10.0.0.0/8"), Ok("10.0.0.0/8")),
            ("10.0.0.0/8,fd00::/48", Ok("10.0.0.0/8,fd00::/48"), Ok("10.0.0.0/8,fd00::/48")),
            ("fd00::/48,10.0.0.0/8", Ok("fd00::/48,10.0.0.0/8"), Ok("fd00::/48,10.0.0.0/8")),
            (
                "10.0.0.0/8,11.0.0.0/8",
                Err("ClusterCIDRs==2 and they are not configured as dual stack"),
                Err("must be of different IP family"),
            ),
            ("10.0.0.0/8,fd00::/48,11.0.0.0/8", Err("is:3 more than max allowed of 2"), Err("must not contain more than two entries")),
            ("", Err("invalid CIDR address: "), Err("invalid CIDR address: ")),
            ("10.0.0.0/8,", Err("invalid CIDR address: "), Err("invalid CIDR address: ")),
            ("10.0.0.0", Err("invalid CIDR address: 10.0.0.0"), Err("invalid CIDR address: 10.0.0.0")),
        ];
        for (text, pods, services) in cases {
            for (came, wanted) in [(of_pods(text), pods), (of_services(text), services)] {
                match (&came, wanted) {
                    (Ok(ranges), Ok(wanted)) => assert_eq!(ranges.to_string(), wanted),
                    (Err(error), Err(wanted)) => assert!(error.contains(wanted), "{error}"),
                    _ => panic!("{text}: {came:?}"),
                }
            }
        }
    }
}
