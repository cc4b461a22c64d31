//! A data directory -> the cluster's certificates: made at first start, renewed in time, never silently replaced.
//!
//! File names and subjects follow kubeadm (`cmd/kubeadm/app/constants`), so that its users find their way.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::{certificate::Identity, task::Group, time::Timestamp};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use parking_lot::RwLock;
use serde_json::{Value, json};
use tokio::sync::watch;

pub mod files;
pub mod issue;
pub mod request;

use files::{Files, Fresh, add_pair};
pub use issue::{Seen, Subject, Usage, look};

/// How often a running server looks whether a certificate wants renewal.
const CHECK: Duration = Duration::from_secs(6 * 3600);

const AUTHORITY: &str = "ca";
const SERVING: &str = "apiserver";
const ADMIN: &str = "admin";
const KUBELET_CLIENT: &str = "apiserver-kubelet-client";
const FRONT_PROXY_AUTHORITY: &str = "front-proxy-ca";
const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
const SERVICE_ACCOUNT_KEY: &str = "sa.key";
const SERVICE_ACCOUNT_PUBLIC: &str = "sa.pub";

/// The cluster's authority and what it has signed. Leaves are replaced while the server runs; [`Certs::renewals`] tells.
pub struct Certs {
    files: Files,
    names: ServingNames,
    authority: Identity,
    authority_seen: Seen,
    /// Signs who may say for whom they ask, and nobody else.
    front_proxies: (Identity, Seen),
    service_account_key: String,
    service_account_public: String,
    leaves: RwLock<Arc<Leaves>>,
    renewed: watch::Sender<u64>,
}

/// The leaf certificates in use now.
#[derive(Clone, Debug)]
pub struct Leaves {
    pub serving: Identity,
    pub admin: Identity,
    pub kubelet_client: Identity,
    /// As whom we come to aggregated API servers.
    pub front_proxy_client: Identity,
}

/// Under which names and addresses the API server answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServingNames {
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{}: {why}. It was left untouched: restore it from a backup, or remove it and what belongs to it to have it made anew",
        path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
}

impl Error {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

impl ServingNames {
    /// The names every API server has, with this machine's host name and addresses, the first address of the service range, and
    /// the cluster's domain (`cluster.local`).
    pub fn standard(host_name: &str, addresses: &[IpAddr], first_service: Option<IpAddr>, domain: &str) -> Self {
        let mut names = Self::default();
        for dns in ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"] {
            names.dns.push(dns.into());
        }
        names.dns.push(format!("kubernetes.default.svc.{domain}"));
        if api::selector::is_dns_subdomain(host_name) && !names.dns.iter().any(|d| d == host_name) {
            names.dns.push(host_name.into());
        }
        names.addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for address in first_service.into_iter().chain(addresses.iter().copied()) {
            if !address.is_unspecified() && !names.addresses.contains(&address) {
                names.addresses.push(address);
            }
        }
        names
    }

    fn subject(&self) -> Subject {
        Subject {
            common_name: "kube-apiserver".into(),
            organization: None,
            usage: Usage::Server,
            dns: self.dns.clone(),
            addresses: self.addresses.clone(),
        }
    }
}

impl Certs {
    /// Opens or makes all files under `dir` (`<data-dir>/tls`). Leaves are renewed when less than a third of their life is left or
    /// when the serving names have grown.
    pub fn open(dir: &Path, names: &ServingNames) -> Result<Self, Error> {
        Self::open_at(dir, names, Timestamp::now())
    }

    /// The same at a given time.
    pub fn open_at(dir: &Path, names: &ServingNames, now: Timestamp) -> Result<Self, Error> {
        Self::open_in(Files::open(dir)?, names, now)
    }

    fn open_in(files: Files, names: &ServingNames, now: Timestamp) -> Result<Self, Error> {
        let mut fresh = Fresh::new();
        let (authority, authority_seen) = open_authority(&files, &mut fresh, now)?;
        let front_proxies = open_front_proxies(&files, &mut fresh, now)?;
        let (service_account_key, service_account_public) = open_service_account(&files, &mut fresh)?;
        let leaves = open_leaves(&files, &mut fresh, names, [(&authority, &authority_seen), (&front_proxies.0, &front_proxies.1)], now)?;
        files.write(&fresh)?;
        let leaves = RwLock::new(Arc::new(leaves));
        Ok(Self {
            files,
            names: names.clone(),
            authority,
            authority_seen,
            front_proxies,
            service_account_key,
            service_account_public,
            leaves,
            renewed: watch::Sender::new(0),
        })
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> &str {
        &self.authority.chain_pem
    }

    /// The certificate of the authority of front proxies, PEM.
    pub fn front_proxy_ca(&self) -> &str {
        &self.front_proxies.0.chain_pem
    }

    /// The leaves in use now.
    pub fn leaves(&self) -> Arc<Leaves> {
        self.leaves.read().clone()
    }

    /// The key that signs service-account tokens, PKCS#8 PEM.
    pub fn service_account_key(&self) -> &str {
        &self.service_account_key
    }

    /// Its public half, PEM.
    pub fn service_account_public(&self) -> &str {
        &self.service_account_public
    }

    /// A client certificate for one year: `("system:node:a", Some("system:nodes"))`.
    pub fn issue_client(&self, common_name: &str, organization: Option<&str>) -> Result<Identity, Error> {
        Ok(issue::leaf(&self.authority, &client(common_name, organization), Timestamp::now())?)
    }

    /// A node agent's certificate, to serve with and to show, for one year.
    pub fn issue_node(&self, node: &str, addresses: &[IpAddr]) -> Result<Identity, Error> {
        let mut subject = client(&format!("system:node:{node}"), Some("system:nodes"));
        subject.usage = Usage::Both;
        subject.dns = vec![node.to_owned(), "localhost".to_owned()];
        subject.addresses = addresses.to_vec();
        subject.addresses.push(Ipv4Addr::LOCALHOST.into());
        Ok(issue::leaf(&self.authority, &subject, Timestamp::now())?)
    }

    /// A certificate for a PKCS#10 request, both PEM: see [`request::sign`].
    ///
    /// # Errors
    /// What is wrong with the request.
    pub fn sign(&self, request: &[u8], usages: &[String], seconds: u64) -> Result<String, String> {
        request::sign(&self.authority, request, usages, seconds, Timestamp::now())
    }

    /// Rises with each renewal.
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.renewed.subscribe()
    }

    /// Renews what wants it. True if something was.
    pub fn renew(&self, now: Timestamp) -> Result<bool, Error> {
        let mut fresh = Fresh::new();
        let authorities = [(&self.authority, &self.authority_seen), (&self.front_proxies.0, &self.front_proxies.1)];
        let leaves = open_leaves(&self.files, &mut fresh, &self.names, authorities, now)?;
        self.files.write(&fresh)?;
        if !fresh.is_empty() {
            *self.leaves.write() = Arc::new(leaves);
            self.renewed.send_modify(|n| *n += 1);
        }
        Ok(!fresh.is_empty())
    }

    /// Keeps the leaves fresh while the group runs.
    pub fn keep_fresh(self: &Arc<Self>, group: &Group) {
        let certs = self.clone();
        group.spawn_loop("certificates", async move {
            loop {
                tokio::time::sleep(CHECK).await;
                match certs.renew(Timestamp::now()) {
                    Ok(true) => tracing::info!("certificates renewed"),
                    Ok(false) => {}
                    Err(error) => tracing::error!(%error, "certificates could not be renewed"),
                }
            }
        });
    }

    /// A kubeconfig of one context, `skiff`, for the administrator, as JSON (which is YAML).
    pub fn admin_kubeconfig(&self, server_url: &str) -> Value {
        kubeconfig(server_url, self.ca(), "kubernetes-admin", &self.leaves().admin)
    }
}

/// Reads what stands in `dir` and holds it against each other; nothing is changed.
///
/// # Errors
/// As of [`Certs::open`].
pub fn check(dir: &Path) -> Result<String, Error> {
    let files = Files::read_only(dir);
    let authority = files.pair(AUTHORITY)?;
    let mut pairs = usize::from(authority.is_some());
    for leaf in [SERVING, ADMIN, KUBELET_CLIENT] {
        let Some((_, seen)) = files.pair(leaf)? else { continue };
        let issuer = authority.as_ref().and_then(|(_, seen)| seen.subject_key_id.as_ref());
        if issuer.is_none() || seen.authority_key_id.as_ref() != issuer {
            return Err(files.damaged(&format!("{leaf}.crt"), "it was not issued by ca.crt"));
        }
        pairs += 1;
    }
    let front_proxies = files.pair(FRONT_PROXY_AUTHORITY)?;
    pairs += usize::from(front_proxies.is_some());
    if let Some((_, seen)) = files.pair(FRONT_PROXY_CLIENT)? {
        let issuer = front_proxies.as_ref().and_then(|(_, seen)| seen.subject_key_id.as_ref());
        if issuer.is_none() || seen.authority_key_id.as_ref() != issuer {
            return Err(files.damaged("front-proxy-client.crt", "it was not issued by front-proxy-ca.crt"));
        }
        pairs += 1;
    }
    if let Some(key) = service_account_key(&files)? {
        issue::public(&key).map_err(|why| files.damaged(SERVICE_ACCOUNT_KEY, why))?;
    }
    Ok(format!("{pairs} with their keys"))
}

/// A kubeconfig of one cluster, user and context with everything inside.
pub fn kubeconfig(server_url: &str, ca: &str, user: &str, pair: &Identity) -> Value {
    let data = |pem: &str| BASE64_STANDARD.encode(pem);
    json!({
        "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": "skiff",
        "clusters": [{"name": "skiff", "cluster": {"server": server_url, "certificate-authority-data": data(ca)}}],
        "users": [{"name": user, "user": {
            "client-certificate-data": data(&pair.chain_pem), "client-key-data": data(&pair.key_pem),
        }}],
        "contexts": [{"name": "skiff", "context": {"cluster": "skiff", "user": user}}],
    })
}

fn admin() -> Subject {
    client("kubernetes-admin", Some("system:masters"))
}

/// In no group: it may call node agents (the cluster role `system:kubelet-api-admin` is bound to its name) and nothing else, whoever it is shown to.
fn kubelet_client() -> Subject {
    client("kube-apiserver-kubelet-client", None)
}

fn client(common_name: &str, organization: Option<&str>) -> Subject {
    Subject {
        common_name: common_name.into(),
        organization: organization.map(Into::into),
        usage: Usage::Client,
        dns: Vec::new(),
        addresses: Vec::new(),
    }
}

fn open_authority(files: &Files, fresh: &mut Fresh, now: Timestamp) -> Result<(Identity, Seen), Error> {
    if let Some((pair, seen)) = files.pair(AUTHORITY)? {
        if seen.not_after <= now.as_second() {
            return Err(files.damaged("ca.crt", "the cluster's authority has expired"));
        }
        return Ok((pair, seen));
    }
    // A new authority beside old leaves would make certificates that do not belong together.
    for leaf in [SERVING, ADMIN, KUBELET_CLIENT] {
        if files.pair(leaf)?.is_some() {
            return Err(files.damaged("ca.crt", format!("it is missing, though {leaf}.crt is there")));
        }
    }
    let pair = issue::authority("kubernetes", now)?;
    add_pair(fresh, AUTHORITY, &pair);
    let seen = look(&pair.chain_pem).map_err(|why| files.damaged("ca.crt", why))?;
    Ok((pair, seen))
}

/// That of front proxies is each server's own: who relies on it reads of all of them in `extension-apiserver-authentication`. An older skiff has none.
fn open_front_proxies(files: &Files, fresh: &mut Fresh, now: Timestamp) -> Result<(Identity, Seen), Error> {
    let file = format!("{FRONT_PROXY_AUTHORITY}.crt");
    match files.pair(FRONT_PROXY_AUTHORITY)? {
        Some((_, seen)) if seen.not_after <= now.as_second() => {
            return Err(files.damaged(&file, "the authority of front proxies has expired"));
        }
        Some(found) => return Ok(found),
        None if files.pair(FRONT_PROXY_CLIENT)?.is_some() => {
            return Err(files.damaged(&file, format!("it is missing, though {FRONT_PROXY_CLIENT}.crt is there")));
        }
        None => {}
    }
    let pair = issue::authority(FRONT_PROXY_AUTHORITY, now)?;
    add_pair(fresh, FRONT_PROXY_AUTHORITY, &pair);
    let seen = look(&pair.chain_pem).map_err(|why| files.damaged(&file, why))?;
    Ok((pair, seen))
}

/// `authorities`: the cluster's, and that of front proxies.
fn open_leaves(
    files: &Files,
    fresh: &mut Fresh,
    names: &ServingNames,
    [authority, front_proxies]: [(&Identity, &Seen); 2],
    now: Timestamp,
) -> Result<Leaves, Error> {
    let proxy = client(FRONT_PROXY_CLIENT, None);
    let front_proxy_client = open_leaf(files, fresh, FRONT_PROXY_CLIENT, &proxy, front_proxies, now)?;
    let mut open = |name: &str, subject: &Subject| open_leaf(files, fresh, name, subject, authority, now);
    Ok(Leaves {
        front_proxy_client,
        serving: open(SERVING, &names.subject())?,
        admin: open(ADMIN, &admin())?,
        kubelet_client: open(KUBELET_CLIENT, &kubelet_client())?,
    })
}

fn open_leaf(
    files: &Files,
    fresh: &mut Fresh,
    name: &str,
    subject: &Subject,
    authority: (&Identity, &Seen),
    now: Timestamp,
) -> Result<Identity, Error> {
    if let Some((pair, seen)) = files.pair(name)? {
        if seen.authority_key_id.is_none() || seen.authority_key_id != authority.1.subject_key_id {
            let by = if name == FRONT_PROXY_CLIENT { FRONT_PROXY_AUTHORITY } else { AUTHORITY };
            return Err(files.damaged(&format!("{name}.crt"), format!("it was not issued by {by}.crt")));
        }
        if !seen.wants_renewal(now) && seen.covers(subject) {
            return Ok(pair);
        }
    }
    let pair = issue::leaf(authority.0, subject, now)?;
    add_pair(fresh, name, &pair);
    Ok(pair)
}

/// None before the first start: a new key beside the old public half would void all tokens without a word.
fn service_account_key(files: &Files) -> Result<Option<String>, Error> {
    let key = files.read(SERVICE_ACCOUNT_KEY)?;
    if key.is_none() && files.read(SERVICE_ACCOUNT_PUBLIC)?.is_some() {
        return Err(files.damaged(SERVICE_ACCOUNT_KEY, format!("it is missing, though {SERVICE_ACCOUNT_PUBLIC} is there")));
    }
    Ok(key)
}

fn open_service_account(files: &Files, fresh: &mut Fresh) -> Result<(String, String), Error> {
    let found = service_account_key(files)?;
    let key = match &found {
        Some(key) => key.clone(),
        None => issue::key()?,
    };
    let parsed = rcgen::KeyPair::from_pem(&key).map_err(|why| files.damaged(SERVICE_ACCOUNT_KEY, why))?;
    let public = parsed.public_key_pem();
    if found.is_none() {
        fresh.push((SERVICE_ACCOUNT_KEY.into(), key.clone()));
    }
    if files.read(SERVICE_ACCOUNT_PUBLIC)?.as_deref() != Some(&public) {
        fresh.push((SERVICE_ACCOUNT_PUBLIC.into(), public.clone()));
    }
    Ok((key, public))
}

#[cfg(test)]
mod tests {
    use store::faulty::disk::{Disk, Fault};

    use super::*;

    fn names() -> ServingNames {
        ServingNames::standard("host-a", &["10.0.0.5".parse().unwrap()], "10.96.0.1".parse().ok(), "cluster.local")
    }

    fn later(days: i64) -> Timestamp {
        Timestamp::from_second(Timestamp::now().as_second() + days * 24 * 3600).unwrap()
    }

    #[test]
    fn what_was_made_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Certs::open(dir.path(), &names()).unwrap();
        let again = Certs::open(dir.path(), &names()).unwrap();
        assert_eq!(first.ca(), again.ca());
        assert_eq!(first.leaves().serving, again.leaves().serving);
        assert_eq!(first.service_account_key(), again.service_account_key());
        let seen = look(&again.leaves().serving.chain_pem).unwrap();
        for name in ["localhost", "host-a", "kubernetes.default.svc.cluster.local"] {
            assert!(seen.dns.iter().any(|d| d == name), "{name}");
        }
        for address in ["127.0.0.1", "::1", "10.0.0.5", "10.96.0.1"] {
            assert!(seen.addresses.contains(&address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn files_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Certs::open(dir.path(), &names()).unwrap();
        let modes: Vec<u32> =
            std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().permissions().mode() & 0o777).collect();
        assert_eq!(modes, vec![0o600; 14]);
    }

    #[test]
    fn leaves_are_renewed_when_a_third_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let certs = Certs::open(dir.path(), &names()).unwrap();
        let before = certs.leaves();
        assert!(!certs.renew(later(200)).unwrap());
        assert!(certs.renew(later(250)).unwrap());
        assert_ne!(certs.leaves().serving, before.serving);
        assert_eq!(*certs.renewals().borrow(), 1);
        let reopened = Certs::open_at(dir.path(), &names(), later(700)).unwrap();
        assert_ne!(reopened.leaves().admin, certs.leaves().admin, "expired while the server was down");
        assert_eq!(reopened.ca(), certs.ca());
    }

    #[test]
    fn a_new_name_makes_a_new_serving_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let first = Certs::open(dir.path(), &names()).unwrap();
        let mut more = names();
        more.addresses.push("192.0.2.7".parse().unwrap());
        let second = Certs::open(dir.path(), &more).unwrap();
        assert_ne!(first.leaves().serving, second.leaves().serving);
        assert_eq!(first.leaves().admin, second.leaves().admin);
    }

    /// What an older skiff made was of the administrators' group.
    #[test]
    fn a_leaf_of_a_group_that_it_should_not_be_of_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let first = Certs::open(dir.path(), &names()).unwrap();
        let mut older = kubelet_client();
        older.organization = Some("system:masters".into());
        let older = issue::leaf(&first.authority, &older, Timestamp::now()).unwrap();
        std::fs::write(dir.path().join("apiserver-kubelet-client.crt"), &older.chain_pem).unwrap();
        std::fs::write(dir.path().join("apiserver-kubelet-client.key"), &older.key_pem).unwrap();
        let again = Certs::open(dir.path(), &names()).unwrap().leaves();
        assert_eq!(look(&again.kubelet_client.chain_pem).unwrap().organizations, Vec::<String>::new());
        assert_eq!((&again.admin, &again.serving), (&first.leaves().admin, &first.leaves().serving));
        assert_eq!(look(&again.admin.chain_pem).unwrap().organizations, ["system:masters"]);
    }

    #[test]
    fn damage_is_told_and_left_alone() {
        type Harm = fn(&Path);
        let cases: [(Harm, &str); 7] = [
            (|d| std::fs::write(d.join("ca.crt"), "nonsense").unwrap(), "ca.crt"),
            (|d| std::fs::remove_file(d.join("ca.key")).unwrap(), "ca.key"),
            (|d| std::fs::write(d.join("sa.key"), "nonsense").unwrap(), "sa.key"),
            (|d| std::fs::remove_file(d.join("sa.key")).unwrap(), "sa.key"),
            (|d| assert!(std::fs::copy(d.join("admin.key"), d.join("apiserver.key")).is_ok()), "apiserver.key"),
            (|d| ["ca.crt", "ca.key"].iter().for_each(|f| std::fs::remove_file(d.join(f)).unwrap()), "ca.crt"),
            (foreign_authority, "apiserver.crt"),
        ];
        for (harm, file) in cases {
            let dir = tempfile::tempdir().unwrap();
            Certs::open(dir.path(), &names()).unwrap();
            harm(dir.path());
            let before = std::fs::read(dir.path().join("apiserver.crt")).unwrap();
            let error = Certs::open(dir.path(), &names()).err().expect("must be refused").to_string();
            assert!(error.contains(file) && error.contains("left untouched"), "{file}: {error}");
            assert_eq!(before, std::fs::read(dir.path().join("apiserver.crt")).unwrap());
        }
    }

    fn foreign_authority(dir: &Path) {
        let other = tempfile::tempdir().unwrap();
        Certs::open(other.path(), &names()).unwrap();
        for file in ["ca.crt", "ca.key"] {
            std::fs::copy(other.path().join(file), dir.join(file)).unwrap();
        }
    }

    fn random(seed: u64) -> store::faulty::Random {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Box::new(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        })
    }

    fn on(disk: &Disk, names: &ServingNames) -> Result<Certs, Error> {
        Certs::open_in(Files::open_in(Arc::new(disk.clone()))?, names, Timestamp::now())
    }

    /// The first start, and one that makes a new serving certificate, each with one call that fails.
    fn interrupted(call: u64, fault: Fault, seed: u64) {
        let disk = Disk::new(random(seed));
        let mut more = names();
        more.addresses.push("192.0.2.7".parse().unwrap());
        let mut ca = None;
        for (names, dark) in [(names(), seed.is_multiple_of(2)), (more.clone(), true)] {
            disk.meet(call, fault);
            if let Ok(certs) = on(&disk, &names) {
                let before = ca.replace(certs.ca().to_owned());
                assert!(before.is_none_or(|before| before == certs.ca()), "{fault:?} at {call}: the authority is another");
            }
            disk.kill();
            disk.next_life(dark);
        }
        let certs = on(&disk, &more).unwrap_or_else(|error| panic!("{fault:?} at {call}: {error}"));
        assert!(ca.is_none_or(|ca| ca == certs.ca()), "{fault:?} at {call}: the authority is another");
        assert_eq!(disk.image().len(), 14, "{fault:?} at {call}: {:?}", disk.image().keys());
    }

    #[test]
    fn a_start_that_is_interrupted_anywhere_leaves_all_of_a_set_or_nothing_of_it() {
        let whole = Disk::new(random(0));
        on(&whole, &names()).unwrap();
        assert!(whole.calls() > 40, "{}", whole.calls());
        for call in 0..whole.calls() {
            for fault in [Fault::Refused, Fault::Partly, Fault::Done, Fault::Killed, Fault::Dark] {
                interrupted(call, fault, call);
            }
        }
    }

    #[test]
    fn what_an_older_first_start_left_when_it_was_killed_is_made_anew() {
        for (left, whole) in [(&["ca.key"][..], "ca"), (&["ca.key", "ca.crt", "sa.key", "apiserver.key"], "apiserver")] {
            let (dir, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            Certs::open(from.path(), &names()).unwrap();
            for file in left {
                std::fs::copy(from.path().join(file), dir.path().join(file)).unwrap();
            }
            Certs::open(dir.path(), &names()).unwrap();
            assert!(Files::open(dir.path()).unwrap().pair(whole).unwrap().is_some());
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 14);
        }
    }

    #[test]
    fn the_kubeconfig_holds_everything() {
        let dir = tempfile::tempdir().unwrap();
        let config = Certs::open(dir.path(), &names()).unwrap().admin_kubeconfig("https://127.0.0.1:6443");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
        assert_eq!(config["contexts"][0]["context"]["user"], config["users"][0]["name"]);
    }
}
