//! A CNI call -> the agent that runs, over its socket; where none answers, the whole program is run for it.
//!
//! A runtime runs two plugins for each sandbox. The exec of the whole program costs five times what this one's does (docs/performance.md), so
//! `build.rs` compiles it alone, with nothing but std, and the agent writes it into CNI's directory. The wire: `proxy/src/cni/server.rs`.

use std::{
    env,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::{ffi::OsStrExt, net::UnixStream, process::CommandExt},
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

/// More than the agent takes for any command.
const BOUND: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let me = env::args_os().next().unwrap_or_default();
    // By way of a link, too.
    let program = env::current_exe().unwrap_or_default();
    let dir = program.parent().unwrap_or(Path::new("/"));
    let Ok(agent) = UnixStream::connect(dir.join("../agent.sock")) else {
        // Standard input is still unread: it is the other program's now.
        return failed(&Command::new(dir.join("skiff")).arg0(&me).exec());
    };
    ask(agent).and_then(|(code, text)| io::stdout().write_all(&text).map(|()| ExitCode::from(code))).unwrap_or_else(|e| failed(&e))
}

fn ask(mut agent: UnixStream) -> io::Result<(u8, Vec<u8>)> {
    let mut call = Vec::new();
    for (name, value) in env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"CNI_")) {
        call.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    call.push(0);
    io::stdin().read_to_end(&mut call)?;
    agent.set_read_timeout(Some(BOUND))?;
    agent.write_all(&call)?;
    agent.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    agent.read_to_end(&mut answer)?;
    match answer.split_first() {
        Some((code, text)) => Ok((*code, text.to_vec())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// CNI's code 11: try again later.
fn failed(error: &io::Error) -> ExitCode {
    println!(r#"{{"cniVersion":"1.1.0","code":11,"msg":"the node agent gave no answer","details":{:?}}}"#, error.to_string());
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Output};

    use api::task::Group;

    use super::*;
    use crate::node::PLUGIN;

    fn call(bin: &Path, command: &str) -> (bool, String) {
        let Output { status, stdout, .. } = Command::new(bin.join("loopback")).env("CNI_COMMAND", command).output().unwrap();
        (status.success(), String::from_utf8(stdout).unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_agent_answers_or_the_whole_program_does() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        let whole = dir.path().join("whole");
        fs::write(&whole, "#!/bin/sh\necho whole $CNI_COMMAND\n").unwrap();
        fs::set_permissions(&whole, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        proxy::cni::install(&bin, PLUGIN, &whole).unwrap();
        let by_the_whole = (true, "whole VERSION\n".to_owned());
        assert_eq!(call(&bin, "VERSION"), by_the_whole);
        let group = Group::new();
        proxy::cni::serve(&dir.path().join("agent.sock"), &group).unwrap();
        let (done, text) = call(&bin, "VERSION");
        assert!(done && text.contains("supportedVersions"), "{text}");
        let (done, text) = call(&bin, "NO");
        assert!(!done && text.contains("unknown CNI_COMMAND: NO"), "{text}");
        assert!(group.drain(Duration::from_secs(5)).await);
        assert_eq!(call(&bin, "VERSION"), by_the_whole);
        fs::remove_file(&whole).unwrap();
        let (done, text) = call(&bin, "VERSION");
        assert!(!done && text.contains("\"code\":11"), "{text}");
    }
}
