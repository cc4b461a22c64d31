//! Levels and schemas come, change and go while requests sit and wait.

use super::*;
use crate::fairness::levels::Standing;

impl Hall {
    fn configure(&mut self, levels: &[Level]) {
        let mut told = Vec::new();
        self.levels.configure(levels, self.now, &mut |id, seat| told.push((id, seat)));
        self.seat(told);
    }

    fn settle(&mut self) -> bool {
        let mut told = Vec::new();
        let lingers = self.levels.settle(self.now, &mut |id, seat| told.push((id, seat)));
        self.seat(told);
        lingers
    }

    fn waiting_of(&self, level: u32) -> usize {
        self.levels.level(level).unwrap().queues.waiting()
    }
}

fn queues(name: &'static str, shares: u32, queues: usize) -> Level {
    level(name, shares, 0, Response::Queue(Queuing { queues, hand: 4, length: 50 }))
}

#[test]
fn a_level_that_goes_serves_who_is_in_it_and_then_is_gone() {
    let config = config(90);
    let mut hall = Hall::new(&config);
    for flow in 0..200 {
        hall.come(KEEPS, flow, 1);
    }
    let (sat, waited) = (hall.seats(KEEPS), hall.waiting_of(KEEPS));
    assert!(sat >= 45 && waited > 100);
    let without: Vec<Level> = config.levels[..3].to_vec();
    hall.configure(&without);
    assert_eq!((hall.seats(KEEPS), hall.waiting_of(KEEPS)), (sat, waited));
    assert_eq!(hall.levels.level(KEEPS).unwrap().standing, Standing::Quiescing);
    assert_eq!(hall.levels.level(LENDS).unwrap().bounds.nominal, 45, "what goes has its share until it is gone");
    while !hall.sitting.is_empty() {
        assert!(hall.settle());
        hall.pass(10);
    }
    assert_eq!(hall.sat.len(), 200, "all were served");
    assert!(!hall.settle());
    assert_eq!(hall.levels.level(LENDS).unwrap().bounds.nominal, 90);
    // Its place is another's.
    hall.configure(&[without.as_slice(), &[queues("new", 50, 8)]].concat());
    let new = hall.levels.level(KEEPS).unwrap();
    assert_eq!((&*new.name, new.bounds.nominal, new.queues.remains()), ("new", 45, (0, 0, 0, 0, 0)));
}

#[test]
fn who_has_a_level_keeps_it() {
    let config = config(90);
    let mut levels = Levels::<()>::new(90, Arc::default());
    let slots = levels.configure(&config.levels, Duration::ZERO, &mut |_, _| {});
    drop(levels.configure(&config.levels[..3], Duration::ZERO, &mut |_, _| {}));
    assert!(levels.settle(Duration::ZERO, &mut |_, _| {}), "somebody may still ask for a seat");
    let asked = Arriving { level: slots[3].at, flow: 1, seats: 1, about: About::nobody() };
    let Answer::Sits(seat) = levels.arrive(asked, Duration::ZERO, || (), &mut |_, _| {}) else { panic!("there are seats") };
    drop(slots);
    assert!(levels.settle(Duration::ZERO, &mut |_, _| {}), "somebody sits");
    levels.finish(&seat, Duration::ZERO, &mut |_, _| {});
    assert!(!levels.settle(Duration::ZERO, &mut |_, _| {}));
}

#[test]
fn queues_change_and_nobody_in_them_is_lost() {
    let config = config(40);
    let with = |response: Response| {
        let mut levels = config.levels.clone();
        levels[3].response = response;
        levels
    };
    let mut hall = Hall::new(&config);
    for flow in 0..150 {
        hall.come(KEEPS, flow, 1);
    }
    let waited = hall.waiting_of(KEEPS);
    for response in [
        Response::Queue(Queuing { queues: 2, hand: 9, length: 1 }),
        Response::Reject,
        Response::Queue(Queuing { queues: 512, hand: 1, length: 50 }),
        Response::Queue(Queuing { queues: usize::MAX, hand: usize::MAX, length: usize::MAX }),
        Response::Reject,
    ] {
        hall.configure(&with(response));
        assert_eq!(hall.waiting_of(KEEPS), waited, "{response:?}");
    }
    let refused = hall.refused.len();
    hall.come(KEEPS, 7, 1);
    assert_eq!((hall.refused.len(), hall.refused.last().unwrap().1), (refused + 1, Why::ConcurrencyLimit));
    while !hall.sitting.is_empty() {
        hall.pass(5);
    }
    assert_eq!(hall.sat.len(), 150);
    let state = hall.levels.level(KEEPS).unwrap();
    assert_eq!(
        (state.queues.remains(), state.queues.digests().count()),
        ((0, 0, 0, 0, 0), 0),
        "queues that are too many go when they are empty"
    );
}

#[test]
fn more_seats_are_taken_at_once_and_fewer_as_they_are_given_back() {
    let mut config = config(40);
    let mut hall = Hall::new(&config);
    for flow in 0..100 {
        hall.come(KEEPS, flow, 1);
    }
    let before = hall.seats(KEEPS);
    config.levels[3].shares = 150;
    hall.configure(&config.levels);
    assert!(hall.seats(KEEPS) > before && hall.seats(KEEPS) >= 30, "{} and {before}", hall.seats(KEEPS));
    config.levels[3].shares = 1;
    hall.configure(&config.levels);
    let all = hall.seats(KEEPS);
    let own = hall.come(LENDS, 1_000, 1);
    assert!(hall.sitting.contains_key(&own), "the other level has what it never lends");
    let first = *hall.sitting.iter().filter(|(_, seat)| seat.level == KEEPS).map(|(id, _)| id).min().unwrap();
    hall.go(first);
    assert_eq!(hall.seats(KEEPS), all - 1, "nobody follows who is above its level's bound");
}

#[test]
fn what_the_exempt_take_is_not_lent_and_never_what_others_keep() {
    let config = config(100);
    let exempt = Arc::<Exempt>::default();
    let mut levels = Levels::<()>::new(100, exempt.clone());
    levels.configure(&config.levels, Duration::ZERO, &mut |_, _| {});
    exempt.sits(10_000);
    let mut sit = |level: u32, flow: u64| {
        let asked = Arriving { level, flow: flow.wrapping_mul(0x9E37_79B9_7F4A_7C15), seats: 1, about: About::nobody() };
        matches!(levels.arrive(asked, Duration::ZERO, || (), &mut |_, _| {}), Answer::Sits(_))
    };
    assert_eq!((1..200).filter(|flow| sit(LENDS, *flow)).count(), 25, "what it lends is taken");
    assert_eq!((1..200).filter(|flow| sit(KEEPS, *flow)).count(), 50);
    let mut told = 0;
    assert!(exempt.rises(10_000), "somebody waits");
    levels.serve(Duration::ZERO, &mut |(), _| told += 1);
    assert_eq!(told, 25, "what is lent is there again, and is its owner's first");
}

#[test]
fn a_level_of_no_seats_serves_one_request_at_a_time() {
    let mut config = config(40);
    config.levels[3] = Level { shares: 0, borrowing_percent: Some(0), ..config.levels[3].clone() };
    let mut hall = Hall::new(&config);
    let ids: Vec<usize> = (0..5).map(|flow| hall.come(KEEPS, flow, 3)).collect();
    for served in 1..=5 {
        assert_eq!((hall.seats(KEEPS), hall.sat.len()), (1, served));
        hall.pass(1);
    }
    assert!(ids.iter().all(|id| hall.sat.contains(id)));
}

#[test]
fn whatever_changes_nobody_is_lost_and_no_floor_is_taken() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let config = config(60);
        let mut hall = Hall::new(&config);
        for _ in 0..1_500 {
            hall.now += Duration::from_micros(random.random_range(0..5_000));
            match random.random_range(0..20) {
                0..11 => {
                    hall.come(random.random_range(2..4), random.random_range(0..12), random.random_range(1..9));
                }
                11..18 => {
                    let mut ids: Vec<usize> = hall.sitting.keys().copied().collect();
                    ids.sort_unstable();
                    if let Some(id) = ids.get(random.random_range(0..ids.len().max(1))) {
                        hall.go(*id);
                    }
                }
                _ => {
                    // The two stay where they are, as whoever asks for a seat has its level.
                    let mut levels = config.levels.clone();
                    for level in &mut levels[2..] {
                        level.shares = random.random_range(0..3) * 40;
                        level.lendable_percent = random.random_range(0..101);
                        let (queues, hand) = (random.random_range(1..70), random.random_range(1..12));
                        level.response = Response::Queue(Queuing { queues, hand, length: 50 });
                        if random.random_range(0..6) == 0 {
                            level.response = Response::Reject;
                        }
                    }
                    hall.configure(&levels);
                }
            }
            assert_eq!(hall.levels.waiting(), hall.waiting.len());
            assert_eq!(hall.levels.serve_again(hall.now), 0, "seed {seed}: somebody waits who could sit");
            for at in [LENDS, KEEPS] {
                let state = hall.levels.level(at).unwrap();
                assert!(hall.levels.current(state) >= state.bounds.lower, "seed {seed}");
            }
        }
        hall.configure(&config.levels);
        while !hall.sitting.is_empty() {
            hall.pass(1);
        }
        assert_eq!((hall.waiting.len(), hall.levels.pooled().0), (0, 0), "seed {seed}");
        for at in [LENDS, KEEPS] {
            assert_eq!(hall.levels.level(at).unwrap().queues.remains(), (0, 0, 0, 0, 0), "seed {seed}");
        }
    }
}

fn named(schema: &Schema, name: &str, uid: &str) -> Arc<Schema> {
    Arc::new(Schema { name: name.to_owned().into(), uid: uid.to_owned().into(), ..schema.clone() })
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_served_though_its_schema_and_level_are_deleted() {
    let config = config(20);
    let fairness = Fairness::new(&config);
    let ann = class(&fairness, &user("ann", "keepers"));
    let held = fill(&fairness, &ann).await;
    let mut waits = Box::pin(sit(&fairness, &ann));
    assert!((&mut waits).now_or_never().is_none());
    fairness.configure(config.levels[..3].to_vec(), config.schemas[..3].iter().cloned().map(Arc::new).collect());
    assert!(fairness.settle(), "the level is still in use");
    assert_eq!(class(&fairness, &user("ann", "keepers")).names(), ("catch-all", "catch-all"));
    assert!((&mut waits).now_or_never().is_none());
    drop(held);
    drop(waits.await.unwrap());
    assert_eq!(counts(&ann), (0, 0, 0));
    // Its body came late: it asks again.
    drop(sit(&fairness, &ann).await.unwrap());
    drop(ann);
    assert!(!fairness.settle());
}

#[tokio::test]
async fn what_is_mandatory_is_there_whatever_is_configured() {
    let fairness = Fairness::new(&config(20));
    fairness.configure(Vec::new(), Vec::new());
    let of = |user: &User| class(&fairness, user).names().0.to_owned();
    assert_eq!([of(&user("root", "system:masters")), of(&user("ann", "keepers"))], ["exempt", "catch-all"]);
    assert_eq!(fairness.nominal_seats("catch-all"), Some(20));
    let greedy = level("greedy", i32::MAX.unsigned_abs(), 0, Response::Queue(QUEUING));
    fairness.configure(vec![greedy.clone(), Level { name: "too".into(), ..greedy }], Vec::new());
    assert_eq!(fairness.nominal_seats("catch-all"), Some(1), "its floor");
    assert!(sit(&fairness, &class(&fairness, &user("ann", "keepers"))).await.is_ok());
}

#[tokio::test]
async fn counts_and_uids_follow_their_objects() {
    let config = config(20);
    let fairness = Fairness::new(&config);
    let ann = user("ann", "keepers");
    let permit = sit(&fairness, &class(&fairness, &ann)).await.unwrap();
    let mut levels = config.levels.clone();
    levels[3].uid = "level-uid".into();
    let schemas = [&config.schemas[0], &config.schemas[1], &config.schemas[2]].map(|schema| Arc::new(schema.clone()));
    let own = named(&config.schemas[3], "keeps", "schema-uid");
    fairness.configure(levels, schemas.into_iter().chain([own]).collect());
    let class = class(&fairness, &ann);
    assert_eq!(class.uids().map(|uid| uid.to_str().unwrap()), ["level-uid", "schema-uid"]);
    assert_eq!(counts(&class), (1, 1, 0), "who sat before is counted");
    drop(permit);
    assert_eq!(counts(&class), (0, 0, 0));
    let mut page = String::new();
    fairness.text(&mut page);
    assert!(page.contains("dispatched_requests_total{flow_schema=\"keeps\",priority_level=\"keeps\"} 1\n"), "{page}");
}

/// What has not changed is kept as it is, and the page of metrics tells of the schemas that were used.
#[tokio::test]
async fn ten_thousand_schemas_do_no_harm() {
    let config = config(20);
    let fairness = Fairness::new(&config);
    let nobodys = Schema { level: "keeps".into(), ..schema("x", 5, "nobody's") };
    let mut schemas: Vec<Arc<Schema>> = config.schemas.iter().cloned().map(Arc::new).collect();
    schemas.extend((0..10_000).map(|i| named(&nobodys, &format!("s{i:04}"), "")));
    fairness.configure(config.levels.clone(), schemas.clone());
    let before = fairness.matcher.load_full();
    schemas.pop();
    fairness.configure(config.levels.clone(), schemas);
    let after = fairness.matcher.load_full();
    let kept: std::collections::HashSet<_> = before.schemas.iter().map(Arc::as_ptr).collect();
    assert_eq!(after.schemas.len(), 10_003);
    assert!(after.schemas.iter().all(|now| kept.contains(&Arc::as_ptr(now))));
    let ann = class(&fairness, &user("ann", "keepers"));
    assert_eq!(ann.names(), ("keeps", "keeps"));
    drop(sit(&fairness, &ann).await.unwrap());
    let mut page = String::new();
    fairness.text(&mut page);
    assert!(page.len() < 64 << 10, "{} bytes of metrics", page.len());
}

struct Known;

impl Asks for (Classification, Known) {
    fn told(&self) -> Told {
        let text = |text: &str| text.to_owned();
        Told {
            class: self.0.clone(),
            distinguisher: text("ann"),
            arrived: "2026-01-02T03:04:05.5Z".parse().unwrap(),
            user: text("ann"),
            verb: text("get"),
            path: text("/apis/test.io/v1/things"),
            namespace: text("n"),
            name: String::new(),
            version: text("test.io/v1"),
            resource: text("things"),
            subresource: String::new(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_tables_tell_who_sits_and_who_waits() {
    let fairness = Fairness::new(&config(20));
    let ann = class(&fairness, &user("ann", "keepers"));
    let request = Arc::new((ann.clone(), Known));
    let ask = || {
        let about = About::new(Arc::downgrade(&request));
        fairness.seat(Asking { about, ..asking(&ann, RequestKind::ReadOnly, false) })
    };
    let mut held = Vec::new();
    let mut waits = loop {
        let mut asks = Box::pin(ask());
        match (&mut asks).now_or_never() {
            Some(permit) => held.push(permit.unwrap()),
            None => break asks,
        }
    };
    let levels = fairness.dump_priority_levels();
    let line = levels.lines().find(|line| line.starts_with("keeps,")).unwrap();
    let cells: Vec<&str> = line.split(',').map(str::trim).collect();
    let sat = held.len().to_string();
    assert_eq!(cells, ["keeps", "1", "false", "false", "1", &sat, &sat, "0", "0", "0"]);
    assert!(levels.starts_with("PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, "), "{levels}");
    assert_eq!(fairness.dump_queues().lines().count(), 1 + 2 * QUEUING.queues);
    let requests = fairness.dump_requests(true);
    let rows: Vec<Vec<&str>> = requests.lines().skip(1).map(|line| line.split(',').map(str::trim).collect()).collect();
    assert_eq!(rows.len(), held.len() + 1, "{requests}");
    let waiting = rows.iter().find(|row| row[3] == "0").unwrap();
    assert_eq!(waiting[..2], ["keeps", "keeps"]);
    let rest = ["ann", "2026-01-02T03:04:05.5Z", "1", "0", "0s", "0001-01-01T00:00:00Z", "ann", "get", "/apis/test.io/v1/things", "n"];
    assert_eq!(waiting[4..14], rest);
    assert_eq!(waiting[14..], ["", "test.io/v1", "things", ""]);
    assert_eq!(fairness.dump_requests(false).lines().next().unwrap().split(',').count(), 10);
    // The last who has a request may be whoever looks.
    drop(request);
    assert_eq!(fairness.dump_requests(true).lines().count(), 1);
    held.clear();
    assert!((&mut waits).now_or_never().is_some());
}
