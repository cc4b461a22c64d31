//! A seed -> a process of its own, with the seed's random numbers and the simulation's clock preloaded.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
    time::Instant,
};

pub const SEED: &str = "SKIFF_SIM_SEED";
pub const CLOCK: &str = "SKIFF_SIM_CLOCK";
/// Simulations at a time: cores of a CI machine.
const PARALLEL: usize = 2;

/// The wall clock of this process.
pub struct Clock(File);

impl Clock {
    pub fn open() -> Self {
        let path = std::env::var(CLOCK).expect("the process of a seed has a clock");
        Self(File::options().write(true).open(path).expect("the clock's file"))
    }

    pub fn set(&self, micros: u64) {
        self.0.write_all_at(&micros.to_ne_bytes(), 0).expect("the clock's file can be written");
    }
}

/// Runs each seed; those that failed, whose output is printed.
pub fn run_all(seeds: &[u64]) -> Vec<u64> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let preload = compile(dir.path());
    let (waiting, failed) = (Mutex::new(seeds.iter().copied()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..PARALLEL.min(seeds.len()) {
            scope.spawn(|| {
                while let Some(seed) = next(&waiting) {
                    if !run(seed, &preload, dir.path()) {
                        failed.lock().expect("no panic under the lock").push(seed);
                    }
                }
            });
        }
    });
    failed.into_inner().expect("no panic under the lock")
}

fn next(waiting: &Mutex<impl Iterator<Item = u64>>) -> Option<u64> {
    waiting.lock().expect("no panic under the lock").next()
}

fn compile(dir: &Path) -> PathBuf {
    let library = dir.join("steady.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/steady.c");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(made.expect("cc, which also links Rust, is installed").success(), "steady.c does not compile");
    library
}

fn run(seed: u64, preload: &Path, dir: &Path) -> bool {
    let clock = dir.join(format!("clock-{seed}"));
    std::fs::write(&clock, 0u64.to_ne_bytes()).expect("the clock's file");
    let start = Instant::now();
    let mut command = Command::new(std::env::current_exe().expect("this very test"));
    command.args(["--exact", "one_seed", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("RUST_BACKTRACE", "0").env("LD_PRELOAD", preload).env(SEED, seed.to_string()).env(CLOCK, clock);
    let output = command.output().expect("this very test runs");
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() || std::env::var_os(SEED).is_some() {
        println!("--- seed {seed}\n{said}\n{told}");
    }
    let verdict = if output.status.success() { "holds" } else { "FAILS" };
    println!("seed {seed} {verdict} ({:.1} s)", start.elapsed().as_secs_f64());
    output.status.success()
}
