//! Flags -> what stands before anything is served: the store, the certificates, and which front proxies are believed.

use std::sync::Arc;

use anyhow::Context;
use api::{bootstrap::Token, task::Group};
use apiserver::{
    certs::{Certs, ServingNames},
    front_proxy::RequestHeader,
    tls::Tls,
};
use store::Store;

use super::{cluster_keys, moved};
use crate::{
    flags::ServerFlags,
    machine::{dirs::Dirs, progress::Progress},
};

pub(super) struct Ground {
    pub store: Arc<dyn Store>,
    pub certs: Arc<Certs>,
    pub tls: Arc<Tls>,
    pub believed: Arc<RequestHeader>,
}

impl Ground {
    /// # Errors
    /// The store cannot be opened or has keys that `token` does not unseal, or a certificate can be neither read nor made.
    pub async fn lay(
        flags: &ServerFlags,
        dirs: &Dirs,
        names: &ServingNames,
        token: Option<&Token>,
        group: &Group,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let store = open_store(flags, dirs).await?;
        let has_etcd = !flags.etcd_servers.is_empty();
        progress.step(&format!("store ({})", if has_etcd { "etcd" } else { &flags.storage_backend }));
        if has_etcd {
            cluster_keys::agree(&*store, &dirs.tls(), token).await?;
        }
        moved::settle(&*store).await?;
        let certs = Arc::new(Certs::open(&dirs.tls(), names)?);
        let believed = flags.front_proxy.believed(&certs)?;
        let tls = Arc::new(Tls::with_front_proxies(&certs, Some(believed.clone())).context("the authority of front proxies")?);
        certs.keep_fresh(group);
        tls.follow(&certs, group);
        progress.step(&format!("certificates ({})", dirs.tls().display()));
        Ok(Self { store, certs, tls, believed })
    }
}

async fn open_store(flags: &ServerFlags, dirs: &Dirs) -> anyhow::Result<Arc<dyn Store>> {
    if !flags.etcd_servers.is_empty() {
        let tls = store::etcd::Tls { ca: flags.etcd_cafile.clone(), cert: flags.etcd_certfile.clone(), key: flags.etcd_keyfile.clone() };
        return Ok(Arc::new(store::etcd::open(&flags.etcd_servers, &tls).await?));
    }
    if flags.storage_backend == "memory" {
        return Ok(Arc::new(store::memory::Memory::new()));
    }
    let dir = dirs.private_store()?;
    Ok(Arc::new(tokio::task::spawn_blocking(move || store::redb::open(&dir)).await??))
}
