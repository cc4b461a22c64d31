//! Flags -> who may come in, and who is asked what they may do. Names, defaults and messages are kube-apiserver's
//! (`pkg/kubeapiserver/options/{authentication,authorization}.go`).

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use apiserver::jws::{Algorithm, PublicKey, SigningKey};
use clap::{ArgAction, Args};
use identity::{
    AuthenticationConfig, AuthorizationConfig, AuthorizerConfig, ClaimMappings, ClaimRule, Issuer, JwtAuthenticator, Mapping, Type,
    WebhookConfig,
};
use kinds::auth::{ISSUER, TokensConfig};

use crate::machine::given_file::GivenFile;

/// Who may come in.
#[derive(Args, Clone, Debug)]
pub struct AuthenticationFlags {
    /// Let in who shows nothing, as system:anonymous [default: true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,
    /// File of lines `token,user,uid,"group1,group2"`: who bears such a token is that user
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// AuthenticationConfiguration (apiserver.config.k8s.io): issuers of JWTs, and where nobody in particular is let in; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// kubeconfig of a webhook that is asked whose a token is (TokenReview)
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of TokenReview that the webhook knows: v1 or v1beta1
    #[arg(long, value_name = "VERSION", default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authentication_token_webhook_version: String,
    /// How long the webhook's answers hold; 0: not at all
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = identity::duration)]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// What the API server is called: service-account tokens must be for one of them [default: the issuers of service-account tokens]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    #[command(flatten)]
    oidc: OidcFlags,
    #[command(flatten)]
    accounts: ServiceAccountFlags,
}

/// One issuer of OpenID tokens.
#[derive(Args, Clone, Debug)]
struct OidcFlags {
    /// URL (https) of an OpenID issuer whose tokens are taken
    #[arg(long, value_name = "URL")]
    oidc_issuer_url: Option<String>,
    /// Client id that the tokens of --oidc-issuer-url must be for
    #[arg(long, value_name = "ID")]
    oidc_client_id: Option<String>,
    /// Authority of the issuer's certificate [default: those that the machine trusts]
    #[arg(long, value_name = "FILE")]
    oidc_ca_file: Option<PathBuf>,
    /// Claim that is the user's name [default: sub]
    #[arg(long, value_name = "CLAIM")]
    oidc_username_claim: Option<String>,
    /// What stands before the names of users; `-`: nothing [default: the issuer's URL and `#`, but for the claim `email`]
    #[arg(long, value_name = "PREFIX", allow_hyphen_values = true)]
    oidc_username_prefix: Option<String>,
    /// Claim that is the user's groups [default: none]
    #[arg(long, value_name = "CLAIM")]
    oidc_groups_claim: Option<String>,
    /// What stands before the names of groups
    #[arg(long, value_name = "PREFIX")]
    oidc_groups_prefix: Option<String>,
    /// Algorithms that tokens may be signed with [default: RS256]
    #[arg(long, value_name = "ALG,...", value_delimiter = ',', value_parser = algorithm)]
    oidc_signing_algs: Vec<Algorithm>,
    /// A claim that tokens must have, with that value; may be given several times
    #[arg(long, value_name = "CLAIM=VALUE", value_parser = required_claim)]
    oidc_required_claim: Vec<(String, String)>,
}

/// How service-account tokens are made and verified.
#[derive(Args, Clone, Debug)]
struct ServiceAccountFlags {
    /// Who makes service-account tokens; given several times: the first makes them, all are accepted [default: https://kubernetes.default.svc.cluster.local]
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    service_account_issuer: Vec<String>,
    /// PEM file of keys that verify service-account tokens; may be given several times [default: the cluster's own]
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    service_account_key_file: Vec<PathBuf>,
    /// PEM file of the key that signs service-account tokens [default: the cluster's own]
    #[arg(long, value_name = "FILE")]
    service_account_signing_key_file: Option<PathBuf>,
    /// Socket of a signer of service-account tokens; not supported
    #[arg(long, value_name = "SOCKET", hide = true)]
    service_account_signing_endpoint: Option<String>,
    /// Where discovery says that the keys are [default: this server]
    #[arg(long, value_name = "URL")]
    service_account_jwks_uri: Option<String>,
    /// No service-account token lives longer, whatever is asked for
    #[arg(long, value_name = "TIME", value_parser = identity::duration)]
    service_account_max_token_expiration: Option<Duration>,
    /// Let the tokens of pods live for a year, for clients that do not read them again
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    service_account_extend_token_expiration: bool,
}

/// Who is asked what users may do.
#[derive(Args, Clone, Debug)]
pub struct AuthorizationFlags {
    /// Who is asked, in this order: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny [default: Node,RBAC]
    #[arg(long, value_name = "MODE,...", value_delimiter = ',')]
    pub authorization_mode: Vec<String>,
    /// AuthorizationConfiguration (apiserver.config.k8s.io): the same, with any number of webhooks; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub authorization_config: Option<PathBuf>,
    /// kubeconfig of the webhook of mode Webhook (SubjectAccessReview)
    #[arg(long, value_name = "FILE")]
    authorization_webhook_config_file: Option<PathBuf>,
    /// Version of SubjectAccessReview that the webhook knows: v1 or v1beta1 [default: v1beta1]
    #[arg(long, value_name = "VERSION", value_parser = ["v1", "v1beta1"])]
    authorization_webhook_version: Option<String>,
    /// How long the webhook's answers hold that allow [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = identity::duration)]
    authorization_webhook_cache_authorized_ttl: Option<Duration>,
    /// How long the webhook's answers hold that do not allow [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = identity::duration)]
    authorization_webhook_cache_unauthorized_ttl: Option<Duration>,
}

/// What holds where nothing is said, of flags that are looked at whether they are given: for `/flagz`.
pub const UNSAID: &[(&str, &str)] = &[
    ("anonymous-auth", "true"),
    ("oidc-username-claim", "sub"),
    ("oidc-signing-algs", "RS256"),
    ("authorization-mode", "Node,RBAC"),
    ("authorization-webhook-version", "v1beta1"),
    ("authorization-webhook-cache-authorized-ttl", "5m0s"),
    ("authorization-webhook-cache-unauthorized-ttl", "30s"),
];

impl AuthenticationFlags {
    /// How service-account tokens are made: `key` is the cluster's own, in PEM.
    ///
    /// # Errors
    /// A file that cannot be read or has no key; what does not go together.
    pub fn tokens(&self, key: &str) -> anyhow::Result<TokensConfig> {
        let flags = &self.accounts;
        if flags.service_account_signing_endpoint.is_some() {
            bail!("--service-account-signing-endpoint is not supported: name a key (--service-account-signing-key-file)");
        }
        let issuers = if flags.service_account_issuer.is_empty() { vec![ISSUER.to_owned()] } else { flags.service_account_issuer.clone() };
        check_issuers(&issuers)?;
        let own = &flags.service_account_signing_key_file;
        let signing = match own {
            None => SigningKey::of_pem(key.as_bytes()).context("service-account key")?,
            Some(file) => {
                let file = GivenFile::new("--service-account-signing-key-file", file);
                SigningKey::of_pem(&file.bytes()?).with_context(|| file.to_string())?
            }
        };
        let mut keys = Vec::new();
        for file in &flags.service_account_key_file {
            let file = GivenFile::new("--service-account-key-file", file);
            keys.extend(PublicKey::all_of_pem(&file.bytes()?).with_context(|| file.to_string())?);
        }
        if keys.is_empty() {
            if own.is_some() {
                bail!("--service-account-key-file must be specified when --service-account-signing-key-file is provided");
            }
            keys.push(signing.public().clone());
        }
        let max = flags.service_account_max_token_expiration.filter(|max| !max.is_zero());
        if max.is_some_and(|max| !(3600..=1 << 32).contains(&max.as_secs())) {
            bail!("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds");
        }
        Ok(TokensConfig {
            audiences: if self.api_audiences.is_empty() { issuers.clone() } else { self.api_audiences.clone() },
            issuers,
            signing,
            keys,
            seconds_max: max.map(|max| i64::try_from(max.as_secs()).unwrap_or(i64::MAX)),
            extends: flags.service_account_extend_token_expiration,
        })
    }

    /// Where discovery says that the keys are, if elsewhere.
    ///
    /// # Errors
    /// It is no URL of https.
    pub fn jwks_uri(&self) -> anyhow::Result<Option<&str>> {
        let uri = self.accounts.service_account_jwks_uri.as_deref();
        if let Some(uri) = uri
            && !uri.starts_with("https://")
        {
            bail!("service-account-jwks-uri requires https scheme, parsed as: {uri}");
        }
        Ok(uri)
    }

    /// The issuer of the `--oidc-*` flags and the algorithms that it may use; nothing without them.
    ///
    /// # Errors
    /// What does not go together; all that is wrong with it.
    pub fn oidc(&self, disallowed: &[String]) -> anyhow::Result<Option<(AuthenticationConfig, Vec<Algorithm>)>> {
        let flags = &self.oidc;
        if !flags.is_any() {
            return Ok(None);
        }
        if self.authentication_config.is_some() {
            bail!("authentication-config file and oidc-* flags are mutually exclusive");
        }
        let (Some(url), Some(client)) = (given(&flags.oidc_issuer_url), given(&flags.oidc_client_id)) else {
            bail!("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set");
        };
        let authenticator = flags.authenticator(url, client)?;
        let config = AuthenticationConfig::of_issuer(authenticator, disallowed).map_err(anyhow::Error::msg)?;
        let algorithms = if flags.oidc_signing_algs.is_empty() { vec![Algorithm::Rs256] } else { flags.oidc_signing_algs.clone() };
        Ok(Some((config, algorithms)))
    }
}

impl OidcFlags {
    fn is_any(&self) -> bool {
        let texts = [
            &self.oidc_issuer_url,
            &self.oidc_client_id,
            &self.oidc_username_claim,
            &self.oidc_username_prefix,
            &self.oidc_groups_claim,
            &self.oidc_groups_prefix,
        ];
        texts.iter().any(|text| text.is_some())
            || self.oidc_ca_file.is_some()
            || !self.oidc_signing_algs.is_empty()
            || !self.oidc_required_claim.is_empty()
    }

    fn authenticator(&self, url: &str, client: &str) -> anyhow::Result<JwtAuthenticator> {
        let claim = self.oidc_username_claim.as_deref().unwrap_or("sub");
        let prefix = match given(&self.oidc_username_prefix) {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if claim == "email" => String::new(),
            None => format!("{url}#"),
        };
        let username = Mapping { claim: claim.to_owned(), prefix: Some(prefix), expression: String::new() };
        let groups = given(&self.oidc_groups_claim).map(|claim| Mapping {
            claim: claim.to_owned(),
            prefix: Some(self.oidc_groups_prefix.clone().unwrap_or_default()),
            expression: String::new(),
        });
        let certificate_authority = match &self.oidc_ca_file {
            None => String::new(),
            Some(file) => GivenFile::new("--oidc-ca-file", file).text()?,
        };
        let rule =
            |(claim, value): &(String, String)| ClaimRule { claim: claim.clone(), required_value: value.clone(), ..ClaimRule::default() };
        Ok(JwtAuthenticator {
            issuer: Issuer { url: url.to_owned(), audiences: vec![client.to_owned()], certificate_authority, ..Issuer::default() },
            claim_mappings: ClaimMappings { username, groups: groups.unwrap_or_default(), ..ClaimMappings::default() },
            claim_validation_rules: self.oidc_required_claim.iter().map(rule).collect(),
            ..JwtAuthenticator::default()
        })
    }
}

impl AuthorizationFlags {
    /// Who is asked: what the flags or the file say, and the file's text.
    ///
    /// # Errors
    /// What does not go together; all that is wrong with the file.
    pub fn config(&self) -> anyhow::Result<(AuthorizationConfig, Option<String>)> {
        let Some(file) = &self.authorization_config else { return Ok((self.of_modes()?, None)) };
        let is_any = !self.authorization_mode.is_empty()
            || self.authorization_webhook_config_file.is_some()
            || self.authorization_webhook_version.is_some()
            || self.authorization_webhook_cache_authorized_ttl.is_some()
            || self.authorization_webhook_cache_unauthorized_ttl.is_some();
        if is_any {
            bail!("--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined");
        }
        let file = GivenFile::new("--authorization-config", file);
        let text = file.text()?;
        let config = AuthorizationConfig::parse(&text).map_err(anyhow::Error::msg).with_context(|| file.to_string())?;
        Ok((config, Some(text)))
    }

    fn of_modes(&self) -> anyhow::Result<AuthorizationConfig> {
        let default = ["Node".to_owned(), "RBAC".to_owned()];
        let modes = if self.authorization_mode.is_empty() { &default[..] } else { &self.authorization_mode };
        for (at, mode) in modes.iter().enumerate() {
            Type::parse(mode).map_err(anyhow::Error::msg)?;
            if modes[..at].contains(mode) {
                bail!("authorization-mode {modes:?} has mode specified more than once");
            }
        }
        let (file, has_webhook) = (&self.authorization_webhook_config_file, modes.iter().any(|mode| mode == "Webhook"));
        match (file, has_webhook) {
            (None, true) => bail!("authorization-mode Webhook's authorization config file not passed"),
            (Some(_), false) => bail!("cannot specify --authorization-webhook-config-file without mode Webhook"),
            _ => {}
        }
        let one = |mode: &String| AuthorizerConfig {
            kind: mode.clone(),
            name: mode.to_lowercase(),
            webhook: file.as_ref().filter(|_| mode == "Webhook").map(|file| self.webhook(file)),
        };
        Ok(AuthorizationConfig { authorizers: modes.iter().map(one).collect() })
    }

    fn webhook(&self, file: &std::path::Path) -> WebhookConfig {
        let mut config = WebhookConfig {
            subject_access_review_version: self.authorization_webhook_version.clone().unwrap_or_else(|| "v1beta1".into()),
            failure_policy: "NoOpinion".into(),
            ..WebhookConfig::default()
        };
        config.connection_info.kube_config_file = Some(file.display().to_string());
        if let Some(ttl) = self.authorization_webhook_cache_authorized_ttl {
            (config.authorized_ttl, config.cache_authorized_requests) = (ttl, Some(!ttl.is_zero()));
        }
        if let Some(ttl) = self.authorization_webhook_cache_unauthorized_ttl {
            (config.unauthorized_ttl, config.cache_unauthorized_requests) = (ttl, Some(!ttl.is_zero()));
        }
        config
    }

    pub fn allows_all(&self) -> bool {
        self.authorization_mode.iter().any(|mode| mode == "AlwaysAllow")
    }
}

fn check_issuers(issuers: &[String]) -> anyhow::Result<()> {
    for (at, issuer) in issuers.iter().enumerate() {
        match () {
            () if issuer.is_empty() => bail!("service-account-issuer should not be an empty string"),
            () if issuers[..at].contains(issuer) => bail!("service-account-issuer {issuer:?} is already specified"),
            () if issuer == kinds::auth::legacy::ISSUER => bail!("service-account-issuer {issuer:?} is that of tokens in Secrets"),
            () => {}
        }
    }
    Ok(())
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    Algorithm::parse(name).ok_or_else(|| format!("oidc: unsupported signing alg: {name:?}"))
}

fn required_claim(text: &str) -> Result<(String, String), String> {
    let (claim, value) = text.split_once('=').ok_or("it must be CLAIM=VALUE")?;
    Ok((claim.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        authentication: AuthenticationFlags,
        #[command(flatten)]
        authorization: AuthorizationFlags,
    }

    fn parsed(args: &[&str]) -> Alone {
        let all = ["skiff"].iter().chain(args);
        <Alone as clap::Parser>::try_parse_from(all).map_err(|error| error.to_string()).unwrap()
    }

    fn oidc(args: &[&str]) -> Result<Option<JwtAuthenticator>, String> {
        let found = parsed(args).authentication.oidc(&["https://own".into()]).map_err(|error| error.to_string())?;
        Ok(found.map(|(config, _)| config.jwt[0].clone()))
    }

    fn modes(args: &[&str]) -> Result<Vec<String>, String> {
        let config = parsed(args).authorization.config().map_err(|error| error.to_string())?.0;
        Ok(config.authorizers.into_iter().map(|one| one.kind).collect())
    }

    #[test]
    fn names_have_the_prefixes_that_upstream_gives_them() {
        assert_eq!(oidc(&[]).unwrap(), None);
        let base = ["--oidc-issuer-url=https://a", "--oidc-client-id=c"];
        let prefix = |more: &[&str]| oidc(&[&base[..], more].concat()).unwrap().unwrap().claim_mappings.username.prefix.unwrap();
        assert_eq!(prefix(&[]), "https://a#");
        assert_eq!(prefix(&["--oidc-username-prefix=-"]), "");
        assert_eq!(prefix(&["--oidc-username-claim=email"]), "");
        assert_eq!(prefix(&["--oidc-username-prefix=o:"]), "o:");
        let groups =
            oidc(&[&base[..], &["--oidc-groups-claim=g", "--oidc-groups-prefix=o:"]].concat()).unwrap().unwrap().claim_mappings.groups;
        assert_eq!((groups.claim.as_str(), groups.prefix.as_deref()), ("g", Some("o:")));
        assert!(oidc(&["--oidc-client-id=c"]).unwrap_err().contains("must be specified together"));
        assert!(oidc(&["--oidc-issuer-url=http://a", "--oidc-client-id=c"]).unwrap_err().contains("URL scheme must be https"));
        assert!(oidc(&["--oidc-issuer-url=https://own", "--oidc-client-id=c"]).unwrap_err().contains("must not overlap"));
        let both = [&base[..], &["--authentication-config=x"]].concat();
        assert!(oidc(&both).unwrap_err().contains("mutually exclusive"));
    }

    #[test]
    fn what_holds_without_a_flag_is_what_its_help_says() {
        let parsed = parsed(&["--oidc-issuer-url=https://a", "--oidc-client-id=c"]);
        let (config, algorithms) = parsed.authentication.oidc(&[]).unwrap().unwrap();
        let webhook = parsed.authorization.webhook("/x".as_ref());
        let of = |name: &str| UNSAID.iter().find(|(flag, _)| *flag == name).map(|(_, value)| (*value).to_owned());
        let time = |name: &str| identity::duration(&of(name).unwrap()).unwrap();
        assert_eq!(of("oidc-username-claim"), Some(config.jwt[0].claim_mappings.username.claim.clone()));
        assert_eq!((of("oidc-signing-algs").unwrap(), algorithms), ("RS256".to_owned(), vec![Algorithm::Rs256]));
        assert_eq!(of("authorization-mode").unwrap(), modes(&[]).unwrap().join(","));
        assert_eq!(of("authorization-webhook-version"), Some(webhook.subject_access_review_version));
        assert_eq!(time("authorization-webhook-cache-authorized-ttl"), webhook.authorized_ttl);
        assert_eq!(time("authorization-webhook-cache-unauthorized-ttl"), webhook.unauthorized_ttl);
    }

    #[test]
    fn modes_are_known_and_each_is_there_once() {
        assert_eq!(modes(&[]).unwrap(), ["Node", "RBAC"]);
        assert_eq!(modes(&["--authorization-mode=RBAC,Node"]).unwrap(), ["RBAC", "Node"]);
        assert_eq!(modes(&["--authorization-mode=Webhook", "--authorization-webhook-config-file=/x"]).unwrap(), ["Webhook"]);
        for (args, why) in [
            (&["--authorization-mode=ABAC"][..], "ABAC is not supported"),
            (&["--authorization-mode=X"], "authorization-mode \"X\" is not a valid mode"),
            (&["--authorization-mode=RBAC,RBAC"], "has mode specified more than once"),
            (&["--authorization-mode=Webhook"], "authorization config file not passed"),
            (&["--authorization-webhook-config-file=/x"], "without mode Webhook"),
            (&["--authorization-config=/x", "--authorization-mode=RBAC"], "can not be specified when"),
        ] {
            let found = modes(args).unwrap_err();
            assert!(found.contains(why), "{args:?}: {found}");
        }
    }

    #[test]
    fn a_signing_key_goes_with_keys_that_verify() {
        let key = apiserver::certs::issue::key().unwrap();
        let tokens = |args: &[&str]| parsed(args).authentication.tokens(&key).map_err(|error| format!("{error:#}"));
        let own = tokens(&[]).unwrap();
        assert_eq!((own.issuers, own.audiences, own.keys.len()), (vec![ISSUER.to_owned()], vec![ISSUER.to_owned()], 1));
        let two = tokens(&["--service-account-issuer=https://a", "--service-account-issuer=https://b", "--api-audiences=x,y"]).unwrap();
        assert_eq!((two.issuers, two.audiences), (vec!["https://a".to_owned(), "https://b".into()], vec!["x".to_owned(), "y".into()]));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sa.key");
        std::fs::write(&file, &key).unwrap();
        let signing = format!("--service-account-signing-key-file={}", file.display());
        assert!(tokens(&[&signing]).err().unwrap().contains("must be specified when"));
        assert!(tokens(&[&signing, &format!("--service-account-key-file={}", file.display())]).is_ok());
        for (bad, why) in [
            ("--service-account-issuer=", "should not be an empty string"),
            ("--service-account-signing-endpoint=/x", "not supported"),
            ("--service-account-max-token-expiration=1m", "between 1 hour and 2^32 seconds"),
            ("--service-account-key-file=/none", "--service-account-key-file /none: No such file"),
            ("--service-account-signing-key-file=/none", "--service-account-signing-key-file /none: No such file"),
        ] {
            let found = tokens(&[bad]).err().unwrap();
            assert!(found.contains(why), "{bad}: {found}");
        }
    }
}
