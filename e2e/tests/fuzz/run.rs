//! Environment -> how one target runs: its random numbers, its end, and the command that repeats it.

use std::time::{Duration, Instant};

/// Of a run that names none. CI names one: it goes by the commit (`.ci/run`).
const SEED: u64 = 36;
/// Fewer in a whole budget, and the decoder hangs on some.
const INPUTS_MIN: u64 = 100;

/// If it is dropped by a panic, it prints the command that repeats it to the input that failed.
pub struct Run {
    pub seed: u64,
    target: &'static str,
    until: Until,
    inputs: u64,
}

enum Until {
    Time(Instant),
    Inputs(u64),
}

impl Run {
    pub fn new(target: &'static str) -> Self {
        let budget = Duration::from_secs(number("SKIFF_FUZZ_SECONDS").unwrap_or(60));
        let seed = number("SKIFF_SEED").unwrap_or(SEED);
        let until = number("SKIFF_FUZZ_INPUTS").map_or_else(|| Until::Time(Instant::now() + budget), Until::Inputs);
        println!("SKIFF_SEED={seed}");
        Self { seed, target, until, inputs: 0 }
    }

    /// Whether there shall be one more input.
    pub fn next(&mut self) -> bool {
        let goes_on = match self.until {
            Until::Time(end) => Instant::now() < end,
            Until::Inputs(most) => self.inputs < most,
        };
        self.inputs += u64::from(goes_on);
        goes_on
    }

    /// One more within what [`Run::next`] allowed.
    pub fn count(&mut self) {
        self.inputs += 1;
    }

    pub fn end(self) {
        println!("{}: {} inputs", self.target, self.inputs);
        let enough = self.inputs >= INPUTS_MIN || matches!(self.until, Until::Inputs(_));
        assert!(enough, "only {} inputs: the decoder hangs on some", self.inputs);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, target, inputs, .. } = self;
            eprintln!(
                "to repeat it: SKIFF_SEED={seed} SKIFF_FUZZ_INPUTS={inputs} cargo test -p e2e --test fuzz -- --ignored --exact {target}"
            );
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}
