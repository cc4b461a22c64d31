//! An ended container -> its termination message, from the file it wrote or the end of its log.

use std::path::Path;

use cri::{ContainerState, ContainerStatus};
use rustix::fs::OFlags;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::labels;

/// Upstream's limits: `pkg/kubelet/container/runtime.go`.
const MESSAGE_BYTES_MAX: u64 = 4096;
const LOG_BYTES_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;
/// Log lines carry a time stamp, a stream and a tag before the text.
const LOG_READ_BYTES_MAX: u64 = 64 << 10;

/// Upstream: `getTerminationMessage` and what calls it in `kuberuntime_container.go`.
pub async fn message(status: &ContainerStatus) -> String {
    if status.state() != ContainerState::ContainerExited {
        return String::new();
    }
    let policy = status.annotations.get(labels::CONTAINER_TERMINATION_MESSAGE_POLICY);
    let to_logs = policy.is_some_and(|p| p == "FallbackToLogsOnError") && status.exit_code != 0 && status.reason != "ContainerCannotRun";
    let written = match file(status) {
        Some(path) => tail(Path::new(path), MESSAGE_BYTES_MAX).await,
        None => String::new(),
    };
    let own = if written.is_empty() && to_logs { log_end(&status.log_path).await } else { written };
    // What the runtime itself says (why it did not start) comes first.
    match (status.message.is_empty(), own.is_empty()) {
        (true, _) => own,
        (false, true) => status.message.clone(),
        (false, false) => format!("{}: {own}", status.message),
    }
}

/// The host's file behind the container's termination message path.
fn file(status: &ContainerStatus) -> Option<&str> {
    let path = status.annotations.get(labels::CONTAINER_TERMINATION_MESSAGE_PATH).filter(|p| !p.is_empty())?;
    status.mounts.iter().find(|m| m.container_path == *path).map(|m| m.host_path.as_str())
}

async fn log_end(path: &str) -> String {
    let text = tail(Path::new(path), LOG_READ_BYTES_MAX).await;
    let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let from = lines.len().saturating_sub(LOG_LINES_MAX);
    let joined: String = lines.iter().skip(from).flat_map(|line| [line, "\n"]).collect();
    let cut = joined.len().saturating_sub(LOG_BYTES_MAX);
    let cut = (cut..=joined.len()).find(|at| joined.is_char_boundary(*at)).unwrap_or(0);
    joined.get(cut..).unwrap_or_default().to_owned()
}

/// The last `max` bytes; nothing where there is no such file. What a container has put there may be a pipe, which would be waited for, or a link.
async fn tail(path: &Path, max: u64) -> String {
    let read = async {
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let mut file = tokio::fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).await?;
        let there = file.metadata().await?;
        if !there.is_file() {
            return Ok(String::new());
        }
        let size = there.len();
        file.seek(std::io::SeekFrom::Start(size.saturating_sub(max))).await?;
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    read.await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(dir: &Path, policy: &str, exit_code: i32) -> ContainerStatus {
        let host_path = dir.join("message").to_string_lossy().into_owned();
        ContainerStatus {
            state: ContainerState::ContainerExited.into(),
            exit_code,
            log_path: dir.join("log").to_string_lossy().into_owned(),
            mounts: vec![cri::Mount { container_path: "/dev/term".into(), host_path, ..cri::Mount::default() }],
            annotations: [
                (labels::CONTAINER_TERMINATION_MESSAGE_PATH.to_owned(), "/dev/term".to_owned()),
                (labels::CONTAINER_TERMINATION_MESSAGE_POLICY.to_owned(), policy.to_owned()),
            ]
            .into(),
            ..ContainerStatus::default()
        }
    }

    #[tokio::test]
    async fn a_pipe_or_a_link_is_no_message() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("message"), dir.path().join("secret"));
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let status = ended(dir.path(), "File", 1);
        let read = tokio::time::timeout(std::time::Duration::from_secs(10), message(&status));
        assert_eq!(read.await.expect("a thread waits for the pipe"), "");
        std::fs::write(&secret, "secret").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        assert_eq!(message(&ended(dir.path(), "File", 1)).await, "");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "x".repeat(10_000)).unwrap();
        assert_eq!(message(&ended(dir.path(), "File", 1)).await.len(), 4096);
    }

    #[tokio::test]
    async fn the_file_wins_and_the_log_is_only_for_errors() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("log"), "2026-01-01T00:00:00Z stderr F no luck\n").unwrap();
        let log = |code| ended(dir.path(), "FallbackToLogsOnError", code);
        assert_eq!(message(&log(1)).await, "no luck\n");
        assert_eq!(message(&log(0)).await, "");
        assert_eq!(message(&ended(dir.path(), "File", 1)).await, "");
        std::fs::write(dir.path().join("message"), "why").unwrap();
        assert_eq!(message(&log(1)).await, "why");
    }
}
