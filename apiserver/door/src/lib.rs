//! A store -> the real API server over it, in this process, with a client for whoever asks: for tests of the rooms behind it.
//!
//! It is put together as `skiff server` does it, but for sockets, health and documents. Nothing of it is made up.

use std::{net::IpAddr, sync::Arc, time::Duration};

use api::{k8s::api::core::v1::ServiceAccount, task::Group};
use apiserver::{
    Front,
    certs::{Certs, ServingNames},
    connect::Agents,
    discovery::Discovery,
    engine::Engine,
    fairness, health,
    identity::{Peer, User},
    serve::{InProcess, in_process},
};
use client::kube::{Api, Client, api::PostParams};
use kinds::auth::{self, Tokens};
use store::{Store, memory::Memory};

/// After which a test that waits has failed.
pub const BOUND: Duration = Duration::from_secs(30);
const LOOK_EACH: Duration = Duration::from_millis(10);

pub struct Door {
    pub engine: Arc<Engine>,
    pub front: Front,
    pub certs: Arc<Certs>,
    /// How node agents are called, and the tunnels that they hold.
    pub agents: Arc<Agents>,
}

impl Door {
    /// Over an empty store in memory.
    pub async fn new(group: &Group) -> Self {
        Self::over(Arc::new(Memory::new()), group).await
    }

    /// Ready, with what a fresh cluster has.
    ///
    /// # Panics
    /// Where it cannot be made: this is for tests.
    pub async fn over(store: Arc<dyn Store>, group: &Group) -> Self {
        let dir = tempfile::tempdir().expect("a directory for keys");
        let names = ServingNames::standard("host", &[IpAddr::from([127, 0, 0, 1])], None, "cluster.local");
        let certs = Certs::open(dir.path(), &names).expect("keys and certificates");
        let tokens = Tokens::new(auth::ISSUER, certs.service_account_key(), certs.service_account_public()).expect("the keys are whole");
        let tokens = Arc::new(tokens);
        let mut all = kinds::all(&config(), &tokens);
        all.push(Arc::new(apiextensions::kind()));
        let (certs, agents) = (Arc::new(certs), Arc::<Agents>::default());
        all.extend(kinds::metrics::kinds(&agents).map(Arc::new));
        kinds::sort(&mut all);
        kinds::componentstatus::join(&mut all, kinds::componentstatus::components(group, health::of_store(&store)));
        let engine = Engine::new(store, all, auth::chain(&tokens), group.clone());
        agents.follow(&certs, group).expect("the certificates are whole");
        let front = Front::builder(engine.clone()).fairness(kinds::flow::config(fairness::Limits::default())).agents(agents.clone());
        let front = front.mount(Discovery::default().routes(engine.clone())).mount(kinds::node::tunnel::routes(&agents, group)).build();
        engine.ready().await;
        Box::pin(auth::bootstrap(&engine)).await.expect("what a fresh cluster has is made");
        apiextensions::start(&engine).await;
        Self { engine, front, certs, agents }
    }

    /// For who comes with a certificate of that name and those groups.
    pub fn client(&self, name: &str, groups: &[&str]) -> Client {
        Client::new(self.service(name, groups), "default")
    }

    /// What [`Door::client`] sends its requests to: to stand between the two.
    pub fn service(&self, name: &str, groups: &[&str]) -> InProcess<Front> {
        let user = User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() };
        in_process(self.front.clone(), Peer::local(user))
    }

    pub fn admin(&self) -> Client {
        self.client("admin", &["system:masters"])
    }

    /// Makes the account that pods of `default` run as, where no controller does.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn make_account(&self) {
        let mut account = ServiceAccount::default();
        account.metadata.name = Some("default".into());
        let accounts = Api::<ServiceAccount>::namespaced(self.admin(), "default");
        accounts.create(&PostParams::default(), &account).await.expect("the account is made");
    }
}

/// Looks until there is something.
///
/// # Panics
/// Where there is nothing within [`BOUND`].
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(BOUND, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_EACH).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

fn config() -> kinds::Config {
    kinds::Config {
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
        node_ports: 30000..=32767,
        cluster_domain: "cluster.local".into(),
    }
}
