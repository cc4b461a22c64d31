//! A recorded process id -> a process that can be waited for and stopped, be it our child or an earlier run's.

use std::{
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::Path,
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

use super::{Error, at, config::Layout};

/// A running containerd. Dropping it lets it run.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    /// Readable once the process ended; it cannot come to mean another process, as a number can.
    handle: AsyncFd<OwnedFd>,
}

impl Process {
    /// Starts containerd in a process group of its own, so that a Ctrl-C at our terminal does not reach it; its output goes to a file.
    pub fn start(layout: &Layout) -> Result<Self, Error> {
        let log = layout.log_file();
        let output = File::options().create(true).append(true).open(&log).map_err(at(&log))?;
        let errors = output.try_clone().map_err(at(&log))?;
        let mut command = api::programs::command("containerd");
        command.arg("--config").arg(layout.config_file());
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = tokio::process::Command::from(command).spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotInstalled,
            _ => Error::File { path: "containerd".into(), source: error },
        })?;
        let pid = child.id().ok_or_else(|| Error::Ended { status: "before it began".into(), log })?;
        let file = layout.pid_file();
        std::fs::write(&file, pid.to_string()).map_err(at(&file))?;
        // Dropping the child hands it to tokio's reaper, so that it leaves no zombie.
        Self::open(pid).map_err(Error::Watch)
    }

    /// The one whose id was written down, if it still runs and is containerd with our configuration.
    pub fn recorded(layout: &Layout) -> Result<Option<Self>, Error> {
        let text = std::fs::read_to_string(layout.pid_file()).unwrap_or_default();
        let Ok(pid) = text.trim().parse::<u32>() else { return Ok(None) };
        let process = match Self::open(pid) {
            Ok(process) => process,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(None),
            Err(error) => return Err(Error::Watch(error)),
        };
        // Looked at after the handle is open: the handle and the command line are of one process.
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let config = layout.config_file();
        let ours = command.split(|byte| *byte == 0).any(|arg| arg == config.as_os_str().as_encoded_bytes());
        Ok(ours.then_some(process))
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Resolves when the process has ended.
    pub async fn ended(&self) -> Result<String, Error> {
        let _ = self.handle.readable().await.map_err(Error::Watch)?;
        Ok(format!("process {} ended", self.pid))
    }

    /// SIGTERM, and SIGKILL after `patience`.
    pub async fn stop(self, patience: Duration) -> Result<(), Error> {
        for signal in [Signal::TERM, Signal::KILL] {
            // Failing means that it has ended already, which the wait sees.
            let _ = pidfd_send_signal(self.handle.get_ref(), signal);
            if tokio::time::timeout(patience, self.handle.readable()).await.is_ok() {
                return Ok(());
            }
        }
        Err(Error::DoesNotEnd(self.pid))
    }

    /// The shims of the containerd of `layout` that are still there: one can outlive the sandbox it was started for.
    pub fn shims(layout: &Layout) -> Vec<Self> {
        let socket = layout.socket();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        // Looked at again once the handle is open: the number may have come to mean another process in between.
        let opened = pids.filter(|pid| is_shim(*pid, &socket)).filter_map(|pid| Self::open(pid).ok());
        opened.filter(|process| is_shim(process.pid, &socket)).collect()
    }

    fn open(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let handle = pidfd_open(number, PidfdFlags::NONBLOCK)?;
        // Its successor is unsafe, for descriptors that change while they are watched: an OwnedFd does not.
        #[allow(deprecated)]
        let handle = AsyncFd::with_interest(handle, tokio::io::Interest::READABLE)?;
        Ok(Self { pid, handle })
    }
}

/// `containerd-shim-runc-v2 -namespace k8s.io -id ... -address <socket>`
fn is_shim(pid: u32, socket: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let program = words.first().map(|w| String::from_utf8_lossy(w).into_owned()).unwrap_or_default();
    program.contains("containerd-shim") && words.contains(&socket.as_os_str().as_bytes())
}
