//! A node that nobody can call -> a tunnel that it holds to each of its cluster's servers, through which they call its agent.
//!
//! A server is asked again whenever its tunnel has ended. One that is reached at two addresses has one tunnel: it says who it is. When the node's
//! certificate is renewed, a new tunnel stands before the old one goes. The words are in [`api::tunnel`]; docs/decisions/tunnel.md.

mod carry;
mod open;
mod pause;

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::pin,
    time::{Duration, Instant},
};

use api::{faults::catch_all, task::Group};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::transport::{Server, Transport};
use open::NoTunnel;
use pause::Pause;

/// Until a tunnel stands.
const OPEN_BOUND: Duration = Duration::from_secs(10);

/// What tunnels are of, and where they lead.
struct Keeper {
    transport: Transport,
    node: String,
    /// Where the node's agent listens: on this machine.
    agent: SocketAddr,
    group: Group,
    /// By the server's own word who it is, the address that it is reached at.
    reached: watch::Sender<HashMap<String, Server>>,
}

/// How a tunnel ended, if not with an error.
enum End {
    Closed,
    /// Another is due, while this one is there yet.
    Renewed,
}

/// Holds the tunnels of `node` while `group` lives: to all servers of `transport`, with the certificate that it shows. What servers send leads to `agent` and
/// nowhere else.
pub fn keep(transport: &Transport, node: &str, agent: SocketAddr, group: &Group) {
    let keeper = Keeper {
        transport: transport.clone(),
        node: node.to_owned(),
        agent,
        group: group.clone(),
        reached: watch::Sender::new(HashMap::new()),
    };
    group.spawn_loop("tunnels", async move { Box::pin(keeper.run()).await });
}

impl Keeper {
    async fn run(&self) {
        let mut servers = self.transport.followed_servers();
        let (mut kept, mut running) = (FuturesUnordered::new(), Vec::<Server>::new());
        loop {
            let wanted = servers.borrow_and_update().clone();
            for server in wanted.iter() {
                if !running.contains(server) {
                    running.push(server.clone());
                    kept.push(Box::pin(self.keep(server.clone())));
                }
            }
            tokio::select! {
                Some(gone) = kept.next(), if !kept.is_empty() => running.retain(|server| *server != gone),
                changed = servers.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Until the server is not one of ours any more: what passes through its tunnel then goes on to its end.
    async fn keep(&self, server: Server) -> Server {
        let (mut pause, mut id, mut failures) = (Pause::default(), None, 0u32);
        while self.transport.servers().contains(&server) {
            self.not_reached_by_another(&server, id.as_deref()).await;
            let began = Instant::now();
            let held = catch_all("tunnel", Box::pin(self.hold(&server, &mut id))).await;
            let lasted = began.elapsed();
            if lasted > 2 * OPEN_BOUND {
                failures = 0;
            }
            let refused = match held {
                Ok(Ok(End::Renewed)) => continue,
                Ok(Ok(End::Closed)) => false,
                Ok(Err(error)) => {
                    tell(&server, &error, &mut failures);
                    matches!(error, NoTunnel::Refused(_))
                }
                Err(panic) => {
                    tracing::error!(%server, error = %panic, "a tunnel ended");
                    false
                }
            };
            sleep(pause.after(lasted, refused)).await;
        }
        server
    }

    /// Whoever opened a tunnel to the same server later has the one that counts; ours would only take its place again.
    async fn not_reached_by_another(&self, server: &Server, id: Option<&str>) {
        let Some(id) = id else { return };
        let mut reached = self.reached.subscribe();
        let is_free = |reached: &HashMap<String, Server>| reached.get(id).is_none_or(|by| by == server);
        // Its sender is our own.
        let _ = reached.wait_for(is_free).await;
    }

    async fn hold(&self, server: &Server, id: &mut Option<String>) -> Result<End, NoTunnel> {
        let mut tls = self.transport.followed_tls();
        let config = tls.borrow_and_update().config();
        let opening = Box::pin(open::open(server, config, &self.node, &self.group));
        let (connection, told) = timeout(OPEN_BOUND, opening).await.map_err(|_| NoTunnel::Silence)??;
        tracing::info!(%server, "tunnel opened");
        let _reached = told.as_deref().map(|told| Reached::now(&self.reached, told, server));
        *id = told;
        let (agent, group) = (self.agent, self.group.clone());
        let mut serving = Box::pin(async move { carry::serve(connection, agent, &group).await });
        let changed = pin!(tls.changed());
        tokio::select! {
            ended = &mut serving => {
                ended?;
                tracing::info!(%server, "tunnel closed");
                Ok(End::Closed)
            }
            _ = changed => {
                // The server ends it once it has the new one, and nothing passes through this any more.
                let server = server.clone();
                self.group.spawn(async move {
                    if let Err(error) = serving.await {
                        tracing::debug!(%server, %error, "the tunnel of an old certificate ended");
                    }
                });
                Ok(End::Renewed)
            }
        }
    }
}

/// Failures in a row are told once.
fn tell(server: &Server, error: &NoTunnel, failures: &mut u32) {
    *failures += 1;
    if *failures == 1 {
        tracing::warn!(%server, %error, "no tunnel to a server: it cannot call this node where the node has no port that it reaches");
    } else {
        tracing::debug!(%server, %error, failures, "no tunnel to a server");
    }
}

/// A server that has a tunnel of ours, while this is held.
struct Reached<'a> {
    all: &'a watch::Sender<HashMap<String, Server>>,
    id: String,
    server: Server,
}

impl<'a> Reached<'a> {
    fn now(all: &'a watch::Sender<HashMap<String, Server>>, id: &str, server: &Server) -> Self {
        all.send_modify(|reached| drop(reached.insert(id.to_owned(), server.clone())));
        Self { all, id: id.to_owned(), server: server.clone() }
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        self.all.send_if_modified(|reached| {
            let is_ours = reached.get(&self.id) == Some(&self.server);
            if is_ours {
                reached.remove(&self.id);
            }
            is_ours
        });
    }
}

#[cfg(test)]
mod tests;
