//! A seed -> a story: a cluster is built, users do things while the store has bad days, then all is mended and must converge.

use std::{
    sync::mpsc::{RecvTimeoutError, sync_channel},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use store::faulty::Faults;
use tokio::time::{Instant, sleep};

use crate::{
    house::House,
    invariants::{self, Watched},
    nodes::{Luck, Nodes},
    odd,
    servers::Servers,
    settle::unsettled,
    steady::Clock,
    user::{Manners, NODES, User},
};

const STEPS: usize = 90;
/// Real time that a story may take: it takes about ten seconds.
const WALL_BOUND: Duration = Duration::from_secs(150);
const STACK_BYTES: usize = 16 << 20;
const TICK: Duration = Duration::from_millis(20);
const SETTLED_WITHIN: Duration = Duration::from_secs(1500);

/// In a thread of its own: what this process did before, or what it logs, moves none of the story's random numbers.
pub fn tell(seed: u64) {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .try_init();
    let (end, ended) = sync_channel::<()>(1);
    let told = std::thread::Builder::new().name("story".into()).stack_size(STACK_BYTES).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _end = end;
        runtime.block_on(Box::pin(story(seed)));
    });
    // The story sends nothing: it drops its end of the channel, also when it panics.
    if ended.recv_timeout(WALL_BOUND) == Err(RecvTimeoutError::Timeout) {
        panic!("no end after {} s of wall time: something runs without time passing", WALL_BOUND.as_secs());
    }
    if let Err(broken) = told.unwrap().join() {
        std::panic::resume_unwind(broken);
    }
}

async fn story(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let start = Instant::now();
    let clock = Clock::open();
    let random_of_house = StdRng::seed_from_u64(random.random());
    // Of half the clusters there are two servers.
    let has_two = seed % 2 == 1;
    let house = if has_two { House::idle(random_of_house).await } else { House::build(random_of_house).await };
    let servers = has_two.then(|| Servers::start(&house));
    house.group.spawn(async move {
        loop {
            clock.set(u64::try_from(start.elapsed().as_micros()).unwrap());
            sleep(TICK).await;
        }
    });
    let manners = if seed.is_multiple_of(3) { Manners::Calm } else { Manners::Wild };
    let luck = if manners == Manners::Calm { Luck::Good } else { Luck::Mixed };
    let watched = invariants::watch(&house, luck == Luck::Mixed).await;
    let mut nodes = Nodes::new(luck, StdRng::seed_from_u64(random.random()));
    (0..NODES).for_each(|number| nodes.start(&house, number));
    let mut user = User::new(&house, watched.clone(), manners, StdRng::seed_from_u64(random.random()));
    for namespace in ["red", "green", "blue"] {
        user.make_namespace(namespace).await;
    }
    user.make_quota("green").await;
    for step in 0..STEPS {
        if step.is_multiple_of(15) {
            house.set(weather(seed, &mut random));
        }
        Box::pin(user.act(&house, &mut nodes)).await;
        if let Some(servers) = &servers {
            servers.trouble(random.random_range(0..100), step);
        }
        let longest = if step % 10 == 9 { 60_000 } else { 4000 };
        sleep(Duration::from_millis(random.random_range(1..longest))).await;
        check(&watched, &user, step);
        one_leads(servers.as_ref());
        odd::check(&house);
    }
    if let Some(servers) = &servers {
        servers.mend();
    }
    house.set(Faults::default());
    nodes.be_lucky();
    Box::pin(user.mend(&house, &mut nodes)).await;
    settle(&house, &watched, &user).await;
    one_leads(servers.as_ref());
    odd::check(&house);
    let revision = watched.lock().objects.values().map(|o| o.rev).max();
    let terms = servers.as_ref().map_or(0, Servers::terms);
    println!("{} s of simulated time, revision {revision:?}, {terms} terms of leaders", start.elapsed().as_secs());
    assert!(house.group.drain(Duration::from_secs(60)).await, "tasks did not end");
}

fn one_leads(servers: Option<&Servers>) {
    if let Some(Err(broken)) = servers.map(Servers::check) {
        panic!("{broken}");
    }
}

/// A third of the days is fine.
fn weather(seed: u64, random: &mut StdRng) -> Faults {
    if seed == 0 || random.random_ratio(1, 3) {
        return Faults::default();
    }
    Faults {
        late: random.random_range(0..300),
        late_max: Duration::from_millis(random.random_range(1..800)),
        done_unanswered: random.random_range(0..30),
        lost: random.random_range(0..60),
        unread: random.random_range(0..30),
        cut: random.random_range(0..20),
        forgotten: random.random_range(0..200),
    }
}

async fn settle(house: &House, watched: &Watched, user: &User) {
    let end = Instant::now() + SETTLED_WITHIN;
    loop {
        sleep(Duration::from_secs(5)).await;
        check(watched, user, STEPS);
        let left = unsettled(&watched.lock());
        if left.is_empty() {
            return caches_agree(house, watched);
        }
        assert!(Instant::now() < end, "not settled after {} s:\n{}\n{}", SETTLED_WITHIN.as_secs(), left.join("\n"), user.log.join("\n"));
    }
}

/// What controllers see is what is stored.
fn caches_agree(house: &House, watched: &Watched) {
    let cached = house.caches.of::<client::pods::Pod>().list();
    let mut cached: Vec<(String, u64)> = cached
        .iter()
        .map(|p| {
            let of = |text: &Option<String>| text.clone().unwrap_or_default();
            let key = format!("/registry/pods/{}/{}", of(&p.metadata.namespace), of(&p.metadata.name));
            (key, of(&p.metadata.resource_version).parse().unwrap())
        })
        .collect();
    cached.sort();
    let state = watched.lock();
    let stored: Vec<(String, u64)> =
        state.objects.iter().filter(|(k, _)| k.starts_with("/registry/pods/")).map(|(k, s)| (k.clone(), s.rev)).collect();
    assert_eq!(cached, stored, "the shared cache agrees with the store");
}

fn check(watched: &Watched, user: &User, step: usize) {
    let mut state = watched.lock();
    state.check_acknowledged();
    let overdue = state.losses.overdue();
    state.broken.extend(overdue);
    assert!(state.broken.is_empty(), "after step {step}:\n{}\n{}", state.broken.join("\n"), user.log.join("\n"));
}
