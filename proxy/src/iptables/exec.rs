//! A program's name, arguments and input -> what it prints.

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command};

use super::table::Saved;
use crate::{Error, family::Family};

/// A restore of tens of thousands of rules takes seconds.
const BOUND: Duration = Duration::from_secs(60);

/// Applies a script; all of it or nothing, per table.
///
/// # Errors
/// [`Error::Program`] with what it complains of.
pub async fn restore(family: Family, script: &str) -> Result<(), Error> {
    let program = match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    };
    run(program, &["--noflush", "-w", "10"], script).await.map(drop)
}

/// One after another.
///
/// # Errors
/// As [`restore`]; what came before stays.
pub async fn restore_all(family: Family, scripts: Vec<String>) -> Result<(), Error> {
    for script in scripts {
        restore(family, &script).await?;
    }
    Ok(())
}

/// # Errors
/// [`Error::Program`].
pub async fn save(family: Family) -> Result<Saved, Error> {
    let (filter, nat) = (save_table(family, "filter").await?, save_table(family, "nat").await?);
    Ok(Saved::parse(&format!("{filter}{nat}")))
}

/// The rules of one table, as text.
///
/// # Errors
/// [`Error::Program`].
pub async fn save_table(family: Family, table: &str) -> Result<String, Error> {
    let program = match family {
        Family::V4 => "iptables-save",
        Family::V6 => "ip6tables-save",
    };
    run(program, &["-t", table], "").await
}

/// Whether our way into the table nat is still there: `iptables -F` removes it.
pub async fn is_whole(family: Family) -> bool {
    let program = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    run(program, &["-w", "10", "-t", "nat", "-C", "OUTPUT", "-j", "KUBE-SERVICES"], "").await.is_ok()
}

/// # Errors
/// [`Error::Program`] where it cannot be run, fails, or takes longer than [`BOUND`].
pub async fn run(program: &'static str, args: &[&str], input: &str) -> Result<String, Error> {
    let failed = |why: String| Error::Program { program, why };
    let mut command = Command::from(api::programs::command(program));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    let stdin = child.stdin.take();
    let feed = async {
        let Some(mut stdin) = stdin else { return Ok(()) };
        stdin.write_all(input.as_bytes()).await
    };
    let work = async { tokio::join!(feed, child.wait_with_output()) };
    let (_, output) = tokio::time::timeout(BOUND, work).await.map_err(|_| failed(format!("no end after {} s", BOUND.as_secs())))?;
    let output = output.map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
