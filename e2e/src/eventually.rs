//! A condition and a bound -> the moment it holds, or a panic that says what was seen last.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// The pause between two looks. Short: there is little other waiting.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a condition may answer: `bool`, `Option<T>` or `Result<T, E>`.
pub trait Verdict {
    type Value;
    /// The value, or what stands in its way.
    fn verdict(self) -> Result<Self::Value, String>;
}

impl Verdict for bool {
    type Value = ();
    fn verdict(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "it does not hold".into())
    }
}

impl<T> Verdict for Option<T> {
    type Value = T;
    fn verdict(self) -> Result<T, String> {
        self.ok_or_else(|| "there is none".into())
    }
}

impl<T, E: Debug> Verdict for Result<T, E> {
    type Value = T;
    fn verdict(self) -> Result<T, String> {
        self.map_err(|e| format!("{e:?}"))
    }
}

/// Looks again and again until `condition` holds; panics with `what` and the last verdict once `bound` has passed.
pub async fn eventually<V: Verdict>(what: &str, bound: Duration, condition: impl AsyncFnMut() -> V) -> V::Value {
    eventually_every(LOOK_EVERY, what, bound, condition).await
}

/// The same by looks that cost much, such as a program that is started, with this pause between two.
pub async fn eventually_every<V: Verdict>(pause: Duration, what: &str, bound: Duration, mut condition: impl AsyncFnMut() -> V) -> V::Value {
    let end = Instant::now() + bound;
    loop {
        match condition().await.verdict() {
            Ok(value) => return value,
            Err(last) if Instant::now() >= end => panic!("{what}: not within {} s; last seen: {last}", bound.as_secs()),
            Err(_) => tokio::time::sleep(pause).await,
        }
    }
}
