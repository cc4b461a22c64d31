//! Broken bytes -> each decoder, for a while: it may refuse, it may not panic. The same seed gives the same bytes.
//!
//! Each target is a test that one process runs beside all others: `SKIFF_FUZZ_SECONDS` (60) is what each takes, `SKIFF_SEED` chooses the bytes.
//! What fails is printed, and the command that repeats it: the seed, and with `SKIFF_FUZZ_INPUTS` the number of inputs to the failure.

mod answers;
mod corpus;
mod loops;
mod mutate;
mod requests;
mod run;

use std::panic::{AssertUnwindSafe, catch_unwind};

use api::{
    quantity::Quantity,
    selector::{Fields, Labels},
};
use apiserver::{parse, schema::FieldValidation, smp};
use mutate::Mutator;
use run::Run;

/// More than there are targets: they run all at once, for as long as one.
const THREADS: &str = "--test-threads=32";

#[test]
fn every_target_for_a_while() {
    let this = std::env::current_exe().expect("the tests' own program");
    let done = std::process::Command::new(this).args(["--ignored", "--nocapture", THREADS]).status();
    assert!(done.expect("the targets are started").success(), "a target failed: see above");
}

/// Runs `target` on mutations of the corpus until the budget is spent.
fn fuzz(name: &'static str, corpus: &[&[u8]], target: impl Fn(&[u8])) {
    let mut run = Run::new(name);
    let mut mutator = Mutator::new(corpus, run.seed);
    corpus.iter().for_each(|whole| target(whole));
    while run.next() {
        let input = mutator.next();
        let done = catch_unwind(AssertUnwindSafe(|| target(&input)));
        assert!(done.is_ok(), "it fails on {:?} ({input:02x?})", String::from_utf8_lossy(&input));
    }
    run.end();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn json() {
    fuzz("json", corpus::JSON, |bytes| {
        let Ok(parsed) = parse::json(bytes) else { return };
        let again = parse::json(parsed.value.to_string().as_bytes()).expect("what was read can be written");
        assert_eq!(again.value, parsed.value);
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn yaml() {
    fuzz("yaml", corpus::YAML, |bytes| {
        let Ok(parsed) = parse::yaml(bytes) else { return };
        // What YAML gave is plain JSON.
        parse::json(parsed.value.to_string().as_bytes()).expect("what was read can be written");
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn managed_fields() {
    fuzz("managed_fields", corpus::FIELDS, |bytes| {
        let Ok(parsed) = parse::json(bytes) else { return };
        let Ok(set) = apiserver::fields::Set::from_fields(&parsed.value) else { return };
        // What was read is written in a form that is read as the same, and once written does not change.
        let written = set.to_fields();
        let again = apiserver::fields::Set::from_fields(&written).expect("what was written can be read");
        assert_eq!(again.to_fields().to_string(), written.to_string());
        assert!(set.is_within(&written) || set.is_empty());
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn protobuf() {
    let tables = &kinds::schema::TABLES;
    let samples = corpus::protobuf();
    let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
    for sample in &samples {
        tables.protobuf("Pod", sample).expect("the samples are good");
    }
    fuzz("protobuf", &samples, |bytes| {
        if let Ok(parsed) = tables.protobuf("Pod", bytes) {
            assert!(parsed.value.is_object());
        }
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn checked_and_validated() {
    let table = kinds::table(&kinds::Config::default());
    fuzz("checked_and_validated", corpus::JSON, |bytes| {
        let Ok(parsed) = parse::json(bytes) else { return };
        let kind = parsed.value["kind"].as_str().unwrap_or_default().to_owned();
        let Some(kind) = table.iter().find(|k| k.kind == kind) else { return };
        let mut object = parsed.value;
        if kind.schema.check(&kind.gvk(), &mut object, &parsed.duplicates, FieldValidation::Warn).is_err() {
            return;
        }
        let mut causes = api::field_errors::FieldErrors::default();
        kind.strategy.default(&mut object);
        kind.strategy.validate(&object, &mut causes);
        kind.strategy.cells(&object, api::time::Timestamp::UNIX_EPOCH);
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn selectors() {
    fuzz("selectors", corpus::SELECTORS, |bytes| {
        let text = text(bytes);
        if let Ok(selector) = Labels::parse(&text) {
            selector.matches(None);
            let shown = selector.to_string();
            assert_eq!(Labels::parse(&shown).as_ref(), Ok(&selector), "{shown} is another selector");
        }
        if let Ok(selector) = Fields::parse(&text) {
            selector.matches_with(|_| Some("x"));
        }
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn quantities() {
    fuzz("quantities", corpus::QUANTITIES, |bytes| {
        let Ok(quantity) = Quantity::parse(&text(bytes)) else { return };
        let (_, _) = (quantity.units(), quantity.milli());
        let shown = quantity.to_string();
        let again = Quantity::parse(&shown).expect("what was read can be written");
        assert!(again.minus(quantity).is_zero(), "{shown} is another quantity");
        let _ = (quantity.plus(quantity), quantity.minus(quantity));
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn strategic_merge() {
    let tables = &kinds::schema::TABLES;
    let pod = tables.structure("io.k8s.api.core.v1.Pod").expect("pods have a shape");
    let current: serde_json::Value = serde_json::from_slice(corpus::JSON[0]).expect("the sample is good");
    fuzz("strategic_merge", corpus::PATCHES, |bytes| {
        let Ok(patch) = parse::json(bytes) else { return };
        let mut merged = current.clone();
        if smp::apply(&pod, &mut merged, patch.value).is_ok() {
            assert!(merged.is_object());
        }
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn network_configs() {
    fuzz("network_configs", corpus::CNI, |bytes| {
        let _ = proxy::cni::read_config(&text(bytes));
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn names_and_resolvers() {
    fuzz("names_and_resolvers", corpus::RESOLV, |bytes| {
        let text = text(bytes);
        let dns = kubelet::dns_config::Dns::parse(&text);
        assert!(dns.servers.len() <= text.len());
        proxy::dns::read_untrusted(bytes, &text);
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn log_lines() {
    let queries = ["", "timestamps=true", "tailLines=2", "limitBytes=10", "sinceTime=2026-01-01T00:00:00Z", "stream=Stderr&timestamps=1"];
    fuzz("log_lines", corpus::LOGS, |bytes| {
        for query in queries {
            let whole = kubelet::server::read_log(bytes, query, usize::MAX);
            // How the bytes come in pieces must not matter.
            let pieces = kubelet::server::read_log(bytes, query, 1 + bytes.len() % 7);
            assert_eq!(whole, pieces, "{query}");
        }
    });
}
