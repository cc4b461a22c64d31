//! Flags -> several servers over one etcd: who leads, and what lets a server in.

use std::time::Duration;

use api::bootstrap::Token;
use clap::{ArgAction, Args};
use client::leader::Timing;

use super::{given::Given, nodes::time};

/// Of several servers over one etcd. Names and defaults of the first four are kube-controller-manager's and kube-scheduler's
/// (`component-base/config/options/leaderelectionconfig.go`), but that on the embedded store there is nobody to elect, and that a lease is three seconds shorter: with
/// 15 s a cluster is without a leader for up to 15.2 s.
#[derive(Args, Clone, Debug)]
pub struct ServersFlags {
    /// Run controllers and scheduler only while this server is elected to [default: true with --etcd-servers; the embedded store has one server]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: Option<bool>,
    /// Other servers take over from a leader that is silent for so long
    #[arg(long, value_name = "TIME", default_value = "12s", value_parser = time)]
    pub leader_elect_lease_duration: Duration,
    /// A leader that could not renew its lease for so long stops leading
    #[arg(long, value_name = "TIME", default_value = "8s", value_parser = time)]
    pub leader_elect_renew_deadline: Duration,
    /// Between attempts to lead, and between renewals
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time)]
    pub leader_elect_retry_period: Duration,
    /// Seals the cluster's keys in etcd, and opens them: the first server's choice, which each further server is given (six characters, a dot, sixteen characters: a-z and 0-9).
    /// Agents are given others (--agent-token, `skiff token create`): whoever has this one has the cluster
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    token: Option<Given>,
}

impl ServersFlags {
    /// How controllers and scheduler are led; `None`: here, always.
    ///
    /// # Errors
    /// The times do not go together.
    pub fn election(&self, has_etcd: bool) -> anyhow::Result<Option<Timing>> {
        let timing = Timing {
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        };
        timing.check().map_err(|why| anyhow::anyhow!("--leader-elect-lease-duration, -renew-deadline, -retry-period: {why}"))?;
        Ok(self.leader_elect.unwrap_or(has_etcd).then_some(timing))
    }
}

impl ServersFlags {
    /// Whether there are some: each is `scheme://host[:port]`, or `host:port` as etcd's own tools take it.
    ///
    /// # Errors
    /// One is not.
    pub fn has_etcd(servers: &[String]) -> anyhow::Result<bool> {
        let is_url = |server: &str| match server.split_once("://") {
            Some((scheme, rest)) => ["http", "https"].contains(&scheme) && !rest.is_empty() && server.parse::<http::Uri>().is_ok(),
            None => server.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()),
        };
        match servers.iter().find(|server| !is_url(server)) {
            Some(server) => anyhow::bail!("--etcd-servers {server:?}: it is no URL, as in https://10.0.0.5:2379"),
            None => Ok(!servers.is_empty()),
        }
    }

    /// The cluster token.
    ///
    /// # Errors
    /// It has not the form of one.
    pub fn token(&self) -> anyhow::Result<Option<Token>> {
        self.token.as_ref().map(|given| given.token("--token")).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        servers: ServersFlags,
    }

    fn parsed(args: &[&str]) -> Result<ServersFlags, String> {
        let all = ["skiff"].iter().chain(args);
        <Alone as clap::Parser>::try_parse_from(all).map(|alone| alone.servers).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_has_a_form_and_is_not_printed() {
        assert_eq!(parsed(&[]).unwrap().token().unwrap(), None);
        let flags = parsed(&["--token=abcdef.0123456789abcdef"]).unwrap();
        assert!(!format!("{flags:?}").contains("0123"), "{flags:?}");
        let token = flags.token().unwrap().unwrap();
        assert_eq!((token.id.as_str(), token.text()), ("abcdef", "abcdef.0123456789abcdef".to_owned()));
        for bad in ["", "abcdef", "abcdef.0123456789ABCDEF", "abcde.0123456789abcdef", "abcdef.0123456789abcde", "abcdef.0123456789abcdef0"]
        {
            let why = parsed(&[&format!("--token={bad}")]).unwrap().token().unwrap_err().to_string();
            assert!(why.contains("six and sixteen") && !why.contains("0123"), "{bad}: {why}");
        }
    }

    #[test]
    fn what_is_no_etcd_server_is_said_at_once() {
        let check = |server: &str| ServersFlags::has_etcd(&[server.to_owned()]).map_err(|why| why.to_string());
        assert!(!ServersFlags::has_etcd(&[]).unwrap());
        for good in ["https://10.0.0.5:2379", "http://etcd", "10.0.0.5:2379", "[::1]:2379"] {
            assert_eq!(check(good), Ok(true));
        }
        for bad in ["foo", "", "ftp://a:1", "http://", "a:b"] {
            assert_eq!(check(bad), Err(format!("--etcd-servers {bad:?}: it is no URL, as in https://10.0.0.5:2379")));
        }
    }

    #[test]
    fn with_etcd_one_is_elected_and_without_nobody_has_to_be() {
        let default = parsed(&[]).unwrap();
        let [lease_duration, renew_deadline, retry_period] = [12, 8, 2].map(Duration::from_secs);
        let timing = Some(Timing { lease_duration, renew_deadline, retry_period });
        assert_eq!((default.election(true).unwrap(), default.election(false).unwrap()), (timing, None));
        let always = parsed(&["--leader-elect"]).unwrap();
        assert_eq!(always.election(false).unwrap(), timing);
        assert_eq!(parsed(&["--leader-elect=false"]).unwrap().election(true).unwrap(), None);
        let wrong = parsed(&["--leader-elect-lease-duration=8s"]).unwrap().election(true).unwrap_err();
        assert!(wrong.to_string().contains("leaseDuration must be greater than renewDeadline"), "{wrong}");
    }
}
