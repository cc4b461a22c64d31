//! Zones by the table: who may be given up, and when.

use super::*;

struct Cluster {
    zones: Zones,
    now: Instant,
}

impl Cluster {
    fn new(nodes: usize, zones: usize) -> Self {
        let mut cluster = Self { zones: Zones::new(NodeConfig::default()), now: Instant::now() };
        (0..nodes).for_each(|n| drop(cluster.set(n, n % zones, true)));
        cluster
    }

    fn set(&mut self, node: usize, zone: usize, ready: bool) -> Turn {
        self.zones.put(&format!("n{node}"), &Seen { zone: format!("z{zone}"), ready, excluded: false }, self.now)
    }

    fn ask(&mut self, node: usize) -> Answer {
        self.zones.ask(&format!("n{node}"), self.now).0
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

fn of(node: usize) -> Turn {
    Turn::Of(format!("n{node}").into())
}

#[test]
fn nodes_are_given_up_one_after_the_other() {
    let mut c = Cluster::new(10, 1);
    (0..3).for_each(|n| assert_eq!(c.set(n, 0, false), Turn::Nobodys));
    assert_eq!(c.ask(0), Answer::Yes);
    assert_eq!(c.ask(0), Answer::Yes, "what follows may be tried again");
    assert_eq!(c.ask(1), Answer::In(Duration::from_secs(10)));
    assert_eq!(c.ask(2), Answer::Waits, "not the first");
    c.pass(10);
    assert_eq!(c.zones.ask("n1", c.now), (Answer::Yes, of(2)));
    assert_eq!(c.ask(2), Answer::In(Duration::from_secs(10)));
    // One that comes back leaves the queue.
    c.set(2, 0, true);
    c.set(3, 0, false);
    c.pass(10);
    assert_eq!(c.ask(3), Answer::Yes);
}

#[test]
fn the_next_is_told_when_the_first_is_no_more() {
    let mut c = Cluster::new(10, 1);
    (0..3).for_each(|n| drop(c.set(n, 0, false)));
    assert_eq!((c.ask(0), c.ask(1), c.ask(2)), (Answer::Yes, Answer::In(Duration::from_secs(10)), Answer::Waits));
    assert_eq!(c.zones.remove("n1", c.now), of(2));
    assert_eq!(c.zones.withdraw("n2"), Turn::Nobodys);
    assert_eq!(c.zones.all().count(), 9);
}

/// Nodes, of them not ready; how many are given up within a thousand seconds, in a cluster whose other zone is well.
#[test]
fn the_rate_is_that_of_the_zones_state() {
    let cases = [
        (10, 2, 2, "normal"),
        (3, 2, 2, "two are no disruption, however small the zone"),
        (10, 5, 5, "below the threshold"),
        (10, 6, 0, "partial, small"),
        (50, 45, 0, "partial, not yet large"),
        (100, 56, 11, "partial, large: one in 100 s; the token was there already"),
        (100, 100, 100, "a zone that is all down while others are not"),
    ];
    for (size, down, given_up, what) in cases {
        let mut c = Cluster::new(size, 1);
        c.set(1000, 1, true);
        (0..down).for_each(|n| drop(c.set(n, 0, false)));
        let mut done = 0;
        for _ in 0..1000 {
            done += (0..down).filter(|n| !c.zones.nodes[&*format!("n{n}")].given_up && c.ask(*n) == Answer::Yes).count();
            c.pass(1);
        }
        let most = if given_up == 0 { 0 } else { given_up };
        assert!(done <= most && done + 1 >= given_up, "{what}: {done}, not {given_up}");
    }
}

#[test]
fn nobody_is_given_up_where_nobody_is_left() {
    for zones in [1, 3] {
        let mut c = Cluster::new(9, zones);
        (0..8).for_each(|n| assert_ne!(c.set(n, n % zones, false), Turn::Everybodys));
        assert_eq!(c.set(8, 8 % zones, false), Turn::Everybodys);
        assert!(c.zones.is_cut_off());
        c.pass(1000);
        assert!((0..9).all(|n| c.ask(n) == Answer::Waits));
        assert_eq!(c.set(4, 4 % zones, true), Turn::Everybodys);
        assert_eq!((c.zones.is_cut_off(), c.zones.back()), (false, Some(c.now)));
    }
}

#[test]
fn a_single_node_is_never_given_up() {
    let mut c = Cluster::new(1, 1);
    assert_eq!(c.set(0, 0, false), Turn::Everybodys);
    c.pass(10_000);
    assert_eq!(c.ask(0), Answer::Waits);
}

#[test]
fn nodes_that_are_left_out_say_nothing_about_their_zone() {
    let mut c = Cluster::new(2, 1);
    let left_out = |zone: &str, ready| Seen { zone: zone.into(), ready, excluded: true };
    (0..5).for_each(|n| drop(c.zones.put(&format!("x{n}"), &left_out("z0", false), c.now)));
    assert_eq!((c.zones.counts, c.zones.is_cut_off()), (Counts { ready: 2, unready: 0 }, false));
    assert_eq!(c.zones.ask("x0", c.now).0, Answer::Yes, "but they are given up themselves");
    c.zones.put("alone", &left_out("z9", false), c.now);
    assert!(c.zones.ask("alone", c.now).0 == Answer::Yes);
}

#[test]
fn a_change_of_state_makes_no_token_and_tells_the_first() {
    let mut c = Cluster::new(10, 1);
    (0..6).for_each(|n| drop(c.set(n, 0, false)));
    assert_eq!((c.ask(0), c.ask(1)), (Answer::Waits, Answer::Waits), "partial disruption");
    assert_eq!(c.set(5, 0, true), of(0), "normal again");
    assert_eq!(c.ask(0), Answer::In(Duration::from_secs(10)));
    c.pass(10);
    assert_eq!(c.ask(0), Answer::Yes);
}

#[test]
fn a_node_changes_its_zone() {
    let mut c = Cluster::new(4, 2);
    c.set(0, 0, false);
    assert_eq!(c.ask(0), Answer::Yes);
    c.set(0, 1, false);
    assert_eq!(c.ask(0), Answer::Yes, "the other zone has a token of its own");
    assert_eq!((c.zones.zones["z0"].members, c.zones.zones["z1"].members), (1, 3));
    (1..4).for_each(|n| drop(c.zones.remove(&format!("n{n}"), c.now)));
    assert_eq!((c.zones.zones.len(), c.zones.is_cut_off()), (1, true));
}

/// The cost of a change is that of one zone's queue, whatever the size of the cluster.
#[test]
fn only_the_last_and_the_first_node_concern_all() {
    let mut c = Cluster::new(1000, 3);
    let mut for_all = 0;
    for ready in [false, true] {
        for_all += (0..1000).filter(|n| c.set(*n, n % 3, ready) == Turn::Everybodys).count();
    }
    assert_eq!(for_all, 2);
}
