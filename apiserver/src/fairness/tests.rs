//! Levels, queues and seats under a clock that is an argument; then the waiting itself, under a paused one.

mod changes;

use std::collections::HashMap;

use bytes::Bytes;
use futures::FutureExt;
use http_body_util::BodyExt;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{levels::Bounds, *};
use crate::{
    body::{boxed, full},
    identity::User,
};

const QUEUING: Queuing = Queuing { queues: 64, hand: 6, length: 50 };

fn level(name: &'static str, shares: u32, lendable_percent: u32, response: Response) -> Level {
    Level { name: name.into(), uid: "".into(), shares, lendable_percent, borrowing_percent: None, response }
}

fn schema(name: &'static str, precedence: i32, group: &'static str) -> Schema {
    let rules = vec![Rule::all_of(vec![Subject::Group(group.into())])];
    Schema { name: name.into(), uid: "".into(), level: name.into(), precedence, by: Some(Distinguisher::User), rules }
}

/// Two levels of equal shares, one that lends half and one that lends nothing, and the mandatory ones with next to none.
fn config(seats: usize) -> Config {
    let mut config = Config::mandatory(Limits { reading: seats, mutating: 0, fair: true });
    config.levels[1].shares = 0;
    config.levels.push(level("lends", 50, 50, Response::Queue(QUEUING)));
    config.levels.push(level("keeps", 50, 0, Response::Queue(QUEUING)));
    config.schemas.push(schema("lends", 10, "lenders"));
    config.schemas.push(schema("keeps", 20, "keepers"));
    config
}

const LENDS: u32 = 2;
const KEEPS: u32 = 3;

fn levels<W>(config: &Config) -> Levels<W> {
    let mut levels = Levels::new(config.limits.reading + config.limits.mutating, Arc::default());
    levels.configure(&config.levels, Duration::ZERO, &mut |_, _| {});
    levels
}

/// All seats, who sits, who waits. Requests are numbered as they come.
struct Hall {
    levels: Levels<usize>,
    now: Duration,
    sitting: HashMap<usize, Seat>,
    waiting: HashMap<usize, Ticket>,
    /// In the order in which they sat.
    sat: Vec<usize>,
    refused: Vec<(usize, Why)>,
    count: usize,
}

impl Hall {
    fn new(config: &Config) -> Self {
        let levels = levels(config);
        let (sitting, waiting) = (HashMap::new(), HashMap::new());
        Self { levels, now: Duration::ZERO, sitting, waiting, sat: Vec::new(), refused: Vec::new(), count: 0 }
    }

    fn come(&mut self, level: u32, flow: u64, seats: usize) -> usize {
        let id = self.count;
        self.count += 1;
        // A flow's hash is of all bits.
        let flow = flow.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut told = Vec::new();
        let asked = Arriving { level, flow, seats, about: About::nobody() };
        match self.levels.arrive(asked, self.now, || id, &mut |id, seat| told.push((id, seat))) {
            Answer::Sits(seat) => told.push((id, seat)),
            Answer::Waits(ticket) => {
                self.waiting.insert(id, ticket);
            }
            Answer::Refused(why) => self.refused.push((id, why)),
        }
        self.seat(told);
        id
    }

    /// So many narrow ones of one flow.
    fn crowd(&mut self, level: u32, flow: u64, number: usize) {
        for _ in 0..number {
            self.come(level, flow, 1);
        }
    }

    fn go(&mut self, id: usize) {
        let mut told = Vec::new();
        let seat = self.sitting.remove(&id).expect("it sits");
        self.levels.finish(&seat, self.now, &mut |id, seat| told.push((id, seat)));
        self.seat(told);
    }

    fn give_up(&mut self, id: usize) {
        let mut told = Vec::new();
        let ticket = self.waiting.remove(&id).expect("it waits");
        assert!(self.levels.leave(ticket, self.now, &mut |id, seat| told.push((id, seat))).is_some());
        assert!(self.levels.leave(ticket, self.now, &mut |_, _| {}).is_none(), "it leaves once");
        self.seat(told);
    }

    fn seat(&mut self, told: Vec<(usize, Seat)>) {
        for (id, seat) in told {
            self.waiting.remove(&id);
            self.sitting.insert(id, seat);
            self.sat.push(id);
        }
    }

    /// All who sit now are done after `millis`.
    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        let mut done: Vec<usize> = self.sitting.keys().copied().collect();
        done.sort_unstable();
        done.into_iter().for_each(|id| self.go(id));
    }

    fn seats(&self, level: u32) -> usize {
        self.levels.level(level).unwrap().queues.seats()
    }

    #[track_caller]
    fn is_sound(&mut self, total: usize) {
        let taken: usize = self.sitting.values().map(|seat| seat.seats).sum();
        let (pooled, pool) = self.levels.pooled();
        assert!(pooled <= pool && taken <= total, "{taken} seats of {total}, {pooled} pooled of {pool}");
        for at in [LENDS, KEEPS] {
            let state = self.levels.level(at).unwrap();
            let own: usize = self.sitting.values().filter(|seat| seat.level == at).map(|seat| seat.seats).sum();
            assert_eq!(state.queues.seats(), own);
            assert!(own <= state.bounds.upper);
            assert!(state.queues.waiting() <= QUEUING.queues * QUEUING.length);
        }
        assert_eq!(self.levels.waiting(), self.waiting.len());
        assert_eq!(self.levels.serve_again(self.now), 0, "somebody waits who could sit");
    }
}

#[test]
fn seats_are_shared_by_levels_as_upstream_computes_them() {
    let of = |shares: u32, lendable: u32, hand: usize| {
        let response = Response::Queue(Queuing { hand, ..QUEUING });
        let mut config = Config::mandatory(Limits::default());
        config.levels.push(level("x", shares, lendable, response));
        config.levels.push(level("rest", 245 - 5 - shares, 0, response));
        levels::<()>(&config).level(2).unwrap().bounds
    };
    let bounds = |nominal, lower, width| Bounds { nominal, lower, upper: nominal + 600, width, reserve: nominal / 8 };
    assert_eq!(of(30, 33, 6), bounds(74, 50, 12), "system");
    assert_eq!(of(40, 25, 6), bounds(98, 73, 15), "node-high");
    assert_eq!(of(10, 0, 4), bounds(25, 25, 4), "leader-election");
    assert_eq!(of(100, 90, 6), bounds(245, 24, 37), "workload-low");
    assert_eq!(of(20, 50, 6), bounds(49, 24, 8), "global-default");
}

#[test]
fn flows_of_a_level_take_turns() {
    let mut hall = Hall::new(&config(20));
    let elephant: Vec<usize> = (0..300).map(|_| hall.come(KEEPS, 1, 1)).collect();
    let mouse: Vec<usize> = (0..10).map(|_| hall.come(KEEPS, 2, 1)).collect();
    for _ in 0..40 {
        hall.pass(20);
    }
    let place = |id: &usize| hall.sat.iter().position(|sat| sat == id).unwrap();
    // The elephant has six queues, and the mouse at least one of its own.
    let last = mouse.iter().map(place).max().unwrap();
    assert!(last <= 10 + 10 * 7, "the mouse's last was served as number {last}");
    assert_eq!(hall.sat.len(), 310);
    let first = elephant.iter().map(place).min().unwrap();
    assert_eq!(first, 0);
}

#[test]
fn a_flow_that_comes_now_and_then_does_not_wait_for_one_that_always_comes() {
    let mut hall = Hall::new(&config(20));
    for round in 0..200 {
        while hall.waiting.len() < 250 {
            hall.come(KEEPS, 1, 1);
        }
        let rare = hall.come(KEEPS, 2, 1);
        hall.pass(20);
        assert!(!hall.waiting.contains_key(&rare), "in round {round} it still waits when all that sat before it are done");
    }
}

#[test]
fn one_flow_of_requests_that_never_end_leaves_seats_for_others() {
    let mut hall = Hall::new(&config(90));
    for _ in 0..1_000 {
        hall.come(KEEPS, 1, 1);
    }
    let hog = hall.seats(KEEPS);
    assert!((30..45).contains(&hog), "{hog}");
    assert!(hall.refused.iter().all(|(_, why)| *why == Why::QueueFull));
    for flow in 2..12 {
        let id = hall.come(KEEPS, flow, 1);
        assert!(hall.sitting.contains_key(&id), "flow {flow} finds a seat while the first holds {hog} for ever");
    }
    // And so for many such flows, as long as there are seats at all.
    for flow in 100..110 {
        hall.crowd(KEEPS, flow, 100);
    }
    let id = hall.come(LENDS, 500, 1);
    assert!(hall.sitting.contains_key(&id), "the other level has its own");
}

#[test]
fn a_flow_alone_may_have_two_thirds() {
    let mut config = config(90);
    config.levels[3].borrowing_percent = Some(0);
    let mut hall = Hall::new(&config);
    hall.crowd(KEEPS, 1, 200);
    assert_eq!(hall.seats(KEEPS), 30, "of the level's 45");
    for flow in 2..5 {
        hall.crowd(KEEPS, flow, 200);
    }
    // Ten, one, one: the last five are for those who have none.
    assert_eq!(hall.seats(KEEPS), 42);
    for flow in 10..13 {
        let id = hall.come(KEEPS, flow, 1);
        assert!(hall.sitting.contains_key(&id));
    }
    assert_eq!(hall.seats(KEEPS), 45);
}

#[test]
fn a_level_borrows_and_the_lender_gets_its_own_back() {
    let mut hall = Hall::new(&config(100));
    // Fifty of its own; 25 are in the pool, of which it may have half.
    let borrowed: Vec<usize> = (0..200).map(|flow| hall.come(KEEPS, flow, 1)).collect();
    assert_eq!(hall.seats(KEEPS), 50 + 12);
    let own: Vec<usize> = (0..60).map(|flow| hall.come(LENDS, 1_000 + flow, 1)).collect();
    assert_eq!(hall.seats(LENDS), 25 + 13, "what it keeps, and what is left of what it lends");
    assert!(own.iter().filter(|id| hall.waiting.contains_key(id)).count() == 60 - 38);
    // Each that ends makes room for the lender first: the borrower has many who wait.
    for id in borrowed.iter().take(12) {
        hall.go(*id);
    }
    assert_eq!((hall.seats(KEEPS), hall.seats(LENDS)), (50, 50));
    hall.is_sound(100);
}

#[test]
fn what_is_kept_is_never_lent() {
    let mut hall = Hall::new(&config(100));
    for flow in 0..500 {
        hall.come(LENDS, flow, 1);
    }
    let id = hall.come(KEEPS, 1, 1);
    assert!(hall.sitting.contains_key(&id));
    for flow in 0..300 {
        hall.come(KEEPS, 1_000 + flow, 1);
    }
    assert!(hall.seats(KEEPS) >= 50, "its fifty seats");
}

#[test]
fn a_wide_request_is_not_passed_by_for_ever() {
    let mut hall = Hall::new(&config(100));
    for flow in 0..100 {
        hall.come(KEEPS, flow, 1);
    }
    let wide = hall.come(KEEPS, 1_000, 7);
    for round in 0..100 {
        if hall.sitting.contains_key(&wide) {
            assert_eq!(hall.sitting[&wide].seats, 7);
            return;
        }
        let (now, first) = (round * 10, *hall.sitting.keys().min().unwrap());
        hall.now = Duration::from_millis(now);
        hall.go(first);
        hall.come(KEEPS, 2_000 + round, 1);
        hall.is_sound(100);
    }
    panic!("it still waits after a hundred others");
}

#[test]
fn no_request_takes_more_than_its_level_gives_one() {
    let mut hall = Hall::new(&config(100));
    let id = hall.come(KEEPS, 1, usize::MAX);
    assert_eq!(hall.sitting[&id].seats, 8);
}

#[test]
fn a_level_without_queues_refuses() {
    let mut hall = Hall::new(&Config::mandatory(Limits { reading: 30, mutating: 0, fair: true }));
    for flow in 0..40 {
        hall.come(1, flow, 1);
    }
    assert_eq!((hall.sitting.len(), hall.refused.len()), (30, 10));
    assert!(hall.refused.iter().all(|(_, why)| *why == Why::ConcurrencyLimit));
}

#[test]
fn whatever_happens_nothing_is_lost_and_nobody_is_forgotten() {
    for seed in 0..30 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut hall = Hall::new(&config(60));
        for _ in 0..3_000 {
            hall.now += Duration::from_micros(random.random_range(0..5_000));
            let pick = |ids: Vec<usize>, random: &mut StdRng| (!ids.is_empty()).then(|| ids[random.random_range(0..ids.len())]);
            let sorted = |mut ids: Vec<usize>| {
                ids.sort_unstable();
                ids
            };
            match random.random_range(0..10) {
                0..5 => {
                    hall.come(random.random_range(2..4), random.random_range(0..12), random.random_range(1..9));
                }
                5..9 => pick(sorted(hall.sitting.keys().copied().collect()), &mut random).into_iter().for_each(|id| hall.go(id)),
                _ => pick(sorted(hall.waiting.keys().copied().collect()), &mut random).into_iter().for_each(|id| hall.give_up(id)),
            }
            hall.is_sound(60);
        }
        while !hall.sitting.is_empty() {
            hall.pass(1);
        }
        assert_eq!((hall.waiting.len(), hall.levels.pooled().0), (0, 0), "seed {seed}");
        for at in [LENDS, KEEPS] {
            assert_eq!(hall.levels.level(at).unwrap().queues.remains(), (0, 0, 0, 0, 0), "seed {seed}");
        }
    }
}

/// The cost of one request, in queues looked at, is the number of queues times a few, however many wait.
#[test]
fn the_cost_of_a_request_does_not_grow_with_those_who_wait() {
    let cost = |waiting: usize| {
        let mut hall = Hall::new(&config(100));
        for flow in 0..waiting as u64 + 62 {
            hall.come(KEEPS, flow, 1);
        }
        let looks = |hall: &Hall| hall.levels.level(KEEPS).unwrap().queues.looks();
        let before = looks(&hall);
        for flow in 0..100 {
            let first = *hall.sitting.keys().min().unwrap();
            hall.go(first);
            hall.come(KEEPS, 10_000 + flow, 1);
        }
        (looks(&hall) - before) / 100
    };
    let (few, many) = (cost(20), cost(2_000));
    assert!(few <= 8 * QUEUING.queues as u64 && many <= 8 * QUEUING.queues as u64, "{few} and {many}");
    let mut hall = Hall::new(&config(100));
    for flow in 0..1_000 {
        let id = hall.come(KEEPS, flow % 7, 1);
        hall.go(id);
    }
    assert_eq!(hall.levels.level(KEEPS).unwrap().queues.looks(), 0, "where nobody waits nothing is searched");
}

fn user(name: &str, group: &str) -> User {
    User { name: name.into(), groups: vec![group.into()], ..User::default() }
}

fn class(fairness: &Fairness, user: &User) -> Classification {
    fairness.classify(&RequestDigest {
        user,
        resource_request: true,
        verb: "get",
        group: "",
        resource: "things",
        subresource: "",
        namespace: "n",
        path: "",
    })
}

/// A quarter of a minute, as upstream.
const WAIT: Duration = Duration::from_secs(15);

fn asking(class: &Classification, kind: RequestKind, privileged: bool) -> Asking<'_> {
    Asking { class, seats: 1, kind, about: About::nobody(), until: Instant::now() + WAIT, privileged }
}

async fn sit(fairness: &Arc<Fairness>, class: &Classification) -> Result<Permit, Status> {
    fairness.seat(asking(class, RequestKind::ReadOnly, class.is_exempt())).await
}

/// All seats that a flow can get; the next one waits.
async fn fill(fairness: &Arc<Fairness>, class: &Classification) -> Vec<Permit> {
    let mut held = Vec::new();
    while let Some(permit) = sit(fairness, class).now_or_never() {
        held.push(permit.unwrap());
    }
    assert!(!held.is_empty());
    held
}

fn counts(class: &Classification) -> (i64, i64, i64) {
    class.of.counts.now()
}

#[tokio::test(start_paused = true)]
async fn the_exempt_never_wait() {
    let fairness = Fairness::new(&config(20));
    let (ann, master) = (class(&fairness, &user("ann", "keepers")), class(&fairness, &user("root", "system:masters")));
    let _held = fill(&fairness, &ann).await;
    let mut masters = Vec::new();
    for _ in 0..5_000 {
        masters.push(sit(&fairness, &master).now_or_never().expect("at once").unwrap());
    }
    assert_eq!(counts(&master), (5_000, 5_000, 0));
    drop(masters);
    assert_eq!(counts(&master), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_when_to_come_again() {
    let fairness = Fairness::new(&config(20));
    let ann = class(&fairness, &user("ann", "keepers"));
    let held = fill(&fairness, &ann).await;
    let began = Instant::now();
    let refused = sit(&fairness, &ann).await.err().unwrap();
    assert_eq!((refused.code, refused.message.as_str()), (429, REFUSED));
    assert_eq!(refused.details["retryAfterSeconds"], 1);
    assert_eq!(began.elapsed(), WAIT);
    assert_eq!(ann.of.counts.refused_for(Why::TimeOut), 1);
    drop(held);
    assert_eq!(counts(&ann), (0, 0, 0));
    assert!(sit(&fairness, &ann).now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_seat_goes_to_the_next_one_however_it_is_given_back() {
    let fairness = Fairness::new(&config(20));
    let ann = class(&fairness, &user("ann", "keepers"));
    let mut held = fill(&fairness, &ann).await;
    let taken = held.len() as i64;
    // Dropped.
    let waiting = tokio::join!(sit(&fairness, &ann), async { drop(held.pop()) }).0;
    held.push(waiting.unwrap());
    // Panicked.
    let last = held.pop();
    let panics = std::panic::AssertUnwindSafe(async move {
        let _last = last;
        tokio::task::yield_now().await;
        panic!("as handlers do");
    });
    let (waiting, panicked) = tokio::join!(sit(&fairness, &ann), panics.catch_unwind());
    assert!(panicked.is_err());
    held.push(waiting.unwrap());
    // Waiting, and gone before its turn.
    let cancelled = || ann.of.counts.refused_for(Why::Cancelled);
    let before = cancelled();
    let mut waits = Box::pin(sit(&fairness, &ann));
    assert!((&mut waits).now_or_never().is_none());
    assert_eq!(counts(&ann), (taken, taken, 1));
    drop(waits);
    assert_eq!(counts(&ann), (taken, taken, 0));
    assert_eq!(cancelled(), before + 1);
    // Seated, and gone before it knew.
    let mut waits = Box::pin(sit(&fairness, &ann));
    assert!((&mut waits).now_or_never().is_none());
    drop(held.pop());
    drop(waits);
    drop(held);
    assert_eq!(counts(&ann), (0, 0, 0));
    assert_eq!(fairness.levels.lock().level(KEEPS).unwrap().queues.remains(), (0, 0, 0, 0, 0));
}

#[tokio::test]
async fn without_fairness_there_are_two_numbers_of_places() {
    let fairness = Fairness::new(&Config { limits: Limits { reading: 3, mutating: 0, fair: false }, ..config(0) });
    let (ann, master) = (class(&fairness, &user("ann", "keepers")), class(&fairness, &user("root", "system:masters")));
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(sit(&fairness, &ann).await.unwrap());
    }
    assert_eq!(sit(&fairness, &ann).await.err().unwrap().code, 429);
    assert!(sit(&fairness, &master).await.is_ok());
    for _ in 0..1_000 {
        held.push(fairness.seat(asking(&ann, RequestKind::Mutating, false)).await.unwrap());
    }
    held.clear();
    assert!(sit(&fairness, &ann).await.is_ok());
}

#[tokio::test]
async fn the_seat_is_held_until_the_body_is_gone() {
    let fairness = Fairness::new(&config(20));
    let ann = class(&fairness, &user("ann", "keepers"));
    let reply = |size: usize| http::Response::new(full(vec![b'x'; size]));
    let small = hold(reply(100), sit(&fairness, &ann).await.unwrap());
    assert_eq!(counts(&ann).0, 0, "a small one has left");
    let large = hold(reply(1 << 20), sit(&fairness, &ann).await.unwrap());
    assert_eq!(counts(&ann).0, 1);
    drop(large);
    assert_eq!(counts(&ann).0, 0);
    let large = hold(reply(1 << 20), sit(&fairness, &ann).await.unwrap());
    assert_eq!(large.into_body().collect().await.unwrap().to_bytes().len(), 1 << 20);
    assert_eq!(counts(&ann).0, 0);
    assert_eq!(small.into_body().collect().await.unwrap().to_bytes().len(), 100);
}

/// A body of pieces, the last of which never comes if `stalls`.
fn pieces(sizes: &[usize], stalls: bool) -> crate::body::Body {
    use futures::StreamExt;
    let frames: Vec<Result<http_body::Frame<Bytes>, crate::body::BoxError>> =
        sizes.iter().map(|size| Ok(http_body::Frame::data(Bytes::from(vec![b'x'; *size])))).collect();
    let rest = if stalls { futures::stream::pending().left_stream() } else { futures::stream::empty().right_stream() };
    boxed(http_body_util::StreamBody::new(futures::stream::iter(frames).chain(rest)))
}

#[tokio::test(start_paused = true)]
async fn bodies_are_read_within_bounds() {
    let fairness = Fairness::new(&config(20));
    let ann = class(&fairness, &user("ann", "keepers"));
    let read = async |body| fairness.read(&ann, body).await.map(|(bytes, _)| bytes.len()).map_err(|status| status.code);
    assert_eq!(read(pieces(&[], false)).await, Ok(0));
    assert_eq!(read(full("abc")).await, Ok(3));
    assert_eq!(read(pieces(&[0, 5, 0, 70_000, 1], false)).await, Ok(70_006));
    assert_eq!(read(pieces(&[BODY_BYTES_MAX], false)).await, Ok(BODY_BYTES_MAX));
    assert_eq!(read(pieces(&[BODY_BYTES_MAX, 1], false)).await, Err(413));
    assert_eq!(read(full(vec![b'x'; BODY_BYTES_MAX + 1])).await, Err(413));
    let began = Instant::now();
    assert_eq!(read(pieces(&[5, 5], true)).await, Err(504));
    assert_eq!(began.elapsed().as_secs(), STALL_MAX.as_secs());
}

/// Ten thousand uploads that stall after two and a half megabytes each.
#[tokio::test(start_paused = true)]
async fn uploads_that_stall_leave_memory_for_others() {
    let fairness = Fairness::new(&config(20));
    let ann = class(&fairness, &user("ann", "keepers"));
    let mut stalled = Vec::new();
    for _ in 0..200 {
        let (fairness, ann) = (fairness.clone(), ann.clone());
        let mut upload =
            Box::pin(async move { fairness.read(&ann, pieces(&[1 << 20, 1 << 20, 1 << 19], true)).await.map(|(bytes, _)| bytes) });
        match (&mut upload).now_or_never() {
            Some(refused) => assert_eq!(refused.err().unwrap().code, 429),
            None => stalled.push(upload),
        }
    }
    assert!((10..=32).contains(&stalled.len()), "{} uploads hold memory", stalled.len());
    let bob = class(&fairness, &user("bob", "keepers"));
    assert_eq!(fairness.read(&bob, full(vec![b'x'; BODY_BYTES_MAX])).await.unwrap().0.len(), BODY_BYTES_MAX);
    drop(stalled);
    assert_eq!(fairness.read(&ann, full(vec![b'x'; BODY_BYTES_MAX])).await.unwrap().0.len(), BODY_BYTES_MAX);
}

#[tokio::test(start_paused = true)]
async fn the_page_of_metrics_tells_of_levels_and_schemas() {
    let fairness = Fairness::new(&config(20));
    let ann = class(&fairness, &user("ann", "keepers"));
    let held = fill(&fairness, &ann).await;
    let waits = sit(&fairness, &ann).await;
    assert!(waits.is_err());
    let mut page = String::new();
    fairness.text(&mut page);
    let labels = r#"flow_schema="keeps",priority_level="keeps""#;
    for line in [
        format!("apiserver_flowcontrol_current_executing_seats{{{labels}}} {}", held.len()),
        format!("apiserver_flowcontrol_dispatched_requests_total{{{labels}}} {}", held.len()),
        format!("apiserver_flowcontrol_rejected_requests_total{{{labels},reason=\"time-out\"}} 1"),
        format!("apiserver_flowcontrol_request_wait_duration_seconds_bucket{{execute=\"true\",{labels},le=\"0\"}} {}", held.len()),
        format!("apiserver_flowcontrol_request_wait_duration_seconds_count{{execute=\"false\",{labels}}} 1"),
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"keeps\"} 10".into(),
        "apiserver_flowcontrol_lower_limit_seats{priority_level=\"lends\"} 5".into(),
    ] {
        assert!(page.lines().any(|l| l == line), "{line}\n{page}");
    }
}
