//! Candidates at the real API server, in paused time: one leads, and has stopped before another does.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{k8s::api::coordination::v1::Lease, task::Group};
use client::{
    kube::{Api, Client, client::Body},
    leader::{Candidate, Clock, Guard, Led, Standing, Term, Timing, stand},
};
use door::Door;
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use parking_lot::Mutex;
use store::{
    faulty::{Faults, Faulty},
    memory::Memory,
};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

const SECOND: Duration = Duration::from_secs(1);
/// The lease and what comes on top.
const TAKEN_OVER: Duration = Duration::from_secs(16);

struct House {
    group: Group,
    door: Arc<Door>,
    faulty: Arc<Faulty>,
    /// Who leads, by name. More than one is a failure.
    leaders: Arc<Mutex<Vec<String>>>,
    most: Arc<AtomicUsize>,
}

/// One process.
struct Process {
    standing: Standing,
    room: Arc<Room>,
    is_cut: Arc<AtomicBool>,
    /// Seconds that its machine has slept.
    slept: Arc<AtomicU64>,
}

struct Room {
    name: String,
    leaders: Arc<Mutex<Vec<String>>>,
    most: Arc<AtomicUsize>,
    guard: Mutex<Option<Guard>>,
    terms: AtomicUsize,
}

impl Led for Room {
    fn seal(&self) -> BoxFuture<'_, Result<(), String>> {
        std::future::ready(Ok(())).boxed()
    }

    fn start(&self, term: &Term) {
        *self.guard.lock() = Some(term.guard.clone());
        self.terms.fetch_add(1, Ordering::Relaxed);
        let (name, leaders, stopped) = (self.name.clone(), self.leaders.clone(), term.group.clone());
        self.most.fetch_max(
            {
                let mut all = leaders.lock();
                all.push(name.clone());
                all.len()
            },
            Ordering::Relaxed,
        );
        term.group.spawn_careful(async move {
            stopped.stopping().await;
            leaders.lock().retain(|leader| *leader != name);
        });
    }
}

impl House {
    async fn build(seed: u64) -> Self {
        let (group, memory) = (Group::new(), Arc::new(Memory::without_thread()));
        let tended = memory.clone();
        group.spawn(async move { tended.tend().await });
        let mut state = seed;
        let random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let faulty = Arc::new(Faulty::new(memory, Box::new(random)));
        let door = Arc::new(Door::over(faulty.clone(), &group).await);
        Self { group, door, faulty, leaders: Arc::default(), most: Arc::default() }
    }

    fn process(&self, name: &str) -> Process {
        let room = Arc::new(Room {
            name: name.into(),
            leaders: self.leaders.clone(),
            most: self.most.clone(),
            guard: Mutex::default(),
            terms: AtomicUsize::new(0),
        });
        let (is_cut, inner) = (Arc::new(AtomicBool::new(false)), self.door.service("system:kube-scheduler", &[]));
        let cut = is_cut.clone();
        // What is sent over a line that is cut stays without an answer.
        let service = tower::service_fn(move |request: Request<Body>| {
            let (inner, is_cut) = (inner.clone(), cut.load(Ordering::Relaxed));
            async move {
                if is_cut {
                    return std::future::pending().await;
                }
                let answer = inner.oneshot(request).await;
                Ok::<Response<_>, Infallible>(answer.expect("it cannot fail"))
            }
        });
        let (slept, origin) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let asleep = slept.clone();
        let clock = Clock::of(move || origin.elapsed() + Duration::from_secs(asleep.load(Ordering::Relaxed)));
        let candidate = Candidate { lease: "kube-scheduler", identity: format!("{name}_1"), timing: Timing::default(), clock };
        let standing = stand(candidate, Client::new(service, "default"), room.clone(), &self.group);
        Process { standing, room, is_cut, slept }
    }

    /// Who leads once somebody but `old` does, and how long that took.
    async fn next_leader(&self, old: &str, within: Duration) -> (String, Duration) {
        let since = Instant::now();
        let looking = async {
            loop {
                let leader = self.leaders.lock().first().cloned();
                if let Some(leader) = leader.filter(|leader| leader != old) {
                    return leader;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        let leader = timeout(within, looking).await.expect("somebody leads in time");
        (leader, since.elapsed())
    }

    async fn lease(&self) -> Lease {
        Api::<Lease>::namespaced(self.door.admin(), "kube-system").get("kube-scheduler").await.expect("the lease is there")
    }

    fn assert_never_two(&self) {
        assert_eq!(self.most.load(Ordering::Relaxed), 1, "two led at a time");
        assert_eq!(self.group.fault(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_is_followed_at_once() {
    let house = House::build(1).await;
    let mut all: Vec<Process> = ["a", "b", "c"].into_iter().map(|name| house.process(name)).collect();
    let (mut leader, _) = house.next_leader("", SECOND * 3).await;
    for transitions in 0..2 {
        let spec = house.lease().await.spec.unwrap();
        assert_eq!(spec.holder_identity, Some(format!("{leader}_1")));
        assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(15), Some(transitions)));
        sleep(SECOND * 20).await;
        assert_eq!(house.leaders.lock()[..], [leader.clone()], "it renews its lease");
        let at = all.iter().position(|process| process.room.name == leader).unwrap();
        let gone = all.remove(at);
        gone.standing.leave(SECOND * 4).await;
        assert!(house.leaders.lock().first() != Some(&leader), "it has stopped");
        assert!(!gone.room.guard.lock().as_ref().unwrap().leads());
        leader = house.next_leader(&leader, SECOND * 3).await.0;
    }
    house.assert_never_two();
    house.group.stop();
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_stops_before_another_starts() {
    let house = House::build(2).await;
    let a = house.process("a");
    assert_eq!(house.next_leader("", SECOND * 3).await.0, "a");
    let _b = house.process("b");
    sleep(SECOND * 5).await;
    let guard = a.room.guard.lock().clone().unwrap();
    a.is_cut.store(true, Ordering::Relaxed);
    assert!(guard.leads());
    let (leader, after) = house.next_leader("a", TAKEN_OVER).await;
    assert!(leader == "b" && after > SECOND * 12, "{leader} after {after:?}");
    assert!(!guard.leads(), "its requests have been refused for some time");
    a.is_cut.store(false, Ordering::Relaxed);
    sleep(SECOND * 60).await;
    assert_eq!(house.leaders.lock()[..], ["b"], "it stands again, and finds a leader");
    assert_eq!(a.room.terms.load(Ordering::Relaxed), 1);
    house.assert_never_two();
    house.group.stop();
}

/// tokio's time stands still meanwhile, as `CLOCK_MONOTONIC` does.
#[tokio::test(start_paused = true)]
async fn who_has_slept_leads_no_longer_from_its_first_moment_on() {
    let house = House::build(4).await;
    let a = house.process("a");
    assert_eq!(house.next_leader("", SECOND * 3).await.0, "a");
    let guard = a.room.guard.lock().clone().unwrap();
    assert!(guard.leads());
    a.slept.store(3600, Ordering::Relaxed);
    assert!(!guard.leads(), "another may lead for an hour already");
    sleep(SECOND * 30).await;
    assert!(!guard.leads(), "its next term has a guard of its own");
    assert_eq!(a.room.terms.load(Ordering::Relaxed), 2, "the loops of that term have ended, and it was elected again");
    house.assert_never_two();
    house.group.stop();
}

#[tokio::test(start_paused = true)]
async fn whatever_the_store_loses_there_are_never_two_and_one_in_the_end() {
    for seed in 0..6 {
        let house = House::build(seed).await;
        let all: Vec<Process> = ["a", "b", "c"].into_iter().map(|name| house.process(name)).collect();
        house.next_leader("", SECOND * 3).await;
        house.faulty.set(Faults {
            lost: 150,
            done_unanswered: 150,
            unread: 100,
            cut: 100,
            late: 300,
            late_max: SECOND * 8,
            ..Faults::default()
        });
        for round in 0..40_usize {
            let process = &all[round % 3];
            process.is_cut.store(round % 5 == 0, Ordering::Relaxed);
            sleep(SECOND * 7).await;
            process.is_cut.store(false, Ordering::Relaxed);
        }
        house.faulty.set(Faults::default());
        sleep(SECOND * 40).await;
        assert_eq!(house.leaders.lock().len(), 1, "seed {seed}");
        assert!(all.iter().map(|process| process.room.terms.load(Ordering::Relaxed)).sum::<usize>() > 1, "seed {seed}: nothing happened");
        house.assert_never_two();
        house.group.stop();
    }
}

#[tokio::test(start_paused = true)]
async fn loops_that_end_unasked_end_the_house() {
    struct Failing;
    impl Led for Failing {
        fn seal(&self) -> BoxFuture<'_, Result<(), String>> {
            std::future::ready(Ok(())).boxed()
        }
        fn start(&self, term: &Term) {
            term.group.spawn_loop("controller", async {});
        }
    }
    let house = House::build(3).await;
    let origin = Instant::now();
    let clock = Clock::of(move || origin.elapsed());
    let candidate = Candidate { lease: "kube-scheduler", identity: "a_1".into(), timing: Timing::default(), clock };
    let _standing = stand(candidate, house.door.client("system:kube-scheduler", &[]), Arc::new(Failing), &house.group);
    timeout(SECOND * 10, house.group.stopping()).await.expect("the group ends");
    assert_eq!(house.group.fault(), Some("kube-scheduler: controller: ended unasked"));
}
