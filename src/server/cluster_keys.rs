//! A token and what etcd holds -> the keys that all servers of a cluster have: its authority and the key of its service accounts.
//!
//! The first server makes them (or brings those of its data directory) and puts them into etcd, sealed by `--token`; each further one opens them with
//! the same token. Of two that come first at once etcd takes one's, and the other takes those. After that a server has them in its own data
//! directory and needs no token. Without a token they can be brought by hand: `ca.crt`, `ca.key` and `sa.key` of the first server's `tls`
//! directory. Certificates to serve with are each server's own. (k3s: `/bootstrap/<hash of the token>`.)

mod sealed;

use std::path::Path;

use anyhow::{Context, bail};
use api::{bootstrap::Token, certificate::Identity, time::Timestamp};
use apiserver::certs::{
    files::{Files, Fresh, add_pair},
    issue,
};
use store::{Expect, Op, Outcome, Range, Store, Txn};
use tokio::task::spawn_blocking;

use self::sealed::{Keys, Sealed, fingerprint};

/// Beside upstream's `/registry`.
const KEY: &str = "/skiff/bootstrap";
const AUTHORITY: &str = "ca";
const SERVICE_ACCOUNT: &str = "sa.key";

/// Sees to it that `dir` (`<data-dir>/tls`) has the keys of the cluster that `store` holds. What stands there is never replaced.
///
/// # Errors
/// The store does not answer; the token is not the cluster's; or the directory is of another cluster. The text says what to do.
pub async fn agree(store: &dyn Store, dir: &Path, token: Option<&Token>) -> anyhow::Result<()> {
    let files = Files::open(dir)?;
    let here = Here { authority: files.pair(AUTHORITY)?.map(|(pair, _)| pair), service_account: files.read(SERVICE_ACCOUNT)? };
    let found = store.get(KEY).await.context("reading the cluster's keys in etcd")?;
    let keys = match (found, token) {
        (None, None) => return if here.authority.is_some() { Ok(()) } else { is_empty(store).await },
        (Some(found), None) => {
            let sealed = Sealed::from_bytes(&found.value).context(NOT_OURS)?;
            if here.authority.as_ref().is_some_and(|pair| fingerprint(&pair.chain_pem) == sealed.fingerprint) {
                return Ok(());
            }
            bail!("etcd holds a cluster whose keys are sealed: start this server with the --token that its first server was started with");
        }
        (Some(found), Some(token)) => open(&found.value, token).await?,
        (None, Some(token)) => first(store, &here, token).await?,
    };
    here.take(&files, dir, &keys)
}

const NOT_OURS: &str = "the cluster's keys in etcd (/skiff/bootstrap) cannot be read, and were left untouched";

/// What the directory holds.
struct Here {
    authority: Option<Identity>,
    service_account: Option<String>,
}

impl Here {
    fn take(&self, files: &Files, dir: &Path, keys: &Keys) -> anyhow::Result<()> {
        let mut fresh = Fresh::new();
        match &self.authority {
            None => add_pair(&mut fresh, AUTHORITY, &keys.authority),
            Some(pair) if fingerprint(&pair.chain_pem) == fingerprint(&keys.authority.chain_pem) => {}
            Some(_) => bail!(
                "{} holds the keys of another cluster than etcd does: it was left untouched. Name another --data-dir, or the etcd of this one.",
                dir.display()
            ),
        }
        match &self.service_account {
            None => fresh.push((SERVICE_ACCOUNT.into(), keys.service_account.clone())),
            Some(key) if key.trim() == keys.service_account.trim() => {}
            Some(_) => bail!(
                "{}: it is not the key that the cluster's other servers have. It was left untouched",
                files.path(SERVICE_ACCOUNT).display()
            ),
        }
        Ok(files.write(&fresh)?)
    }

    /// What the directory holds; what it lacks is made.
    fn whole(&self) -> anyhow::Result<Keys> {
        let authority = match &self.authority {
            Some(pair) => pair.clone(),
            None => issue::authority("kubernetes", Timestamp::now())?,
        };
        let service_account = match &self.service_account {
            Some(key) => key.clone(),
            None => issue::key()?,
        };
        Ok(Keys { authority, service_account })
    }
}

/// Seals this server's keys, unless another was quicker: then opens that one's.
async fn first(store: &dyn Store, here: &Here, token: &Token) -> anyhow::Result<Keys> {
    if here.authority.is_none() {
        is_empty(store).await?;
    }
    let (keys, token_of) = (here.whole()?, token.clone());
    let sealing = keys.clone();
    let sealed = spawn_blocking(move || Sealed::seal(&sealing, &token_of)).await??;
    let put = Op::Put { key: KEY.into(), value: sealed.to_bytes().into(), ttl: None };
    match store
        .txn(Txn { expect: vec![(KEY.into(), Expect::Absent)], ops: vec![put] })
        .await
        .context("putting the cluster's keys into etcd")?
    {
        Outcome::Done(_) => Ok(keys),
        Outcome::Refused { found, .. } => {
            let theirs = found.into_iter().flatten().next().context("the cluster's keys in etcd came and went")?;
            open(&theirs.value, token).await
        }
    }
}

async fn open(bytes: &[u8], token: &Token) -> anyhow::Result<Keys> {
    let (sealed, token) = (Sealed::from_bytes(bytes).context(NOT_OURS)?, token.clone());
    let opened = spawn_blocking(move || sealed.open(&token)).await??;
    opened.context("--token is not the one that the cluster in etcd was begun with (or its keys there were changed): nothing was written. Give this server the token of the first one")
}

/// Keys are made only for a cluster that is new: those of another would be of no use to what it holds.
async fn is_empty(store: &dyn Store) -> anyhow::Result<()> {
    let any = Range { prefix: "/registry/".into(), limit: 1, ..Range::default() };
    if store.range(any).await.context("looking what etcd holds")?.entries.is_empty() {
        return Ok(());
    }
    bail!(
        "etcd holds a cluster whose keys are not here. Start its first server with --token, and this one with the same; or copy ca.crt, ca.key and sa.key from \
         the tls directory of a server that has them"
    )
}

#[cfg(test)]
mod tests {
    use apiserver::certs::{Certs, ServingNames};
    use store::memory::Memory;
    use tempfile::TempDir;

    use super::*;

    fn token(last: char) -> Token {
        Token::parse(&format!("abcdef.0123456789abcde{last}")).unwrap()
    }

    async fn start(store: &Memory, dir: &TempDir, token: Option<&Token>) -> Result<Certs, String> {
        agree(store, dir.path(), token).await.map_err(|error| format!("{error:#}"))?;
        Certs::open(dir.path(), &ServingNames::default()).map_err(|error| error.to_string())
    }

    fn dirs<const N: usize>() -> [TempDir; N] {
        std::array::from_fn(|_| tempfile::tempdir().unwrap())
    }

    async fn used(store: &Memory) {
        let put = Op::Put { key: "/registry/namespaces/default".into(), value: "{}".into(), ttl: None };
        store.txn(Txn { expect: vec![], ops: vec![put] }).await.unwrap();
    }

    #[tokio::test]
    async fn two_that_come_first_at_once_agree_and_a_third_has_the_same() {
        let (store, [a, b, c], t) = (Memory::new(), dirs(), token('a'));
        let (first, second) = tokio::join!(start(&store, &a, Some(&t)), start(&store, &b, Some(&t)));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!((first.ca(), first.service_account_key()), (second.ca(), second.service_account_key()));
        assert_ne!(first.leaves().serving, second.leaves().serving, "certificates are each server's own");
        used(&store).await;
        let third = start(&store, &c, Some(&t)).await.unwrap();
        assert_eq!((first.ca(), first.service_account_key()), (third.ca(), third.service_account_key()));
        // Later it needs no token, but a wrong one is told.
        assert_eq!(start(&store, &c, None).await.unwrap().ca(), first.ca());
        assert!(start(&store, &c, Some(&token('b'))).await.is_err());
        assert!(start(&store, &c, Some(&t)).await.is_ok());
    }

    #[tokio::test]
    async fn who_has_no_right_token_is_told_and_nothing_is_written() {
        let (store, [a, b], t) = (Memory::new(), dirs(), token('a'));
        start(&store, &a, Some(&t)).await.unwrap();
        used(&store).await;
        let words = |told: Result<Certs, String>| told.err().expect("it is refused");
        let wrong = words(start(&store, &b, Some(&token('b'))).await);
        assert!(wrong.contains("--token is not the one") && !wrong.contains("0123456789abcde"), "{wrong}");
        let without = words(start(&store, &b, None).await);
        assert!(without.contains("start this server with the --token"), "{without}");
        assert_eq!(std::fs::read_dir(b.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_cluster_that_was_begun_without_a_token_takes_one_from_who_has_its_keys() {
        let (store, [a, b, c], t) = (Memory::new(), dirs(), token('a'));
        let first = start(&store, &a, None).await.unwrap();
        used(&store).await;
        for token in [None, Some(&t)] {
            let told = start(&store, &b, token).await.err().expect("it is refused");
            assert!(told.contains("whose keys are not here"), "{told}");
        }
        // By hand ...
        for file in ["ca.crt", "ca.key", "sa.key"] {
            std::fs::copy(a.path().join(file), c.path().join(file)).unwrap();
        }
        assert_eq!(start(&store, &c, None).await.unwrap().ca(), first.ca());
        // ... or by the first.
        start(&store, &a, Some(&t)).await.unwrap();
        let second = start(&store, &b, Some(&t)).await.unwrap();
        assert_eq!((first.ca(), first.service_account_key()), (second.ca(), second.service_account_key()));
    }

    #[tokio::test]
    async fn a_directory_of_another_cluster_is_left_untouched() {
        let (store, other, [a, b], t) = (Memory::new(), Memory::new(), dirs(), token('a'));
        start(&store, &a, Some(&t)).await.unwrap();
        let ca = start(&other, &b, Some(&t)).await.unwrap().ca().to_owned();
        let told = start(&store, &b, Some(&t)).await.err().expect("it is refused");
        assert!(told.contains("another cluster"), "{told}");
        assert_eq!(std::fs::read_to_string(b.path().join("ca.crt")).unwrap(), ca);
    }
}
