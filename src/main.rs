//! The front door: which verb was asked for, and who carries it out.

/// As `println!`, which panics where its reader has closed the pipe (`| head`).
macro_rules! say {
    ($($text:tt)*) => {
        $crate::say(format_args!($($text)*))
    };
}

mod check;
mod down;
mod flags;
mod hollow;
mod kubeconfig;
mod machine;
mod node;
mod server;
mod stock_flags;
mod token;
mod up;

use std::{io::Write, process::ExitCode};

use clap::CommandFactory;
use flags::{Cli, Verb};

// What lives for a request stands beside what lives as long as its object, and a block is taken from where one was given back last: with 100,000
// pods that is a tenth of CPU time and memory less than with others (docs/performance.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The network plugin runs us under its own name where no agent answers it.
    if std::env::args().next().is_some_and(|name| proxy::cni::is_plugin_name(&name)) {
        return proxy::cni::main_cni();
    }
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    if let Some(why) = stock_flags::refused(&std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>()) {
        anyhow::bail!(why);
    }
    let cli = Cli::read(std::env::args_os().collect::<Vec<_>>())?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed before main"))?;
    match cli.verb {
        Verb::Up(flags) => block_on(&flags.server.common.log_level.clone(), up::run(*flags))?,
        Verb::Server(flags) => block_on(&flags.common.log_level.clone(), server::run(*flags))?,
        Verb::Agent(flags) if flags.hollow.hollow.is_some() => block_on(&flags.common.log_level.clone(), hollow::run(*flags))?,
        Verb::Agent(flags) => block_on(&flags.common.log_level.clone(), node::join::run(*flags))?,
        Verb::Token(flags) => block_on("warn", token::run(flags))?,
        Verb::Kubeconfig(flags) => kubeconfig::run(&flags)?,
        Verb::Check(flags) => {
            return block_on("error", check::run(flags)).map(|is_well| if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Verb::Leave(flags) => block_on(&flags.common.log_level.clone(), node::leave::run(flags))?,
        Verb::Down(flags) => block_on(&flags.common.log_level.clone(), down::down(flags))?,
        Verb::Reset(flags) => block_on(&flags.common.log_level.clone(), down::reset(flags))?,
        Verb::Version => say!("skiff {} (Kubernetes {})", env!("CARGO_PKG_VERSION"), apiserver::version::GIT_VERSION),
        Verb::Completion { shell } => write_out(&completion(shell))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn completion(shell: clap_complete::Shell) -> Vec<u8> {
    // clap panics where its writer fails: a vector does not.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "skiff", &mut script);
    script
}

/// Who does not listen is not told.
fn say(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A reader that closed the pipe (`| head`) has what it wanted.
fn write_out(text: &[u8]) -> std::io::Result<()> {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

fn block_on<T>(log_level: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let filter = tracing_subscriber::EnvFilter::try_new(log_level)?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    // Few threads: the work is small, and each idle thread costs memory.
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(threads).max_blocking_threads(64).enable_all().build()?;
    let done = runtime.block_on(Box::pin(work));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_names_the_commands() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let script = String::from_utf8(completion(shell)).unwrap();
            assert!(script.contains("kubeconfig"), "{shell}");
        }
    }
}
