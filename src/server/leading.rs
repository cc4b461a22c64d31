//! This server's controllers and scheduler: at once where it is the only one, else while it is elected to, each by a Lease of its own.

use std::{sync::Arc, time::Duration};

use api::task::Group;
use apiserver::{
    Front,
    engine::Engine,
    identity::{Peer, User},
    serve::in_process,
};
use client::{
    Caches,
    kube::Client,
    leader::{Candidate, Clock, Guard, Led, Standing, Term, Timing, stand},
};
use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use parking_lot::Mutex;
use store::Store;

/// What is led has to end, and the Leases to be given back, within this.
const LEAVE_BOUND: Duration = Duration::from_secs(4);

/// Who leads, and what it leads with.
pub struct Leading {
    standing: Vec<Standing>,
}

/// What controllers and scheduler are started with.
pub struct Rooms {
    pub config: controllers::Config,
    pub front: Front,
    pub engine: Arc<Engine>,
    pub store: Arc<dyn Store>,
    pub group: Group,
    /// Part of the name that it leads by.
    pub host_name: String,
}

/// A client of somebody.
type ClientAs<'a> = &'a dyn Fn(&str, &[&str]) -> Client;
type Start = fn(&controllers::Config, ClientAs<'_>, &Caches, &Group);

/// One of the two, while it stands for election.
struct Room {
    shared: Arc<Shared>,
    start: Start,
    /// This term's own handlers at the shared caches.
    mine: Mutex<Option<Caches>>,
}

struct Shared {
    rooms: Rooms,
    /// One copy of each collection, whichever of the two leads here; none where neither does.
    caches: Mutex<Option<Watched>>,
}

struct Watched {
    caches: Caches,
    group: Group,
    users: usize,
}

impl Leading {
    /// Starts both. `election` is `None` where nobody else could lead.
    pub fn start(rooms: Rooms, election: Option<Timing>) -> Self {
        let Some(timing) = election else {
            let (front, group, guard) = (rooms.front.clone(), rooms.group.clone(), Guard::always());
            let client_as = |name: &str, groups: &[&str]| client_as(&front, &guard, name, groups);
            let caches = Caches::new(client_as("system:kube-controller-manager", &[]), group.clone());
            start_controllers(&rooms.config, &client_as, &caches, &group);
            start_scheduler(&rooms.config, &client_as, &caches, &group);
            return Self { standing: Vec::new() };
        };
        let shared = Arc::new(Shared { rooms, caches: Mutex::default() });
        let rows: [(&'static str, &str, Start); 2] = [
            ("kube-controller-manager", "system:kube-controller-manager", start_controllers),
            ("kube-scheduler", "system:kube-scheduler", start_scheduler),
        ];
        let standing = rows.map(|(lease, user, start)| {
            let identity = format!("{}_{}", shared.rooms.host_name, uuid::Uuid::new_v4());
            let client = client_as(&shared.rooms.front, &Guard::always(), user, &[]);
            let room = Room { shared: shared.clone(), start, mine: Mutex::default() };
            stand(Candidate { lease, identity, timing, clock: Clock::default() }, client, Arc::new(room), &shared.rooms.group)
        });
        Self { standing: standing.into() }
    }

    /// Ends what is led here, and lets others lead at once. For an orderly end, while the API still answers.
    pub async fn leave(self) {
        join_all(self.standing.into_iter().map(|standing| standing.leave(LEAVE_BOUND))).await;
    }
}

impl Led for Room {
    fn seal(&self) -> BoxFuture<'_, Result<(), String>> {
        let Rooms { store, engine, .. } = &self.shared.rooms;
        async move {
            store.seal().await.map_err(|error| error.to_string())?;
            // What earlier leaders did is seen before anything is decided.
            engine.fresh().await.map_err(|status| status.message)
        }
        .boxed()
    }

    fn start(&self, term: &Term) {
        let rooms = &self.shared.rooms;
        let caches = self.shared.enter();
        let client_as = |name: &str, groups: &[&str]| client_as(&rooms.front, &term.guard, name, groups);
        (self.start)(&rooms.config, &client_as, &caches, &term.group);
        *self.mine.lock() = Some(caches);
    }

    fn ended(&self) {
        if let Some(caches) = self.mine.lock().take() {
            self.shared.leave(&caches);
        }
    }
}

impl Shared {
    fn enter(&self) -> Caches {
        let mut slot = self.caches.lock();
        let watched = slot.get_or_insert_with(|| {
            let group = self.rooms.group.child();
            let client = client_as(&self.rooms.front, &Guard::always(), "system:kube-controller-manager", &[]);
            Watched { caches: Caches::new(client, group.clone()), group, users: 0 }
        });
        watched.users += 1;
        watched.caches.scoped()
    }

    fn leave(&self, caches: &Caches) {
        caches.leave();
        let mut slot = self.caches.lock();
        if let Some(watched) = &mut *slot {
            watched.users -= 1;
            if watched.users == 0 {
                watched.group.stop();
                *slot = None;
            }
        }
    }
}

fn start_controllers(config: &controllers::Config, client_as: ClientAs<'_>, caches: &Caches, group: &Group) {
    let account = |name: &str| {
        let account = format!("system:serviceaccount:kube-system:{name}");
        client_as(&account, &["system:serviceaccounts", "system:serviceaccounts:kube-system"])
    };
    controllers::start(config, caches, &account, group);
}

fn start_scheduler(_: &controllers::Config, client_as: ClientAs<'_>, caches: &Caches, group: &Group) {
    scheduler::start(client_as("system:kube-scheduler", &[]), caches, group);
}

/// A client in this process that passes the same authorization and admission as anybody; it acts as `name` in `groups` while `guard` lets it. A full
/// queue of its level is no failure of what it does: it waits as long as the server says.
pub fn client_as(front: &Front, guard: &Guard, name: &str, groups: &[&str]) -> Client {
    let groups = groups.iter().map(|g| (*g).to_owned()).collect();
    let user = User { name: name.into(), groups, ..User::default() };
    let peer = Peer::local(user);
    client::patient(guard.over(in_process(front.clone(), peer)), client::agent_of(name))
}
