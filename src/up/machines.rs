//! `skiff up --nodes N` -> nodes 2 to N: on this machine, each with a network, a disk, processes and a containerd of its own (`deploy/machine.sh`).
//!
//! They join as any machine does, by a token, over a bridge that the machine itself is on. Agents are started anew with us, their pods go on without them.

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use api::{bootstrap::Token, task::Group};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

use crate::{
    flags::{Given, NODES_MAX, UpFlags},
    machine::{dirs::Dirs, progress::Progress},
};

const SCRIPT: &str = include_str!("../../deploy/machine.sh");
/// What network namespaces and links begin with.
const WORLD: &str = "skiffn";
const SWITCH: &str = "lan";
/// The machine's own address among its nodes; theirs are those after it.
const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 193, 1);
const LENGTH: u8 = 24;
/// How long the nodes may take, together.
const READY_BOUND: Duration = Duration::from_secs(180);
/// Between an agent's end and its next start.
const RESTART_DELAY: Duration = Duration::from_secs(2);
/// Of the pods of one machine, until it is switched off.
const STOP_BOUND: Duration = Duration::from_secs(60);

/// The machines of one data directory.
#[derive(Clone, Debug)]
pub struct Machines {
    dir: PathBuf,
}

impl Machines {
    /// Where they are kept, if there are any.
    pub fn of(dirs: &Dirs) -> Option<Self> {
        let dir = place(dirs);
        dir.is_dir().then_some(Self { dir })
    }

    /// What the first node and its control plane must be told so that others reach them: the address on the bridge, unless flags say another, and
    /// the token.
    ///
    /// # Errors
    /// Something that machines need is missing here, or the bridge cannot be made.
    pub async fn prepare(flags: &mut UpFlags) -> anyhow::Result<Self> {
        for (program, package) in [("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")] {
            if api::programs::find(program).is_none() {
                bail!("--nodes needs {program}: apt-get install -y {package}");
            }
        }
        let dirs = Dirs::new(flags.server.common.data_dir.as_deref());
        dirs.claim()?;
        let dir = place(&dirs);
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
        let machines = Self { dir };
        machines.write("machine.sh", SCRIPT, 0o700)?;
        machines.run(&["switch-here", SWITCH, &format!("{FIRST}/{LENGTH}"), "nat"]).await?;
        flags.agent.node_ip.get_or_insert(FIRST.into());
        flags.server.advertise_address.get_or_insert(FIRST.into());
        let token = machines.token()?;
        flags.server.agent_token.get_or_insert_with(|| Given::from(&token));
        Ok(machines)
    }

    /// Boots those that do not run, starts their agents, and waits until all nodes are Ready. Agents go on, and end, with `group`.
    ///
    /// # Errors
    /// A machine that does not boot, a node that does not come up in time.
    pub async fn start(&self, flags: &UpFlags, group: &Group, progress: &Progress) -> anyhow::Result<()> {
        let server = flags.server.advertise_address.unwrap_or(FIRST.into());
        let server = SocketAddr::new(server, flags.server.secure_port);
        let given = flags.server.agent_token.as_ref().map(|given| given.token("--agent-token")).transpose()?;
        let token = given.as_ref().map(Token::text).unwrap_or_default();
        let running = self.run(&["list"]).await?;
        for name in running.lines().filter(|name| !(2..=flags.nodes).any(|n| *name == name_of(n))) {
            self.run(&["off", name]).await?;
        }
        let (ready, mut all) = mpsc::channel(NODES_MAX as usize);
        for number in 2..=flags.nodes {
            let name = name_of(number);
            self.lay_out(&name, &agent_config(flags, server, &token, number)?)?;
            if !running.lines().any(|line| line == name) {
                self.boot(number).await?;
                progress.step(&format!("machine {name} ({})", address_of(number)));
            }
            group.spawn_loop("agent of another machine", keep(self.clone(), name, ready.clone(), group.clone()));
        }
        drop(ready);
        let wait = async {
            for _ in 2..=flags.nodes {
                let Some(name) = all.recv().await else { bail!("skiff was told to end") };
                progress.step(&format!("node {name} is Ready"));
            }
            Ok(())
        };
        match tokio::time::timeout(READY_BOUND, wait).await {
            Ok(done) => done,
            Err(_) => bail!("not all nodes are Ready after {} s; see {}/*/agent.log", READY_BOUND.as_secs(), self.dir.display()),
        }
    }

    /// Stops the pods on all of them, and switches them off.
    ///
    /// # Errors
    /// What the script said.
    pub async fn stop(&self) -> anyhow::Result<()> {
        for name in self.run(&["list"]).await?.lines() {
            let pods = self.command(&["exec", name, "skiff", "down", "--pods"]).output();
            match tokio::time::timeout(STOP_BOUND, pods).await {
                Ok(Ok(done)) if done.status.success() => {}
                // It goes the hard way then.
                other => tracing::warn!(machine = name, ?other, "failed to stop pods"),
            }
        }
        self.remove().await
    }

    /// Ends and removes all but their disks.
    ///
    /// # Errors
    /// What the script said.
    pub async fn remove(&self) -> anyhow::Result<()> {
        self.run(&["clear"]).await.map(drop)
    }

    async fn boot(&self, number: u32) -> anyhow::Result<()> {
        let (name, link) = (name_of(number), format!("{SWITCH}={}/{LENGTH}", address_of(number)));
        let (disk, via) = (self.disk(&name).display().to_string(), format!("via={FIRST}"));
        let dns: Vec<String> = name_servers().into_iter().map(|ip| format!("dns={ip}")).collect();
        let args: Vec<&str> = ["boot", &name, &disk, &link, &via].into_iter().chain(dns.iter().map(String::as_str)).collect();
        self.run(&args).await.map(drop)
    }

    /// What is on the disk before the first boot: ourselves, what the agent is told, and the images that the first node has.
    fn lay_out(&self, name: &str, config: &str) -> anyhow::Result<()> {
        let root = self.disk(name).join("root");
        let binary = root.join("usr/local/bin/skiff");
        let copied = fs::create_dir_all(root.join("usr/local/bin")).and_then(|()| {
            let beside = binary.with_extension("new");
            share(&std::env::current_exe()?, &beside)?;
            fs::rename(&beside, &binary)
        });
        copied.with_context(|| format!("writing {}", binary.display()))?;
        fs::create_dir_all(root.join("etc/skiff"))?;
        self.write(&format!("{name}/root/etc/skiff/config.yaml"), config, 0o600)?;
        let images = self.disk(name).join("skiff/agent/images");
        for archive in fs::read_dir(self.dir.with_file_name("agent").join("images")).into_iter().flatten().flatten() {
            let copy = images.join(archive.file_name());
            if archive.path().extension().is_some_and(|end| end == "tar") && !copy.exists() {
                fs::create_dir_all(&images).and_then(|()| share(&archive.path(), &copy)).with_context(|| copy.display().to_string())?;
            }
        }
        Ok(())
    }

    /// Made once: whoever has it may join.
    fn token(&self) -> anyhow::Result<Token> {
        if let Some(token) = fs::read_to_string(self.dir.join("token")).ok().and_then(|text| Token::parse(text.trim())) {
            return Ok(token);
        }
        let token = crate::token::random();
        self.write("token", &token.text(), 0o600)?;
        Ok(token)
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> anyhow::Result<()> {
        let (path, beside) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside);
        let written = written.and_then(|mut file| file.write_all(text.as_bytes())).and_then(|()| fs::rename(&beside, &path));
        written.with_context(|| format!("writing {}", path.display()))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.dir.join("machine.sh"));
        command.arg(WORLD).args(args).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let done = self.command(args).output().await.context("running machine.sh")?;
        if !done.status.success() {
            bail!("{}", String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn agent(&self, name: &str) -> anyhow::Result<Child> {
        let log = self.disk(name).join("agent.log");
        let log = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log).with_context(|| log.display().to_string())?;
        // One that a killed skiff left is ended first.
        let line = "skiff down >/dev/null 2>&1; exec skiff agent --config /etc/skiff/config.yaml";
        let mut command = self.command(&["exec", name, "sh", "-c", line]);
        // With its own group it can be asked to end, whatever stands between.
        command.process_group(0).stdout(Stdio::piped()).stderr(log);
        command.spawn().with_context(|| format!("starting the agent of {name}"))
    }
}

/// An agent that ends is started again, until we end.
async fn keep(machines: Machines, name: String, ready: mpsc::Sender<String>, group: Group) {
    loop {
        match machines.agent(&name) {
            Ok(mut child) => tokio::select! {
                () = group.stopping() => {
                    end(&child);
                    let _ = child.wait().await;
                    return;
                }
                () = follow(&mut child, &name, &ready) => tracing::error!(node = name, "an agent has ended; starting it again"),
            },
            Err(error) => tracing::error!(node = name, error = format!("{error:#}"), "an agent does not start"),
        }
        tokio::select! {
            () = group.stopping() => return,
            () = tokio::time::sleep(RESTART_DELAY) => {}
        }
    }
}

/// Until it ends.
async fn follow(child: &mut Child, name: &str, ready: &mpsc::Sender<String>) {
    if let Some(out) = child.stdout.take() {
        let mut lines = BufReader::new(out).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.ends_with(" is Ready") {
                // Nobody waits any more: it was started again.
                let _ = ready.try_send(name.to_owned());
            }
        }
    }
    let _ = child.wait().await;
}

fn end(child: &Child) {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // Gone already: that is what was wanted.
    let _ = group.map(|group| kill_process_group(group, Signal::TERM));
}

/// The `--config` of an agent: what is of its machine, and what was said of all nodes.
fn agent_config(flags: &UpFlags, server: SocketAddr, token: &str, number: u32) -> anyhow::Result<String> {
    let mut config = flags.agent.of_all_nodes();
    let own = [
        ("server", format!("https://{server}")),
        ("token", token.to_owned()),
        ("node-ip", address_of(number).to_string()),
        ("node-name", name_of(number)),
        ("log-level", flags.server.common.log_level.clone()),
    ];
    config.extend(own.map(|(key, value)| (key.to_owned(), value.into())));
    serde_yaml::to_string(&config).context("the configuration of an agent")
}

fn place(dirs: &Dirs) -> PathBuf {
    dirs.root.join("nodes")
}

fn name_of(number: u32) -> String {
    format!("node-{number}")
}

fn address_of(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST) + number - 1)
}

/// The same file, or a copy where that cannot be.
fn share(from: &Path, to: &Path) -> std::io::Result<()> {
    let _ = fs::remove_file(to);
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

/// Those of this machine that others reach, too: systemd-resolved's own is on the loopback.
fn name_servers() -> Vec<IpAddr> {
    let of = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse::<IpAddr>().ok());
        servers.filter(|ip| !ip.is_loopback()).collect::<Vec<_>>()
    };
    let servers = of("/etc/resolv.conf");
    if servers.is_empty() { of("/run/systemd/resolve/resolv.conf") } else { servers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_names_and_addresses_of_one_network() {
        assert_eq!((name_of(2).as_str(), address_of(2).to_string().as_str()), ("node-2", "192.168.193.2"));
        assert_eq!(address_of(NODES_MAX).octets()[..3], FIRST.octets()[..3]);
    }

    #[test]
    fn the_token_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let machines = Machines { dir: dir.path().to_owned() };
        let token = machines.token().unwrap();
        assert_eq!(machines.token().unwrap().text(), token.text());
        let other = Machines { dir: tempfile::tempdir().unwrap().keep() };
        assert_ne!(other.token().unwrap().text(), token.text());
        fs::remove_dir_all(&other.dir).unwrap();
        assert_eq!(fs::metadata(dir.path().join("token")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_disk_is_laid_out_before_its_machine_boots() {
        let dir = tempfile::tempdir().unwrap();
        let (images, nodes) = (dir.path().join("agent/images"), dir.path().join("nodes"));
        fs::create_dir_all(&images).unwrap();
        fs::create_dir_all(&nodes).unwrap();
        fs::write(images.join("a.tar"), "a").unwrap();
        fs::write(images.join("notes"), "n").unwrap();
        let machines = Machines { dir: nodes.clone() };
        machines.lay_out("node-2", "server: x\n").unwrap();
        machines.lay_out("node-2", "server: y\n").unwrap();
        let disk = nodes.join("node-2");
        assert_eq!(fs::read_to_string(disk.join("root/etc/skiff/config.yaml")).unwrap(), "server: y\n");
        assert!(disk.join("root/usr/local/bin/skiff").is_file());
        assert_eq!(fs::read_dir(disk.join("skiff/agent/images")).unwrap().count(), 1);
    }
}
