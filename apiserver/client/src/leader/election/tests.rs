//! Candidates with clocks of their own, and a server that answers late, twice as late, or not at all: never two lead.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
/// Faults until then, and none for as long again.
const TROUBLE: Duration = Duration::from_secs(300);

fn wall() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// The one Lease, as the store has it.
#[derive(Default)]
struct Store {
    record: Option<Record>,
    rev: u64,
}

impl Store {
    fn answer(&mut self, ask: &Ask) -> Answer {
        match ask {
            Ask::Create(record) if self.record.is_none() => self.write(record),
            Ask::Update(record, rev) if self.record.is_some() && *rev == self.rev => self.write(record),
            Ask::Create(_) | Ask::Update(..) => Answer::Conflict,
            Ask::Read => Answer::Read(self.seen()),
        }
    }

    fn write(&mut self, record: &Record) -> Answer {
        self.rev += 1;
        self.record = Some(record.clone());
        Answer::Written(self.rev)
    }

    fn seen(&self) -> Seen {
        Seen { record: self.record.clone(), rev: self.rev }
    }
}

/// A process: its clock, and what is on its way from and to it. All times but `Election`'s are the world's.
struct Process {
    election: Election,
    rate: f64,
    offset: Duration,
    frozen_until: Duration,
    cut_until: Duration,
    /// Asked: when by its clock, when it reaches the store, when the answer is back, and when it is given up.
    asked: Option<(Ask, Time, Duration, Duration, Duration, Option<Answer>)>,
    /// Written by requests that were given up: they still arrive.
    late: Vec<(Ask, Duration)>,
    told: Vec<(Seen, Duration)>,
    last_told: u64,
}

impl Process {
    fn new(name: usize, timing: Timing, random: &mut StdRng) -> Self {
        Self {
            election: Election::new(format!("p{name}"), timing),
            rate: random.random_range(0.9..1.1),
            offset: Duration::from_millis(random.random_range(0..100_000)),
            frozen_until: Duration::ZERO,
            cut_until: Duration::ZERO,
            asked: None,
            late: Vec::new(),
            told: Vec::new(),
            last_told: 0,
        }
    }

    fn clock(&self, at: Duration) -> Time {
        self.offset + at.mul_f64(self.rate)
    }

    fn step(&mut self, at: Duration, store: &mut Store, trouble: bool, random: &mut StdRng) {
        self.arrive(at, store);
        if trouble && random.random_bool(0.002) {
            self.frozen_until = at + Duration::from_millis(random.random_range(0..40_000));
        }
        if trouble && random.random_bool(0.002) {
            self.cut_until = at + Duration::from_millis(random.random_range(0..40_000));
        }
        self.hear(at, store, trouble, random);
        if at < self.frozen_until {
            return;
        }
        let now = self.clock(at);
        let mut due: Vec<Seen> = Vec::new();
        self.told.retain(|(seen, when)| {
            if *when <= at {
                due.push(seen.clone());
            }
            *when > at
        });
        due.into_iter().for_each(|seen| self.election.saw(seen, now));
        self.answer(at, now, random);
        if self.asked.is_none()
            && let Next::Ask(ask) = self.election.next(now, wall())
        {
            let slow = if trouble { 6_000 } else { 50 };
            let (there, back) = (random.random_range(0..slow), random.random_range(0..slow));
            let reaches = at + Duration::from_millis(there);
            let back = reaches + Duration::from_millis(back);
            let lost = at < self.cut_until || (trouble && random.random_bool(0.1));
            let back = if lost { Duration::MAX } else { back };
            // What is lost may be lost on its way there, or on its way back.
            let reaches = if lost && random.random_bool(0.5) { Duration::MAX } else { reaches };
            self.asked = Some((ask, now, reaches, back, at + 5 * SECOND, None));
        }
    }

    /// What reaches the store does so whether or not anybody still waits for the answer.
    fn arrive(&mut self, at: Duration, store: &mut Store) {
        if let Some((ask, _, reaches, _, _, answer @ None)) = &mut self.asked
            && *reaches <= at
        {
            *answer = Some(store.answer(ask));
        }
        self.late.retain(|(ask, reaches)| {
            if *reaches <= at {
                store.answer(ask);
            }
            *reaches > at
        });
    }

    fn answer(&mut self, at: Duration, now: Time, random: &mut StdRng) {
        let Some((_, _, _, back, given_up, _)) = &self.asked else { return };
        let (is_back, is_over) = (*back <= at, *given_up <= at);
        if !is_back && !is_over {
            return;
        }
        let Some((ask, begun, reaches, _, _, answer)) = self.asked.take() else { return };
        let answer = answer.filter(|_| is_back).unwrap_or_else(|| {
            if reaches > at && reaches != Duration::MAX {
                self.late.push((ask.clone(), reaches));
            }
            Answer::Open
        });
        self.election.answered(ask, begun, now, answer, random.random());
    }

    fn hear(&mut self, at: Duration, store: &Store, trouble: bool, random: &mut StdRng) {
        if at < self.cut_until || (store.rev == self.last_told && self.last_told > 0) {
            return;
        }
        let slow = if trouble { 3_000 } else { 50 };
        self.last_told = store.rev;
        self.told.push((store.seen(), at + Duration::from_millis(random.random_range(0..slow))));
    }
}

/// The most that ever led at a time, and who leads at the end.
fn history(seed: u64, timing: Timing) -> (usize, Vec<usize>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = Store::default();
    let mut processes: Vec<Process> = (0..3).map(|n| Process::new(n, timing, &mut random)).collect();
    let (mut at, mut most) = (Duration::ZERO, 0);
    let mut leaders = Vec::new();
    while at < 2 * TROUBLE {
        for process in &mut processes {
            process.step(at, &mut store, at < TROUBLE, &mut random);
        }
        leaders = (0..3).filter(|n| processes[*n].election.leads(processes[*n].clock(at))).collect();
        most = most.max(leaders.len());
        // Rarely one is killed, and comes back as somebody else.
        if at < TROUBLE && random.random_bool(0.001) {
            let n = random.random_range(0..3);
            processes[n] = Process::new(10 + n, timing, &mut random);
        }
        at += TICK;
    }
    (most, leaders)
}

#[test]
fn never_two_whatever_is_lost_late_or_frozen_and_one_in_the_end() {
    for seed in 0..200 {
        let (most, leaders) = history(seed, Timing::default());
        assert_eq!((most, leaders.len()), (1, 1), "seed {seed}: {leaders:?}");
    }
}

#[test]
fn the_law_is_broken_by_a_deadline_that_is_longer_than_the_lease() {
    let timing = Timing { lease_duration: 5 * SECOND, renew_deadline: 15 * SECOND, ..Timing::default() };
    assert!((0..200).any(|seed| history(seed, timing).0 > 1), "the simulation would see two leaders");
}

fn held(holder: &str, rev: u64) -> Seen {
    let record = Record { holder: holder.into(), lease_seconds: 15, acquired: None, renewed: None, transitions: 3 };
    Seen { record: Some(record), rev }
}

fn candidate() -> Election {
    Election::new("us".into(), Timing::default())
}

/// It writes, and that is acknowledged.
fn writes(election: &mut Election, now: Time, rev: u64) -> Record {
    let Next::Ask(ask) = election.next(now, wall()) else { panic!("it waits") };
    let (Ask::Create(record) | Ask::Update(record, _)) = ask.clone() else { panic!("{ask:?}") };
    election.answered(ask, now, now, Answer::Written(rev), 0.0);
    record
}

#[test]
fn a_lease_that_nobody_has_is_taken_and_renewed() {
    let mut election = candidate();
    assert_eq!(election.next(SECOND, wall()), Next::Wait(None), "nothing is known yet");
    election.saw(Seen { record: None, rev: 7 }, SECOND);
    let first = writes(&mut election, SECOND, 8);
    assert_eq!((first.holder.as_str(), first.lease_seconds, first.transitions), ("us", 15, 0));
    assert!(election.leads(SECOND * 10) && !election.leads(SECOND * 11));
    assert_eq!(election.next(SECOND * 2, wall()), Next::Wait(Some(SECOND * 3)), "the next renewal");
    let renewed = writes(&mut election, SECOND * 3, 9);
    assert_eq!((renewed.acquired, renewed.transitions), (first.acquired, 0));
    assert_eq!(election.leads_until(), Some(SECOND * 13));
}

#[test]
fn a_lease_of_another_is_taken_over_when_it_was_silent_for_all_of_it() {
    let mut election = candidate();
    election.saw(held("them", 5), SECOND);
    assert_eq!(election.next(SECOND * 2, wall()), Next::Wait(Some(SECOND * 16)));
    election.saw(held("them", 6), SECOND * 3);
    election.saw(held("them", 5), SECOND * 9);
    assert_eq!(election.next(SECOND * 10, wall()), Next::Wait(Some(SECOND * 18)), "what is older says nothing");
    assert_eq!(writes(&mut election, SECOND * 18, 7).transitions, 4);
    election.saw(held("them", 6), SECOND * 19);
    assert!(election.leads(SECOND * 19), "a watch that is behind");
    election.saw(held("them", 8), SECOND * 19);
    assert!(!election.leads(SECOND * 19), "somebody else leads");
}

#[test]
fn a_lease_that_is_given_back_is_taken_at_once_and_one_that_is_deleted_is_not() {
    let mut election = candidate();
    election.saw(held("them", 5), SECOND);
    election.saw(Seen { record: None, rev: 6 }, SECOND * 2);
    assert_eq!(election.next(SECOND * 2, wall()), Next::Wait(Some(SECOND * 16)), "they lead, and do not know yet");
    election.saw(held("", 7), SECOND * 3);
    assert_eq!(writes(&mut election, SECOND * 3, 8).transitions, 4);
    let release = election.release(wall());
    let Some(Ask::Update(record, 8)) = release else { panic!("{release:?}") };
    assert_eq!((record.holder.as_str(), record.lease_seconds, record.transitions), ("", 1, 4));
    assert_eq!(candidate().release(wall()), None);
}

#[test]
fn a_leader_whose_write_is_open_or_refused_reads_before_it_writes_again() {
    let mut election = candidate();
    election.saw(Seen { record: None, rev: 1 }, Duration::ZERO);
    writes(&mut election, Duration::ZERO, 2);
    let Next::Ask(ask) = election.next(SECOND * 2, wall()) else { panic!("it waits") };
    election.answered(ask, SECOND * 2, SECOND * 3, Answer::Conflict, 0.0);
    assert_eq!(election.next(SECOND * 3, wall()), Next::Ask(Ask::Read));
    election.answered(Ask::Read, SECOND * 3, SECOND * 3, Answer::Read(held("us", 4)), 0.0);
    assert!(matches!(election.next(SECOND * 3, wall()), Next::Ask(Ask::Update(_, 4))));
    assert_eq!(election.leads_until(), Some(SECOND * 10), "reading renews nothing");
    election.answered(Ask::Read, SECOND * 4, SECOND * 4, Answer::Read(held("them", 5)), 0.0);
    assert!(!election.leads(SECOND * 4));
}

#[test]
fn timings_that_do_not_go_together_are_refused() {
    let seconds = |a, b, c| {
        let [lease_duration, renew_deadline, retry_period] = [a, b, c].map(Duration::from_secs);
        Timing { lease_duration, renew_deadline, retry_period }.check()
    };
    assert_eq!(seconds(15, 10, 2), Ok(()));
    for (a, b, c) in [(10, 10, 2), (15, 2, 2), (15, 10, 0), (7200, 10, 2)] {
        assert!(seconds(a, b, c).is_err(), "{a} {b} {c}");
    }
}
