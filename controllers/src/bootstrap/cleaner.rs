//! A bootstrap token whose time is over -> deleted, and one of one use after it was used. Source: `pkg/controller/bootstrap/tokencleaner.go`.

use std::{sync::Arc, time::Duration};

use api::{
    Key,
    bootstrap::{Life, life},
    k8s::api::core::v1::Secret,
    time::{Timestamp, parse},
};
use client::{Cache, Caches, kube};
use kube::ResourceExt;
use reconcile::{Action, Controller, Plan, Wake};

use super::{USED_AT, data, tokens};
use crate::{
    Config,
    lasted::{Ages, Lasted},
};

/// The machine that used the token still reads its certificate with it.
const READ_WITHIN: Duration = Duration::from_secs(60);

pub struct TokenCleaner {
    tokens: Cache<Secret>,
    ages: Ages,
}

pub struct World {
    token: Arc<Secret>,
    lasted: Lasted,
}

impl TokenCleaner {
    pub fn new(caches: &Caches, config: &Config) -> Self {
        Self { tokens: tokens(caches), ages: Ages::new(&config.clock) }
    }
}

impl Controller for TokenCleaner {
    type World = World;

    fn name(&self) -> &'static str {
        "token-cleaner-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.tokens);
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let token = self.tokens.get(key);
        let used = token.as_ref().and_then(|token| parse(used_at(token)?));
        let lasted = self.ages.of(key, used, Timestamp::now());
        Some(World { token: token?, lasted })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        let now = world.lasted.now;
        // A time that cannot be read is over.
        let used = used_at(&world.token).map(|at| parse(at).map_or(Duration::ZERO, |at| world.lasted.left(at, READ_WITHIN)));
        let life = match life(&data(&world.token), now) {
            Life::Over => Some(Duration::ZERO),
            Life::Until(end) => Some(Duration::try_from(end.duration_since(now)).unwrap_or_default()),
            Life::Lasting => None,
        };
        match used.into_iter().chain(life).min() {
            None => Plan::rest(),
            Some(Duration::ZERO) => Plan::act(vec![Action::delete(&*world.token)]),
            Some(left) => Plan::rest().again_in(left),
        }
    }
}

fn used_at(token: &Secret) -> Option<&str> {
    token.annotations().get(USED_AT).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::tests::token;

    fn plan(token: Arc<Secret>) -> Plan {
        let caches = Caches::unfollowed(kube::Client::new(tower::service_fn(nobody), "default"), api::task::Group::new());
        let now = parse("2026-01-01T00:00:00Z").unwrap();
        TokenCleaner::new(&caches, &Config::of_tests()).plan(&World { token, lasted: Lasted::at(now) }, &Key::default())
    }

    #[tokio::test]
    async fn tokens_go_when_their_time_is_over() {
        assert_eq!(plan(token("abcdef", &[])), Plan::rest());
        assert_eq!(plan(token("abcdef", &[("expiration", "2026-01-01T00:01:00Z")])), Plan::rest().again_in(Duration::from_secs(60)));
        for over in ["2026-01-01T00:00:00Z", "soon"] {
            assert!(matches!(plan(token("abcdef", &[("expiration", over)])).actions[..], [Action::Delete { .. }]), "{over}");
        }
    }

    #[tokio::test]
    async fn used_tokens_go_once_the_certificate_is_read() {
        let used = |at: &str, more: &[(&str, &str)]| {
            let mut token = (*token("abcdef", more)).clone();
            token.annotations_mut().insert(USED_AT.into(), at.into());
            plan(Arc::new(token))
        };
        assert_eq!(used("2025-12-31T23:59:30Z", &[]), Plan::rest().again_in(Duration::from_secs(30)));
        assert_eq!(used("2025-12-31T23:59:30Z", &[("expiration", "2026-01-01T00:00:10Z")]), Plan::rest().again_in(Duration::from_secs(10)));
        assert!(matches!(used("2025-12-31T23:59:00Z", &[]).actions[..], [Action::Delete { .. }]));
        assert!(matches!(used("x", &[]).actions[..], [Action::Delete { .. }]));
        assert_eq!(used("2026-01-01T00:00:10Z", &[]), Plan::rest().again_in(READ_WITHIN), "another server's clock");
        assert_eq!(
            used("2999-01-01T00:00:00Z", &[]),
            Plan::rest().again_in(READ_WITHIN),
            "the clock was set back: it has its minute, and no more"
        );
    }

    async fn nobody(_: http::Request<kube::client::Body>) -> Result<http::Response<kube::client::Body>, std::convert::Infallible> {
        Ok(http::Response::new(kube::client::Body::empty()))
    }
}
