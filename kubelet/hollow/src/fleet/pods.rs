//! Pods bound to hollow nodes -> their stages, one write at a time each.

use std::net::IpAddr;

use api::time::Timestamp;
use http::Method;

use super::{Fleet, Job, Timer};
use crate::{
    ask::{Answer, Ask, JSON, STRATEGIC},
    node::{Node, address},
    payloads::{self, PodFacts},
    plan::{self, Millis, PodView, Random},
    seen::{self, Container, PodSeen},
    stages::Phase,
};

/// How long pods wait for their node's address range before they get addresses of none.
const CIDR_BOUND: Millis = 10_000;
const CIDR_PAUSE: Millis = 200;
const BACKOFF: Millis = 500;
const BACKOFF_MAX: Millis = 30_000;

/// What is kept of a pod.
#[derive(Debug)]
pub struct Pod {
    pub node: u32,
    name: Box<str>,
    view: PodView,
    containers: Box<[Container]>,
    generation: i64,
    ip: Option<IpAddr>,
    host_network: bool,
    start: Option<Timestamp>,
    /// The newest revision seen, and the one of our own last write: until it is seen, what we see is old.
    rev: u64,
    hold: u64,
    since: Millis,
    visit: u32,
    epoch: u32,
    planned: Option<plan::Planned>,
    /// Its write waits or is on its way.
    is_busy: bool,
    tries: u8,
}

impl Pod {
    fn new(node: u32, seen: &PodSeen, now: Millis) -> Self {
        Self {
            node,
            name: seen.name.clone(),
            view: PodView::default(),
            containers: Box::default(),
            generation: 0,
            ip: None,
            host_network: seen.host_network,
            start: None,
            rev: 0,
            hold: 0,
            since: now,
            visit: 0,
            epoch: 0,
            planned: None,
            is_busy: false,
            tries: 0,
        }
    }
}

impl Fleet {
    pub fn see_pod(&mut self, seen: PodSeen) {
        let Some(number) = self.number(&seen.node) else { return };
        if seen.uid == 0 {
            return;
        }
        let (now, epoch, uid) = (self.now(), self.nodes.get(number as usize).map_or(0, |n| n.pods_epoch), seen.uid);
        let pod = self.pods.entry(uid).or_insert_with(|| Pod::new(number, &seen, now));
        pod.epoch = epoch;
        if seen.rev < pod.rev {
            return;
        }
        if let (Some(ip), Some(node), false) = (seen.ip, self.nodes.get_mut(number as usize), seen.host_network)
            && pod.ip != Some(ip)
        {
            node.note(number, ip, true);
        }
        (pod.rev, pod.generation, pod.ip, pod.start) = (seen.rev, seen.generation, seen.ip.or(pod.ip), seen.start.or(pod.start));
        (pod.view, pod.containers) = (seen.view, seen.containers);
        self.plan_pod(uid);
    }

    pub fn forget(&mut self, uid: u128) {
        let Some(pod) = self.pods.remove(&uid) else { return };
        if let (Some(ip), Some(node), false) = (pod.ip, self.nodes.get_mut(pod.node as usize), pod.host_network) {
            node.note(pod.node, ip, false);
        }
    }

    /// The list of pods, of all nodes or of one, is whole: what is not in it is gone.
    pub fn forget_unlisted(&mut self, of: Option<u32>) {
        let is_old = |pod: &Pod| {
            of.is_none_or(|number| number == pod.node) && self.nodes.get(pod.node as usize).is_some_and(|n| n.pods_epoch != pod.epoch)
        };
        let old: Vec<u128> = self.pods.iter().filter(|(_, pod)| is_old(pod)).map(|(uid, _)| *uid).collect();
        old.into_iter().for_each(|uid| self.forget(uid));
    }

    fn plan_pod(&mut self, uid: u128) {
        let (now, seed) = (self.now(), self.config.seed);
        let Some(pod) = self.pods.get_mut(&uid).filter(|p| !p.is_busy && p.rev >= p.hold) else { return };
        let of = |pod: &Pod| plan::pod(&self.stages, &pod.view, pod.since, Random::new(seed, uid, pod.visit));
        // The state it was planned for goes on, and its delay with it.
        if pod.visit > 0 && of(pod).map(|p| p.stage) == pod.planned.map(|p| p.stage) {
            return;
        }
        (pod.visit, pod.since, pod.tries) = (pod.visit + 1, now, 0);
        pod.planned = of(pod);
        if let Some(planned) = &mut pod.planned {
            planned.at = self.wheel.put(planned.at, Timer::Pod(uid));
        }
    }

    pub fn pod_due(&mut self, uid: u128, at: Millis) {
        let Some(pod) = self.pods.get_mut(&uid) else { return };
        if !pod.is_busy && pod.planned.is_some_and(|p| p.at == at) {
            pod.is_busy = true;
            self.busy.push(Job::Pod(uid));
        }
    }

    fn postpone(&mut self, uid: u128, at: Millis) {
        let Some(pod) = self.pods.get_mut(&uid) else { return };
        pod.is_busy = false;
        if let Some(planned) = &mut pod.planned {
            planned.at = self.wheel.put(at, Timer::Pod(uid));
        }
    }

    /// `None` where the pod is gone, or its node cannot act now: then it is tried later.
    pub fn pod_request(&mut self, uid: u128, now: Timestamp) -> Option<Ask> {
        let at = self.now();
        let pod = self.pods.get_mut(&uid)?;
        let (Some(planned), Some(node)) = (pod.planned, self.nodes.get_mut(pod.node as usize)) else {
            pod.is_busy = false;
            return None;
        };
        if !node.acts(at) {
            let later = node.silent_until.max(at + 1000);
            self.postpone(uid, later);
            return None;
        }
        let next = &self.stages.pods.get(usize::from(planned.stage))?.next;
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.view.namespace, pod.name);
        if next.delete {
            return Some(Ask { method: Method::DELETE, path, content: JSON, body: payloads::delete(uid).into_bytes() });
        }
        if next.phase == Some(Phase::Running) && pod.ip.is_none() {
            if node.cidr.is_none() && at < node.up_at + CIDR_BOUND {
                self.postpone(uid, at + CIDR_PAUSE);
                return None;
            }
            pod.ip = new_address(pod.host_network, pod.node, node);
        }
        let (host_ip, generation) = (address(pod.node), pod.generation);
        let (phase, containers) = (pod.view.phase, &*pod.containers);
        let facts = PodFacts { uid, generation, phase, containers, ip: pod.ip, host_ip, start: pod.start, now };
        let body = payloads::pod_status(&facts, next).to_string().into_bytes();
        Some(Ask { method: Method::PATCH, path: format!("{path}/status"), content: STRATEGIC, body })
    }

    pub fn pod_landed(&mut self, uid: u128, code: u16, answer: &Result<Answer, String>) {
        let now = self.now();
        let Some(pod) = self.pods.get_mut(&uid) else { return };
        pod.is_busy = false;
        match code {
            200 | 202 => {
                let rev = answer.as_ref().map_or(0, |a| seen::revision(&seen::head(&a.body).0));
                (pod.hold, pod.planned, pod.since, pod.visit) = (rev, None, now, pod.visit + 1);
                self.plan_pod(uid);
            }
            // Gone: the watch will say so.
            404 => pod.planned = None,
            _ => {
                pod.tries = pod.tries.saturating_add(1);
                let backoff = (BACKOFF << pod.tries.min(6)).min(BACKOFF_MAX);
                self.say(answer);
                let later = now + backoff + self.jitter(backoff);
                self.postpone(uid, later);
            }
        }
    }
}

fn new_address(host_network: bool, number: u32, node: &mut Node) -> Option<IpAddr> {
    if host_network { Some(address(number)) } else { node.take_address(number) }
}
