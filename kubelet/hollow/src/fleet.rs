//! News, timers and answers -> requests: the one task that holds all hollow nodes.

mod pods;

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use api::time::Timestamp;
use client::kube::Client;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::Method;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use self::pods::Pod;
use super::{
    Config, Progress, Stages,
    ask::{Answer, Ask, JSON, STRATEGIC, ask},
    node::{Node, State, address},
    payloads,
    plan::{self, Millis, Random},
    seen::{self, Joined, NodeSeen, Ready, Seen, What},
    wheel::Wheel,
};

/// Requests in flight, together below the hundred streams that stock servers allow on a connection: pods never hold up Leases.
const CALM_MAX: usize = 40;
const BUSY_MAX: usize = 50;
/// News looked at in one go, before timers and answers have their turn.
const NEWS_AT_ONCE: usize = 256;
/// A failed Lease or status is tried again after that, and up to as much again.
const RETRY: Millis = 2000;
/// Trouble is said at most that often.
const SAY_EVERY: Duration = Duration::from_secs(10);

pub struct Fleet {
    pub config: Config,
    pub stages: Stages,
    pub nodes: Vec<Node>,
    /// By uid.
    pub pods: HashMap<u128, Pod>,
    pub wheel: Wheel<Timer>,
    clients: Clients,
    /// Who waits for the node to be registered.
    waiting: HashMap<u32, oneshot::Sender<()>>,
    began: Instant,
    calm: Lane,
    pub busy: Lane,
    flights: FuturesUnordered<BoxFuture<'static, Landed>>,
    progress: watch::Sender<Progress>,
    trouble: Trouble,
}

/// How nodes come to the API server.
pub enum Clients {
    One(Client),
    /// Each node its own, once it has joined.
    Own(HashMap<u32, Client>),
}

/// Each is old unless its pod or node remembers that time.
#[derive(Clone, Copy, Debug)]
pub enum Timer {
    Lease(u32),
    Stage(u32),
    /// A silence is over.
    Wake(u32),
    Retry(Job),
    Pod(u128),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Register(u32),
    Lease(u32),
    ReadLease(u32),
    /// The status; with the conditions of that stage.
    Report(u32, Option<u16>),
    Pod(u128),
}

/// What waits for its turn. It is bounded by what there is: a node or pod has one job of a kind at a time.
#[derive(Default)]
pub struct Lane {
    waiting: VecDeque<Job>,
    /// Registrations: thousands come at once, and nodes that are there must be heard of meanwhile.
    joining: VecDeque<Job>,
    flying: usize,
}

struct Landed {
    job: Job,
    answer: Result<Answer, String>,
}

#[derive(Default)]
struct Trouble {
    many: u64,
    said: Option<Instant>,
}

impl Lane {
    pub fn push(&mut self, job: Job) {
        match job {
            Job::Register(_) => self.joining.push_back(job),
            _ => self.waiting.push_back(job),
        }
    }

    fn pop(&mut self) -> Option<Job> {
        self.waiting.pop_front().or_else(|| self.joining.pop_front())
    }
}

impl Fleet {
    pub fn new(config: Config, stages: Stages, clients: Clients, progress: watch::Sender<Progress>) -> Self {
        let nodes = (0..config.nodes).map(|_| Node::default()).collect();
        Self {
            config,
            stages,
            nodes,
            pods: HashMap::new(),
            wheel: Wheel::default(),
            clients,
            waiting: HashMap::new(),
            began: Instant::now(),
            calm: Lane::default(),
            busy: Lane::default(),
            flights: FuturesUnordered::new(),
            progress,
            trouble: Trouble::default(),
        }
    }

    /// Ends when its channel closes.
    pub async fn run(mut self, mut news: mpsc::Receiver<Seen>) {
        loop {
            self.launch();
            let due = self.wheel.next().map(|at| self.began + Duration::from_millis(at));
            tokio::select! {
                Some(landed) = self.flights.next(), if !self.flights.is_empty() => self.landed(landed),
                seen = news.recv() => match seen {
                    Some(seen) => self.see_many(seen, &mut news),
                    None => return,
                },
                () = sleep_until(due.unwrap_or(self.began)), if due.is_some() => {}
            }
            self.tick();
        }
    }

    pub fn now(&self) -> Millis {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn random(&self, who: u128, visit: u32) -> Random {
        Random::new(self.config.seed, who, visit)
    }

    pub fn node(&mut self, number: u32) -> Option<&mut Node> {
        self.nodes.get_mut(number as usize)
    }

    /// Which of our nodes that is.
    pub fn number(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(self.config.prefix.as_str())?.strip_prefix('-')?;
        let number: u32 = digits.parse().ok()?;
        // `hollow-007` is not ours.
        (number < self.config.nodes && (digits.len() == 1 || !digits.starts_with(['0', '+']))).then_some(number)
    }

    fn name(&self, number: u32) -> String {
        format!("{}-{number}", self.config.prefix)
    }

    fn see_many(&mut self, first: Seen, news: &mut mpsc::Receiver<Seen>) {
        self.see(first);
        for _ in 1..NEWS_AT_ONCE {
            let Ok(seen) = news.try_recv() else { return };
            self.see(seen);
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Listing(What::Pods, of) => self.each(of, |node| node.pods_epoch += 1),
            Seen::Listing(What::Nodes, of) => self.each(of, |node| node.is_listed = false),
            Seen::Listed(What::Pods, of) => self.forget_unlisted(of),
            Seen::Listed(What::Nodes, None) => (0..self.config.nodes).for_each(|number| self.listed(number)),
            Seen::Listed(What::Nodes, Some(number)) => self.listed(number),
            Seen::Pod(pod) => self.see_pod(*pod),
            Seen::PodGone(uid) => self.forget(uid),
            Seen::Node(node) => self.see_node(&node),
            Seen::NodeGone(name) => {
                if let Some(node) = self.number(&name).and_then(|n| self.node(n)) {
                    node.state = State::Away;
                }
            }
            Seen::Joined(joined) => self.joined(*joined),
            Seen::Certified => self.progress.send_modify(|p| p.certified += 1),
            Seen::Failed(why) => self.say(&Err(why)),
            Seen::Refused(why) => self.progress.send_modify(|p| p.refused = p.refused.take().or(Some(why))),
        }
    }

    /// One node, or all.
    fn each(&mut self, of: Option<u32>, change: impl Fn(&mut Node)) {
        match of {
            Some(number) => self.node(number).map(change).unwrap_or_default(),
            None => self.nodes.iter_mut().for_each(change),
        }
    }

    /// The node may write from now on. Its own watch says next whether it is to be registered.
    fn joined(&mut self, Joined { number, client, is_up }: Joined) {
        if let Clients::Own(clients) = &mut self.clients {
            clients.insert(number, client);
            self.waiting.insert(number, is_up);
        }
    }

    /// The list of nodes is whole: what is not in it is to be registered, or is gone.
    fn listed(&mut self, number: u32) {
        let Some(node) = self.node(number).filter(|n| !n.is_listed) else { return };
        match node.state {
            State::New => {
                node.state = State::Registering;
                self.calm.push(Job::Register(number));
            }
            State::Up => node.state = State::Away,
            State::Registering | State::Away => {}
        }
    }

    fn see_node(&mut self, seen: &NodeSeen) {
        let Some(number) = self.number(&seen.name) else { return };
        let now = self.now();
        let Some(node) = self.node(number) else { return };
        let before = (node.state, node.ready);
        (node.is_listed, node.ready) = (true, seen.ready);
        node.cidr = seen.cidr.or(node.cidr);
        match before.0 {
            State::Up => {
                if before.1 != seen.ready {
                    self.plan_node(number);
                }
                if seen.ready == Ready::Unknown && self.nodes.get(number as usize).is_some_and(|n| n.acts(now)) {
                    self.report(number, None);
                }
            }
            State::Registering => self.adopt(number, seen.uid),
            // Of an earlier life of ours, or made by another client.
            State::New | State::Away => {
                self.adopt(number, seen.uid);
                self.report(number, None);
            }
        }
    }

    /// The node is there: from now on it lives.
    fn adopt(&mut self, number: u32, uid: u128) {
        let (now, every) = (self.now(), self.renew_every());
        let first = now + self.random(uid, 0).below(every);
        let due = self.wheel.put(first, Timer::Lease(number));
        let Some(node) = self.node(number) else { return };
        (node.state, node.uid, node.is_listed) = (State::Up, uid, true);
        (node.up_at, node.since, node.lease_rev, node.lease_due, node.planned) = (now, now, 0, due, None);
        self.plan_node(number);
        self.progress.send_modify(|p| p.registered += 1);
        if let Some(is_up) = self.waiting.remove(&number) {
            // A node whose task was ended asks for nothing more.
            let _ = is_up.send(());
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        while let Some((at, timers)) = self.wheel.due(now) {
            for timer in timers {
                match timer {
                    Timer::Lease(number) => self.lease_due(number, at, now),
                    Timer::Stage(number) => self.stage_due(number, at, now),
                    Timer::Wake(number) if self.nodes.get(number as usize).is_some_and(|n| n.acts(now)) => self.report(number, None),
                    Timer::Wake(_) => {}
                    Timer::Retry(Job::Report(number, over)) => self.report(number, over),
                    Timer::Retry(job) => self.calm.push(job),
                    Timer::Pod(uid) => self.pod_due(uid, at),
                }
            }
        }
    }

    fn lease_due(&mut self, number: u32, at: Millis, now: Millis) {
        let Some(node) = self.node(number).filter(|n| n.state == State::Up && n.lease_due == at && !n.beating) else { return };
        if node.acts(now) {
            node.beating = true;
            return self.calm.push(Job::Lease(number));
        }
        let until = node.silent_until;
        self.lease_at(number, until);
    }

    fn lease_at(&mut self, number: u32, at: Millis) {
        let due = self.wheel.put(at, Timer::Lease(number));
        if let Some(node) = self.node(number) {
            (node.lease_due, node.beating) = (due, false);
        }
    }

    /// Milliseconds between renewals: upstream's quarter of the duration.
    fn renew_every(&self) -> Millis {
        u64::from(self.config.lease_seconds) * 250
    }

    fn plan_node(&mut self, number: u32) {
        let (now, seed) = (self.now(), self.config.seed);
        let Some(node) = self.nodes.get_mut(number as usize) else { return };
        let of = |node: &Node| plan::node(&self.stages, node.ready == Ready::True, node.since, Random::new(seed, node.uid, node.visit));
        if node.planned.is_some() && of(node).map(|p| p.stage) == node.planned.map(|p| p.stage) {
            return;
        }
        // A silence is no part of the next delay.
        (node.visit, node.since) = (node.visit + 1, now.max(node.silent_until));
        node.planned = of(node);
        if let Some(planned) = &mut node.planned {
            planned.at = self.wheel.put(planned.at, Timer::Stage(number));
        }
    }

    fn stage_due(&mut self, number: u32, at: Millis, now: Millis) {
        let Some(node) = self.nodes.get_mut(number as usize) else { return };
        let Some(planned) = node.planned.filter(|p| p.at == at && node.state == State::Up) else { return };
        node.planned = None;
        let Some(next) = self.stages.nodes.get(usize::from(planned.stage)).map(|s| &s.next) else { return };
        let heartbeat = next.heartbeat && node.acts(now);
        if let Some(silent) = next.silent {
            node.silent_until = self.wheel.put(now + silent, Timer::Wake(number));
        }
        if heartbeat {
            self.report(number, Some(planned.stage));
        }
        self.plan_node(number);
    }

    fn report(&mut self, number: u32, over: Option<u16>) {
        let Some(node) = self.node(number).filter(|n| !n.reporting && n.state == State::Up) else { return };
        node.reporting = true;
        self.calm.push(Job::Report(number, over));
    }

    /// Sends what waits, as far as there is room.
    fn launch(&mut self) {
        while self.calm.flying < CALM_MAX
            && let Some(job) = self.calm.pop()
        {
            self.calm.flying += usize::from(self.fly(job));
        }
        while self.busy.flying < BUSY_MAX
            && let Some(job) = self.busy.pop()
        {
            self.busy.flying += usize::from(self.fly(job));
        }
    }

    fn fly(&mut self, job: Job) -> bool {
        let Some(client) = self.client_for(job) else { return false };
        let Some(request) = self.request(job) else { return false };
        let work = ask(client, request);
        self.flights.push(Box::pin(async move { Landed { job, answer: work.await } }));
        true
    }

    fn client_for(&self, job: Job) -> Option<Client> {
        let number = match job {
            Job::Register(number) | Job::Lease(number) | Job::ReadLease(number) | Job::Report(number, _) => number,
            Job::Pod(uid) => self.pods.get(&uid)?.node,
        };
        match &self.clients {
            Clients::One(client) => Some(client.clone()),
            Clients::Own(clients) => clients.get(&number).cloned(),
        }
    }

    /// `None` where there is nothing to do any more.
    fn request(&mut self, job: Job) -> Option<Ask> {
        let now = Timestamp::now();
        let put = |method, path, content, body: String| Some(Ask { method, path, content, body: body.into_bytes() });
        match job {
            Job::Register(number) => {
                let node = payloads::node(&self.config, &self.name(number), number, address(number), now);
                put(Method::POST, "/api/v1/nodes".into(), JSON, node.to_string())
            }
            Job::Lease(number) => {
                let (name, node) = (self.name(number), self.nodes.get(number as usize)?);
                let body = payloads::lease(&name, node.uid, node.lease_rev, self.config.lease_seconds, now);
                match node.lease_rev {
                    0 => put(Method::POST, payloads::LEASES.into(), JSON, body),
                    _ => put(Method::PUT, format!("{}/{name}", payloads::LEASES), JSON, body),
                }
            }
            Job::ReadLease(number) => put(Method::GET, format!("{}/{}", payloads::LEASES, self.name(number)), JSON, String::new()),
            Job::Report(number, over) => {
                let path = format!("/api/v1/nodes/{}/status", self.name(number));
                let over = over.and_then(|stage| self.stages.nodes.get(usize::from(stage))).map(|s| s.next.conditions.as_slice());
                let changed = self.nodes.get(number as usize)?.ready != Ready::True;
                let status = payloads::node_status(&self.config, now, changed, over.unwrap_or_default());
                put(Method::PATCH, path, STRATEGIC, serde_json::json!({"status": status}).to_string())
            }
            Job::Pod(uid) => self.pod_request(uid, now),
        }
    }

    fn landed(&mut self, Landed { job, answer }: Landed) {
        let lane = if matches!(job, Job::Pod(_)) { &mut self.busy } else { &mut self.calm };
        lane.flying -= 1;
        let code = answer.as_ref().map_or(0, |a| a.code);
        match job {
            Job::Register(number) => self.was_registered(number, code, &answer),
            Job::Lease(number) | Job::ReadLease(number) => self.was_leased(job, number, code, &answer),
            Job::Report(number, over) => {
                if let Some(node) = self.node(number) {
                    node.reporting = false;
                }
                if !matches!(code, 200 | 404) {
                    self.again(Job::Report(number, over), &answer);
                }
            }
            Job::Pod(uid) => self.pod_landed(uid, code, &answer),
        }
    }

    fn was_registered(&mut self, number: u32, code: u16, answer: &Result<Answer, String>) {
        match (code, answer) {
            (201, Ok(answer)) if self.nodes.get(number as usize).is_some_and(|n| n.state == State::Registering) => {
                let uid = seen::head(&answer.body).1;
                self.adopt(number, uid);
            }
            // The watch has brought it, or will.
            (201 | 409, _) => {}
            _ => self.again(Job::Register(number), answer),
        }
    }

    fn was_leased(&mut self, job: Job, number: u32, code: u16, answer: &Result<Answer, String>) {
        let (now, every) = (self.now(), self.renew_every());
        let rev = answer.as_ref().map_or(0, |a| seen::revision(&seen::head(&a.body).0));
        let Some(node) = self.nodes.get_mut(number as usize) else { return };
        match (job, code) {
            (Job::ReadLease(_), 200) => {
                node.lease_rev = rev;
                self.calm.push(Job::Lease(number));
            }
            (_, 200 | 201) => {
                node.lease_rev = rev;
                // As upstream jitters it: up to a 25th more.
                let later = Random::new(self.config.seed, node.uid ^ u128::from(rev), 1).below(every / 25 + 1);
                self.lease_at(number, now + every + later);
            }
            // Somebody wrote it since, or it is there already.
            (Job::Lease(_), 409) => self.calm.push(Job::ReadLease(number)),
            // It was deleted. Without the namespace there is no use in hurry.
            (_, 404) if node.lease_rev != 0 => {
                node.lease_rev = 0;
                self.calm.push(Job::Lease(number));
            }
            _ => {
                self.say(answer);
                let at = now + RETRY.min(every) + self.jitter(RETRY.min(every));
                self.lease_at(number, at);
            }
        }
    }

    fn again(&mut self, job: Job, answer: &Result<Answer, String>) {
        self.say(answer);
        let at = self.now() + RETRY + self.jitter(RETRY);
        self.wheel.put(at, Timer::Retry(job));
    }

    pub fn jitter(&self, below: Millis) -> Millis {
        self.random(u128::from(self.now()), u32::try_from(self.trouble.many & 0xffff_ffff).unwrap_or(0)).below(below)
    }

    /// Thousands of nodes have the same trouble at the same time: one line tells it.
    pub fn say(&mut self, answer: &Result<Answer, String>) {
        self.trouble.many += 1;
        if self.trouble.said.is_some_and(|at| at.elapsed() < SAY_EVERY) {
            return;
        }
        self.trouble.said = Some(Instant::now());
        let last = match answer {
            Ok(answer) => format!("{} {}", answer.code, String::from_utf8_lossy(answer.body.get(..512).unwrap_or(&answer.body))),
            Err(error) => error.clone(),
        };
        tracing::warn!(failed = self.trouble.many, last, "requests failed; retrying");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_there_is_heard_of_before_others_join() {
        let mut lane = Lane::default();
        (0..3).for_each(|number| lane.push(Job::Register(number)));
        lane.push(Job::Lease(0));
        lane.push(Job::Report(0, None));
        let order: Vec<Job> = std::iter::from_fn(|| lane.pop()).collect();
        assert_eq!(order, [Job::Lease(0), Job::Report(0, None), Job::Register(0), Job::Register(1), Job::Register(2)]);
    }
}
