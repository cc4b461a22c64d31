//! The real binary on a disk that is full, fails, is damaged, or is cut off at each call of the first start.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use e2e::{Api, Options, Server, eventually, object, skiff};
use serde_json::{Value, json};
use tempfile::TempDir;

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
const SOON: Duration = Duration::from_secs(60);
/// Of the first start's calls on files each of so many ends it.
const KILLS: u64 = 40;

/// Calls on files that a test has a hand in.
struct Shim {
    dir: TempDir,
}

impl Shim {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/disk/shim.c");
        let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("shim.so")).arg(source).status();
        assert!(made.expect("cc, which also links Rust, is installed").success(), "shim.c does not compile");
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn env(&self, more: &[(&str, String)]) -> Vec<(String, String)> {
        let preload = [("LD_PRELOAD", self.path("shim.so").display().to_string())];
        preload.iter().chain(more).map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }
}

fn config_map(name: &str, bytes: usize) -> Value {
    object("v1", "ConfigMap", name, json!({"data": {"a": "x".repeat(bytes)}}))
}

async fn status(api: &Api, path: &str) -> (u16, String) {
    let reply = api.get(path).await;
    (reply.status, reply.text())
}

/// `skiff check` on the server's directory: whether it is sound, and what it says.
fn check(server: &Server) -> (bool, String) {
    let done = Command::new(skiff()).arg("check").arg("--data-dir").arg(server.data_dir()).output().expect("the binary runs");
    (done.status.success(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

/// The store on a file system of its own, which is small.
struct Small(PathBuf);

impl Small {
    fn mount(server: &Server, size: &str) -> Self {
        let (store, aside) = (server.data_dir().join("store"), server.scratch().join("store"));
        fs::rename(&store, &aside).expect("a folder of ours");
        fs::create_dir(&store).expect("a folder in our own folder");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "skiff-test"]).arg(&store).status();
        assert!(done.expect("mount is installed").success(), "only root can mount");
        let small = Self(store);
        for file in fs::read_dir(aside).expect("a folder of ours").flatten() {
            fs::copy(file.path(), small.0.join(file.file_name())).expect("there is room for it");
        }
        small
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).expect("a file in our own folder");
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).expect("it was made before");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // It goes once nobody has a file of it open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_says_so_and_heals() {
    let mut server = Server::start(Options::default()).await;
    assert!(server.stop().await.success());
    let small = Small::mount(&server, "24m");
    server.restart().await;
    let api = server.api();
    api.post(CONFIGMAPS, &config_map("before", 1000)).await.expect(201);
    small.fill();
    let mut kept = Vec::new();
    let refused = loop {
        let name = format!("full-{}", kept.len());
        let reply = api.post(CONFIGMAPS, &config_map(&name, 200_000)).await;
        if reply.status != 201 {
            break (name, reply.refused(500, "InternalError"));
        }
        kept.push(name);
        assert!(kept.len() < 100, "it does not get full");
    };
    let message = refused.1["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("nothing was written") && message.contains("No space left on device"), "{message}");
    assert_eq!(api.get(&format!("{CONFIGMAPS}/before")).await.status, 200, "reads go on");
    assert_eq!(api.get(&format!("{CONFIGMAPS}/{}", refused.0)).await.status, 404);
    let (code, text) = status(&api, "/readyz").await;
    assert!(code == 500 && text.contains("[-]store-writable failed"), "{code} {text}");
    let (code, text) = status(&api, "/readyz/store-writable").await;
    assert!(code == 500 && text.contains("No space left on device"), "{code} {text}");
    assert_eq!(status(&api, "/livez").await.0, 200);

    small.make_room();
    eventually("/readyz heals by itself", SOON, async || {
        let (code, text) = status(&api, "/readyz").await;
        if code == 200 { Ok(()) } else { Err(text) }
    })
    .await;
    api.post(CONFIGMAPS, &config_map("after", 200_000)).await.expect(201);
    server.kill_9();
    server.restart().await;
    let api = server.api();
    for name in kept.iter().map(String::as_str).chain(["before", "after"]) {
        api.get(&format!("{CONFIGMAPS}/{name}")).await.expect(200);
    }
    assert_eq!(api.get(&format!("{CONFIGMAPS}/{}", refused.0)).await.status, 404);
    server.assert_sound();
    drop(small);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_server_and_nothing_acknowledged_is_lost() {
    let shim = Shim::new();
    let fails = shim.path("fails");
    let env = shim.env(&[("DISK_SYNC_FAILS", fails.display().to_string())]);
    let mut server = Server::start(Options { env, ..Options::default() }).await;
    server.api().post(CONFIGMAPS, &config_map("before", 1000)).await.expect(201);
    fs::write(&fails, "").expect("a file in our own folder");
    let reply =
        server.api().send("POST", CONFIGMAPS, &[("content-type", "application/json")], config_map("lost", 10).to_string().into()).await;
    assert!(reply.is_err() || reply.as_ref().is_ok_and(|reply| matches!(reply.status, 503 | 504)), "{:?}", reply.map(|reply| reply.text()));
    assert!(!server.ended().await.success(), "it ends as what failed");
    assert!(server.log().contains("a sync failed: no more writes are taken"), "{}", server.log());
    fs::remove_file(&fails).expect("it was made before");
    server.restart().await;
    server.api().get(&format!("{CONFIGMAPS}/before")).await.expect(200);
    server.api().post(CONFIGMAPS, &config_map("after", 1000)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_can_be_killed_at_any_call_and_started_again() {
    let shim = Shim::new();
    let counts = shim.path("counts");
    let options = Options { env: shim.env(&[("DISK_COUNTS", counts.display().to_string())]), ..Options::default() };
    let server = Server::spawn("server", options);
    // Up to here each start makes the same calls; what follows are first objects, in more or fewer commits.
    eventually("its files are made", SOON, async || server.kubeconfig().exists().then_some(())).await;
    let calls = fs::read(&counts).ok().and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes).expect("the calls were counted");
    drop(server);
    assert!(calls > KILLS, "{calls} calls: the shim does not see them");
    for kill in 0..KILLS {
        let at = 1 + kill * calls / KILLS;
        let env = shim.env(&[("DISK_DIES_AT", at.to_string())]);
        let mut server = Server::spawn("server", Options { env, ..Options::default() });
        assert_eq!(server.ended().await.code(), None, "call {at} of {calls} kills it");
        if server.data_dir().join("skiff-data").exists() {
            let (sound, said) = check(&server);
            assert!(sound, "call {at} of {calls}: {said}");
        }
        server.options().env.clear();
        server.restart().await;
        server.api().post(CONFIGMAPS, &config_map("first", 10)).await.expect(201);
    }
}

/// Changes one bit, and gives what stood there.
fn flip(path: &Path, at: usize) -> Vec<u8> {
    let good = fs::read(path).expect("a file of the store");
    let mut bad = good.clone();
    bad[at] ^= 4;
    fs::write(path, &bad).expect("a file in our own folder");
    good
}

/// A server whose disk is damaged there does not start, says why, and leaves all as it is; so does the check.
async fn refused(server: &mut Server, path: &Path, at: usize) {
    let good = flip(path, at);
    let bad = fs::read(path).expect("a file of the store");
    let (sound, said) = check(server);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    assert!(!sound && said.contains(&name) && said.contains("left untouched"), "byte {at} of {name}: {said}");
    server.respawn();
    assert!(!server.ended().await.success(), "byte {at} of {name}");
    assert!(server.log().contains("left untouched"), "{}", server.log());
    assert!(fs::read(path).expect("a file of the store") == bad, "byte {at} of {name}: it was touched");
    fs::write(path, good).expect("a file in our own folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_refused_and_left_as_it_is() {
    let mut server = Server::start(Options::default()).await;
    // What is there so far goes into the tree, what comes stays in the log.
    assert!(server.stop().await.success());
    server.restart().await;
    for n in 0..20 {
        server.api().post(CONFIGMAPS, &config_map(&format!("kept-{n}"), 3000)).await.expect(201);
    }
    server.kill_9();
    let store = server.data_dir().join("store");
    let (log, tree) = (store.join("skiff.log"), store.join("skiff.redb"));
    let end = fs::metadata(&log).expect("the log is there").len();
    for at in [20, 4_000, 30_000, usize::try_from(end).expect("it is small") - 1] {
        refused(&mut server, &log, at).await;
    }
    let text = fs::read(&tree).expect("the tree is there");
    let at = text.windows(13).position(|part| part == b"cluster-admin").expect("a role of every cluster");
    refused(&mut server, &tree, at).await;
    let (sound, said) = check(&server);
    assert!(sound, "{said}");
    server.restart().await;
    for n in 0..20 {
        server.api().get(&format!("{CONFIGMAPS}/kept-{n}")).await.expect(200);
    }
}
