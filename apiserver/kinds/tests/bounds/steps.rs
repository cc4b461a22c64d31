//! A program under valgrind -> how many steps it takes between two places.
//!
//! Valgrind without a tool counts the blocks of instructions that it runs (its scheduler's "event checks": each round of a loop is one at least)
//! and tells the number to who asks, at some eight times the time of the program. callgrind counts instructions, at eighty times.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

/// What a line of the program begins with that stands at a place to be counted.
const PLACE: &str = "@ place ";

/// In the program: here the steps so far are noted.
pub fn place(name: &str) {
    println!("\n{PLACE}{name}");
    std::io::stdout().flush().expect("somebody reads");
    std::io::stdin().lock().read_line(&mut String::new()).expect("somebody answers");
}

/// Runs `test` of this program, and calls `noted` with each place it comes to and the steps up to there.
pub fn count(test: &str, environment: &[(&str, String)], mut noted: impl FnMut(&str, u64)) {
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("vgdb");
    let mut program = Command::new("valgrind")
        .args(["--tool=none", "--vgdb=yes"])
        .arg(format!("--vgdb-prefix={}", prefix.display()))
        .arg(format!("--log-file={}", dir.path().join("log").display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("valgrind is installed (deploy/setup.sh test)");
    let lines = BufReader::new(program.stdout.take().expect("it is piped")).lines();
    let mut answer = program.stdin.take().expect("it is piped");
    for line in lines.map_while(Result::ok) {
        if let Some(name) = line.strip_prefix(PLACE) {
            noted(name, asked(&prefix, &program));
            writeln!(answer).expect("it waits for it");
        }
    }
    let ended = program.wait().unwrap();
    assert!(ended.success(), "{ended}: {}", log(dir.path()));
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
}

/// The steps so far of a program that waits.
fn asked(prefix: &Path, program: &Child) -> u64 {
    let told = Command::new("vgdb")
        .args([format!("--vgdb-prefix={}", prefix.display()), format!("--pid={}", program.id()), "--max-invoke-ms=1".into()])
        .args(["v.info", "stats"])
        .output()
        .expect("vgdb comes with valgrind");
    let text = String::from_utf8_lossy(&told.stdout);
    let count = text.lines().find_map(|line| line.split_once("scheduler: ")?.1.strip_suffix(" event checks."));
    let digits: String = count.unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("vgdb told no count: {text}{}", String::from_utf8_lossy(&told.stderr)))
}
