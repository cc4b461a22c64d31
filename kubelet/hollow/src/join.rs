//! A token -> a node's certificates and its own connection; then what it watches: as the agent of a machine does it (`src/node/join.rs` of the front door).
//!
//! Keys, requests and connections are the agent's own code (`client::certificate`, `client::transport`); what an agent keeps on its disk is not kept.

use std::{sync::Arc, time::Duration};

use api::task::Group;
use client::{
    certificate::{self, Wanted, new_key, obtain, tls},
    kube::Client,
    transport::{Server, Transport},
};
use futures::future::BoxFuture;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    follow::{Follow, Of},
    node::address,
    plan::Random,
    seen::{Joined, Labels, Seen, What},
};

/// Until somebody has signed: as long as an agent waits.
const CLIENT_BOUND: Duration = Duration::from_secs(600);
const SERVING_BOUND: Duration = Duration::from_secs(60);
/// After a failure that may pass: the first pause, doubled up to the second, and up to as much again.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The same for a serving certificate, without which a node lives as well.
const SERVING_PAUSE_MAX: Duration = Duration::from_secs(600);

/// Nodes on their way in at a time. Machines have a processor each, these share ours: a handshake that waits for its turn longer than a
/// connection may take to open would be done again, and again.
pub const ENTERING_MAX: usize = 128;
/// Who is on its way for longer waits for somebody to sign, and not for us.
const TURN_BOUND: Duration = Duration::from_secs(5);

/// Asks a server for the cluster's CA (PEM), trusting nobody, once for each node.
pub type Authority = Arc<dyn Fn() -> BoxFuture<'static, Result<String, NoEntry>> + Send + Sync>;

/// Where the cluster is, and what lets nodes in.
pub struct JoinConfiguration {
    pub servers: Vec<Server>,
    /// `<id>.<secret>`
    pub token: String,
    pub authority: Authority,
}

/// Why a node is not let in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoEntry {
    /// That may pass.
    #[error("{0}")]
    Yet(String),
    #[error("{0}")]
    Ever(String),
}

/// One node on its way.
pub struct Joining {
    pub number: u32,
    pub name: String,
    pub labels: Labels,
    pub configuration: Arc<JoinConfiguration>,
    pub turns: Arc<Semaphore>,
    pub out: mpsc::Sender<Seen>,
    pub group: Group,
}

impl From<certificate::Error> for NoEntry {
    fn from(error: certificate::Error) -> Self {
        let words = error.to_string();
        if error.may_pass() { Self::Yet(words) } else { Self::Ever(words) }
    }
}

impl Joining {
    /// Lives as long as the fleet does.
    pub async fn run(self) {
        let client = match Box::pin(self.enter()).await {
            Ok(client) => client,
            Err(why) => return self.tell(Seen::Refused(format!("node {}: {why}", self.name).into())).await,
        };
        let (is_up, up) = oneshot::channel();
        self.tell(Seen::Joined(Box::new(Joined { number: self.number, client: client.clone(), is_up }))).await;
        let follow = |what| {
            let (of, labels) = (Of::One { number: self.number, name: self.name.clone() }, self.labels);
            Box::pin(Follow { client: client.clone(), what, of, labels, out: self.out.clone() }.run())
        };
        let certified = async {
            if up.await.is_ok() {
                Box::pin(self.certify(&client)).await;
            }
        };
        tokio::join!(follow(What::Nodes), follow(What::Pods), certified);
    }

    /// A client that shows the node's certificate.
    async fn enter(&self) -> Result<Client, NoEntry> {
        // One key, however often it is asked for: another one's request for the name is refused.
        let key = new_key()?;
        let mut pause = PAUSE_MIN;
        loop {
            match Box::pin(self.enter_in_turn(&key)).await {
                Err(NoEntry::Yet(why)) => self.tell(Seen::Failed(format!("joining as node {}: {why}", self.name))).await,
                done => return done,
            }
            self.rest(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn enter_in_turn(&self, key: &str) -> Result<Client, NoEntry> {
        // Nobody closes it: it is always Ok.
        let turn = self.turns.acquire().await;
        let mut entering = Box::pin(self.enter_once(key));
        if let Ok(done) = timeout(TURN_BOUND, &mut entering).await {
            return done;
        }
        drop(turn);
        entering.await
    }

    async fn enter_once(&self, key: &str) -> Result<Client, NoEntry> {
        let (configuration, never) = (&self.configuration, |error: String| NoEntry::Ever(error));
        let ca = (configuration.authority)().await?;
        let transport = Transport::new(configuration.servers.clone(), tls(&ca, None).map_err(never)?, &self.group);
        let with_token = transport.with_token(&configuration.token).map_err(|error| never(error.to_string()))?;
        let identity = obtain(&with_token.client(), &Wanted::node_client(&self.name), key, CLIENT_BOUND).await?;
        transport.set_tls(tls(&ca, Some(&identity)).map_err(never)?);
        Ok(transport.client())
    }

    /// The certificate of the node's server, which stands for no server here: the cluster signs once it has seen the node's addresses.
    async fn certify(&self, client: &Client) {
        let wanted = Wanted::node_serving(&self.name, vec![self.name.clone()], vec![address(self.number)]);
        let mut pause = PAUSE_MIN;
        loop {
            let signed = async { obtain(client, &wanted, &new_key()?, SERVING_BOUND).await };
            match Box::pin(signed).await {
                Ok(_) => return self.tell(Seen::Certified).await,
                Err(error) => self.tell(Seen::Failed(format!("the serving certificate of node {}: {error}", self.name))).await,
            }
            self.rest(pause).await;
            pause = (pause * 2).min(SERVING_PAUSE_MAX);
        }
    }

    /// As long as that, and up to twice: a crowd does not come back as one.
    async fn rest(&self, pause: Duration) {
        let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let more = Random::new(millis, u128::from(self.number), 0).below(millis);
        tokio::time::sleep(pause + Duration::from_millis(more)).await;
    }

    async fn tell(&self, seen: Seen) {
        // A fleet that is gone needs no news.
        let _ = self.out.send(seen).await;
    }
}
