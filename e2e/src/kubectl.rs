//! A line as a user types it -> the real kubectl, its exit code and what it printed.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{Server, tools};

/// A command that has not ended by then has failed.
const COMMAND_BOUND: Duration = Duration::from_secs(120);

/// One version of kubectl, talking to one server, with a home (and so a cache) of its own.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: TempDir,
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Done {
    pub line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A command that goes on, such as `port-forward` and `logs --follow`; ended when dropped.
pub struct Background {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    line: String,
}

impl Kubectl {
    /// kubectl 1.20, as Debian 12 ships it; `deploy/setup.sh tools` unpacks it.
    pub fn old(server: &Server) -> Self {
        Self::new(tools().join("kubectl-1.20"), &server.kubeconfig())
    }

    /// kubectl 1.32, as Debian 13 ships it; `deploy/setup.sh tools` unpacks it.
    pub fn newer(server: &Server) -> Self {
        Self::new(tools().join("kubectl-1.32"), &server.kubeconfig())
    }

    pub fn new(program: PathBuf, kubeconfig: &Path) -> Self {
        assert!(program.is_file(), "{} is not there: run `deploy/setup.sh tools`", program.display());
        let home = tempfile::Builder::new().prefix("skiff-kubectl-").tempdir().expect("a temporary folder");
        Self { program, kubeconfig: kubeconfig.into(), home }
    }

    /// Runs `kubectl <line>`: words are separated by spaces, and held together by single or double quotes, as in a shell.
    pub async fn run(&self, line: &str) -> Done {
        self.run_with(line, "").await
    }

    /// The same, with `input` on standard input (`apply -f -`).
    pub async fn run_with(&self, line: &str, input: &str) -> Done {
        self.run_in(Path::new("."), line, input).await
    }

    /// The same, started in a folder, so that `-f file.yaml` and `cp` name files as a user would.
    pub async fn run_in(&self, dir: &Path, line: &str, input: &str) -> Done {
        let mut command = self.command(line);
        command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        let mut stdin = child.stdin.take().expect("it is piped");
        let work = async {
            // A command that reads no input may be gone already.
            let write = async {
                let _ = stdin.write_all(input.as_bytes()).await;
                drop(stdin);
            };
            tokio::join!(write, child.wait_with_output()).1
        };
        let ended = tokio::time::timeout(COMMAND_BOUND, work).await;
        let out = ended.unwrap_or_else(|_| panic!("kubectl {line}: not within {} s", COMMAND_BOUND.as_secs())).expect("it was started");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Done { line: line.into(), status: out.status, stdout: text(out.stdout), stderr: text(out.stderr) }
    }

    /// What it printed on standard output; panics unless it exited with 0.
    pub async fn ok(&self, line: &str) -> String {
        self.run(line).await.ok()
    }

    pub async fn ok_with(&self, line: &str, input: &str) -> String {
        self.run_with(line, input).await.ok()
    }

    /// What it printed on standard error; panics if it exited with 0.
    pub async fn fails(&self, line: &str) -> String {
        self.run(line).await.failed()
    }

    /// Starts a command that goes on. Its standard error is the test's own.
    pub fn background(&self, line: &str) -> Background {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Background { child, lines, line: line.into() }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words(line)).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.home.path());
        command.kill_on_drop(true);
        command
    }
}

impl Done {
    pub fn ok(self) -> String {
        assert!(self.status.success(), "kubectl {} failed ({}):\n{}{}", self.line, self.status, self.stdout, self.stderr);
        self.stdout
    }

    pub fn failed(self) -> String {
        assert!(!self.status.success(), "kubectl {} should have failed, but printed:\n{}", self.line, self.stdout);
        self.stderr
    }
}

impl Background {
    /// The next line of standard output; `None` at its end. Panics once `bound` has passed.
    pub async fn line(&mut self, bound: Duration) -> Option<String> {
        let next = tokio::time::timeout(bound, self.lines.next_line()).await;
        next.unwrap_or_else(|_| panic!("kubectl {}: no line within {} s", self.line, bound.as_secs())).expect("it prints text")
    }

    pub fn stdin(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().expect("it is piped")
    }

    pub async fn kill(mut self) {
        self.child.kill().await.expect("a running process can be killed");
    }
}

/// Splits as a shell does, with quotes but without variables and escapes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        assert_eq!(words("run a -- sh -c 'echo \"hi\" there'"), ["run", "a", "--", "sh", "-c", "echo \"hi\" there"]);
        assert_eq!(words("x --a=\"b c\"  ''"), ["x", "--a=b c", ""]);
    }
}
