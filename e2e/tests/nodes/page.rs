//! docs/nodes.md -> each of its commands, run in the page's order in machines of namespaces: a command that is not tried here fails the test.

use std::{fs, process::Command, time::Duration};

use e2e::{
    eventually,
    nodes::{Background, Machine, Said, World},
};

use crate::cluster::BOUND;

const PAGE: &str = "docs/nodes.md";
const CIDR: &str = "10.8.0.0/24";
/// Longer than a name is kept for a key.
const STAYS_BOUND: Duration = Duration::from_secs(240);
/// Of several servers; never of agents.
const KEYS_TOKEN: &str = "abcdef.0123456789abcdef";
const AGENTS_TOKEN: &str = "fedcba.0123456789abcdef";
/// Commands that no machine of namespaces can run, and why.
const ELSEWHERE: [(&str, &str); 1] = [("vagrant up", "a machine of namespaces has neither VirtualBox nor KVM; the page says so")];
/// Between backticks, with a space, and nothing that a user would type.
const NO_COMMANDS: [&str; 1] = ["K10<hash of the CA>::<id>.<secret>"];
const MEMBERS: [(&str, &str); 3] = [("a", "10.8.0.31"), ("b", "10.8.0.32"), ("c", "10.8.0.33")];

/// The commands that are not tried yet, as the page has them, with their lines.
struct Page {
    due: std::collections::VecDeque<(usize, String)>,
}

impl Page {
    fn read() -> Self {
        let text = fs::read_to_string(e2e::root().join(PAGE)).expect("the page is there");
        let due = commands(&text).into_iter().filter(|(_, command)| !ELSEWHERE.iter().any(|(other, _)| other == command));
        Self { due: due.collect() }
    }

    /// The next command of the page, which is the one that is expected, with the words in capitals filled in.
    fn next(&mut self, expected: &str, words: &[(&str, &str)]) -> String {
        let (line, command) =
            self.due.pop_front().unwrap_or_else(|| panic!("{PAGE} has no command any more, and {expected} is still to be tried"));
        assert_eq!(command, expected, "{PAGE}:{line}: this is the next command of the page, and another is tried here");
        let filled = words.iter().fold(command, |command, (word, value)| command.replace(word, value));
        let left =
            filled.split(|c: char| !c.is_ascii_alphanumeric()).find(|word| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase()));
        assert_eq!(left, None, "{PAGE}:{line}: {filled}");
        filled
    }

    fn end(self) {
        assert!(self.due.is_empty(), "{PAGE} has commands that are not tried: {:?}", self.due);
    }
}

/// Of all blocks each line, and of the text what stands between backticks, has a space and is no flag. In the page's order; comments are cut off.
fn commands(text: &str) -> Vec<(usize, String)> {
    let (mut all, mut in_block) = (Vec::new(), false);
    for (line, number) in text.lines().zip(1..) {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            let command = line.split(" #").next().unwrap_or_default().trim();
            all.extend((!command.is_empty() && !command.starts_with('#')).then(|| (number, command.to_owned())));
        } else {
            let spans = line.split('`').skip(1).step_by(2).map(str::to_owned);
            let typed = spans.filter(|span| span.contains(' ') && !span.starts_with('-') && !NO_COMMANDS.contains(&span.as_str()));
            all.extend(typed.map(|span| (number, span)));
        }
    }
    all
}

/// A bare machine with what the page says that it needs.
fn machine<'w>(world: &'w World, name: &str, ip: &str) -> Machine<'w> {
    let machine = world.machine(name, &[&format!("lan={ip}/24"), "via=10.8.0.1", "dns=10.8.0.1"]);
    install(world, &machine);
    machine
}

fn install(world: &World, machine: &Machine<'_>) {
    let kubectl = e2e::tools().join("kubectl-1.32").display().to_string();
    machine.sh(&format!(
        "install -m 755 {}/skiff /usr/local/bin/skiff && ln -sf {kubectl} /usr/local/bin/kubectl",
        world.deployment().display()
    ));
}

/// As a user types it.
fn typed(command: &str) -> String {
    format!("export PATH=/usr/local/bin:$PATH HOME=/root; unset KUBECONFIG; {command}")
}

fn try_run(machine: &Machine<'_>, command: &str) -> Said {
    machine.try_sh(&typed(command))
}

fn run(machine: &Machine<'_>, command: &str) -> String {
    let said = try_run(machine, command);
    assert!(said.ok, "on {}: {command}:\n{}{}", machine.name(), said.out, said.err);
    said.out
}

/// A command that stays in the foreground, once it has said this.
async fn stays(machine: &Machine<'_>, command: &str, until: &str) -> Background {
    let started = started(machine, command);
    says(machine, &started, until).await;
    started
}

fn started(machine: &Machine<'_>, command: &str) -> Background {
    machine.background(&typed(&format!("exec {command}")))
}

async fn says(machine: &Machine<'_>, started: &Background, until: &str) {
    eventually(&format!("on {}: {until}", machine.name()), STAYS_BOUND, async || {
        let said = started.said();
        if said.contains(until) { Ok(()) } else { Err(said) }
    })
    .await;
}

/// Until the line says this.
async fn becomes(machine: &Machine<'_>, line: &str, wanted: &str) {
    eventually(&format!("{line} says {wanted:?}"), BOUND, async || {
        let said = try_run(machine, line);
        if said.ok && said.out.contains(wanted) { Ok(()) } else { Err(format!("{}{}", said.out, said.err)) }
    })
    .await;
}

#[tokio::test]
async fn every_command_of_the_page_does_what_it_says() {
    let world = World::new();
    world.switch("lan", Some("10.8.0.1/24"));
    let mut page = Page::read();
    // The first test to be run on a clean copy copies the binary.
    let learner = machine(&world, "learner", "10.8.0.10");
    on_one_machine(&mut page, &learner);
    let server = machine(&world, "server", "10.8.0.11");
    let again = joining(&mut page, &world, &server, &learner).await;
    as_services(&mut page, &world).await;
    several_servers(&mut page, &world, &learner).await;
    page.end();
    again.joins_and_leaves(&server).await;
    drop((server, learner));
    world.end();
}

/// A machine that joins again under its name, which is kept for the key of a moment ago for two minutes: until then it is refused, and the page goes on.
struct Again<'w> {
    agent: Machine<'w>,
    joining: Background,
    leave: String,
}

impl Again<'_> {
    async fn joins_and_leaves(self, server: &Machine<'_>) {
        says(&self.agent, &self.joining, "node agent is Ready").await;
        becomes(server, "kubectl get node agent --no-headers", " Ready ").await;
        let said = run(&self.agent, &self.leave);
        assert!(said.contains("node agent deleted"), "{said}");
        drop(self.joining);
        assert!(!try_run(server, "kubectl get node agent").ok);
        self.agent.off();
        server.off();
    }
}

fn on_one_machine(page: &mut Page, learner: &Machine<'_>) {
    run(learner, "skiff up");
    run(learner, &page.next("skiff down", &[]));
    let said = run(learner, &page.next("skiff up --nodes 3", &[]));
    assert!(said.contains("node node-3 is Ready"), "{said}");
    let nodes = run(learner, &page.next("kubectl get nodes", &[]));
    assert_eq!(nodes.matches(" Ready ").count(), 3, "{nodes}");
    let said = run(learner, &page.next("skiff down --pods", &[]));
    assert!(said.contains("switched off"), "{said}");
    run(learner, &page.next("skiff reset", &[]));
}

async fn joining<'w>(page: &mut Page, world: &'w World, server: &Machine<'w>, spare: &Machine<'w>) -> Again<'w> {
    run(server, &page.next("skiff up", &[]));
    drop(stays(spare, &page.next("skiff server", &[]), "API ready").await);
    let join = run(server, &page.next("skiff token create --print-join-command", &[]));
    let token = join.trim().rsplit(' ').next().expect("a command has words").to_owned();
    assert!(join.contains("https://10.8.0.11:6443") && token.starts_with("K10"), "{join}");
    let words = [("SERVER", "10.8.0.11"), ("TOKEN", token.as_str())];

    let agent = machine(world, "agent", "10.8.0.12");
    run(&agent, &page.next("skiff check --server https://SERVER:6443 --token TOKEN", &words));
    let joined = stays(&agent, &page.next("skiff agent --server https://SERVER:6443 --token TOKEN", &words), "node agent is Ready").await;
    assert!(run(&agent, "skiff check --server https://10.8.0.11:6443").contains("10.8.0.11:6443 answers"));
    // Mentioned as what was just run.
    page.next("skiff check", &[]);
    let once = run(server, &page.next("skiff token create --one-time", &[]));
    run(server, &page.next("skiff token create --ttl 0", &[]));
    let id = once.rsplit("::").next().and_then(|rest| rest.split('.').next()).expect("a token has an id").to_owned();
    assert!(run(server, &page.next("skiff token list", &[])).contains(&id));
    run(server, &page.next("skiff token delete ID", &[("ID", &id)]));
    drop(stays(spare, &page.next("skiff server --agent-token abcdef.0123456789abcdef", &[]), "API ready").await);

    // A machine with a new disk.
    drop(joined);
    agent.off();
    agent.empty_disk();
    run(server, &page.next("kubectl delete node NAME", &[("NAME", "agent")]));
    agent.boot();
    install(world, &agent);
    let joining = started(&agent, &format!("sh -c 'until {}; do sleep 2; done'", join.trim()));
    // Mentioned before it is run.
    page.next("skiff up", &[]);
    let leave = page.next("skiff leave", &[]);
    from_elsewhere(page, world, server, &agent);
    Again { agent, joining, leave }
}

fn from_elsewhere(page: &mut Page, world: &World, server: &Machine<'_>, elsewhere: &Machine<'_>) {
    let copied = world.scratch().join("kubeconfig");
    let printed = run(server, &page.next("skiff kubeconfig", &[]));
    assert!(printed.contains("https://10.8.0.11:6443") && !printed.contains("127.0.0.1"), "{printed}");
    fs::write(&copied, printed).unwrap();
    let nodes = run(elsewhere, &format!("kubectl --kubeconfig {} get nodes", copied.display()));
    assert!(nodes.contains("server"), "{nodes}");
    // The host's name is one that every certificate has.
    elsewhere.sh("echo 10.8.0.11 server >>/etc/hosts");
    let printed = run(server, &page.next("skiff kubeconfig --server https://NAME:6443", &[("NAME", "server")]));
    fs::write(&copied, printed).unwrap();
    run(elsewhere, &format!("kubectl --kubeconfig {} get nodes", copied.display()));
    page.next("skiff up", &[]);
}

async fn as_services(page: &mut Page, world: &World) {
    let (server, agent) = (machine(world, "served", "10.8.0.21"), machine(world, "serving", "10.8.0.22"));
    // A checkout, after a build.
    for machine in [&server, &agent] {
        let deployed = world.deployment().display().to_string();
        machine.sh(&format!(
            "mkdir -p /srv/skiff/deploy /srv/skiff/target/release && cd /srv/skiff && rm /usr/local/bin/skiff && \
             cp {deployed}/provision.sh {deployed}/*.service deploy/ && ln -s {deployed}/skiff target/release/skiff"
        ));
    }
    let words = [("SERVER", "10.8.0.21"), ("CIDR", CIDR), ("TOKEN", AGENTS_TOKEN)];
    let of_server = page.next("deploy/provision.sh server --binary target/release/skiff --network CIDR --token TOKEN", &words);
    run(&server, &format!("cd /srv/skiff && {of_server}"));
    let of_agent = page
        .next("deploy/provision.sh agent --binary target/release/skiff --server https://SERVER:6443 --network CIDR --token TOKEN", &words);
    run(&agent, &format!("cd /srv/skiff && {of_agent}"));
    becomes(&server, "kubectl --kubeconfig /etc/skiff/kubeconfig get node serving --no-headers", " Ready ").await;
    server.off();
    agent.off();
}

async fn several_servers(page: &mut Page, world: &World, elsewhere: &Machine<'_>) {
    let machines = MEMBERS.map(|(name, ip)| machine(world, name, ip));
    let hosts: String = MEMBERS.iter().map(|(name, ip)| format!("{ip} {name}\n")).collect();
    let all: Vec<String> = MEMBERS.iter().map(|(name, _)| format!("{name}=http://{name}:2380")).collect();
    for machine in &machines {
        machine.sh(&format!("printf '{hosts}' >>/etc/hosts"));
    }
    let member = |machine: &Machine<'_>, name: &str| {
        machine.background(&typed(&format!(
            "exec etcd --name {name} --data-dir /srv/etcd --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://{name}:2379 \
             --listen-peer-urls http://0.0.0.0:2380 --initial-advertise-peer-urls http://{name}:2380 --initial-cluster {}",
            all.join(",")
        )))
    };
    let etcd: Vec<Background> = machines.iter().zip(MEMBERS).map(|(machine, (name, _))| member(machine, name)).collect();
    for machine in &machines {
        becomes(machine, "curl -sf -m 3 http://127.0.0.1:2379/health", "true").await;
    }
    let command = page
        .next("skiff server --etcd-servers http://a:2379,http://b:2379,http://c:2379 --token KEYS_TOKEN", &[("KEYS_TOKEN", KEYS_TOKEN)]);
    let mut servers = Vec::new();
    for machine in &machines {
        servers.push(stays(machine, &command, "API ready").await);
    }
    // Those that came later stand in the first one's kubeconfig as well.
    let [first, second, _] = &machines;
    let expected = page.next("kubectl --context skiff@ADDRESS get nodes", &[("ADDRESS", MEMBERS[1].1)]);
    let kubeconfig = page.next("skiff kubeconfig", &[]);
    let printed = eventually("the first server's kubeconfig knows all servers", Duration::from_secs(20), async || {
        let printed = run(first, &kubeconfig);
        if MEMBERS.iter().all(|(_, ip)| printed.contains(&format!("https://{ip}:6443"))) { Ok(printed) } else { Err(printed) }
    })
    .await;
    fs::write(world.scratch().join("all"), printed).unwrap();
    let asked = format!("KUBECONFIG={} {expected}", world.scratch().join("all").display());
    run(elsewhere, &asked);
    // The one that the context `skiff` is for is gone: the others are asked as before.
    first.off();
    becomes(elsewhere, &asked, "").await;
    assert!(run(second, "skiff kubeconfig").contains(&format!("server: https://{}:6443", MEMBERS[1].1)));
    drop((servers, etcd));
}

#[test]
fn commands_are_the_lines_of_blocks_and_what_is_typed() {
    let text =
        "a `skiff up` and `--node-ip` or `x`\n```\nskiff down   # why\n\n# nothing\nskiff up --nodes 3\n```\n`skiff a` then `skiff b c`\n";
    let all: Vec<(usize, String)> = commands(text);
    let wanted = [(1, "skiff up"), (3, "skiff down"), (6, "skiff up --nodes 3"), (8, "skiff a"), (8, "skiff b c")];
    assert_eq!(all, wanted.map(|(line, command)| (line, command.to_owned())));
}

#[test]
fn flags_of_the_page_are_ones_that_skiff_has() {
    let help = |verb: &[&str]| {
        let said = Command::new(e2e::skiff()).args(verb).arg("--help").output().expect("the binary runs");
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let verbs: [&[&str]; 7] = [&["up"], &["server"], &["agent"], &["check"], &["kubeconfig"], &["down"], &["token", "create"]];
    let all: String = verbs.iter().map(|verb| help(verb)).collect();
    let text = fs::read_to_string(e2e::root().join(PAGE)).expect("the page is there");
    let words = text.split(|c: char| c.is_whitespace() || "`,;:()=".contains(c)).filter(|word| word.len() > 2 && word.starts_with("--"));
    // The scripts' own.
    let of_skiff = words.filter(|flag| !["--binary", "--network", "--context"].contains(flag));
    let unknown: Vec<&str> = of_skiff.filter(|flag| !all.contains(&format!("{flag} ")) && !all.contains(&format!("{flag}\n"))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
