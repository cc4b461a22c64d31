//! The worst bodies that kinds can be sent, small and large -> steps counted: four times the bytes are not more than about four times the work.
//!
//! The shapes of the kinds say what a body may hold, so that a new kind, list or text is covered when it is there. All of it takes an hour
//! ([`by_hand`]); a commit tries those places that were once too slow, and others that are drawn by its seed.
//!
//! Whole requests of 1, 2 and 3 MiB are counted in [`LARGE`]: each decoder, patch, form of a reply, field of the metadata, and admission. All of them
//! at these sizes take some minutes: a commit tries [`LARGE_DRAWN`] so, drawn by its seed, and the others at a sixteenth of it. There a list has 1,000
//! to 3,000 elements of 60 bytes, which cost 2,000 to 6,000 steps each: where each is compared with each, at one step a pair, three times the bytes are
//! more than four times the work, not three, and that shows. What costs less a pair, such as moving a list by a place over and over, shows at MiB only.

mod run;
mod steps;
mod whole;
mod worst;

use std::{sync::Arc, time::Instant};

use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};

use run::Input;
use whole::LARGE;
use worst::{ELEMENTS, Elements, Place, TEXTS};

/// Bytes of the small body; the large one has four times as many.
const SMALL: usize = 3 << 10;
const TIMES: usize = 4;
/// The large body may take so many times the work: n log n takes 4.6 times, n² 16 times.
const MOST: f64 = 5.0;
/// Places drawn by the seed.
const DRAWN: usize = 6;

/// The third part of what the largest body has, less what stands around it.
const THIRD: usize = (1 << 20) - (4 << 10);
/// So many are tried at 1, 2 and 3 MiB, the others at a part of it. `SKIFF_BOUNDS_LARGE=all`: all at MiB.
const LARGE_DRAWN: usize = 4;
const PART: usize = 16;
/// What twice and three times the bytes may cost at most: n log n takes 2.11 and 3.25 times at 16,000 elements, n² 4 and 9 times.
const MOST_TWICE: f64 = 2.3;
const MOST_THRICE: f64 = 3.6;

/// Kind, path and elements of what was slower once: a list was compared with itself or with another, or shown whole with each of its faults.
const ONCE: &[(&str, &str, Elements)] = &[
    ("ConfigMap", "metadata.ownerReferences", Elements::Full),
    ("ConfigMap", "metadata.finalizers", Elements::Few),
    ("ConfigMap", "data", Elements::Few),
    ("Pod", "spec.containers", Elements::Few),
    ("Pod", "spec.containers.*.env", Elements::Same),
    ("Pod", "spec.containers.*.ports", Elements::Same),
    ("Pod", "spec.containers.*.ports", Elements::Few),
    ("Pod", "spec.containers.*.volumeMounts", Elements::Few),
    ("Pod", "spec.containers.*.volumeDevices", Elements::Few),
    ("Pod", "spec.tolerations", Elements::Full),
    ("Pod", "spec.schedulingGates", Elements::Few),
    ("Pod", "spec.topologySpreadConstraints", Elements::Few),
    ("Pod", "spec.volumes", Elements::Few),
    ("Pod", "status.containerStatuses", Elements::Few),
    ("Pod", "status.podIPs", Elements::Few),
    ("Service", "spec.ports", Elements::Few),
    ("Service", "spec.clusterIPs", Elements::Few),
    ("EndpointSlice", "endpoints", Elements::Full),
    ("Endpoints", "subsets", Elements::Few),
    ("Node", "spec.taints", Elements::Full),
    ("Role", "rules.*.verbs", Elements::Few),
];

/// The case that is too slow: that it is found shows that others would be.
const PAIRS: &str = "element by element";

/// The body of so many bytes.
type Make = dyn Fn(usize) -> Input;

/// One way to be bad, of one kind.
struct Case {
    name: String,
    make: Box<Make>,
    work: fn(&Input),
}

/// All places of all kinds; those of pod templates are those of pods.
fn places() -> Vec<(Arc<apiserver::kind::Kind>, Place)> {
    let kinds = kinds::table(&kinds::Config::default());
    let of = |kind: Arc<apiserver::kind::Kind>| {
        let schema = kind.schema.structure().expect("every kind has a shape");
        let own = |place: &Place| !place.path.iter().any(|step| step == "template") && (kind.kind == "Pod" || place.path[0] != "metadata");
        worst::places(&schema).into_iter().filter(own).map(|place| (kind.clone(), place)).collect::<Vec<_>>()
    };
    kinds.into_iter().flat_map(of).collect()
}

fn is_text(place: &Place) -> bool {
    !matches!(place.typ, apiserver::schema::Type::List(_) | apiserver::schema::Type::Map(_))
}

/// The ways to be bad in one place: as a write, and as a patch where a list or map may be merged.
fn cases(kind: &Arc<apiserver::kind::Kind>, place: &Place, ways: &[Elements], texts: &[&'static str]) -> Vec<Case> {
    let name = |how: &str| format!("{} {} {how}", kind.kind, place.path.join("."));
    if is_text(place) {
        let case = |part: &'static str| {
            let (kind, place) = (kind.clone(), place.clone());
            let make = move |size: usize| {
                let schema = kind.schema.structure().expect("every kind has a shape");
                let body = worst::text(&schema, &place, part, size);
                Input { kind: kind.clone(), stored: worst::text(&schema, &place, "b", 8), body: body.to_string() }
            };
            Case { name: name(&format!("text {part:?}")), make: Box::new(make), work: run::write }
        };
        return texts.iter().map(|part| case(part)).collect();
    }
    let case = |elements: Elements, work: fn(&Input), how: &str| {
        let (kind, place) = (kind.clone(), place.clone());
        let make = move |size: usize| {
            let schema = kind.schema.structure().expect("every kind has a shape");
            let body = worst::object(&schema, &place, elements, size).to_string();
            Input { kind: kind.clone(), stored: worst::reversed(&schema, &place, elements, size), body }
        };
        Case { name: name(&format!("{elements:?} {how}")), make: Box::new(make), work }
    };
    ways.iter().flat_map(|elements| [case(*elements, run::write, "write"), case(*elements, run::patch, "patch")]).collect()
}

fn seed() -> u64 {
    std::env::var("SKIFF_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(36)
}

fn chosen() -> Vec<Case> {
    let all = places();
    let mut out = Vec::new();
    for (kind, path, elements) in ONCE {
        let whole = kinds::table(&kinds::Config::default()).into_iter().find(|k| k.kind == *kind).expect("a kind of the table");
        let found = worst::places(&whole.schema.structure().expect("a shape")).into_iter().find(|place| place.path.join(".") == *path);
        out.extend(cases(&whole, &found.unwrap_or_else(|| panic!("no {path} of {kind}")), &[*elements], &[]));
    }
    // Of another kind than pods, whose refused updates are shown as a difference of lines: that is much work, bounded, and would hide it.
    let ports = all.iter().find(|(kind, place)| kind.kind == "Service" && place.path == ["spec", "ports"]);
    let (kind, place) = ports.expect("services have ports");
    let pairs = cases(kind, place, &[Elements::Few], &[]).into_iter().take(1);
    out.extend(pairs.map(|case| Case { name: PAIRS.into(), work: run::write_in_pairs, ..case }));
    let mut random = StdRng::seed_from_u64(seed());
    for (kind, place) in all.choose_multiple(&mut random, DRAWN) {
        let elements = *ELEMENTS.choose(&mut random).expect("there are some");
        out.extend(cases(kind, place, &[elements], &[TEXTS.choose(&mut random).expect("there are some")]));
    }
    out
}

/// The program under valgrind: does the work of each case twice, small and large.
#[test]
#[ignore = "run by the_worst_bodies_take_no_more_than_n_log_n, and counted"]
fn the_counted_program() {
    for (at, case) in chosen().iter().enumerate() {
        // What is made at first use is not counted.
        (case.work)(&(case.make)(64));
        for size in [SMALL, TIMES * SMALL] {
            let input = (case.make)(size);
            steps::place(&format!("before {at}"));
            (case.work)(&input);
            steps::place(&format!("after {at}"));
        }
    }
}

#[test]
fn the_worst_bodies_take_no_more_than_n_log_n() {
    let cases = chosen();
    let counts = counted("the_counted_program", cases.len());
    let too_slow: Vec<String> = (cases.iter().zip(&counts))
        .filter(|(_, count)| count[1] as f64 > MOST * count[0] as f64)
        .map(|(case, count)| format!("{}: {} steps, of four times the bytes {}", case.name, count[0], count[1]))
        .collect();
    assert!(counts.iter().all(|count| count.len() == 2 && count[0] > 1_000), "nothing was counted: {counts:?}");
    assert!(too_slow.iter().all(|name| name.starts_with(PAIRS)), "{}", too_slow.join("\n"));
    assert!(!too_slow.is_empty(), "what takes n² is not found: {counts:?}");
}

/// The steps between `before N` and `after N`, each time that `test` comes there, by N.
fn counted(test: &str, of: usize) -> Vec<Vec<u64>> {
    let (mut begun, mut counts) = (0, vec![Vec::new(); of]);
    steps::count(test, &[("SKIFF_SEED", seed().to_string())], |place, steps| match place.split_once(' ') {
        Some(("after", at)) => counts[at.parse::<usize>().unwrap()].push(steps - begun),
        _ => begun = steps,
    });
    counts
}

/// All places, large, by the clock: to find what [`ONCE`] does not know. Prints what takes long or grows fast.
#[test]
#[ignore = "by hand: takes long"]
fn by_hand() {
    let only = std::env::var("SKIFF_BOUNDS_ONLY").unwrap_or_default();
    for (kind, place) in places() {
        for case in cases(&kind, &place, &ELEMENTS, &TEXTS).into_iter().filter(|case| case.name.contains(&only)) {
            let seconds = [24 << 10, 96 << 10].map(|size| {
                let input = (case.make)(size);
                let began = Instant::now();
                (case.work)(&input);
                began.elapsed().as_secs_f64()
            });
            if seconds[1] > 0.05 && seconds[1] > MOST * seconds[0] || seconds[1] > 1.0 {
                println!("{:8.3} {:8.3} {}", seconds[0], seconds[1], case.name);
            }
        }
    }
}

/// Which of [`LARGE`] are tried, and the size of a third.
fn large_chosen() -> Vec<(usize, usize)> {
    let all = std::env::var("SKIFF_BOUNDS_LARGE").is_ok_and(|which| which == "all");
    let mut random = StdRng::seed_from_u64(seed());
    let drawn: Vec<usize> = (0..LARGE.len()).collect::<Vec<_>>().choose_multiple(&mut random, LARGE_DRAWN).copied().collect();
    (0..LARGE.len()).map(|at| (at, if all || drawn.contains(&at) { THIRD } else { THIRD / PART })).collect()
}

/// The program under valgrind: does each request three times.
#[tokio::test]
#[ignore = "run by the_largest_requests_take_no_more_than_n_log_n, and counted"]
async fn the_counted_requests() {
    for (at, third) in large_chosen() {
        // What is made at first use is not counted.
        LARGE[at].ready(third / 64).await.work().await;
        for times in 1..=3 {
            let ready = LARGE[at].ready(times * third).await;
            steps::place(&format!("before {at}"));
            ready.work().await;
            steps::place(&format!("after {at}"));
        }
    }
    for times in 1..=3 {
        steps::place("before pairs");
        whole::Ready::Pairs(times * THIRD / PART / 60).work().await;
        steps::place(&format!("after {}", LARGE.len()));
    }
}

#[test]
fn the_largest_requests_take_no_more_than_n_log_n() {
    let counts = counted("the_counted_requests", LARGE.len() + 1);
    let is_slow = |counts: &[u64]| counts[1] as f64 > MOST_TWICE * counts[0] as f64 || counts[2] as f64 > MOST_THRICE * counts[0] as f64;
    assert!(is_slow(&counts[LARGE.len()]), "what takes n² is not found: {counts:?}");
    let mut too_slow = Vec::new();
    for ((at, third), counts) in large_chosen().into_iter().zip(&counts) {
        let told = format!("{} of {third} bytes, twice and three times as many: {counts:?} steps", LARGE[at].name);
        println!("{told}");
        assert!(counts.len() == 3 && counts[0] as usize > third, "nothing was counted: {told}");
        if is_slow(counts) {
            too_slow.push(told);
        }
    }
    assert!(too_slow.is_empty(), "{}", too_slow.join("\n"));
}
