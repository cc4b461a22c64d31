//! `skiff token create|list|delete`: the tokens that machines join with. As `kubeadm token`, and the same Secrets.

mod secret;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, anyhow, bail};
use api::{
    bootstrap::{self, Token},
    k8s::api::core::v1::{Endpoints, Secret},
    time::{Timestamp, after},
};
use client::{
    ANSWER_BOUND,
    kube::{
        Api, Client, Config, Error,
        api::{DeleteParams, ListParams, PostParams},
        config::{KubeConfigOptions, Kubeconfig},
    },
};
use rand::Rng;

use crate::{
    flags::{AccessFlags, CreateTokenFlags, DeleteTokenFlags, TokenFlags, TokenVerb},
    kubeconfig::OF_SERVER,
    machine::dirs::Dirs,
    node::join_token::{JoinToken, Pin},
};

pub use secret::{Made, object};

const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The cluster as the kubeconfig has it.
struct Cluster {
    secrets: Api<Secret>,
    endpoints: Api<Endpoints>,
    server: String,
    /// Where it is served, if nobody elsewhere reaches it.
    here_alone: Option<String>,
    ca: Option<Vec<u8>>,
}

pub async fn run(flags: TokenFlags) -> anyhow::Result<()> {
    match flags.what {
        TokenVerb::Create(flags) => create(&flags).await,
        TokenVerb::List(flags) => list(&flags).await,
        TokenVerb::Delete(flags) => delete(&flags).await,
    }
}

async fn create(flags: &CreateTokenFlags) -> anyhow::Result<()> {
    let token = match &flags.token {
        Some(text) => JoinToken::parse(text, None).map_err(|why| anyhow!(why))?.token,
        None => random(),
    };
    let cluster = open(&flags.access).await?;
    let expires = (!flags.ttl.is_zero()).then(|| after(Timestamp::now(), flags.ttl));
    let made = Made {
        token: &token,
        expires,
        one_time: flags.one_time,
        description: &flags.description,
        usages: &flags.usages,
        groups: &flags.groups,
    };
    let object = serde_json::from_value(object(&made)).context("a Secret")?;
    match answered(cluster.secrets.create(&PostParams::default(), &object)).await {
        Ok(_) => {}
        Err(Error::Api(status)) if status.code == 409 => bail!("a token with id {:?} is there already", token.id),
        Err(error) => return Err(error).context("making the token"),
    }
    let whole = JoinToken { token, pin: cluster.pin()? };
    match (&whole.pin, flags.print_join_command) {
        (_, true) => say!("skiff agent --server {} --token {whole}", cluster.servers().await.join(",")),
        _ => say!("{whole}"),
    }
    Ok(())
}

async fn list(flags: &AccessFlags) -> anyhow::Result<()> {
    let cluster = open(flags).await?;
    let chosen = ListParams::default().fields(&format!("type={}", bootstrap::SECRET_TYPE));
    let found = answered(cluster.secrets.list(&chosen)).await.context("listing the tokens")?;
    let now = Timestamp::now();
    let mut rows = vec![["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS", "USED BY"].map(str::to_owned)];
    rows.extend(found.items.iter().filter_map(|secret| secret::row(secret, now)));
    table(&rows).iter().for_each(|line| say!("{line}"));
    Ok(())
}

async fn delete(flags: &DeleteTokenFlags) -> anyhow::Result<()> {
    let ids = flags.tokens.iter().map(|text| id_of(text)).collect::<anyhow::Result<Vec<String>>>()?;
    let cluster = open(&flags.access).await?;
    for id in ids {
        let name = format!("{}{id}", bootstrap::SECRET_PREFIX);
        match answered(cluster.secrets.delete(&name, &DeleteParams::default())).await {
            Ok(_) => say!("bootstrap token {id:?} deleted"),
            Err(Error::Api(status)) if status.code == 404 => bail!("there is no token with id {id:?}"),
            Err(error) => return Err(error).with_context(|| format!("deleting the token {id:?}")),
        }
    }
    Ok(())
}

fn id_of(text: &str) -> anyhow::Result<String> {
    if bootstrap::is_id(text) {
        return Ok(text.to_owned());
    }
    JoinToken::parse(text, None).map(|joined| joined.token.id).map_err(|why| anyhow!(why))
}

async fn answered<T>(reply: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = || Error::Service("the API server did not answer in time".into());
    tokio::time::timeout(ANSWER_BOUND, reply).await.unwrap_or_else(|_| Err(late()))
}

async fn open(flags: &AccessFlags) -> anyhow::Result<Cluster> {
    let path = flags.kubeconfig.clone().unwrap_or_else(|| Dirs::new(flags.data_dir.as_deref()).kubeconfig());
    let whose = || format!("{}: is there a cluster on this --data-dir? `skiff up` makes one; --kubeconfig names another", path.display());
    let read = Kubeconfig::read_from(&path).with_context(whose)?;
    let here_alone = here_alone(&read);
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.context("the kubeconfig")?;
    let (server, ca) = (config.cluster_url.to_string(), config.root_cert.clone().and_then(|certificates| certificates.into_iter().next()));
    let client = Client::try_from(config).context("the kubeconfig")?;
    let server = server.trim_end_matches('/').to_owned();
    let endpoints = Api::namespaced(client.clone(), "default");
    Ok(Cluster { secrets: Api::namespaced(client, bootstrap::NAMESPACE), endpoints, server, here_alone, ca })
}

impl Cluster {
    /// Where other machines reach the servers: the kubeconfig may say 127.0.0.1.
    async fn servers(&self) -> Vec<String> {
        if let Some(here) = &self.here_alone {
            eprintln!("warning: the API is served on {here} alone: other machines do not reach it (--bind-address)");
            return vec![here.clone()];
        }
        let told = answered(self.endpoints.get("kubernetes")).await.map(|endpoints| urls(&endpoints)).unwrap_or_default();
        if told.is_empty() { vec![self.server.clone()] } else { told }
    }

    /// None where the kubeconfig trusts whom the machine trusts.
    fn pin(&self) -> anyhow::Result<Option<Pin>> {
        let Some(der) = &self.ca else { return Ok(None) };
        Pin::of_certificate(der).map(Some).map_err(|why| anyhow!("the kubeconfig's CA: {why}"))
    }
}

/// The server, where the kubeconfig of a data directory says that it is served on loopback alone (`server::reached`).
fn here_alone(config: &Kubeconfig) -> Option<String> {
    let own = config.clusters.iter().find_map(|named| Some((named.name.strip_prefix(OF_SERVER)?, named.cluster.as_ref()?)))?;
    own.0.parse::<IpAddr>().ok().filter(IpAddr::is_loopback).and(own.1.server.clone())
}

fn urls(endpoints: &Endpoints) -> Vec<String> {
    let mut urls = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let port = subset.ports.iter().flatten().find(|port| port.name.as_deref() == Some("https"));
        for address in subset.addresses.iter().flatten() {
            if let (Some(port), Ok(ip)) = (port.and_then(|port| u16::try_from(port.port).ok()), address.ip.parse::<IpAddr>()) {
                urls.push(format!("https://{}", SocketAddr::new(ip, port)));
            }
        }
    }
    urls
}

/// Nobody guesses it.
pub fn random() -> Token {
    let word = |length: usize| -> String {
        let mut rng = rand::rng();
        (0..length).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
    };
    Token { id: word(6), secret: word(16) }
}

/// Columns under each other.
fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let widths: Vec<usize> = (0..N).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default()).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn random_tokens_are_tokens() {
        let (one, other) = (random(), random());
        assert_eq!(Token::parse(&one.text()), Some(one.clone()));
        assert!(one.id != other.id || one.secret != other.secret);
    }

    #[test]
    fn tokens_are_deleted_by_id_or_as_they_were_printed() {
        let hash = "ab".repeat(32);
        for text in ["abcdef", "abcdef.0123456789abcdef", &format!("K10{hash}::abcdef.0123456789abcdef")] {
            assert_eq!(id_of(text).unwrap(), "abcdef");
        }
        assert!(id_of("abc").is_err());
    }

    #[test]
    fn what_is_served_on_loopback_alone_is_joined_there() {
        let here = |name: &str| {
            let cluster = |name: &str| json!({"name": name, "cluster": {"server": format!("https://{name}:6443")}});
            let config = json!({"clusters": [cluster("skiff"), cluster(name)]});
            here_alone(&serde_json::from_value(config).unwrap())
        };
        assert_eq!(here("skiff@127.0.0.1").as_deref(), Some("https://skiff@127.0.0.1:6443"));
        assert_eq!((here("skiff@10.0.0.5"), here("other")), (None, None));
    }

    #[test]
    fn machines_join_at_the_addresses_that_servers_have() {
        let subset = json!({"addresses": [{"ip": "10.0.0.5"}, {"ip": "fd00::5"}], "ports": [{"name": "https", "port": 6443}]});
        let endpoints = serde_json::from_value(json!({"metadata": {"name": "kubernetes"}, "subsets": [subset]})).unwrap();
        assert_eq!(urls(&endpoints), ["https://10.0.0.5:6443", "https://[fd00::5]:6443"]);
        assert!(urls(&Endpoints::default()).is_empty());
    }

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [["A", "LONG"], ["words", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), ["A       LONG", "words"]);
    }
}
