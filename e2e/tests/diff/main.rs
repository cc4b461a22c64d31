//! The recorded answers of a stock server, and ours to the same requests: what differs stands in a ledger, with its reason.
//!
//! Corpus, player and comparer are the shared data's (`../shared/diff`, see the README there). The ledger only shrinks: a difference that it does not
//! list fails the test, and so does a line of which nothing is left. `SKIFF_DIFF=update` writes it anew and keeps the reasons.

mod ledger;

use std::{fs, path::PathBuf, process::Command, time::Instant};

use e2e::{Backend, Options, Server};
use ledger::{Ledger, Verdict};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};

const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/diff");
const LEDGER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/diff/differences.txt");

/// What controllers do in their own time is another matter: what these groups see depends on when they look.
const CONTROLLERS: &str = "controllers";

/// So is how soon the garbage collector lets go of what is orphaned: these see it before or after.
const COLLECTED: [&str; 2] = ["delete-ReplicationController/again", "delete-ReplicationController/held-get"];

/// What the requests or the configuration name otherwise than when the answers were recorded: classes of volumes (two, so that nothing binds), the issuer.
const RENAMED: [(&str, &str); 3] =
    [("none-c", "none"), ("none-v", "none"), ("https://kubernetes.default.svc.cluster.local", "https://kubernetes.default.svc")];

#[test]
fn answers_differ_from_a_stock_servers_only_where_the_ledger_says() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // The corpus asks for addresses and ports of its own within these; the stock server had no resource metrics.
    let args = ["--service-cluster-ip-range", "10.96.0.0/16", "--advertise-address", "192.0.2.10", "--disable", "metrics-server"];
    let options = Options { backend: Backend::Memory, args: args.map(str::to_owned).to_vec(), ..Options::default() };
    let server = runtime.block_on(Server::start(options));
    let verdicts = compared(&server);
    server.assert_sound();
    let ledger = Ledger::read(&fs::read_to_string(LEDGER).unwrap_or_default());
    if std::env::var("SKIFF_DIFF").is_ok_and(|what| what == "update") {
        fs::write(LEDGER, ledger.renewed(&verdicts)).expect("the ledger can be written");
        return;
    }
    let mut wrong = ledger.judge(&verdicts);
    if !wrong.is_empty() {
        // A case in thousands meets a controller that was a moment earlier or later than the recorded one: what is wrong is so again.
        println!("once:\n{}", wrong.join("\n"));
        let again = ledger.judge(&compared(&server));
        wrong.retain(|line| again.contains(line));
    }
    assert!(wrong.is_empty(), "{} of {} cases or lines:\n{}", wrong.len(), verdicts.len(), wrong.join("\n"));
}

/// Plays the corpus, and asks the comparer.
fn compared(server: &Server) -> Vec<Verdict> {
    let (shared, scratch) = (PathBuf::from(SHARED), server.scratch());
    let [certificate, key] = administrator(server);
    let (mine, verdicts) = (scratch.join("mine.jsonl"), scratch.join("verdicts.jsonl"));
    let began = Instant::now();
    let mut run = Command::new("python3");
    run.arg(shared.join("run.py")).arg(format!("https://127.0.0.1:{}", server.port()));
    run.args([certificate, key, shared.join("corpus.jsonl"), mine.clone()]).args(["--without", CONTROLLERS]);
    finished(run, |code| code == Some(0));
    let answers = fs::read_to_string(&mine).expect("the player wrote the answers");
    let answers = RENAMED.iter().fold(answers, |text, (ours, stocks)| text.replace(ours, stocks));
    fs::write(&mine, answers).expect("a folder of our own");
    let mut compare = Command::new("python3");
    compare.arg(shared.join("cmp.py")).args([shared.join("stock.jsonl"), mine]).arg("--out").arg(&verdicts);
    // 1: something differs.
    let said = finished(compare, |code| matches!(code, Some(0 | 1)));
    println!("{}\nplayed in {:?}", said.lines().last().unwrap_or_default(), began.elapsed());
    let mut verdicts = ledger::verdicts(&fs::read_to_string(verdicts).expect("the comparer wrote its verdicts"));
    verdicts.retain(|verdict| verdict.class != "absent" || !verdict.id.starts_with(CONTROLLERS));
    verdicts.retain(|verdict| !COLLECTED.contains(&verdict.id.as_str()));
    verdicts
}

/// Certificate and key of a user of the name that the recorded one has: some answers tell it.
fn administrator(server: &Server) -> [PathBuf; 2] {
    let tls = |name: &str| fs::read_to_string(server.data_dir().join("tls").join(name)).expect("the server made its CA");
    let authority = KeyPair::from_pem(&tls("ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&tls("ca.crt"), authority).expect("a CA");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("a key");
    let signed = params.signed_by(&key, &issuer).expect("a certificate");
    [("admin.crt", signed.pem()), ("admin.key", key.serialize_pem())].map(|(name, pem)| {
        let path = server.scratch().join(name);
        fs::write(&path, pem).expect("a folder of our own");
        path
    })
}

fn finished(mut command: Command, is_right: impl Fn(Option<i32>) -> bool) -> String {
    // The shared data is nobody's to write to.
    let done = command.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("python3 starts");
    assert!(is_right(done.status.code()), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}
