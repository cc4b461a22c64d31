//! What should not happen and did -> an error that is counted: a panic ends one key's run, not the loop.
//!
//! Upstream: apimachinery `pkg/util/runtime` (`HandleCrash`).

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::{self, Write},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Mutex, PoisonError},
    task::Poll,
};

/// A panic that was caught. It is counted already; who gets it logs it with what it was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic(String);

/// One for the process, as the panic hook is: any room may fault, and whoever serves `/metrics` tells of all.
static COUNTS: Mutex<Counts> = Mutex::new(Counts { panics: BTreeMap::new(), unreadable: BTreeMap::new() });

/// Bounded by the places and kinds that the code names.
struct Counts {
    panics: BTreeMap<&'static str, u64>,
    unreadable: BTreeMap<String, i64>,
}

/// Runs `work`, named `place` in the metric.
///
/// # Errors
/// Where it panics. What it held is left as it was then: locks must not be poisoned by it (ours are `parking_lot`'s).
pub fn catch<T>(place: &'static str, work: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Panic::counted(place, &*payload))
}

/// As [`catch`], for what waits; after a panic `work` is dropped.
///
/// # Errors
/// Where it panics.
pub async fn catch_all<F: Future>(place: &'static str, work: F) -> Result<F::Output, Panic> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| match catch(place, || work.as_mut().poll(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// Panics caught since the process began, over all places.
pub fn panics() -> u64 {
    COUNTS.lock().unwrap_or_else(PoisonError::into_inner).panics.values().sum()
}

/// One object more (or, with -1, less) of this kind is held that cannot be read.
pub fn unreadable(kind: &str, by: i64) {
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    match counts.unreadable.get_mut(kind) {
        Some(count) => *count += by,
        None => drop(counts.unreadable.insert(kind.to_owned(), by)),
    }
}

/// In Prometheus' text form.
pub fn metrics() -> String {
    let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = String::new();
    out.push_str("# HELP skiff_panics_total Panics that ended one run of a loop, by loop.\n# TYPE skiff_panics_total counter\n");
    for (place, count) in &counts.panics {
        let _ = writeln!(out, "skiff_panics_total{{loop=\"{place}\"}} {count}");
    }
    out.push_str("# HELP skiff_unreadable_objects Objects in caches that are not as their kind says, by kind.\n");
    out.push_str("# TYPE skiff_unreadable_objects gauge\n");
    for (kind, count) in &counts.unreadable {
        let _ = writeln!(out, "skiff_unreadable_objects{{kind=\"{kind}\"}} {count}");
    }
    out
}

impl Panic {
    fn counted(place: &'static str, payload: &(dyn Any + Send)) -> Self {
        *COUNTS.lock().unwrap_or_else(PoisonError::into_inner).panics.entry(place).or_default() += 1;
        let text = payload.downcast_ref::<&str>().map(|t| (*t).to_owned()).or_else(|| payload.downcast_ref::<String>().cloned());
        Self(text.unwrap_or_else(|| "no message".into()))
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panic: {}", self.0)
    }
}

impl std::error::Error for Panic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_that_is_counted() {
        let before = panics();
        assert_eq!(catch("here", || 1), Ok(1));
        assert_eq!(catch("here", || -> u8 { panic!("no {}", 1) }).unwrap_err().to_string(), "panic: no 1");
        let late = async {
            tokio::task::yield_now().await;
            panic!("late")
        };
        assert_eq!(catch_all("there", late).await, Err::<(), _>(Panic("late".into())));
        assert!(panics() >= before + 2);
        unreadable("Thing", 2);
        unreadable("Thing", -1);
        let text = metrics();
        assert!(text.contains("skiff_panics_total{loop=\"there\"} 1\n") && text.contains("skiff_unreadable_objects{kind=\"Thing\"} 1\n"));
    }
}
