//! One thing that happens -> all who sleep on it: a flag and a wake for each sleeper, with no lock of its own to take for looking again.

use std::{
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use api::task::Group;
use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// How many sleepers are kept before those are looked for that are gone.
const SWEEP_MIN: usize = 64;

/// May ring often. Who sleeps on it is kept until it is dropped.
#[derive(Default)]
pub(crate) struct Bell(Mutex<Sleepers>);

#[derive(Default)]
struct Sleepers {
    all: Vec<Weak<Sleeper>>,
    sweep_at: usize,
}

/// One task's place at one or more bells.
#[derive(Default)]
pub(crate) struct Sleeper {
    rung: AtomicBool,
    waker: AtomicWaker,
}

/// Whether a group has been asked to stop: one load to ask, where the group's own answer takes locks that all its tasks share.
#[derive(Default)]
pub(crate) struct Stop {
    stopping: AtomicBool,
    bell: Bell,
}

/// Resolves when the group stops.
pub(crate) struct Stopped {
    stop: Arc<Stop>,
    sleeper: Arc<Sleeper>,
}

/// A future that seldom has anything to say, beside one that is polled all the time: it is polled when it was woken itself.
pub(crate) struct Rarely<F> {
    inner: F,
    sleeper: Arc<Sleeper>,
    waker: Waker,
}

impl Bell {
    pub fn add(&self, sleeper: &Arc<Sleeper>) {
        let mut sleepers = self.0.lock();
        if sleepers.all.len() >= sleepers.sweep_at {
            sleepers.all.retain(|sleeper| sleeper.strong_count() > 0);
            sleepers.sweep_at = (sleepers.all.len() * 2).max(SWEEP_MIN);
        }
        sleepers.all.push(Arc::downgrade(sleeper));
    }

    pub fn ring(&self) {
        self.0.lock().all.retain(|sleeper| sleeper.upgrade().map(|sleeper| sleeper.ring()).is_some());
    }
}

impl Sleeper {
    /// Ready once for all rings since the last time.
    pub fn poll_rung(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.was_rung() {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        if self.was_rung() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn was_rung(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::AcqRel)
    }

    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

impl Stop {
    /// Of `group`, told by one task of it. Must be called within a runtime.
    pub fn of(group: &Group) -> Arc<Self> {
        let stop = Arc::new(Self::default());
        let (told, stopping) = (stop.clone(), group.clone());
        group.spawn_careful(async move {
            stopping.stopping().await;
            told.stopping.store(true, Ordering::Release);
            told.bell.ring();
        });
        stop
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Rings for `sleeper`, too.
    pub fn wakes(&self, sleeper: &Arc<Sleeper>) {
        self.bell.add(sleeper);
    }

    pub fn stopped(self: &Arc<Self>) -> Stopped {
        let sleeper = Arc::default();
        self.wakes(&sleeper);
        Stopped { stop: self.clone(), sleeper }
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

impl<F> Rarely<F> {
    pub fn new(inner: F) -> Self {
        let sleeper = Arc::<Sleeper>::default();
        // It is asked once at first.
        sleeper.ring();
        Self { inner, waker: Waker::from(sleeper.clone()), sleeper }
    }
}

impl<F: Future + Unpin> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Before the question: whoever wakes it from then on wakes this task.
        self.sleeper.waker.register(cx.waker());
        if !self.sleeper.was_rung() {
            return Poll::Pending;
        }
        let this = &mut *self;
        Pin::new(&mut this.inner).poll(&mut Context::from_waker(&this.waker))
    }
}

impl Future for Stopped {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Asked first: a ring that comes before the question is answered by it.
        let _ = self.sleeper.poll_rung(cx);
        if self.stop.is_stopping() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize};

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn rings_are_heard_once_however_many_there_were() {
        let (bell, other, sleeper) = (Bell::default(), Bell::default(), Arc::new(Sleeper::default()));
        bell.add(&sleeper);
        other.add(&sleeper);
        let counter = Arc::new(Counter::default());
        let waker = Waker::from(counter.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(sleeper.poll_rung(&mut cx).is_pending());
        bell.ring();
        bell.ring();
        other.ring();
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        assert!(sleeper.poll_rung(&mut cx).is_ready());
        assert!(sleeper.poll_rung(&mut cx).is_pending());
        other.ring();
        assert_eq!(counter.0.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn who_is_not_woken_is_not_asked() {
        let (asked, notify) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
        let (count, told) = (asked.clone(), notify.clone());
        let mut inner = Box::pin(async move { told.notified().await });
        let mut rarely = Rarely::new(poll_fn(move |cx| {
            count.fetch_add(1, Ordering::Relaxed);
            inner.as_mut().poll(cx)
        }));
        for _ in 0..100 {
            assert!(futures::poll!(&mut rarely).is_pending());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        notify.notify_one();
        rarely.await;
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let bell = Bell::default();
        let kept = Arc::new(Sleeper::default());
        bell.add(&kept);
        for _ in 0..10 * SWEEP_MIN {
            bell.add(&Arc::default());
        }
        assert!(bell.0.lock().all.len() <= SWEEP_MIN);
        bell.ring();
        assert_eq!(bell.0.lock().all.len(), 1);
    }

    #[tokio::test]
    async fn all_hear_of_the_stop_whenever_they_ask() {
        let group = Group::new();
        let stop = Stop::of(&group);
        let before = stop.stopped();
        assert!(!stop.is_stopping());
        group.stop();
        before.await;
        assert!(stop.is_stopping());
        stop.stopped().await;
    }
}
