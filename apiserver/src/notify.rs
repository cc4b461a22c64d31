//! One thing that happens -> all who sleep on it: a flag and a wake for each waiter, with no lock of its own to take for looking again.

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

/// How many waiters are kept before those are looked for that are gone.
const SWEEP_MIN: usize = 64;

/// May notify often. Who sleeps on it is kept until it is dropped.
#[derive(Default)]
pub(crate) struct Notifier(Mutex<Waiters>);

#[derive(Default)]
struct Waiters {
    all: Vec<Weak<Waiter>>,
    sweep_at: usize,
}

/// One task's place at one or more notifiers.
#[derive(Default)]
pub(crate) struct Waiter {
    notified: AtomicBool,
    waker: AtomicWaker,
}

/// Whether a group has been asked to stop: one load to ask, where the group's own answer takes locks that all its tasks share.
#[derive(Default)]
pub(crate) struct Stop {
    stopping: AtomicBool,
    notifier: Notifier,
}

/// Resolves when the group stops.
pub(crate) struct Stopped {
    stop: Arc<Stop>,
    waiter: Arc<Waiter>,
}

/// A future that seldom has anything to say, beside one that is polled all the time: it is polled when it was woken itself.
pub(crate) struct Rarely<F> {
    inner: F,
    waiter: Arc<Waiter>,
    waker: Waker,
}

impl Notifier {
    pub fn add(&self, waiter: &Arc<Waiter>) {
        let mut waiters = self.0.lock();
        if waiters.all.len() >= waiters.sweep_at {
            waiters.all.retain(|waiter| waiter.strong_count() > 0);
            waiters.sweep_at = (waiters.all.len() * 2).max(SWEEP_MIN);
        }
        waiters.all.push(Arc::downgrade(waiter));
    }

    pub fn notify(&self) {
        self.0.lock().all.retain(|waiter| waiter.upgrade().map(|waiter| waiter.notify()).is_some());
    }
}

impl Waiter {
    /// Ready once for all notifications since the last time.
    pub fn poll_notified(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.was_notified() {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        if self.was_notified() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn was_notified(&self) -> bool {
        self.notified.load(Ordering::Relaxed) && self.notified.swap(false, Ordering::AcqRel)
    }

    fn notify(&self) {
        if !self.notified.swap(true, Ordering::AcqRel) {
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
            told.notifier.notify();
        });
        stop
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Notifies `waiter`, too.
    pub fn wakes(&self, waiter: &Arc<Waiter>) {
        self.notifier.add(waiter);
    }

    pub fn stopped(self: &Arc<Self>) -> Stopped {
        let waiter = Arc::default();
        self.wakes(&waiter);
        Stopped { stop: self.clone(), waiter }
    }
}

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

impl<F> Rarely<F> {
    pub fn new(inner: F) -> Self {
        let waiter = Arc::<Waiter>::default();
        // It is asked once at first.
        waiter.notify();
        Self { inner, waker: Waker::from(waiter.clone()), waiter }
    }
}

impl<F: Future + Unpin> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Before the question: whoever wakes it from then on wakes this task.
        self.waiter.waker.register(cx.waker());
        if !self.waiter.was_notified() {
            return Poll::Pending;
        }
        let this = &mut *self;
        Pin::new(&mut this.inner).poll(&mut Context::from_waker(&this.waker))
    }
}

impl Future for Stopped {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Asked first: a notification that comes before the question is answered by it.
        let _ = self.waiter.poll_notified(cx);
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
        let (notifier, other, waiter) = (Notifier::default(), Notifier::default(), Arc::new(Waiter::default()));
        notifier.add(&waiter);
        other.add(&waiter);
        let counter = Arc::new(Counter::default());
        let waker = Waker::from(counter.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(waiter.poll_notified(&mut cx).is_pending());
        notifier.notify();
        notifier.notify();
        other.notify();
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        assert!(waiter.poll_notified(&mut cx).is_ready());
        assert!(waiter.poll_notified(&mut cx).is_pending());
        other.notify();
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
        let notifier = Notifier::default();
        let kept = Arc::new(Waiter::default());
        notifier.add(&kept);
        for _ in 0..10 * SWEEP_MIN {
            notifier.add(&Arc::default());
        }
        assert!(notifier.0.lock().all.len() <= SWEEP_MIN);
        notifier.notify();
        assert_eq!(notifier.0.lock().all.len(), 1);
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
