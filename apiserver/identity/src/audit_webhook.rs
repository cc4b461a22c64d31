//! Audit events -> somebody outside, in lists.
//!
//! Sources: apiserver `plugin/pkg/audit/{webhook,buffered}`, `pkg/server/options/audit.go`. What waits is bounded in events and in bytes, and what is being sent
//! counts with it (upstream: events alone, and what is being sent has no bound).

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::task::Group;
use apiserver::audit::{LogMode, Sink};
use async_trait::async_trait;
use bytes::Bytes;
use rand::Rng;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::remote::Remote;

/// Of all events that wait or are being sent, together.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Lists that are being sent at a time.
const SENDING_MAX: usize = 16;
/// One attempt.
const SEND_BOUND: Duration = Duration::from_secs(30);
/// How long a request waits for its event to be taken, attempts and all. Upstream waits for all attempts.
const TAKEN_BOUND: Duration = Duration::from_secs(10);
/// What is still there at the end.
const END_BOUND: Duration = Duration::from_secs(4);
/// Attempts for one list (`DefaultRetryBackoffWithInitialDelay`).
const ATTEMPTS: u32 = 5;
/// Of the pause before an attempt: one that is refused at once would be asked without end.
const PAUSE_LEAST: Duration = Duration::from_millis(10);
/// How each event begins, and how it stands in a list: its items say neither kind nor version.
const ALONE: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#;
const HEAD: &[u8] = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#;

/// Where events are sent, and how many at a time.
#[derive(Clone, Debug)]
pub struct AuditWebhookConfig {
    /// A kubeconfig.
    pub file: PathBuf,
    pub mode: LogMode,
    /// Before a list that was not taken is sent again.
    pub initial_backoff: Duration,
    /// Events that wait; more are dropped.
    pub buffered_max: usize,
    /// Of one list.
    pub events_max: usize,
    pub bytes_max: usize,
    /// A list is sent after so long, however few are in it.
    pub wait_max: Duration,
    /// Lists a second, and at once; `None` for as many as there are.
    pub throttle: Option<(f64, u32)>,
}

/// See the module.
pub struct AuditWebhook {
    config: Arc<AuditWebhookConfig>,
    remote: Arc<Remote>,
    send: mpsc::Sender<Entry>,
    /// Of [`WAITING_BYTES_MAX`], in KiB.
    room: Arc<Semaphore>,
    lost: Arc<AtomicU64>,
}

struct Entry {
    event: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AuditWebhook {
    /// Sends from now on, in a task of `group`; what is there when that stops is tried once more. What tells of requests must have ended before.
    ///
    /// # Errors
    /// What is wrong with the kubeconfig.
    pub async fn open(config: AuditWebhookConfig, group: &Group) -> Result<Self, String> {
        // Of its own: what is sent at the end needs its connections.
        let connections = Group::new();
        let remote = Remote::of_kubeconfig(&config.file, &connections).await.map_err(|why| format!("initializing audit webhook: {why}"))?;
        let (send, receive) = mpsc::channel(config.buffered_max.max(1));
        let (config, remote, lost) = (Arc::new(config), Arc::new(remote), Arc::<AtomicU64>::default());
        let sender = Sender { config: config.clone(), remote: remote.clone(), lost: lost.clone() };
        let sending =
            Sending { sender: Arc::new(sender), turns: Arc::new(Semaphore::new(SENDING_MAX)), throttle: Throttle::new(config.throttle) };
        let of = group.clone();
        group.spawn_careful(async move {
            let turns = sending.turns.clone();
            sending.run(receive, of).await;
            // Lists that are still on their way.
            let _ = timeout(END_BOUND, turns.acquire_many(SENDING_MAX as u32)).await;
            connections.stop();
        });
        Ok(Self { config, remote, send, room: Arc::new(Semaphore::new(WAITING_BYTES_MAX >> 10)), lost })
    }

    /// At once, for who waits.
    async fn sent(&self, event: &Bytes) {
        let (body, mut pauses) = (list(&[event]), Pauses(self.config.initial_backoff));
        loop {
            match self.remote.send(body.clone(), SEND_BOUND).await {
                Ok(()) => return,
                Err(why) => tracing::debug!(%why, "audit event was not taken; trying again"),
            }
            pauses.rest().await;
        }
    }
}

/// An event that is being sent for somebody who waits. Should they go away, it is sent with those that nobody waits for: whoever hangs up does not keep what
/// they did out of the log. (It may come twice, as with every attempt that was not answered.)
struct Awaited<'a> {
    webhook: &'a AuditWebhook,
    event: Option<Bytes>,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if let Some(event) = self.event.take()
            && let Err(why) = self.webhook.take_now(event)
        {
            self.webhook.lost.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%why, "audit event was not taken");
        }
    }
}

#[async_trait]
impl Sink for AuditWebhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn is_strict(&self) -> bool {
        self.config.mode == LogMode::BlockingStrict
    }

    async fn take(&self, event: Bytes) -> Result<(), String> {
        if self.config.mode == LogMode::Batch {
            return self.take_now(event);
        }
        let mut awaited = Awaited { webhook: self, event: Some(event.clone()) };
        let taken = timeout(TAKEN_BOUND, self.sent(&event)).await;
        awaited.event = None;
        taken.map_err(|_| "the audit webhook did not take it in time".to_owned())
    }

    fn take_now(&self, event: Bytes) -> Result<(), String> {
        let blocked = "audit buffer queue blocked";
        let kib = u32::try_from((event.len() >> 10) + 1).unwrap_or(u32::MAX).min((WAITING_BYTES_MAX >> 10) as u32);
        let room = self.room.clone().try_acquire_many_owned(kib).map_err(|_| blocked.to_owned())?;
        self.send.try_send(Entry { event, _room: room }).map_err(|_| blocked.to_owned())
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// What sends one list.
struct Sender {
    config: Arc<AuditWebhookConfig>,
    remote: Arc<Remote>,
    lost: Arc<AtomicU64>,
}

impl Sender {
    /// Tries again and again, whatever went wrong (`retryOnError`); what nobody takes is lost, and counted.
    async fn send(&self, batch: &[Entry], attempts: u32) {
        let events: Vec<&Bytes> = batch.iter().map(|entry| &entry.event).collect();
        let (body, mut pauses) = (list(&events), Pauses(self.config.initial_backoff));
        for attempt in 1..=attempts {
            match self.remote.send(body.clone(), SEND_BOUND).await {
                Ok(()) => return,
                Err(why) if attempt == attempts => {
                    self.lose(batch.len());
                    tracing::error!(%why, events = batch.len(), "audit webhook does not take events: they are lost");
                }
                Err(why) => {
                    tracing::debug!(%why, "audit webhook does not take events; trying again");
                    pauses.rest().await;
                }
            }
        }
    }

    /// Once, at the end: what is cut off then is lost as well.
    async fn send_last(&self, batch: &[Entry]) {
        if timeout(END_BOUND, self.send(batch, 1)).await.is_err() {
            self.cut_off(batch.len());
        }
    }

    fn cut_off(&self, events: usize) {
        self.lose(events);
        tracing::error!(events, "audit events are lost: the webhook did not take them before the end");
    }

    fn lose(&self, events: usize) {
        self.lost.fetch_add(u64::try_from(events).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The task that makes lists.
struct Sending {
    sender: Arc<Sender>,
    turns: Arc<Semaphore>,
    throttle: Throttle,
}

/// One more is there, or why not.
enum Next {
    Event(Entry),
    /// It is time to send what there is.
    Late,
    Over,
}

impl Sending {
    async fn run(mut self, mut receive: mpsc::Receiver<Entry>, group: Group) {
        let (mut over, mut kept) = (false, None);
        while !over {
            let mut batch;
            (batch, over) = self.collect(&mut receive, &mut kept, &group).await;
            if batch.is_empty() {
                continue;
            }
            if over {
                return self.rest(batch, receive).await;
            }
            let turn = async {
                self.throttle.turn().await;
                // Never closed.
                self.turns.clone().acquire_owned().await
            };
            let turn = tokio::select! {
                turn = turn => turn,
                () = group.stopping() => {
                    batch.extend(kept.take());
                    return self.rest(batch, receive).await;
                }
            };
            let (sender, careful) = (self.sender.clone(), group.clone());
            group.spawn_careful(async move {
                let _turn = turn;
                // At the end it has to do with one attempt.
                tokio::select! {
                    () = sender.send(&batch, ATTEMPTS) => {}
                    () = careful.stopping() => sender.send_last(&batch).await,
                }
            });
        }
        self.rest(Vec::new(), receive).await;
    }

    /// The next list, and whether it is the last.
    async fn collect(&self, receive: &mut mpsc::Receiver<Entry>, kept: &mut Option<Entry>, group: &Group) -> (Vec<Entry>, bool) {
        let config = &self.sender.config;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        if let Some(first) = kept.take() {
            bytes += first.event.len();
            batch.push(first);
        }
        let end = Instant::now() + config.wait_max;
        while batch.len() < config.events_max.max(1) {
            let next = tokio::select! {
                next = receive.recv() => next.map_or(Next::Over, Next::Event),
                () = sleep_until(end) => Next::Late,
                () = group.stopping() => Next::Over,
            };
            match next {
                Next::Event(entry) if !batch.is_empty() && bytes + entry.event.len() > config.bytes_max => {
                    *kept = Some(entry);
                    break;
                }
                Next::Event(entry) => {
                    bytes += entry.event.len();
                    batch.push(entry);
                }
                Next::Late => break,
                Next::Over => return (batch, true),
            }
        }
        (batch, false)
    }

    /// What is still there, once.
    async fn rest(&self, mut batch: Vec<Entry>, mut receive: mpsc::Receiver<Entry>) {
        let all = async {
            loop {
                while batch.len() < self.sender.config.events_max.max(1)
                    && let Ok(entry) = receive.try_recv()
                {
                    batch.push(entry);
                }
                if batch.is_empty() {
                    return;
                }
                self.sender.send(&batch, 1).await;
                batch.clear();
            }
        };
        if timeout(END_BOUND, all).await.is_err() {
            self.sender.cut_off(batch.len() + receive.len());
        }
    }
}

/// A bucket of tokens, one for each list.
struct Throttle {
    rate: Option<(f64, f64)>,
    tokens: f64,
    since: Instant,
}

impl Throttle {
    fn new(rate: Option<(f64, u32)>) -> Self {
        let rate = rate.filter(|(each, _)| *each > 0.0).map(|(each, burst)| (each, f64::from(burst.max(1))));
        Self { rate, tokens: rate.map_or(0.0, |(_, burst)| burst), since: Instant::now() }
    }

    async fn turn(&mut self) {
        let Some((each, burst)) = self.rate else { return };
        let now = Instant::now();
        self.tokens = (self.tokens + (now - self.since).as_secs_f64() * each).min(burst);
        self.since = now;
        if self.tokens < 1.0 {
            let wait = Duration::try_from_secs_f64((1.0 - self.tokens) / each).unwrap_or(SEND_BOUND);
            sleep(wait).await;
            (self.tokens, self.since) = (1.0, Instant::now());
        }
        self.tokens -= 1.0;
    }
}

/// Pauses between attempts, each longer than the one before by half, and up to a fifth of it.
struct Pauses(Duration);

impl Pauses {
    async fn rest(&mut self) {
        sleep(self.next()).await;
    }

    fn next(&mut self) -> Duration {
        let pause = self.0.max(PAUSE_LEAST);
        self.0 = pause.mul_f64(1.5);
        pause.mul_f64(rand::rng().random_range(1.0..1.2))
    }
}

/// `EventList`
fn list(events: &[&Bytes]) -> Bytes {
    let mut body = Vec::with_capacity(HEAD.len() + events.iter().map(|event| event.len() + 1).sum::<usize>() + 2);
    body.extend_from_slice(HEAD);
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        match event.strip_prefix(ALONE) {
            Some(rest) => {
                body.push(b'{');
                body.extend_from_slice(rest.trim_ascii_end());
            }
            None => body.extend_from_slice(event.trim_ascii_end()),
        }
    }
    body.extend_from_slice(b"]}");
    body.into()
}

#[cfg(test)]
mod tests;
