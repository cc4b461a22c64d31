//! Names -> machines of a test's own: namespaces of this one, with a disk, a network and a process tree each (`deploy/machine.sh`); and the proof that
//! nothing of them is left.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::{
    images, node,
    process::{root, skiff, tools},
};

/// Network namespaces, links and cgroups of the tests' machines are named so: a world at a time has each name, by a lock of its own. As many as
/// this run side by side, none of them while a node is on this machine (the lock of [`node`]).
const WORLDS: [&str; 3] = ["skt1", "skt2", "skt3"];
/// As `machine.sh` has it: below it each world has its cgroup.
const MACHINES: &str = "/skiff-machines";
const SCRIPT: &str = "deploy/machine.sh";
const PROVISION: &str = "deploy/provision.sh";

/// Machines, and what connects them. Dropping it ends and removes them all; [`World::end`] proves it, too.
pub struct World {
    name: &'static str,
    dir: TempDir,
    before: BTreeSet<String>,
    is_abandoned: bool,
    /// Of this machine, and of the name.
    locked: Arc<[File; 2]>,
}

/// One machine, which may be off.
pub struct Machine<'w> {
    world: &'w World,
    name: String,
    /// As `machine.sh boot` takes them.
    links: Vec<String>,
}

/// Where a process of the tests listens, and from where it speaks.
#[derive(Clone, Debug)]
pub struct Net {
    world: &'static str,
    name: String,
    switch: String,
    address: String,
}

/// A command's end, and what it printed.
#[derive(Clone, Debug)]
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl World {
    /// Waits for its turn, and removes what a killed test left.
    #[expect(clippy::new_without_default, reason = "it does much")]
    pub fn new() -> Self {
        Self::with(node::lock_shared())
    }

    /// With nothing beside it: it may have a [`World::switch_here`].
    pub fn alone() -> Self {
        Self::with(node::lock())
    }

    fn with(machine: File) -> Self {
        let names = WORLDS.map(|name| (name, node::lock_file(name)));
        // Where all are taken, the first is waited for.
        let free = names.iter().position(|(_, file)| file.try_lock().is_ok());
        let (name, locked) = names.into_iter().nth(free.unwrap_or_default()).expect("one of them");
        if free.is_none() {
            locked.lock().expect("a file can be locked");
        }
        Self::named(name, Arc::new([machine, locked]))
    }

    fn named(name: &'static str, locked: Arc<[File; 2]>) -> Self {
        let dir = tempfile::Builder::new().prefix("skiff-world-").tempdir().expect("a temporary folder");
        let mut world = Self { name, dir, before: BTreeSet::new(), is_abandoned: false, locked };
        world.script(&["clear"]);
        world.before = traces(name);
        world
    }

    /// An L2 of its own; with an address the switch is a host in it.
    pub fn switch(&self, name: &str, address: Option<&str>) {
        let args: Vec<&str> = ["switch", name].into_iter().chain(address).collect();
        self.script(&args);
    }

    /// An L2 that this machine, and so the test itself, is in.
    pub fn switch_here(&self, name: &str, address: &str) {
        self.script(&["switch-here", name, address]);
    }

    /// A network of its own for processes that are started in it: see [`Net`]. It has an address in the switch, and no disk.
    pub fn net(&self, name: &str, switch: &str, address: &str) -> Net {
        self.script(&["router", name, &format!("{switch}={address}/24")]);
        Net { world: self.name, name: name.to_owned(), switch: switch.to_owned(), address: address.to_owned() }
    }

    /// Forwards between switches (`SWITCH=ADDRESS/LENGTH`); others are hidden from the switch of `nat=SWITCH`.
    pub fn router(&self, name: &str, links: &[&str]) {
        self.script(&[&["router", name], links].concat());
    }

    /// A line of shell in a router's network.
    pub fn at_router(&self, name: &str, line: &str) {
        let mut command = Command::new("ip");
        let said = Said::of(
            command.args(["netns", "exec", &format!("{}-{name}", self.name), "sh", "-c", line]).output().expect("iproute2 is there"),
        );
        assert!(said.ok, "at {name}: {line}:\n{}{}", said.out, said.err);
    }

    /// A machine that runs, with an empty disk. Links: `SWITCH=ADDRESS/LENGTH`, `via=ADDRESS`, `dns=ADDRESS`.
    pub fn machine(&self, name: &str, links: &[&str]) -> Machine<'_> {
        let machine = Machine { world: self, name: name.into(), links: links.iter().map(|link| (*link).to_owned()).collect() };
        machine.boot();
        machine
    }

    /// The archives of the tests' images, made once, in a directory that machines see, too.
    pub fn images(&self) -> PathBuf {
        let dir = self.dir.path().join("images");
        if !dir.is_dir() {
            images::make(&dir).unwrap_or_else(|error| panic!("no images: {error:#}"));
        }
        dir
    }

    /// What Vagrant copies into a machine: the binary, the script, the units. Machines see it.
    pub fn deployment(&self) -> PathBuf {
        let dir = self.dir.path().join("deploy");
        if !dir.is_dir() {
            fs::create_dir(&dir).expect("a folder in our own folder");
            for name in [PROVISION, "deploy/skiff-server.service", "deploy/skiff-agent.service"] {
                fs::copy(root().join(name), dir.join(Path::new(name).file_name().expect("a file"))).expect("a file of the checkout");
            }
            fs::copy(skiff(), dir.join("skiff")).expect("the binary can be copied");
        }
        dir
    }

    /// The machines that run.
    pub fn running(&self) -> Vec<String> {
        self.script(&["list"]).lines().map(str::to_owned).collect()
    }

    /// A folder for the test's own files, which machines see.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Ends and removes everything, of which nothing must be left.
    pub fn end(self) {
        self.script(&["clear"]);
        let left: Vec<String> = traces(self.name).difference(&self.before).cloned().chain(mounts_below(self.dir.path())).collect();
        assert!(left.is_empty(), "machine.sh clear left behind:\n{}", left.join("\n"));
    }

    /// Leaves everything as it is, as a test does that is killed: the next world of this name.
    pub fn abandon(mut self) -> Self {
        self.is_abandoned = true;
        Self::named(self.name, self.locked.clone())
    }

    fn script(&self, args: &[&str]) -> String {
        let said = self.try_script(args);
        assert!(said.ok, "machine.sh {}: {}{}", args.join(" "), said.out, said.err);
        said.out
    }

    fn try_script(&self, args: &[&str]) -> Said {
        Said::of(script(self.name, args).output().expect("a shell script starts"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.is_abandoned {
            return;
        }
        let said = self.try_script(&["clear"]);
        if !said.ok {
            eprintln!("machine.sh clear: {}", said.err);
        }
    }
}

impl Machine<'_> {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Switches it on again after [`Machine::off`]. Nothing is started on it: see [`Machine::start`].
    pub fn boot(&self) {
        let disk = self.disk().display().to_string();
        let links = self.links.iter().map(String::as_str);
        let args: Vec<&str> = ["boot", &self.name, &disk].into_iter().chain(links).collect();
        self.world.script(&args);
    }

    /// A power cut.
    pub fn off(&self) {
        self.world.script(&["off", &self.name]);
    }

    /// A new disk, as after a reinstallation. It is off.
    pub fn empty_disk(&self) {
        let _ = fs::remove_dir_all(self.disk());
        assert!(!self.disk().exists(), "{} is in use", self.disk().display());
    }

    /// Its root and its data directory, as the machine wrote them.
    pub fn disk(&self) -> PathBuf {
        self.world.dir.path().join("disks").join(&self.name)
    }

    pub fn cut(&self, switch: &str) {
        self.world.script(&["cut", &self.name, switch]);
    }

    pub fn heal(&self, switch: &str) {
        self.world.script(&["heal", &self.name, switch]);
    }

    /// `provision.sh` with these words, as Vagrant runs it. Panics with what it said.
    pub fn provision(&self, args: &[&str]) -> String {
        let said = self.try_provision(args);
        assert!(said.ok, "provision.sh {} on {}:\n{}{}\n{}", args.join(" "), self.name, said.out, said.err, self.log());
        said.out
    }

    pub fn try_provision(&self, args: &[&str]) -> Said {
        let script = self.world.deployment().join("provision.sh").display().to_string();
        self.try_run(&[&[script.as_str()], args].concat())
    }

    /// What systemd does after a boot; it does not wait for the node.
    pub fn start(&self) {
        self.provision(&["start", "--no-wait"]);
    }

    /// A line of shell; panics where it fails.
    pub fn sh(&self, line: &str) -> String {
        let said = self.try_sh(line);
        assert!(said.ok, "on {}: {line}:\n{}{}", self.name, said.out, said.err);
        said.out
    }

    pub fn try_sh(&self, line: &str) -> Said {
        self.try_run(&["sh", "-c", line])
    }

    /// `kubectl`, as the administrator, on a server's machine.
    pub fn kubectl(&self, line: &str) -> String {
        self.sh(&kubectl(line))
    }

    pub fn try_kubectl(&self, line: &str) -> Said {
        self.try_sh(&kubectl(line))
    }

    /// What goes on until the handle is dropped.
    pub fn background(&self, line: &str) -> Background {
        let out = self.world.dir.path().join(format!("background-{}", number()));
        let file = File::create(&out).expect("a file in our own folder");
        let errors = file.try_clone().expect("a file");
        let mut command = script(self.world.name, &["exec", &self.name, "sh", "-c", line]);
        let child = command.process_group(0).stdout(file).stderr(errors).spawn().expect("a shell script starts");
        Background { child, out }
    }

    /// The log of the skiff that provision.sh started, as far as it is worth telling.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.disk().join("root/var/log/skiff.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("--- the end of skiff's log on {}\n{}", self.name, lines[lines.len().saturating_sub(25)..].join("\n"))
    }

    fn try_run(&self, words: &[&str]) -> Said {
        self.world.try_script(&[&["exec", &self.name], words].concat())
    }
}

impl Net {
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Runs it there; the process is the program's own.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}-{}", self.world, self.name)]).arg(program);
        command
    }

    /// The cable is pulled: nothing comes in or goes out, and nobody is told.
    pub fn cut(&self) {
        self.cable("cut");
    }

    pub fn heal(&self) {
        self.cable("heal");
    }

    fn cable(&self, verb: &str) {
        let said = Said::of(script(self.world, &[verb, &self.name, &self.switch]).output().expect("a shell script starts"));
        assert!(said.ok, "machine.sh {verb} {}: {}", self.name, said.err);
    }
}

/// A command that goes on, in a machine.
pub struct Background {
    child: Child,
    out: PathBuf,
}

impl Background {
    /// All that it has printed.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // What runs in the machine is in the group of the one that entered it.
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.child.wait();
    }
}

impl Said {
    fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

fn script(world: &str, args: &[&str]) -> Command {
    let mut command = Command::new(root().join(SCRIPT));
    command.arg(world).args(args).stdin(Stdio::null()).env_remove("KUBECONFIG");
    command
}

fn kubectl(line: &str) -> String {
    format!("{} --kubeconfig /etc/skiff/kubeconfig {line}", tools().join("kubectl-1.32").display())
}

/// Never the same twice.
fn number() -> usize {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// What machines leave on this one, beside what nodes leave.
fn traces(world: &str) -> BTreeSet<String> {
    let named = |dir: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(world)).map(|name| format!("{dir}/{name}")).collect::<Vec<_>>()
    };
    let ours = node::traces().into_iter().filter(|trace| !is_of_others(world, trace));
    ours.chain(named("/run/netns")).chain(named("/sys/class/net")).collect()
}

/// A cgroup of another world, which comes and goes as it likes, or the one that all worlds share.
fn is_of_others(world: &str, trace: &str) -> bool {
    let below = trace.split_once(MACHINES).map(|(_, below)| below.trim_start_matches('/'));
    below.is_some_and(|below| below.split('/').next() != Some(world))
}

fn mounts_below(dir: &Path) -> Vec<String> {
    let path = dir.display().to_string();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter(|line| line.contains(&path)).map(|line| format!("mount {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_of_this_world_is_its_own() {
        for (trace, wanted) in [
            ("cgroup /sys/fs/cgroup/memory/skiff-machines/skt1", false),
            ("cgroup /sys/fs/cgroup/skiff-machines/skt1/a/init", false),
            ("cgroup /sys/fs/cgroup/skiff-machines/skiff/a/kubepods", true),
            ("cgroup /sys/fs/cgroup/skiff-machines/skt2/a", true),
            ("cgroup /sys/fs/cgroup/skiff-machines", true),
            ("cgroup /sys/fs/cgroup/kubepods/pod1", false),
            ("link skiff0", false),
        ] {
            assert_eq!(is_of_others("skt1", trace), wanted, "{trace}");
        }
    }
}
