//! What machines show and read before they have a certificate: bootstrap tokens, `cluster-info`. Source: `cluster-bootstrap/token/api`, `util/secrets`,
//! `util/tokens`.

use std::collections::BTreeMap;

use crate::time::{Timestamp, parse};

/// The type of the Secrets that hold them.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// Their namespace.
pub const NAMESPACE: &str = "kube-system";
/// Before the token's id, the Secret's name.
pub const SECRET_PREFIX: &str = "bootstrap-token-";
/// Before the token's id, the user that it speaks for.
pub const USER_PREFIX: &str = "system:bootstrap:";
/// The group of all that have shown one.
pub const GROUP: &str = "system:bootstrappers";
/// The group whose members may join as nodes, as kubeadm has it.
pub const NODE_GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";

/// The ConfigMap from which anybody learns where the API is, and which CA it has (`ConfigMapClusterInfo`).
pub const CLUSTER_INFO: &str = "cluster-info";
/// Its namespace.
pub const CLUSTER_INFO_NAMESPACE: &str = "kube-public";
/// Its key that is signed (`KubeConfigKey`).
pub const CLUSTER_INFO_KUBECONFIG: &str = "kubeconfig";
/// Before the token's id, its key with that token's signature (`JWSSignatureKeyPrefix`).
pub const JWS_PREFIX: &str = "jws-kubeconfig-";

pub const ID: &str = "token-id";
pub const SECRET: &str = "token-secret";
pub const EXPIRATION: &str = "expiration";
pub const DESCRIPTION: &str = "description";
pub const EXTRA_GROUPS: &str = "auth-extra-groups";
pub const USAGE_PREFIX: &str = "usage-bootstrap-";
pub const USAGE_SIGNING: &str = "usage-bootstrap-signing";
pub const USAGE_AUTHENTICATION: &str = "usage-bootstrap-authentication";
/// Ours: one node joins with it, and then it is deleted.
pub const USAGE_ONE_TIME: &str = "usage-bootstrap-one-time";

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
/// Longest end of an extra group's name (`BootstrapGroupPattern`).
const GROUP_END_MAX: usize = 256;

/// `id.secret`
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub id: String,
    pub secret: String,
}

/// Of a token's Secret, its data as texts.
pub type Data = BTreeMap<String, String>;

/// How long a token is good yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Lasting,
    Until(Timestamp),
    /// Its time is over, or cannot be read.
    Over,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({}.<redacted>)", self.id)
    }
}

impl Token {
    /// Six characters, a dot, sixteen characters, of `a-z` and `0-9`.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        let fits = is_id(id) && secret.len() == SECRET_LENGTH && secret.bytes().all(is_word);
        fits.then(|| Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    pub fn text(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    pub fn secret_name(&self) -> String {
        format!("{SECRET_PREFIX}{}", self.id)
    }
}

pub fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(is_word)
}

/// The token's id in the name of its Secret (`ParseName`).
pub fn id_of_name(name: &str) -> Option<&str> {
    name.strip_prefix(SECRET_PREFIX).filter(|id| is_id(id))
}

/// `GetExpiration`
pub fn life(data: &Data, now: Timestamp) -> Life {
    match data.get(EXPIRATION).map(String::as_str).unwrap_or_default() {
        "" => Life::Lasting,
        text => parse(text).filter(|end| *end > now).map_or(Life::Over, Life::Until),
    }
}

/// Whether the token is for `usage` (one of the `USAGE_` words).
pub fn is_for(data: &Data, usage: &str) -> bool {
    data.get(usage).is_some_and(|value| value == "true")
}

/// `GetGroups`: sorted, each once.
///
/// # Errors
/// The first extra group that no token may give.
pub fn groups(data: &Data) -> Result<Vec<String>, String> {
    let extra = data.get(EXTRA_GROUPS).map(String::as_str).unwrap_or_default();
    let mut groups = vec![GROUP.to_owned()];
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        if !is_extra_group(group) {
            return Err(format!(
                "bootstrap group {group:?} is invalid (must match \\Asystem:bootstrappers:[a-z0-9:-]{{0,255}}[a-z0-9]\\z)"
            ));
        }
        groups.push(group.to_owned());
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(groups)
}

/// `ValidateBootstrapGroupName`
pub fn is_extra_group(group: &str) -> bool {
    let Some(end) = group.strip_prefix("system:bootstrappers:") else { return false };
    let inside = end.bytes().all(|c| is_word(c) || c == b':' || c == b'-');
    inside && end.len() <= GROUP_END_MAX && end.bytes().last().is_some_and(is_word)
}

fn is_word(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(entries: &[(&str, &str)]) -> Data {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn tokens_are_two_words() {
        let token = Token::parse("abcdef.0123456789abcdef").unwrap();
        assert_eq!((token.id.as_str(), token.secret.as_str()), ("abcdef", "0123456789abcdef"));
        assert_eq!((token.text().as_str(), token.secret_name().as_str()), ("abcdef.0123456789abcdef", "bootstrap-token-abcdef"));
        assert!(!format!("{token:?}").contains("0123"), "logs are no place for secrets");
        for bad in [
            "",
            "abcdef",
            "abcdef.",
            "abcde.0123456789abcdef",
            "abcdef.0123456789abcde",
            "ABCDEF.0123456789abcdef",
            "abcdef.0123456789abcdef ",
        ] {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
        assert_eq!(id_of_name("bootstrap-token-abcdef"), Some("abcdef"));
        assert_eq!(id_of_name("bootstrap-token-abcdefg"), None);
    }

    #[test]
    fn a_time_that_cannot_be_read_is_over() {
        let now = parse("2026-01-01T00:00:00Z").unwrap();
        assert_eq!(life(&data(&[]), now), Life::Lasting);
        let end = parse("2026-01-01T00:00:01Z").unwrap();
        assert_eq!(life(&data(&[(EXPIRATION, "2026-01-01T00:00:01Z")]), now), Life::Until(end));
        for over in ["2026-01-01T00:00:00Z", "tomorrow"] {
            assert_eq!(life(&data(&[(EXPIRATION, over)]), now), Life::Over, "{over}");
        }
    }

    #[test]
    fn extra_groups_are_bootstrappers() {
        let of = |text: &str| groups(&data(&[(EXTRA_GROUPS, text)]));
        assert_eq!(groups(&data(&[])).unwrap(), [GROUP]);
        let two = of("system:bootstrappers:foo,system:bootstrappers:bar,system:bootstrappers:bar").unwrap();
        assert_eq!(two, [GROUP, "system:bootstrappers:bar", "system:bootstrappers:foo"]);
        for bad in ["foo", "system:masters", "system:bootstrappers:", "system:bootstrappers:a-", ",", "system:bootstrappers:foo,"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
