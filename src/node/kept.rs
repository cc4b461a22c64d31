//! `<data-dir>/node` -> who this node is, and of which cluster: what it needs to start when no server answers.
//!
//! For its owner alone, each file whole or not there, and written only where it differs: it may lie on a card that wears out.

use std::path::{Path, PathBuf};

use anyhow::Context;
use api::{certificate::Identity, csr::NODE_USER_PREFIX};
use apiserver::certs::files::{Files, Fresh, add_pair};
use client::certificate::{common_name, new_key};

use crate::node::cluster_config::Facts;

const CA: &str = "ca.crt";
/// Upstream's names for these are `kubelet-client-current.pem` and `kubelet-server-current.pem`, with the keys in them.
const CLIENT: &str = "kubelet-client";
/// What the cluster knows this machine by.
const JOIN_KEY: &str = "kubelet-join.key";
/// Of the certificate that is asked for.
const NEXT_KEY: &str = "kubelet-client-next.key";
const SERVING: &str = "kubelet-server";
/// URLs, one a line.
const SERVERS: &str = "servers";
const CLUSTER: &str = "cluster.json";

/// What a node keeps of its membership.
#[derive(Clone, Debug)]
pub struct Kept {
    dir: PathBuf,
    files: Files,
}

impl Kept {
    /// Makes the directory where it is missing.
    ///
    /// # Errors
    /// It cannot be read or made.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { dir: dir.to_owned(), files: Files::open(dir)? })
    }

    /// The cluster's authority, as it was when we joined.
    pub fn ca(&self) -> anyhow::Result<Option<String>> {
        Ok(self.files.read(CA)?)
    }

    /// What the node shows to servers.
    pub fn client(&self) -> anyhow::Result<Option<Identity>> {
        self.identity(CLIENT)
    }

    /// The node that we are; `None` before we joined.
    ///
    /// # Errors
    /// What is kept is no node's.
    pub fn node(&self) -> anyhow::Result<Option<String>> {
        let Some(identity) = self.client()? else { return Ok(None) };
        let name = common_name(&identity).and_then(|name| name.strip_prefix(NODE_USER_PREFIX).map(str::to_owned));
        name.map(Some).context("the certificate that is kept is of no node")
    }

    /// The key to ask for a certificate with a token with, each time: the name belongs to it (docs/decisions/a-node-name-belongs-to-a-key.md). It is on the
    /// disk before it is shown to anybody.
    pub fn join_key(&self) -> anyhow::Result<String> {
        if let Some(key) = self.files.read(JOIN_KEY)? {
            return Ok(key);
        }
        // Who joined before there was this file: with the key of the certificate, if that was never renewed, or with one that an interrupted start left.
        let before = match self.client()? {
            Some(identity) => Some(identity.key_pem),
            None => self.files.read(NEXT_KEY)?,
        };
        let key = before.map_or_else(new_key, Ok)?;
        self.write(vec![(JOIN_KEY.to_owned(), key.clone())])?;
        Ok(key)
    }

    /// The key to renew the certificate with: the same again after a start that was interrupted, since the cluster knows a machine by it.
    pub fn next_key(&self) -> anyhow::Result<String> {
        let used = self.client()?.map(|identity| identity.key_pem);
        if let Some(key) = self.files.read(NEXT_KEY)?.filter(|key| Some(key) != used.as_ref()) {
            return Ok(key);
        }
        let key = new_key()?;
        self.write(vec![(NEXT_KEY.to_owned(), key.clone())])?;
        Ok(key)
    }

    /// What the node's own server shows.
    pub fn serving(&self) -> anyhow::Result<Option<Identity>> {
        self.identity(SERVING)
    }

    /// Both or, whenever this is interrupted, none.
    pub fn set_client(&self, ca: &str, identity: &Identity) -> anyhow::Result<()> {
        let mut fresh = vec![(CA.to_owned(), ca.to_owned())];
        add_pair(&mut fresh, CLIENT, identity);
        self.write(fresh)
    }

    pub fn set_serving(&self, identity: &Identity) -> anyhow::Result<()> {
        let mut fresh = Fresh::new();
        add_pair(&mut fresh, SERVING, identity);
        self.write(fresh)
    }

    /// The servers that were known, the one that was used last first.
    pub fn servers(&self) -> anyhow::Result<Vec<String>> {
        let text = self.files.read(SERVERS)?.unwrap_or_default();
        Ok(text.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect())
    }

    pub fn set_servers(&self, urls: &[String]) -> anyhow::Result<()> {
        self.write(vec![(SERVERS.to_owned(), urls.join("\n") + "\n")])
    }

    /// `None` too where they cannot be read: a server tells them again.
    pub fn facts(&self) -> anyhow::Result<Option<Facts>> {
        let text = self.files.read(CLUSTER)?;
        Ok(text.and_then(|text| Facts::from_json(&text).inspect_err(|error| tracing::warn!(%error, "{CLUSTER} is left aside")).ok()))
    }

    pub fn set_facts(&self, facts: &Facts) -> anyhow::Result<()> {
        self.write(vec![(CLUSTER.to_owned(), facts.to_json())])
    }

    fn identity(&self, name: &str) -> anyhow::Result<Option<Identity>> {
        Ok(self.files.pair(name)?.map(|(identity, _)| identity))
    }

    fn write(&self, fresh: Fresh) -> anyhow::Result<()> {
        let is_there = |(name, text): &(String, String)| self.files.read(name).is_ok_and(|there| there.as_ref() == Some(text));
        if fresh.iter().all(is_there) {
            return Ok(());
        }
        self.files.write(&fresh).with_context(|| format!("writing {}", self.dir.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

    use client::certificate::{Wanted, self_signed};

    use super::*;

    fn identity(name: &str) -> Identity {
        self_signed(&Wanted::node_client(name), Duration::from_secs(60), api::time::Timestamp::now()).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_again_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("node");
        let kept = Kept::open(&place).unwrap();
        assert_eq!((kept.ca().unwrap(), kept.client().unwrap(), kept.servers().unwrap().len()), (None, None, 0));
        let (client, serving) = (identity("a"), identity("a"));
        kept.set_client("CA", &client).unwrap();
        kept.set_serving(&serving).unwrap();
        kept.set_servers(&["https://a:1".into(), "https://b:2".into()]).unwrap();
        let kept = Kept::open(&place).unwrap();
        assert_eq!(
            (kept.ca().unwrap().as_deref(), kept.client().unwrap(), kept.serving().unwrap()),
            (Some("CA"), Some(client), Some(serving))
        );
        assert_eq!(kept.servers().unwrap(), ["https://a:1", "https://b:2"]);
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o077, 0);
        for file in fs::read_dir(&place).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_key_is_asked_with_until_it_has_a_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let kept = || Kept::open(dir.path()).unwrap();
        let key = kept().next_key().unwrap();
        assert_eq!(kept().next_key().unwrap(), key, "a start that was interrupted goes on");
        assert_eq!(kept().node().unwrap(), None);
        let own = identity("a");
        kept().write(vec![(NEXT_KEY.to_owned(), own.key_pem.clone())]).unwrap();
        kept().set_client("CA", &own).unwrap();
        assert_ne!(kept().next_key().unwrap(), own.key_pem, "a new certificate has a new key");
        assert_eq!(kept().node().unwrap().as_deref(), Some("a"));
    }

    #[test]
    fn who_joins_again_has_the_key_that_it_joined_with() {
        let dir = tempfile::tempdir().unwrap();
        let kept = || Kept::open(dir.path()).unwrap();
        let key = kept().join_key().unwrap();
        assert_eq!(kept().join_key().unwrap(), key, "a start that was interrupted before the answer came");
        for _ in 0..3 {
            let next = kept().next_key().unwrap();
            assert_ne!(next, key);
            let renewed = Identity { key_pem: next, ..identity("a") };
            kept().set_client("CA", &renewed).unwrap();
            assert_eq!(kept().join_key().unwrap(), key, "whatever was renewed since");
        }
        // Of a version that had no such file.
        let older = tempfile::tempdir().unwrap();
        let kept = || Kept::open(older.path()).unwrap();
        let first = kept().next_key().unwrap();
        assert_eq!(kept().join_key().unwrap(), first);
        let older = tempfile::tempdir().unwrap();
        let (kept, own) = (|| Kept::open(older.path()).unwrap(), identity("a"));
        kept().set_client("CA", &own).unwrap();
        assert_eq!(kept().join_key().unwrap(), own.key_pem);
    }

    #[test]
    fn what_is_the_same_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir.path().join(SERVERS)).unwrap());
        kept.set_servers(&["https://a:1".into()]).unwrap();
        let before = inode();
        kept.set_servers(&["https://a:1".into()]).unwrap();
        assert_eq!(inode(), before);
        kept.set_servers(&["https://b:1".into()]).unwrap();
        assert_ne!(inode(), before);
    }

    #[test]
    fn facts_that_cannot_be_read_are_left_aside() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        fs::write(dir.path().join(CLUSTER), "{\"cut").unwrap();
        assert_eq!(kept.facts().unwrap(), None);
    }
}
