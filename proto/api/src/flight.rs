//! A question that many ask -> asked once, and all who wait take the answer: where it is an error, too.
//!
//! It is asked by a task of the group, so that it does not end with whoever was the first to ask: what takes longer than its askers wait is answered
//! all the same, and known to those who come later. Without that, each would begin anew and wait in vain.

use std::{collections::HashMap, fmt, hash::Hash, pin::Pin, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::task::Group;

/// Questions by key. Clones share them.
#[derive(Clone)]
pub struct Flights<K, V> {
    group: Group,
    flying: Arc<Flying<K, V>>,
    /// So many at a time.
    most: usize,
}

/// One question.
pub type Flight<V> = Flights<(), V>;

type Flying<K, V> = Mutex<HashMap<K, watch::Receiver<Option<V>>>>;

/// How a question goes on.
enum Begun<F, V> {
    Known(V),
    /// By who asks it.
    Alone(Pin<Box<F>>),
    Flying(watch::Receiver<Option<V>>),
}

/// There is no answer, and will be none: the group stopped, or the question panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the question ended without an answer")
    }
}

impl std::error::Error for Lost {}

/// A question that is being asked; its place goes with it, whichever way it ends.
struct Place<K: Eq + Hash, V> {
    flying: Arc<Flying<K, V>>,
    key: K,
    tell: watch::Sender<Option<V>>,
    is_cleared: bool,
}

impl<K: Eq + Hash, V> Place<K, V> {
    /// Who comes from here on asks anew, or finds what was kept.
    fn lands(mut self, answer: V) {
        self.clear();
        self.tell.send_replace(Some(answer));
    }

    fn clear(&mut self) {
        if !std::mem::replace(&mut self.is_cleared, true) {
            self.flying.lock().remove(&self.key);
        }
    }
}

impl<K: Eq + Hash, V> Drop for Place<K, V> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Questions are tasks of `group`.
    pub fn new(group: &Group) -> Self {
        Self::bounded(group, usize::MAX)
    }

    /// No more than `most` at a time: further ones end with who asks them, who alone has the answer.
    pub fn bounded(group: &Group, most: usize) -> Self {
        Self { group: group.clone(), flying: Arc::default(), most }
    }

    /// The answer of whoever is asking the same; or else what is `known`; or else what `ask` makes of it, which has a bound of its own and keeps what is
    /// to be known later before it ends. `known` is looked at while nobody else can begin to ask, and must not wait.
    ///
    /// # Errors
    /// [`Lost`].
    pub async fn join<F>(&self, key: K, known: impl FnOnce() -> Option<V>, ask: impl FnOnce() -> F) -> Result<V, Lost>
    where
        F: Future<Output = V> + Send + 'static,
    {
        match self.begin(key, known, ask) {
            Begun::Known(answer) => Ok(answer),
            Begun::Alone(work) => Ok(work.await),
            Begun::Flying(mut answer) => {
                let answer = answer.wait_for(Option::is_some).await.map_err(|_| Lost)?;
                answer.clone().ok_or(Lost)
            }
        }
    }

    fn begin<F>(&self, key: K, known: impl FnOnce() -> Option<V>, ask: impl FnOnce() -> F) -> Begun<F, V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut flying = self.flying.lock();
        if let Some(answer) = flying.get(&key) {
            return Begun::Flying(answer.clone());
        }
        if let Some(known) = known() {
            return Begun::Known(known);
        }
        if flying.len() >= self.most {
            drop(flying);
            return Begun::Alone(Box::pin(ask()));
        }
        let (tell, answer) = watch::channel(None);
        flying.insert(key.clone(), answer.clone());
        drop(flying);
        self.fly(Place { flying: self.flying.clone(), key, tell, is_cleared: false }, ask());
        Begun::Flying(answer)
    }

    fn fly(&self, place: Place<K, V>, work: impl Future<Output = V> + Send + 'static) {
        self.group.spawn(Box::pin(async move { place.lands(work.await) }));
    }

    /// How many are being asked.
    pub fn count(&self) -> usize {
        self.flying.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const SILENCE: Duration = Duration::from_secs(10);

    type Answer = Result<usize, String>;

    /// One that answers late: with how often it was asked, or not at all.
    async fn late(asked: Arc<AtomicUsize>, is_good: bool) -> Answer {
        let count = asked.fetch_add(1, Ordering::Relaxed) + 1;
        sleep(SILENCE).await;
        if is_good { Ok(count) } else { Err("no answer in time".into()) }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_takes_the_answer_and_the_failure_and_who_comes_later_asks_again() {
        let (flights, asked) = (Flights::<&str, Answer>::new(&Group::new()), Arc::<AtomicUsize>::default());
        for (is_good, expected) in [(false, Err("no answer in time".to_owned())), (true, Ok(2))] {
            let begun = Instant::now();
            let mut all = Vec::new();
            for _ in 0..8 {
                all.push(flights.join("a", || None, || late(asked.clone(), is_good)));
            }
            let mut all = all.into_iter().map(Box::pin).collect::<Vec<_>>();
            // All at once, as far as one thread can.
            for one in &mut all {
                assert!(timeout(Duration::ZERO, one).await.is_err());
            }
            for one in all {
                assert_eq!(one.await, Ok(expected.clone()));
            }
            assert!(begun.elapsed() < SILENCE * 2, "{:?}", begun.elapsed());
        }
        assert_eq!((asked.load(Ordering::Relaxed), flights.count()), (2, 0));
        assert_eq!(flights.join("a", || Some(Ok(7)), || late(asked.clone(), true)).await, Ok(Ok(7)), "what is known is not asked for");
        assert_eq!(flights.join("b", || None, || late(asked.clone(), true)).await, Ok(Ok(3)), "another question is another flight");
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_outlives_who_asked_it_and_ends_with_the_group() {
        let (group, asked, kept) = (Group::new(), Arc::<AtomicUsize>::default(), Arc::new(Mutex::new(None)));
        let flight = Flight::<Answer>::new(&group);
        let ask = || {
            let (asked, kept) = (asked.clone(), kept.clone());
            async move {
                let answer = late(asked, true).await;
                *kept.lock() = Some(answer.clone());
                answer
            }
        };
        // Each goes away before it is answered; together they wait for one answer.
        let mut tries = 0;
        let answer = loop {
            tries += 1;
            if let Ok(answer) = timeout(SILENCE / 4, flight.join((), || kept.lock().clone(), ask)).await {
                break answer;
            }
            assert!(tries < 10, "it is never answered");
        };
        assert_eq!((answer, asked.load(Ordering::Relaxed)), (Ok(Ok(1)), 1));
        let waiting = flight.join((), || None, ask);
        group.stop();
        assert_eq!((waiting.await, flight.count()), (Err(Lost), 0));
        let panics = Flight::<Answer>::new(&Group::new());
        assert_eq!((panics.join((), || None, async || -> Answer { panic!("no") }).await, panics.count()), (Err(Lost), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn further_ones_end_with_who_asks_and_those_that_are_asked_are_joined_all_the_same() {
        let (asked, most) = (Arc::<AtomicUsize>::default(), 2);
        let flights = Flights::<u8, Answer>::bounded(&Group::new(), most);
        let ask = |key: u8| flights.join(key, || None, || late(asked.clone(), true));
        for key in [1, 2, 3, 4] {
            assert!(timeout(SILENCE / 4, ask(key)).await.is_err());
        }
        assert_eq!((flights.count(), asked.load(Ordering::Relaxed)), (most, 4));
        // The first is still asked, and is not asked again; the third went with who asked.
        assert_eq!(ask(1).await, Ok(Ok(1)));
        assert_eq!((ask(3).await, asked.load(Ordering::Relaxed)), (Ok(Ok(5)), 5));
    }
}
