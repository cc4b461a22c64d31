//! `<data-dir>/node` -> who this node is, and of which cluster: what it needs to start when no server answers.
//!
//! For its owner alone, each file whole or not there, and written only where it differs: it may lie on a card that wears out.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use api::{certificate::Identity, csr::NODE_USER_PREFIX, task::Group};
use apiserver::certs::{
    self,
    files::{Files, Fresh, add_pair},
};
use client::certificate::{common_name, new_key};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::node::cluster_config::ClusterConfig;

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

/// After a write that failed.
const RETRY: Duration = Duration::from_secs(60);

/// What a node keeps of its membership. What a disk does not take is known all the same, to all clones, and is written once it can be.
#[derive(Clone, Debug)]
pub struct Kept {
    files: Files,
    /// By name of the file.
    unwritten: Arc<Mutex<BTreeMap<String, String>>>,
    failed: Arc<Notify>,
}

impl Kept {
    /// Makes the directory where it is missing.
    ///
    /// # Errors
    /// It cannot be read or made.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self::of(Files::open(dir)?))
    }

    /// For looking only, while another process may write.
    pub fn read_only(dir: &Path) -> Self {
        Self::of(Files::read_only(dir))
    }

    fn of(files: Files) -> Self {
        Self { files, unwritten: Arc::default(), failed: Arc::default() }
    }

    /// Writes what the disk did not take, once it can be, while `group` lives.
    pub fn keep(&self, group: &Group) {
        let kept = self.clone();
        group.spawn_loop("membership", async move {
            loop {
                kept.failed.notified().await;
                tokio::time::sleep(RETRY).await;
                kept.write(Fresh::new());
            }
        });
    }

    /// The cluster's authority, as it was when we joined.
    pub fn ca(&self) -> anyhow::Result<Option<String>> {
        self.read(CA)
    }

    /// What the node shows to servers.
    pub fn client(&self) -> anyhow::Result<Option<Identity>> {
        self.identity(CLIENT)
    }

    /// Whether that is there, but of no use: half of it is lost, say.
    pub fn is_client_damaged(&self) -> bool {
        let error = self.client().err();
        error.is_some_and(|error| matches!(error.downcast_ref(), Some(certs::Error::Damaged { .. })))
    }

    /// The node that we were, though there is no key to show for it.
    pub fn last_node(&self) -> Option<String> {
        let chain_pem = self.read(&format!("{CLIENT}.crt")).ok()??;
        let name = common_name(&Identity { chain_pem, key_pem: String::new() })?;
        name.strip_prefix(NODE_USER_PREFIX).map(str::to_owned)
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
        if let Some(key) = self.read(JOIN_KEY)? {
            return Ok(key);
        }
        // Who joined before there was this file: with the key of the certificate, if that was never renewed, or with one that an interrupted start left.
        let before = match self.undamaged()? {
            Some(identity) => Some(identity.key_pem),
            None => self.read(NEXT_KEY)?,
        };
        let key = before.map_or_else(new_key, Ok)?;
        self.files.write(&vec![(JOIN_KEY.to_owned(), key.clone())])?;
        Ok(key)
    }

    /// The key to renew the certificate with: the same again after a start that was interrupted, since the cluster knows a machine by it.
    pub fn next_key(&self) -> anyhow::Result<String> {
        let used = self.undamaged()?.map(|identity| identity.key_pem);
        if let Some(key) = self.read(NEXT_KEY)?.filter(|key| Some(key) != used.as_ref()) {
            return Ok(key);
        }
        let key = new_key()?;
        self.write(vec![(NEXT_KEY.to_owned(), key.clone())]);
        Ok(key)
    }

    /// What the node's own server shows.
    pub fn serving(&self) -> anyhow::Result<Option<Identity>> {
        self.identity(SERVING)
    }

    /// Both or, whenever this is interrupted, none.
    pub fn set_client(&self, ca: &str, identity: &Identity) {
        let mut fresh = vec![(CA.to_owned(), ca.to_owned())];
        add_pair(&mut fresh, CLIENT, identity);
        self.write(fresh);
    }

    pub fn set_serving(&self, identity: &Identity) {
        let mut fresh = Fresh::new();
        add_pair(&mut fresh, SERVING, identity);
        self.write(fresh);
    }

    /// The servers that were known, the one that was used last first.
    pub fn servers(&self) -> anyhow::Result<Vec<String>> {
        let text = self.read(SERVERS)?.unwrap_or_default();
        Ok(text.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect())
    }

    pub fn set_servers(&self, urls: &[String]) {
        self.write(vec![(SERVERS.to_owned(), urls.join("\n") + "\n")]);
    }

    /// `None` too where they cannot be read: a server tells them again.
    pub fn cluster(&self) -> anyhow::Result<Option<ClusterConfig>> {
        let text = self.read(CLUSTER)?;
        Ok(text
            .and_then(|text| ClusterConfig::from_json(&text).inspect_err(|error| tracing::warn!(%error, "{CLUSTER} is left aside")).ok()))
    }

    pub fn set_cluster(&self, cluster: &ClusterConfig) {
        self.write(vec![(CLUSTER.to_owned(), cluster.to_json())]);
    }

    fn identity(&self, name: &str) -> anyhow::Result<Option<Identity>> {
        // Held, so that no file comes from a set and its other half from the next.
        let unwritten = self.unwritten.lock();
        let part = |end: &str| unwritten.get(&format!("{name}.{end}")).cloned();
        if let (Some(chain_pem), Some(key_pem)) = (part("crt"), part("key")) {
            return Ok(Some(Identity { chain_pem, key_pem }));
        }
        Ok(self.files.pair(name)?.map(|(identity, _)| identity))
    }

    /// What the node shows; a damaged one counts as none.
    fn undamaged(&self) -> anyhow::Result<Option<Identity>> {
        if self.is_client_damaged() { Ok(None) } else { self.client() }
    }

    fn read(&self, name: &str) -> anyhow::Result<Option<String>> {
        let unwritten = self.unwritten.lock();
        match unwritten.get(name) {
            Some(text) => Ok(Some(text.clone())),
            None => Ok(self.files.read(name)?),
        }
    }

    /// As one, with what could not be written before.
    fn write(&self, fresh: Fresh) {
        let mut unwritten = self.unwritten.lock();
        unwritten.extend(fresh);
        let all: Fresh = unwritten.clone().into_iter().collect();
        let is_there = |(name, text): &(String, String)| self.files.read(name).is_ok_and(|there| there.as_ref() == Some(text));
        let written = if all.iter().all(is_there) { Ok(()) } else { self.files.write(&all) };
        match written {
            Ok(()) => unwritten.clear(),
            Err(error) => {
                tracing::error!(%error, "failed to keep what this node is; retrying");
                self.failed.notify_one();
            }
        }
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
        kept.set_client("CA", &client);
        kept.set_serving(&serving);
        kept.set_servers(&["https://a:1".into(), "https://b:2".into()]);
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
        kept().write(vec![(NEXT_KEY.to_owned(), own.key_pem.clone())]);
        kept().set_client("CA", &own);
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
            let renewed = identity("a");
            kept().write(vec![(NEXT_KEY.to_owned(), renewed.key_pem.clone())]);
            kept().set_client("CA", &renewed);
            assert_eq!(kept().join_key().unwrap(), key, "whatever was renewed since");
        }
        // Of a version that had no such file.
        let older = tempfile::tempdir().unwrap();
        let kept = || Kept::open(older.path()).unwrap();
        let first = kept().next_key().unwrap();
        assert_eq!(kept().join_key().unwrap(), first);
        let older = tempfile::tempdir().unwrap();
        let (kept, own) = (|| Kept::open(older.path()).unwrap(), identity("a"));
        kept().set_client("CA", &own);
        assert_eq!(kept().join_key().unwrap(), own.key_pem);
    }

    #[test]
    fn what_is_the_same_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir.path().join(SERVERS)).unwrap());
        kept.set_servers(&["https://a:1".into()]);
        let before = inode();
        kept.set_servers(&["https://a:1".into()]);
        assert_eq!(inode(), before);
        kept.set_servers(&["https://b:1".into()]);
        assert_ne!(inode(), before);
    }

    #[test]
    fn facts_that_cannot_be_read_are_left_aside() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        fs::write(dir.path().join(CLUSTER), "{\"cut").unwrap();
        assert_eq!(kept.cluster().unwrap(), None);
    }

    #[test]
    fn those_who_keep_at_once_do_not_undo_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        let (clients, serving) = ([identity("a"), identity("a")], [identity("a"), identity("a")]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for one in clients.iter().cycle().take(40) {
                    kept.set_client("CA", one);
                    kept.next_key().unwrap();
                }
            });
            scope.spawn(|| serving.iter().cycle().take(40).for_each(|one| kept.set_serving(one)));
            scope.spawn(|| (0..80).for_each(|n| kept.set_servers(&[format!("https://a:{n}")])));
        });
        let again = Kept::open(dir.path()).unwrap();
        assert!(kept.unwritten.lock().is_empty());
        assert_eq!((again.client().unwrap(), again.serving().unwrap()), (Some(clients[1].clone()), Some(serving[1].clone())));
        assert_eq!(again.servers().unwrap(), ["https://a:79"]);
    }

    #[test]
    fn what_a_disk_does_not_take_is_used_and_written_once_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        kept.set_client("CA", &identity("a"));
        let first = kept.next_key().unwrap();
        // A disk on which no certificate and no key can be made.
        let in_the_way = [".kubelet-client.key.new", ".kubelet-client-next.key.new"].map(|name| dir.path().join(name));
        in_the_way.iter().for_each(|path| fs::create_dir(path).unwrap());
        let mut signed = identity("a");
        signed.key_pem.clone_from(&first);
        kept.set_client("CA", &signed);
        let next = kept.next_key().unwrap();
        assert_ne!(next, first);
        assert_eq!((kept.client().unwrap(), kept.next_key().unwrap()), (Some(signed.clone()), next.clone()));
        in_the_way.iter().for_each(|path| fs::remove_dir(path).unwrap());
        kept.write(Fresh::new());
        assert_eq!(Files::open(dir.path()).unwrap().read("kubelet-client.key").unwrap(), Some(first));
        assert_eq!(Kept::open(dir.path()).unwrap().read(NEXT_KEY).unwrap(), Some(next));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_written_is_written_by_itself() {
        let (dir, group) = (tempfile::tempdir().unwrap(), Group::new());
        let kept = Kept::open(dir.path()).unwrap();
        kept.keep(&group);
        let in_the_way = dir.path().join(".servers.new");
        fs::create_dir(&in_the_way).unwrap();
        kept.set_servers(&["https://a:1".into()]);
        tokio::time::timeout(4 * RETRY, async {
            // A try that fails is not the last one.
            tokio::time::sleep(RETRY * 3 / 2).await;
            fs::remove_dir(&in_the_way).unwrap();
            while kept.files.read(SERVERS).unwrap().is_none() {
                tokio::time::sleep(RETRY / 10).await;
            }
        })
        .await
        .unwrap();
        group.stop();
    }

    #[test]
    fn a_damaged_certificate_counts_as_none_and_its_name_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        kept.set_client("CA", &identity("a"));
        let key = kept.join_key().unwrap();
        fs::write(dir.path().join("kubelet-client.key"), identity("b").key_pem).unwrap();
        assert!(kept.is_client_damaged() && kept.client().is_err());
        assert_eq!((kept.last_node().as_deref(), kept.join_key().unwrap()), (Some("a"), key));
        kept.next_key().unwrap();
    }
}
