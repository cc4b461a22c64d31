//! A request of a leader -> sent while it leads, refused after that.
//!
//! Loops stop when their group does, at their next `await`. A process that stood still (SIGSTOP, a paused machine) wakes with all of them ready to run,
//! and whichever runs first would act on what it saw before: each request looks at the clock itself.

use std::{
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures::{
    TryFutureExt,
    future::{Either, MapErr},
};
use tower::{BoxError, Service};

use super::{clock::Clock, election::Time};

/// Until when requests are sent. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Guard {
    clock: Clock,
    /// Milliseconds of the clock.
    until: Arc<AtomicU64>,
}

/// See [`Guard::over`].
#[derive(Clone)]
pub struct Guarded<S> {
    guard: Guard,
    service: S,
}

impl Guard {
    /// For who leads as long as it runs: nobody else could.
    pub fn always() -> Self {
        Self { clock: Clock::default(), until: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, until: Arc::default() }
    }

    pub(super) fn set(&self, until: Option<Time>) {
        let until = until.map_or(0, |until| u64::try_from(until.as_millis()).unwrap_or(u64::MAX));
        self.until.store(until, Ordering::Release);
    }

    pub fn leads(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until == u64::MAX || self.clock.now().as_millis() < u128::from(until)
    }

    /// The same service, for as long as the guard lets requests pass.
    pub fn over<S>(&self, service: S) -> Guarded<S> {
        Guarded { guard: self.clone(), service }
    }
}

impl<S, R> Service<R> for Guarded<S>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<MapErr<S::Future, fn(S::Error) -> BoxError>, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        if self.guard.leads() {
            Either::Left(self.service.call(request).map_err(Into::into))
        } else {
            Either::Right(ready(Err("this server leads no longer".into())))
        }
    }
}
