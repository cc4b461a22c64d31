//! A controller -> its keys run: observe, plan, act, rest.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{
    GroupResource, Key,
    faults::{Panic, catch_all},
    task::Group,
};
use client::{Cache, Object, Recorder, kube};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::{
    Action, Plan,
    act::{Act, Acted, Spared},
    action::resource,
    queue::{Queue, Written},
};

/// Keys of one controller that run at the same time.
const CONCURRENT: usize = 20;
/// A key that waits longer than this for its own writes goes on without: a watch that was cut lists again after half of that at the latest, and what
/// the list was made at counts as seen. Upstream's expectations hold for five minutes.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// A key rests for so long for each object that its set has (see [`Controller::weight`])...
const REST_EACH: Duration = Duration::from_micros(10);
/// ... not at all for less than this...
const REST_MIN: Duration = Duration::from_millis(2);
/// ... and no longer than this (upstream bounds its batches, `endpointUpdatesBatchPeriod`, at half a minute).
const REST_MAX: Duration = Duration::from_secs(1);
/// A timer reaches two years: who waits longer is woken once more before.
const TIMER_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// One controller of the house. A panic in any of its functions is an error of the key it ran for: it is logged and counted, the key is tried again
/// later and later, and the others go on. A key whose own object cannot be read is left alone until it can be.
pub trait Controller: Send + Sync + 'static {
    /// All that `plan` may know, the time included.
    type World: Send;

    /// As events and logs name it: `deployment-controller`.
    fn name(&self) -> &'static str;

    /// Says which changes wake which keys. Called once, before the first run.
    fn watches(&self, wake: &Wake);

    /// What is known about `key`, from the caches or, where they do not hold it, from the API; `None` if there is nothing to decide.
    fn observe(&self, key: &Key) -> impl Future<Output = Option<Self::World>> + Send;

    /// What should be done. Pure: no clock, no random numbers, no I/O.
    fn plan(&self, world: &Self::World, key: &Key) -> Plan;

    /// How many objects a run is about that change one by one, each change waking the key: pods of a set. The key rests after the run in
    /// proportion, so that a small set is looked at for each change, a large one for many changes at once, and a change costs the same in both
    /// (upstream: `endpointUpdatesBatchPeriod`).
    fn weight(&self, _world: &Self::World) -> usize {
        0
    }

    /// Told how a run ended: for what is remembered or counted, not for what is to be done.
    fn ran(&self, _key: &Key, _world: &Self::World, _done: &Done<'_>) {}

    /// Told of an action that was refused or failed, unless what it was about is gone or going; the key is tried again. What it gives back
    /// is told to the user.
    fn failed(&self, _key: &Key, _action: &Action, _error: &kube::Error) -> Option<Action> {
        None
    }
}

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    pub took: Duration,
    /// Objects that were made.
    pub created: usize,
    /// What was not carried out; what stands behind the first of these was not begun.
    pub failed: &'a [(Action, kube::Error)],
}

/// Where a controller registers what wakes it.
pub struct Wake {
    queue: Arc<Queue>,
    revisions: Mutex<HashMap<GroupResource, Revision>>,
    /// Whether an object can be read: those the controller's own keys are about, and those of each resource.
    own: Mutex<Vec<Unreadable>>,
    unreadable: Arc<Mutex<HashMap<GroupResource, Unreadable>>>,
    synced: Mutex<Vec<BoxFuture<'static, ()>>>,
}

type Unreadable = Box<dyn Fn(&Key) -> bool + Send + Sync>;

/// Whether a change of a controller's own object is one to run for, and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matters {
    Not,
    Somewhat,
    /// The key runs before those that wait already.
    Much,
}

/// How far the cache of one resource has come, and all that is built on it (indices hear of a change before its revision is told).
type Revision = Arc<AtomicU64>;

/// Runs the controller in `group` until it stops: its writes go through `client`, its events are told by `recorder`.
pub fn run<C: Controller>(this: C, client: kube::Client, recorder: Recorder, group: &Group) {
    let (name, unreadable) = (this.name(), Arc::default());
    let runner = Runner { this: Arc::new(this), act: Act::new(client, recorder, reads(&unreadable)), unreadable };
    group.spawn_loop(name, Box::pin(runner.run()));
}

impl Wake {
    /// Any change of the collection wakes the keys that `keys` names for the old and for the new object. The controller's own writes to the
    /// collection are waited for before a key runs again.
    pub fn on<K: Object>(&self, cache: &Cache<K>, keys: impl Fn(&K, &mut dyn FnMut(Key)) + Send + Sync + 'static) {
        let (resource, queue, revision) = (resource::<K>().group_resource(), self.queue.clone(), Revision::default());
        self.revisions.lock().insert(resource.clone(), revision.clone());
        let waited = cache.clone();
        self.synced.lock().push(Box::pin(async move { waited.synced().await }));
        self.knows(cache);
        let woken = queue.clone();
        cache.on_change(move |old, new| {
            for object in [old, new].into_iter().flatten() {
                keys(object, &mut |key| woken.wake(key));
            }
        });
        cache.on_revision(move |now| {
            revision.store(now, Ordering::Release);
            queue.seen(&resource, now);
        });
    }

    /// Changes of the collection wake the object's own key; a new generation does not let it rest.
    pub fn on_own<K: Object>(&self, cache: &Cache<K>) {
        let own = cache.clone();
        self.own.lock().push(Box::new(move |key| own.is_unreadable(key)));
        self.on(cache, |object, wake| wake(own_key(object)));
        let queue = self.queue.clone();
        cache.on_change(move |old, new| {
            if let (Some(old), Some(new)) = (old, new)
                && old.object_meta().generation != new.object_meta().generation
            {
                queue.hurry(&own_key(&**new));
            }
        });
    }

    /// As [`Wake::on_own`], but for changes that do not matter: those wake nothing.
    pub fn on_own_if<K: Object>(&self, cache: &Cache<K>, matters: impl Fn(Option<&K>, Option<&K>) -> Matters + Send + Sync + 'static) {
        let own = cache.clone();
        self.own.lock().push(Box::new(move |key| own.is_unreadable(key)));
        self.on(cache, |_, _| {});
        let queue = self.queue.clone();
        cache.on_change(move |old, new| {
            let Some(object) = new.or(old) else { return };
            match matters(old.map(Arc::as_ref), new.map(Arc::as_ref)) {
                Matters::Not => {}
                Matters::Somewhat => queue.wake(own_key(&**object)),
                Matters::Much => queue.wake_first(own_key(&**object)),
            }
        });
    }

    /// The collection is only read: it wakes nothing, but the controller starts after its first list.
    pub fn needs<K: Object>(&self, cache: &Cache<K>) {
        let waited = cache.clone();
        self.synced.lock().push(Box::pin(async move { waited.synced().await }));
        self.knows(cache);
    }

    fn knows<K: Object>(&self, cache: &Cache<K>) {
        let known = cache.clone();
        self.unreadable.lock().insert(resource::<K>().group_resource(), Box::new(move |key| known.is_unreadable(key)));
    }

    /// Whether the key is about an object that cannot be read.
    fn is_unreadable(&self, key: &Key) -> bool {
        self.own.lock().iter().any(|is_unreadable| is_unreadable(key))
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// A handle that wakes keys from elsewhere (timers, other sources of change).
    pub fn handle(&self) -> impl Fn(Key) + Send + Sync + 'static {
        let queue = self.queue.clone();
        move |key| queue.wake(key)
    }
}

/// Namespace and name of an object.
pub fn own_key<K: Object>(object: &K) -> Key {
    object.object_meta().key()
}

struct Runner<C> {
    this: Arc<C>,
    act: Act,
    unreadable: Arc<Mutex<HashMap<GroupResource, Unreadable>>>,
}

/// One timer per key.
#[derive(Default)]
struct Timers {
    due: DelayQueue<Key>,
    by_key: HashMap<Key, delay_queue::Key>,
}

/// How a run ended.
#[derive(Default)]
struct Ran {
    written: Written,
    again: Option<Duration>,
    rest: Duration,
    error: Option<Failure>,
}

enum Failure {
    Refused(kube::Error),
    Panicked(Panic),
}

impl Ran {
    fn panicked(panic: Panic) -> Self {
        Self { error: Some(Failure::Panicked(panic)), ..Self::default() }
    }
}

impl<C: Controller> Runner<C> {
    async fn run(self) {
        let wake = wake_on(self.this.name(), self.unreadable.clone());
        self.this.watches(&wake);
        let waits = std::mem::take(&mut *wake.synced.lock());
        futures::future::join_all(waits).await;
        let mut running = FuturesUnordered::new();
        let (mut later, mut holds, mut rests) = (Timers::default(), Timers::default(), Timers::default());
        loop {
            while running.len() < CONCURRENT
                && let Some(key) = wake.queue.next()
            {
                if wake.is_unreadable(&key) {
                    tracing::debug!(controller = self.this.name(), %key, "left alone: it cannot be read");
                    wake.queue.finish(&key, Written::new());
                    continue;
                }
                running.push(Box::pin(self.caught(key)));
            }
            tokio::select! {
                () = wake.queue.woken.notified() => {}
                Some((key, ran)) = running.next() => {
                    if !ran.rest.is_zero() {
                        wake.queue.rest(&key);
                        rests.set(key.clone(), ran.rest);
                    }
                    self.after(&wake, key, ran, &mut later, &mut holds);
                }
                key = rests.next() => wake.queue.rested(&key),
                due = later.next() => wake.queue.wake(due),
                key = holds.next() => {
                    if wake.queue.release(&key) {
                        tracing::warn!(controller = self.this.name(), %key, "own writes not seen in time; going on without");
                    }
                }
            }
        }
    }

    async fn caught(&self, key: Key) -> (Key, Ran) {
        let ran = catch_all(self.this.name(), self.once(&key)).await;
        (key, ran.unwrap_or_else(Ran::panicked))
    }

    async fn once(&self, key: &Key) -> Ran {
        let began = Instant::now();
        let world = self.this.observe(key).await;
        let rest = world.as_ref().map_or(Duration::ZERO, |world| rest_of(self.this.weight(world)));
        let plan = world.as_ref().map_or_else(Plan::rest, |world| self.this.plan(world, key));
        let Acted { written, created, failed } = self.act.all(plan.actions).await;
        if let Some(world) = &world {
            self.this.ran(key, world, &Done { took: began.elapsed(), created, failed: &failed });
        }
        drop(world);
        for (action, error) in failed.iter().filter(|(_, error)| !is_moot(error)) {
            if let Some(told) = self.this.failed(key, action, error) {
                self.act.tell(&told);
            }
        }
        // One that has to be tried again counts more than one that is moot.
        let (moot, real): (Vec<_>, Vec<_>) = failed.into_iter().map(|(_, error)| error).partition(is_moot);
        Ran { written, again: plan.again, rest, error: real.into_iter().chain(moot).next().map(Failure::Refused) }
    }

    fn after(&self, wake: &Wake, key: Key, ran: Ran, later: &mut Timers, holds: &mut Timers) {
        let Ran { written, again, error, rest: _ } = ran;
        let pending = wake.not_seen(written);
        if !pending.is_empty() {
            holds.set(key.clone(), HOLD_MAX);
        }
        wake.queue.finish(&key, pending.clone());
        // What came in between looking and holding woke nobody.
        wake.look_again(&pending);
        let retry = match error {
            Some(Failure::Panicked(panic)) => {
                tracing::error!(controller = self.this.name(), %key, error = %panic, "the key is tried again");
                Some(wake.queue.failed(&key))
            }
            Some(Failure::Refused(error)) if !is_moot(&error) => {
                log_failure(self.this.name(), &key, &error);
                Some(wake.queue.failed(&key))
            }
            _ => {
                wake.queue.succeeded(&key);
                None
            }
        };
        if let Some(wait) = retry.into_iter().chain(again).min() {
            later.set(key, wait);
        }
    }
}

impl Timers {
    /// The last word counts: a key has one timer.
    #[expect(clippy::disallowed_methods, reason = "no timer is longer than TIMER_MAX")]
    fn set(&mut self, key: Key, wait: Duration) {
        if let Some(old) = self.by_key.remove(&key) {
            self.due.remove(&old);
        }
        let slot = self.due.insert(key.clone(), wait.min(TIMER_MAX));
        self.by_key.insert(key, slot);
    }

    /// Pending for ever while no timer runs: to be polled beside other work.
    async fn next(&mut self) -> Key {
        match futures::future::poll_fn(|cx| self.due.poll_expired(cx)).await {
            Some(due) => {
                let key = due.into_inner();
                self.by_key.remove(&key);
                key
            }
            None => std::future::pending().await,
        }
    }
}

impl Wake {
    fn look_again(&self, pending: &Written) {
        let revisions = self.revisions.lock();
        for (resource, _) in pending {
            if let Some(seen) = revisions.get(resource) {
                self.queue.seen(resource, seen.load(Ordering::Acquire));
            }
        }
    }

    /// The newest revision per resource that the controller's own caches have not come to.
    fn not_seen(&self, written: Written) -> Written {
        let revisions = self.revisions.lock();
        let mut newest: HashMap<GroupResource, u64> = HashMap::new();
        for (resource, rev) in written {
            let slot = newest.entry(resource).or_insert(0);
            *slot = rev.max(*slot);
        }
        newest
            .into_iter()
            .filter(|(resource, rev)| revisions.get(resource).is_some_and(|seen| seen.load(Ordering::Acquire) < *rev))
            .collect()
    }
}

pub(crate) fn wake_on(controller: &'static str, unreadable: Arc<Mutex<HashMap<GroupResource, Unreadable>>>) -> Wake {
    Wake { queue: Queue::of(controller), revisions: Mutex::default(), own: Mutex::default(), unreadable, synced: Mutex::default() }
}

pub(crate) fn rest_of(weight: usize) -> Duration {
    let rest = REST_EACH.saturating_mul(u32::try_from(weight).unwrap_or(u32::MAX));
    if rest < REST_MIN { Duration::ZERO } else { rest.min(REST_MAX) }
}

/// Whether an object of that resource cannot be read.
fn reads(unreadable: &Arc<Mutex<HashMap<GroupResource, Unreadable>>>) -> Spared {
    let all = unreadable.clone();
    Box::new(move |resource, key| all.lock().get(resource).is_some_and(|is_unreadable| is_unreadable(key)))
}

/// What was to be changed is gone, or goes with its namespace: the event that says so wakes whom it concerns.
fn is_moot(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|d| &d.causes);
    status.code == 404 || (status.code == 403 && causes.into_iter().any(|c| c.reason == "NamespaceTerminating"))
}

/// A conflict is how a stale view shows itself: the next look will be fresh.
fn log_failure(controller: &'static str, key: &Key, error: &kube::Error) {
    match error {
        kube::Error::Api(status) if status.code == 409 => tracing::debug!(controller, %key, error = status.message, "stale; trying again"),
        kube::Error::Api(status) => tracing::warn!(controller, %key, error = status.message, "not carried out; trying again"),
        _ => tracing::warn!(controller, %key, %error, "not carried out; trying again"),
    }
}
