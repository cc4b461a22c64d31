//! Flags of `skiff token`. Names and defaults are kubeadm's.

use std::{path::PathBuf, time::Duration};

use api::bootstrap::{NODE_GROUP, is_extra_group};
use clap::{Args, Subcommand};

use super::nodes::time;

#[derive(Args, Clone, Debug)]
pub struct TokenFlags {
    #[command(subcommand)]
    pub what: TokenVerb,
}

#[derive(Clone, Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token, and print it
    Create(CreateTokenFlags),
    /// List the tokens that there are
    List(AccessFlags),
    /// Delete tokens: who has not joined yet cannot any more
    Delete(DeleteTokenFlags),
}

#[derive(Args, Clone, Debug)]
pub struct AccessFlags {
    /// Directory of the server's data, whose kubeconfig is used [default: /var/lib/skiff, or ~/.local/share/skiff without root]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The cluster, and who we are there [default: the administrator, from --data-dir]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct CreateTokenFlags {
    #[command(flatten)]
    pub access: AccessFlags,
    /// The token, <id>.<secret> of six and sixteen of a-z and 0-9 [default: a random one]
    pub token: Option<String>,
    /// How long it is good; 0 is for ever
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = ttl)]
    pub ttl: Duration,
    /// One node joins with it, and then it is deleted
    #[arg(long)]
    pub one_time: bool,
    /// What it is for, in your words
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub description: String,
    /// What it can be used for: signing (of cluster-info, so that joining machines can tell the true server), authentication
    #[arg(long, value_name = "USAGE,...", value_delimiter = ',', default_value = "signing,authentication", value_parser = ["signing", "authentication"])]
    pub usages: Vec<String>,
    /// Groups of who shows it, each below system:bootstrappers:
    #[arg(long, value_name = "GROUP,...", value_delimiter = ',', default_value = NODE_GROUP, value_parser = group)]
    pub groups: Vec<String>,
    /// Print the command that joins a machine, instead of the token alone
    #[arg(long)]
    pub print_join_command: bool,
}

#[derive(Args, Clone, Debug)]
pub struct DeleteTokenFlags {
    #[command(flatten)]
    pub access: AccessFlags,
    /// Tokens, or their ids
    #[arg(required = true)]
    pub tokens: Vec<String>,
}

/// A span as Go writes it; 0 is for ever.
fn ttl(text: &str) -> Result<Duration, String> {
    if text.trim_end_matches(['s', 'm', 'h']) == "0" { Ok(Duration::ZERO) } else { time(text) }
}

fn group(text: &str) -> Result<String, String> {
    if is_extra_group(text) { Ok(text.to_owned()) } else { Err("it must be below system:bootstrappers:, of a-z, 0-9, : and -".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_of_nothing_is_for_ever() {
        assert_eq!(ttl("0"), Ok(Duration::ZERO));
        assert_eq!(ttl("0s"), Ok(Duration::ZERO));
        assert_eq!(ttl("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(ttl("soon").is_err() && ttl("").is_err());
    }

    #[test]
    fn groups_are_of_bootstrappers() {
        assert!(group(NODE_GROUP).is_ok() && group("system:masters").is_err());
    }
}
