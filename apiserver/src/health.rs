//! Checks by name -> `/healthz`, `/livez`, `/readyz`, in upstream's words (`apiserver/pkg/server/healthz`).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use api::task::Group;
use async_trait::async_trait;
use http::{HeaderValue, StatusCode, header, request::Parts};
use parking_lot::RwLock;

use crate::{
    body::{Response, full},
    engine::Engine,
    identity::User,
    site::Site,
};

/// `Err` says why; the text is logged and shown at the check's own path, never in the list.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Serves the three health endpoints and a path for each check.
pub struct Health {
    checks: RwLock<Vec<(Where, String, Check)>>,
}

/// Which endpoints a check counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// `/healthz`, `/livez` and `/readyz`.
    Everywhere,
    /// `/readyz` alone: not ready is not dead.
    Ready,
}

/// Something that must have happened before the server is ready.
#[derive(Clone, Debug, Default)]
pub struct Latch(Arc<AtomicBool>);

impl Latch {
    pub fn done(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Health {
    /// With `ping`, and with `shutdown`, which fails readiness as soon as the group stops.
    pub fn new(group: &Group) -> Arc<Self> {
        let health = Self { checks: RwLock::default() };
        health.add(Where::Everywhere, "ping", Arc::new(|| Ok(())));
        let group = group.clone();
        let running = move || if group.is_stopping() { Err("process is shutting down".to_owned()) } else { Ok(()) };
        health.add(Where::Ready, "shutdown", Arc::new(running));
        Arc::new(health)
    }

    /// Registers a check. It is called for each request, so it answers from memory.
    pub fn add(&self, place: Where, name: &str, check: Check) {
        self.checks.write().push((place, name.to_owned(), check));
    }

    /// A check `poststarthook/<name>` that fails until the latch is done.
    pub fn hook(&self, name: &str) -> Latch {
        let latch = Latch::default();
        let seen = latch.0.clone();
        let check = move || if seen.load(Ordering::Acquire) { Ok(()) } else { Err("not finished".to_owned()) };
        self.add(Where::Everywhere, &format!("poststarthook/{name}"), Arc::new(check));
        latch
    }

    /// The reply to `path` with `query`; `None` where the path is not about health.
    pub fn answer(&self, path: &str, query: &str) -> Option<(StatusCode, String)> {
        let path = path.strip_prefix('/')?;
        let (endpoint, check) = path.split_once('/').unwrap_or((path, ""));
        let ready = match endpoint {
            "readyz" => true,
            "healthz" | "livez" => false,
            _ => return None,
        };
        let checks: Vec<(String, Check)> = {
            let all = self.checks.read();
            all.iter().filter(|(place, ..)| ready || *place == Where::Everywhere).map(|(_, n, c)| (n.clone(), c.clone())).collect()
        };
        if !check.is_empty() {
            let (_, check) = checks.iter().find(|(name, _)| name == check)?;
            return Some(match check() {
                Ok(()) => (StatusCode::OK, "ok".into()),
                Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
            });
        }
        Some(whole(endpoint, &checks, query))
    }
}

#[async_trait]
impl Site for Health {
    async fn serve(&self, _: &Arc<Engine>, request: &Parts, _: &User) -> Option<Response> {
        let (code, text) = self.answer(request.uri.path(), request.uri.query().unwrap_or_default())?;
        let mut response = Response::new(full(text));
        *response.status_mut() = code;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Some(response)
    }
}

fn whole(endpoint: &str, checks: &[(String, Check)], query: &str) -> (StatusCode, String) {
    let (verbose, mut excluded) = options(query);
    let mut unknown: Vec<String> = excluded.iter().filter(|e| !checks.iter().any(|(n, _)| n == *e)).cloned().collect();
    excluded.retain(|e| !unknown.contains(e));
    let (mut out, mut failed) = (String::new(), false);
    for (name, check) in checks {
        if excluded.contains(name) {
            out.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match check() {
            Ok(()) => out.push_str(&format!("[+]{name} ok\n")),
            Err(error) => {
                failed = true;
                tracing::info!(check = name, error, endpoint, "health check failed");
                out.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    if !unknown.is_empty() {
        unknown.sort();
        let names: Vec<String> = unknown.iter().map(|n| format!("{n:?}")).collect();
        out.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(",")));
    }
    match (failed, verbose) {
        (true, _) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{out}{endpoint} check failed\n")),
        (false, true) => (StatusCode::OK, format!("{out}{endpoint} check passed\n")),
        (false, false) => (StatusCode::OK, "ok".into()),
    }
}

/// `?verbose&exclude=a&exclude=b`
fn options(query: &str) -> (bool, Vec<String>) {
    let (mut verbose, mut excluded) = (false, Vec::new());
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "verbose" => verbose = true,
            "exclude" => excluded.push(value.replace("%2F", "/").replace("%2f", "/")),
            _ => {}
        }
    }
    (verbose, excluded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_read_as_upstream_writes_them() {
        let group = Group::new();
        let health = Health::new(&group);
        let latch = health.hook("rbac/bootstrap-roles");
        let ask = |path: &str, query: &str| health.answer(path, query).map(|(code, text)| (code.as_u16(), text));
        let bad = "[+]ping ok\n[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\nlivez check failed\n";
        assert_eq!(ask("/livez", ""), Some((500, bad.into())));
        let good = "[+]ping ok\n[+]poststarthook/rbac/bootstrap-roles excluded: ok\nlivez check passed\n";
        assert_eq!(ask("/livez", "verbose=true&exclude=poststarthook/rbac/bootstrap-roles"), Some((200, good.into())));
        assert_eq!(ask("/healthz/poststarthook/rbac/bootstrap-roles", ""), Some((500, "internal server error: not finished\n".into())));
        latch.done();
        assert_eq!(ask("/readyz", ""), Some((200, "ok".into())));
        assert_eq!(ask("/readyz/ping", ""), Some((200, "ok".into())));
        assert_eq!(ask("/readyz/none", ""), None);
        assert_eq!(ask("/version", ""), None);
        let warned = ask("/livez", "verbose&exclude=x").unwrap().1;
        assert!(warned.contains("warn: some health checks cannot be excluded: no matches for \"x\"\n"), "{warned}");
    }

    #[test]
    fn readiness_ends_before_life() {
        let group = Group::new();
        let health = Health::new(&group);
        group.stop();
        assert_eq!(health.answer("/readyz", "").unwrap().0, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(health.answer("/livez", "").unwrap().0, StatusCode::OK);
    }
}
