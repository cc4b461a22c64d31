//! The line of the log that each request has, and the id that its reply has.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, atomic::Ordering},
};

use apiserver::non_resource::non_resource_routes;
use parking_lot::Mutex;
use tracing::{Dispatch, instrument::WithSubscriber};
use tracing_subscriber::fmt::MakeWriter;

use crate::kit::{PLACES, Reply, Room};

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Log {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

impl Log {
    fn at(&self, filter: &str) -> Dispatch {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        let lines = tracing_subscriber::fmt().with_ansi(false).with_env_filter(filter).with_writer(self.clone());
        Dispatch::new(lines.finish())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }

    /// The lines of requests.
    fn requests(&self) -> Vec<String> {
        self.text().lines().filter(|line| line.contains(" HTTP ")).map(str::to_owned).collect()
    }
}

fn id(reply: &Reply) -> String {
    reply.headers["audit-id"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_request_has_one_line_and_no_secret_is_in_it() {
    let broken = non_resource_routes(&["/broken"], async |_| panic!("no way on"));
    let room = Room::behind(store::memory::Memory::new(), Vec::new(), |front| front.mount(broken)).await;
    let token = &[("authorization", "Bearer token-s3cret")][..];
    // Method, path, query, headers; verb, user, code.
    let requests = [
        (("GET", PLACES, "access_token=s3cret&watch=0", &[][..]), ("list", "tester", 200)),
        (("GET", "/nowhere", "token=s3cret", &[]), ("get", "tester", 404)),
        (("GET", "/broken", "token=s3cret", &[]), ("get", "tester", 500)),
        (("DELETE", PLACES, "x=%73%33cret", &[("authorization", "Bearer s3cret")]), ("deletecollection", "", 401)),
        (("GET", "/apis/%zz", "s3cret", &[]), ("", "", 400)),
    ];
    for ((method, path, query, headers), (verb, user, code)) in requests {
        let log = Log::default();
        let reply = room.raw(method, &format!("{path}?{query}"), "", headers).with_subscriber(log.at("debug")).await;
        assert_eq!(reply.code, code, "{path}");
        let [line] = log.requests().try_into().unwrap_or_else(|lines| panic!("{path} has {lines:?}"));
        for part in [
            format!("verb={verb:?}"),
            format!("method={method}"),
            format!("path={path:?}"),
            format!("user={user:?}"),
            format!("code={code}"),
        ] {
            assert!(line.contains(&part), "{part} is not in {line}");
        }
        assert!(line.contains("elapsed=") && line.contains(&format!("audit_id={:?}", id(&reply))), "{line}");
        assert!(!log.text().contains("s3cret") && !log.text().contains("%73%33"), "{}", log.text());
    }
    // Whose name is a secret is named all the same: it is a name.
    let log = Log::default();
    assert_eq!(room.raw("GET", PLACES, "", token).with_subscriber(log.at("debug")).await.code, 200);
    assert!(log.requests()[0].contains("user=\"s3cret\""));
}

#[tokio::test]
async fn where_debug_is_off_nothing_is_told_and_replies_have_ids_all_the_same() {
    let (room, log) = (Room::new().await, Log::default());
    let mut ids = HashSet::new();
    for (path, authorization) in
        [(PLACES, "Bearer token-a"), ("/nowhere", "Bearer token-a"), (PLACES, "Bearer wrong"), (PLACES, "Bearer token-nobody")]
    {
        let reply = room.raw("GET", path, "", &[("authorization", authorization)]).with_subscriber(log.at("info")).await;
        assert!(ids.insert(id(&reply)), "each has its own");
    }
    // Who could not be told from nobody is the administrator's concern, whoever that was.
    let told = log.text();
    assert!(told.lines().all(|line| line.contains("Unable to authenticate the request")) && !told.contains("wrong"), "{told}");
    assert_eq!(room.refused.load(Ordering::SeqCst), 1);
    let given = room.raw("GET", PLACES, "", &[("audit-id", "from-the-client")]).await;
    assert_eq!(id(&given), "from-the-client");
}
