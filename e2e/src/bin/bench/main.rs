//! One or two API servers -> what each thing they do costs, as a table; every row checks what was done.
//!
//! `cargo run --profile bench -p e2e --bin bench -- --skiff target/dist/skiff`; `--help` says the rest. Wrong results fail it, time never does.

mod args;
mod conn;
mod door;
mod load;
mod report;
mod rows;
mod subject;
mod usage;
mod watch;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use args::{Args, Scale};
use report::{Figure, Outcome};
use rows::{Ctx, ROWS, Row, Skip};
use serde_json::json;

/// No row may take longer; at full scale on two slow cores the longest takes a few minutes.
const ROW_BOUND: Duration = Duration::from_secs(1200);

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    match runtime.block_on(run(&args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// False if a check failed.
async fn run(args: &Args) -> anyhow::Result<bool> {
    if args.rows == ["list"] {
        ROWS.iter().for_each(|row| println!("{:16} {}", row.name, row.what));
        return Ok(true);
    }
    let chosen = rows::chosen(&args.rows)?;
    let mut outcomes = Vec::new();
    for row in chosen {
        let begun = Instant::now();
        let outcome = one_row(row, args).await;
        eprintln!("{}: {} ({:.1} s)", row.name, verdict(&outcome), begun.elapsed().as_secs_f64());
        outcomes.push(outcome);
    }
    println!("{}", report::table(&outcomes, &args.names));
    if let Some(file) = &args.json {
        let scale = if args.scale == Scale::Small { "small" } else { "full" };
        let head = json!({"at": api::time::rfc3339(api::time::Timestamp::now()), "scale": scale, "cores": cores()});
        std::fs::write(file, serde_json::to_vec_pretty(&report::json(&outcomes, &args.names, head))?)?;
    }
    Ok(outcomes.iter().all(|o| o.failed.is_none()))
}

/// A, or A B B A: what grows worse with time falls on both sides alike.
async fn one_row(row: &'static Row, args: &Args) -> Outcome {
    let order: &[usize] = if args.sides.len() == 2 { &[0, 1, 1, 0] } else { &[0] };
    let mut outcome = Outcome { row: row.name, runs: [Vec::new(), Vec::new()], skipped: None, failed: None };
    for side in order.repeat(args.rounds) {
        match run_once(row, args, side).await {
            Ok(figures) => outcome.runs[side].push(figures),
            Err(error) => {
                let name = if args.sides.len() == 2 { format!("{}: ", args.names[side]) } else { String::new() };
                match error.downcast_ref::<Skip>() {
                    Some(skip) => outcome.skipped = Some(format!("{name}{}", skip.0)),
                    None => outcome.failed = Some(format!("{name}{error:#}")),
                }
            }
        }
    }
    outcome
}

async fn run_once(row: &Row, args: &Args, side: usize) -> anyhow::Result<Vec<Figure>> {
    let ctx = Ctx::new(args, side);
    let figures = tokio::time::timeout(ROW_BOUND, (row.run)(&ctx)).await;
    let cleared = ctx.clear().await;
    let mut figures = figures.map_err(|_| anyhow::anyhow!("the row did not end within {} s", ROW_BOUND.as_secs()))??;
    cleared?;
    if !ctx.reads_processes() {
        figures.retain(|f| !f.of_process());
    }
    Ok(figures)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn verdict(outcome: &Outcome) -> String {
    match (&outcome.failed, &outcome.skipped) {
        (Some(why), _) => format!("FAILED: {why}"),
        (None, Some(why)) => format!("skipped: {why}"),
        (None, None) => "done".into(),
    }
}
