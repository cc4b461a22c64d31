use std::net::Ipv4Addr;

use super::*;

const PATIENCE: Patience = Patience { first: Duration::from_secs(32), head: Some(Duration::from_secs(32)), idle: Duration::from_secs(90) };

fn at(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, host))
}

fn seats(arriving: usize, strangers: usize, known: usize) -> Arc<Seats> {
    Seats::new(Limits { arriving, strangers, known })
}

fn told(seat: &Seat) -> bool {
    seat.state.told.load(Ordering::Acquire)
}

async fn past(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

fn is_over(seat: &Seat) -> bool {
    told(seat) || seat.state.due(&PATIENCE).is_none()
}

#[tokio::test(start_paused = true)]
async fn one_address_takes_half_and_gives_up_its_own_for_more() {
    let seats = seats(10, 10, 10);
    let mut greedy = Vec::new();
    for _ in 0..50 {
        past(1).await;
        greedy.push(seats.arrive(at(1)).expect("its own oldest goes"));
    }
    assert_eq!(seats.len(), 5);
    assert!(greedy[..45].iter().all(told) && !greedy[45..].iter().any(told));
    let others: Vec<Seat> = (2..7).map(|host| seats.arrive(at(host)).expect("half is theirs")).collect();
    assert!(!others.iter().any(told) && !greedy[45..].iter().any(told));
    assert!(seats.arrive(at(9)).is_some());
    assert!(told(&greedy[45]), "a full room gives up the oldest");
    drop((greedy, others));
    assert!(seats.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_is_at_work_is_not_given_up() {
    let seats = seats(100, 4, 4);
    let come = |host, standing| {
        let seat = seats.arrive(at(host)).unwrap();
        let settled = seat.settle(standing);
        settled.then_some(seat)
    };
    let (a, b) = (come(1, Standing::Stranger).unwrap(), come(1, Standing::Stranger).unwrap());
    let (working, also) = (a.work(), b.work());
    assert!(come(1, Standing::Stranger).is_none(), "both of its seats are at work");
    assert!(come(1, Standing::Known).is_some(), "another room");
    assert!(come(2, Standing::Stranger).is_some());
    drop(also);
    assert!(come(1, Standing::Stranger).is_some());
    assert!(told(&b) && !told(&a));
    drop(working);
    assert!(!b.settle(Standing::Known), "it has gone");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_refused_while_one_of_very_many_is_idle() {
    let seats = seats(10, 10, 4000);
    let come = |host| {
        let seat = seats.arrive(at(host)).unwrap();
        seat.settle(Standing::Known).then_some(seat)
    };
    let mut all: Vec<Seat> = (0..3999).map(|n| come(if n % 2 == 0 { 1 } else { 2 }).expect("there is room")).collect();
    let working: Vec<Work> = all.iter().map(Seat::work).collect();
    all.push(come(3).expect("the last seat"));
    assert!(come(4).is_some(), "it gets the seat of the one that is idle");
    assert!(told(&all[3999]) && !all[..3999].iter().any(told));
    drop(working);
}

#[tokio::test(start_paused = true)]
async fn too_few_files_cost_a_stranger_its_seat() {
    let seats = seats(10, 10, 10);
    let (stranger, known) = (seats.arrive(at(1)).unwrap(), seats.arrive(at(2)).unwrap());
    assert!(stranger.settle(Standing::Stranger) && known.settle(Standing::Known));
    seats.relieve();
    assert!(told(&stranger) && !told(&known));
    seats.relieve();
    assert!(told(&known));
    seats.relieve();
}

#[tokio::test(start_paused = true)]
async fn silence_has_an_end() {
    let seats = seats(10, 10, 10);
    past(1).await;
    let seat = seats.arrive(at(1)).unwrap();
    past(31).await;
    assert!(!is_over(&seat));
    past(1).await;
    assert!(is_over(&seat), "no first request");

    let seat = seats.arrive(at(1)).unwrap();
    past(20).await;
    seat.heard();
    past(31).await;
    assert!(!is_over(&seat), "a head has begun");
    seat.heard();
    past(1).await;
    assert!(is_over(&seat), "it has not ended");

    let seat = seats.arrive(at(1)).unwrap();
    seat.heard();
    past(20).await;
    assert!(seat.settle(Standing::Stranger));
    past(31).await;
    assert!(!is_over(&seat), "the handshake is not the first request's head");
    past(1).await;
    assert!(is_over(&seat));

    let seat = seats.arrive(at(1)).unwrap();
    let work = seat.work();
    past(1000).await;
    assert!(!is_over(&seat), "at work");
    drop(work);
    past(89).await;
    assert!(!is_over(&seat), "idle");
    past(1).await;
    assert!(is_over(&seat));
    assert_eq!(seat.over(&PATIENCE).await, "it was silent for too long");
}

#[tokio::test(start_paused = true)]
async fn requests_given_up_cost_the_connection() {
    let seats = seats(10, 10, 10);
    let seat = seats.arrive(at(1)).unwrap();
    let limit = usize::try_from(GIVEN_UP_MAX).unwrap();
    for _ in 0..3 * limit {
        drop(seat.work());
        let mut work = seat.work();
        work.answered();
    }
    assert!(!told(&seat), "as many were answered");
    for _ in 0..limit {
        assert!(!told(&seat));
        drop(seat.work());
    }
    assert_eq!(seat.over(&PATIENCE).await, "it was told to go");
}

/// Two requests that end at once each see the other still at work: each says when it ended all the same.
#[tokio::test(start_paused = true)]
async fn every_end_is_noted_before_it_is_counted() {
    let seats = seats(10, 10, 10);
    let seat = seats.arrive(at(1)).unwrap();
    let (first, second) = (seat.work(), seat.work());
    past(1000).await;
    drop(first);
    assert_eq!(seat.state.since.load(Ordering::Relaxed), seat.state.now());
    drop(second);
    assert!(!is_over(&seat), "it has only just become idle");
}

#[test]
fn few_files_make_small_rooms() {
    let whole = Limits { arriving: 2000, strangers: 6000, known: 8000 };
    assert_eq!(Limits::for_files(whole, 1 << 20), whole);
    assert_eq!(Limits::for_files(whole, 1024), Limits { arriving: 64, strangers: 192, known: 256 });
    assert_eq!(Limits::for_files(whole, 0), Limits { arriving: 2, strangers: 2, known: 2 });
}

#[test]
fn hosts_of_one_network_are_one() {
    let six = |text: &str| home(text.parse().unwrap());
    assert_eq!(six("2001:db8::1"), six("2001:db8::2:3"));
    assert_ne!(six("2001:db8::1"), six("2001:db8:0:1::1"));
    assert_eq!(six("::ffff:10.0.0.1"), at(1));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_not_idle() {
    let seats = seats(100, 4, 4);
    let come = |host| seats.arrive(at(host)).filter(|seat| seat.settle(Standing::Known));
    let (tunnel, silent) = (come(1).unwrap(), come(1).unwrap());
    drop((tunnel.work(), silent.work()));
    tunnel.handed_on();
    past(3600).await;
    assert!(!is_over(&tunnel) && is_over(&silent));
    let next = come(1).expect("the silent one goes for it");
    assert!(told(&silent) && !told(&tunnel) && !told(&next));
}
