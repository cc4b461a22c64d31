//! A line as a user types it -> what the terminal shows, and a failure that says which line it was.

use std::{
    fmt, fs,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use e2e::{Server, eventually, eventually_every};
use parking_lot::Mutex;
use regex::Regex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::runtime::Runtime;

use crate::aboard::Kubectl;

/// What a line may take, in seconds.
const LINE_SECONDS: &str = "120";
/// By when that which comes by itself must have come.
const BOUND: Duration = Duration::from_secs(90);
/// Between two times that a line is run: a kubectl takes a tenth of a core's second.
const AGAIN: Duration = Duration::from_millis(250);

/// A shell with one kubectl on its path, one kubeconfig, and a folder of manifests to stand in.
pub struct Terminal {
    pub kubectl: Kubectl,
    /// Of all terminals.
    pub server: Arc<Mutex<Server>>,
    runtime: Runtime,
    dir: PathBuf,
    path: String,
}

/// What a line showed: both its outputs, as a terminal has them.
#[derive(Clone)]
pub struct Shown {
    line: String,
    code: Option<i32>,
    text: String,
}

/// A line that goes on, such as `kubectl port-forward`; it ends with the value.
pub struct Ongoing<'a> {
    terminal: &'a Terminal,
    child: Child,
    line: String,
    output: PathBuf,
}

impl Terminal {
    /// The one of this number; `program` is what `kubectl` means there.
    pub fn new(server: &Arc<Mutex<Server>>, number: usize, kubectl: Kubectl, program: &Path) -> Self {
        let dir = server.lock().scratch().join(format!("terminal-{number}"));
        let bin = dir.join("bin");
        fs::create_dir_all(&bin).expect("a folder in our own folder");
        std::os::unix::fs::symlink(program, bin.join("kubectl")).expect("a link in our own folder");
        fs::copy(server.lock().kubeconfig(), dir.join("kubeconfig")).expect("the server wrote a kubeconfig");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { kubectl, server: server.clone(), runtime, dir, path }
    }

    /// Writes a file into the working folder.
    pub fn file(&self, name: &str, text: &str) {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().expect("it is in our folder")).expect("a folder in our own folder");
        fs::write(path, text).expect("a file in our own folder");
    }

    /// The line must exit with 0.
    #[track_caller]
    pub fn run(&self, line: &str) -> Shown {
        let shown = self.once(line);
        assert!(shown.code == Some(0), "it should have succeeded:\n{shown}");
        shown
    }

    /// The line must not exit with 0.
    #[track_caller]
    pub fn fails(&self, line: &str) -> Shown {
        let shown = self.once(line);
        assert!(shown.code != Some(0), "it should have failed:\n{shown}");
        shown
    }

    /// What the line prints, without the end of the line; there must be something.
    #[track_caller]
    pub fn value(&self, line: &str) -> String {
        let shown = self.run(line);
        assert!(!shown.text.trim().is_empty(), "it should have printed something:\n{shown}");
        shown.text.trim().to_owned()
    }

    /// Runs the line until it exits with 0 and shows what matches (a regular expression, `^` and `$` are a line's).
    #[track_caller]
    pub fn until(&self, line: &str, wanted: &str) -> Shown {
        self.looking(line, &format!("shows {wanted:?}"), |shown| shown.code == Some(0) && shown.has(wanted))
    }

    /// Runs the line until nothing in what it shows matches; it may fail then (`get` of what is gone does).
    #[track_caller]
    pub fn until_gone(&self, line: &str, unwanted: &str) -> Shown {
        self.looking(line, &format!("no longer shows {unwanted:?}"), |shown| !shown.has(unwanted))
    }

    /// Starts a line that goes on.
    pub fn start(&self, line: &str) -> Ongoing<'_> {
        self.begin(line, self.shell(line), Stdio::null())
    }

    /// Types the line at a real terminal of 33 rows and 101 columns; what is typed there afterwards is the program's.
    pub fn sit_down(&self, line: &str) -> Ongoing<'_> {
        let mut command = self.shell("exec script -qefc 'stty rows 33 cols 101; eval \"$TYPED\"' /dev/null");
        command.env("TYPED", line);
        self.begin(line, command, Stdio::piped())
    }

    fn begin(&self, line: &str, mut command: Command, input: Stdio) -> Ongoing<'_> {
        let output = self.dir.join(format!("ongoing-{:x}", rand_suffix()));
        let file = fs::File::create(&output).expect("a file in our own folder");
        command.process_group(0).stdin(input);
        command.stdout(file.try_clone().expect("a file can be shared")).stderr(file);
        let child = command.spawn().expect("there is a shell");
        Ongoing { terminal: self, child, line: line.into(), output }
    }

    /// SIGTERM to skiff, until it has ended.
    pub fn stop_skiff(&self) -> ExitStatus {
        self.runtime.block_on(self.server.lock().stop())
    }

    /// kill -9 to skiff.
    pub fn kill_skiff(&self) {
        self.server.lock().kill_9();
    }

    /// Starts skiff again where it was.
    pub fn start_skiff(&self) {
        self.runtime.block_on(self.server.lock().restart());
    }

    /// Runs a line once, whatever comes of it.
    pub fn once(&self, line: &str) -> Shown {
        let mut command = self.shell(&format!("{{ {line}\n}} 2>&1"));
        let out = command.stdin(Stdio::null()).output().expect("there is a shell");
        Shown { line: line.into(), code: out.status.code(), text: String::from_utf8_lossy(&out.stdout).into_owned() }
    }

    fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", LINE_SECONDS, "sh", "-c", line]).current_dir(&self.dir);
        command.env("PATH", &self.path).env("KUBECONFIG", self.dir.join("kubeconfig")).env("HOME", &self.dir).env("TERM", "dumb");
        // Files and nodes are this machine's: no proxy stands between.
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command
    }

    #[track_caller]
    fn looking(&self, line: &str, what: &str, enough: impl Fn(&Shown) -> bool) -> Shown {
        let look = async || {
            let shown = self.once(line);
            if enough(&shown) { Ok(shown) } else { Err(shown) }
        };
        self.runtime.block_on(eventually_every(AGAIN, &format!("{line:?} {what}"), BOUND, look))
    }
}

impl Shown {
    /// It holds this text.
    #[track_caller]
    pub fn expect(self, text: &str) -> Self {
        assert!(self.text.contains(text), "it should show {text:?}:\n{self}");
        self
    }

    /// It does not hold this text.
    #[track_caller]
    pub fn lacks(self, text: &str) -> Self {
        assert!(!self.text.contains(text), "it should not show {text:?}:\n{self}");
        self
    }

    /// A regular expression matches; `^` and `$` are a line's.
    #[track_caller]
    pub fn matches(self, pattern: &str) -> Self {
        assert!(self.has(pattern), "it should match {pattern:?}:\n{self}");
        self
    }

    /// It holds this text so many times.
    #[track_caller]
    pub fn times(self, count: usize, text: &str) -> Self {
        let found = self.text.matches(text).count();
        assert!(found == count, "it should show {text:?} {count} times, not {found}:\n{self}");
        self
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    fn has(&self, pattern: &str) -> bool {
        Regex::new(&format!("(?m){pattern}")).expect("a pattern of the walk").is_match(&self.text)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$ {}\n{}", self.line, self.text.trim_end())?;
        match self.code {
            Some(0) => Ok(()),
            Some(124) => write!(f, "\n[ended after {LINE_SECONDS} s]"),
            Some(code) => write!(f, "\n[exit {code}]"),
            None => write!(f, "\n[killed]"),
        }
    }
}

/// `eventually` prints what it saw last with `{:?}`.
impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

impl Ongoing<'_> {
    /// Waits until what it has shown so far matches.
    #[track_caller]
    pub fn until(&self, wanted: &str) -> Shown {
        let look = async || {
            let shown = self.so_far();
            if shown.has(wanted) { Ok(shown) } else { Err(shown) }
        };
        self.terminal.runtime.block_on(eventually(&format!("{:?} shows {wanted:?}", self.line), BOUND, look))
    }

    /// What a user types at a terminal that [`Terminal::sit_down`] gave.
    #[track_caller]
    pub fn types(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().expect("it was started with somebody at the keyboard");
        let typed = input.write_all(text.as_bytes()).and_then(|()| input.flush());
        typed.unwrap_or_else(|error| panic!("typing {text:?}: {error}\n{}", self.so_far()));
    }

    /// Waits until it ends by itself, with this exit code.
    #[track_caller]
    pub fn ends(&mut self, code: i32) -> Shown {
        let child = &mut self.child;
        let ended = self.terminal.runtime.block_on(eventually(&format!("{:?} ends", self.line), BOUND, async || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(fs::read_to_string(&self.output)),
        }));
        let shown = Shown { code: ended.code(), ..self.so_far() };
        assert!(shown.code == Some(code), "it should have ended with {code}:\n{shown}");
        shown
    }

    /// What it has shown so far.
    pub fn so_far(&self) -> Shown {
        Shown { line: self.line.clone(), code: Some(0), text: fs::read_to_string(&self.output).unwrap_or_default() }
    }
}

impl Drop for Ongoing<'_> {
    fn drop(&mut self) {
        // `timeout` is the head of its group; what it started goes with it. Gone already: that is what was wanted.
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::TERM));
        let _ = self.child.wait();
    }
}

fn rand_suffix() -> u32 {
    rand::random()
}
