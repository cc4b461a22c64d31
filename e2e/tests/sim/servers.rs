//! Two servers that stand for election, on lines that are cut -> controllers and scheduler of one of them at a time: the law, whatever happens.
//!
//! Both are at one API server here; what is cut is the way of a server's loops to it, its Lease included.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use api::task::Group;
use client::{
    Caches,
    kube::{Client, client::Body},
    leader::{Candidate, Clock, Guard, Led, Standing, Term, Timing, stand},
};
use futures::{FutureExt, future::BoxFuture};
use http::Request;
use parking_lot::Mutex;
use tower::ServiceExt;

use crate::house::{self, House};

const ROOMS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
/// Of a step, in a hundred.
const CUT: usize = 6;
const MENDED: usize = 30;

pub struct Servers {
    lines: Vec<Line>,
    laws: [Arc<Law>; 2],
    _standing: Vec<Standing>,
}

/// How many lead a room now, the most there ever were, and how many terms there have been.
#[derive(Default)]
struct Law {
    now: AtomicUsize,
    most: AtomicUsize,
    terms: AtomicUsize,
}

/// A server's way to the API.
#[derive(Clone)]
struct Line {
    door: Arc<door::Door>,
    is_cut: Arc<AtomicBool>,
}

struct Room {
    name: &'static str,
    line: Line,
    caches: Caches,
    mine: Mutex<Option<Caches>>,
    law: Arc<Law>,
}

impl Servers {
    pub fn start(house: &House) -> Self {
        // The house's own caches are looked at in the end: nobody else starts them here.
        house.caches.of::<client::pods::Pod>();
        let laws: [Arc<Law>; 2] = Default::default();
        let (mut lines, mut standing) = (Vec::new(), Vec::new());
        // Of the time that passes in here.
        let origin = tokio::time::Instant::now();
        for server in ["one", "two"] {
            let line = Line { door: house.door.clone(), is_cut: Arc::default() };
            let caches = Caches::new(line.client(&Guard::always(), "system:kube-controller-manager", &[]), house.group.child());
            for (name, law) in ROOMS.into_iter().zip(&laws) {
                let (identity, timing, clock) = (format!("{server}_{name}"), Timing::default(), Clock::of(move || origin.elapsed()));
                let candidate = Candidate { lease: name, identity, timing, clock };
                let client = line.client(&Guard::always(), &format!("system:{name}"), &[]);
                let room = Room { name, line: line.clone(), caches: caches.clone(), mine: Mutex::default(), law: law.clone() };
                standing.push(stand(candidate, client, Arc::new(room), &house.group));
            }
            lines.push(line);
        }
        Self { lines, laws, _standing: standing }
    }

    /// `chance` is of 0 to 99, `which` any number.
    pub fn trouble(&self, chance: usize, which: usize) {
        let line = &self.lines[which % self.lines.len()];
        if chance < CUT {
            line.is_cut.store(true, Ordering::Relaxed);
        } else if chance < MENDED {
            self.mend();
        }
    }

    pub fn mend(&self) {
        self.lines.iter().for_each(|line| line.is_cut.store(false, Ordering::Relaxed));
    }

    /// # Errors
    /// A room was led by two at a time.
    pub fn check(&self) -> Result<(), String> {
        for (room, law) in ROOMS.iter().zip(&self.laws) {
            let most = law.most.load(Ordering::Relaxed);
            if most > 1 {
                return Err(format!("{room}: led by {most} at a time"));
            }
        }
        Ok(())
    }

    pub fn terms(&self) -> usize {
        self.laws.iter().map(|law| law.terms.load(Ordering::Relaxed)).sum()
    }
}

impl Line {
    /// What is sent over a line that is cut stays without an answer, and what was sent before stays so while it is.
    fn client(&self, guard: &Guard, name: &str, groups: &[&str]) -> Client {
        let (inner, cut) = (self.door.service(name, groups), self.is_cut.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (inner, cut) = (inner.clone(), cut.clone());
            async move {
                if cut.load(Ordering::Relaxed) {
                    return std::future::pending().await;
                }
                Ok::<_, Infallible>(inner.oneshot(request).await.expect("it cannot fail"))
            }
        });
        client::patient(guard.over(service), client::agent_of(name))
    }
}

impl Led for Room {
    fn seal(&self) -> BoxFuture<'_, Result<(), String>> {
        async move { self.line.door.engine.fresh().await.map_err(|status| status.message) }.boxed()
    }

    fn start(&self, term: &Term) {
        let caches = self.caches.scoped();
        let client = |name: &str, groups: &[&str]| self.line.client(&term.guard, name, groups);
        if self.name == ROOMS[0] {
            controllers::start(&house::config(&self.line.door), &caches, &|name| account(&client, name), &term.group);
        } else {
            scheduler::start(client("system:kube-scheduler", &[]), &caches, &term.group);
        }
        *self.mine.lock() = Some(caches);
        self.law.begin(&term.group);
    }

    fn ended(&self) {
        if let Some(caches) = self.mine.lock().take() {
            caches.leave();
        }
    }
}

impl Law {
    fn begin(self: &Arc<Self>, group: &Group) {
        let (law, stopped) = (self.clone(), group.clone());
        law.terms.fetch_add(1, Ordering::Relaxed);
        law.most.fetch_max(law.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        group.spawn_careful(async move {
            stopped.stopping().await;
            law.now.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn account(client: &dyn Fn(&str, &[&str]) -> Client, name: &str) -> Client {
    client(&format!("system:serviceaccount:kube-system:{name}"), &["system:serviceaccounts", "system:serviceaccounts:kube-system"])
}
