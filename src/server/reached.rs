//! Flags -> where others reach this server.

use std::net::{IpAddr, SocketAddr};

use crate::{
    flags::ServerFlags,
    machine::{address::node_address, progress::Progress},
};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// As said, where it listens, or as a person would choose, who is warned of what looks wrong. Loopback is nobody else's: pods and machines are told
/// this machine's address then, as upstream does (`SecureServingOptions.DefaultExternalAddress`; Endpoints may have no other).
pub fn advertised_address(flags: &ServerFlags, progress: &Progress) -> IpAddr {
    let warn = |warning: &str| progress.say(&format!("warning: {warning}"));
    if let Some(address) = flags.advertise_address.or_else(|| listens(flags)) {
        return address;
    }
    let chosen = node_address(None);
    if let Some(warning) = chosen.as_ref().and_then(|chosen| chosen.warning.as_ref()) {
        tracing::warn!(%warning, "choosing the address to advertise");
        warn(&format!("{warning} (--advertise-address names another)"));
    }
    let address = chosen.map_or(LOOPBACK, |chosen| chosen.address);
    if let Some(warning) = unserved(flags.bind_address, address) {
        tracing::warn!("{warning}");
        warn(&warning);
    }
    address
}

/// Where others reach a server.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    /// What pods and machines are told.
    pub address: SocketAddr,
    /// What the kubeconfig names: the same, if it is served or somebody said it.
    pub named: SocketAddr,
}

impl Reached {
    pub fn of(flags: &ServerFlags, advertised: IpAddr, port: u16) -> Self {
        let is_here_alone = flags.advertise_address.is_none() && flags.bind_address.is_loopback();
        let named = if is_here_alone { flags.bind_address } else { advertised };
        Self { address: SocketAddr::new(advertised, port), named: SocketAddr::new(named, port) }
    }
}

/// An address of this machine's that it has to listen on.
fn listens(flags: &ServerFlags) -> Option<IpAddr> {
    let bound = flags.bind_address;
    (!bound.is_unspecified() && !bound.is_loopback()).then_some(bound)
}

fn unserved(bound: IpAddr, address: IpAddr) -> Option<String> {
    let why = || {
        format!(
            "--bind-address {bound}: the API is not served on {address}, where pods and other machines look for it; --bind-address 0.0.0.0 serves it there"
        )
    };
    (bound.is_loopback() && !address.is_loopback()).then(why)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::flags::{Cli, Verb};

    fn flags(args: &[&str]) -> ServerFlags {
        let all = ["skiff", "server"].iter().chain(args);
        let Verb::Server(server) = Cli::try_parse_from(all).unwrap().verb else { panic!() };
        *server
    }

    #[test]
    fn the_kubeconfig_names_an_address_that_is_served() {
        let reached = |args: &[&str]| {
            let (flags, progress) = (flags(args), Progress::default());
            let Reached { address, named } = Reached::of(&flags, advertised_address(&flags, &progress), 6443);
            (address.ip().to_string(), named.to_string())
        };
        let is = |advertised: &str, named: &str| (advertised.to_owned(), named.to_owned());
        assert_eq!(reached(&["--bind-address=192.0.2.1"]), is("192.0.2.1", "192.0.2.1:6443"));
        assert_eq!(reached(&["--bind-address=192.0.2.1", "--advertise-address=192.0.2.2"]), is("192.0.2.2", "192.0.2.2:6443"));
        assert_eq!(reached(&["--bind-address=127.0.0.1", "--advertise-address=192.0.2.2"]), is("192.0.2.2", "192.0.2.2:6443"));
        assert_eq!(reached(&["--bind-address=127.0.0.1"]).1, "127.0.0.1:6443");
        let (advertised, named) = reached(&[]);
        assert_eq!(named, SocketAddr::new(advertised.parse().unwrap(), 6443).to_string());
        let warning = unserved(LOOPBACK, "192.0.2.1".parse().unwrap()).unwrap();
        assert!(warning.starts_with("--bind-address 127.0.0.1: the API is not served on 192.0.2.1"), "{warning}");
        assert_eq!((unserved(LOOPBACK, LOOPBACK), unserved("0.0.0.0".parse().unwrap(), "192.0.2.1".parse().unwrap())), (None, None));
    }
}
