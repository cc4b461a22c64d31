//! Since when legacy tokens are followed -> a ConfigMap that says so: who cleans up unused ones goes by it (a stock controller manager).
//!
//! Source: `pkg/controlplane/controller/legacytokentracking`.

use std::sync::Arc;

use api::time::{Timestamp, rfc3339};
use apiserver::{engine::Engine, identity::User};

use crate::common::kept::{self, Data};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
const SINCE: &str = "since";

/// Looks after it for as long as the server runs.
pub async fn keep(engine: Arc<Engine>, user: User) {
    kept::keep(engine, user, (NAMESPACE, NAME), dated).await;
}

/// The day that stands there, if it is one; else today (UTC).
fn dated(found: &Data, now: Timestamp) -> Data {
    let mut data = found.clone();
    if !found.get(SINCE).is_some_and(|day| day.len() == DAY && api::time::parse(&format!("{day}T00:00:00Z")).is_some()) {
        data.insert(SINCE.to_owned(), rfc3339(now).chars().take(DAY).collect());
    }
    data
}

/// Characters of `2026-01-01`.
const DAY: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_day_stays_and_what_is_no_day_does_not() {
        let now = api::time::parse("2026-11-30T07:00:00Z").unwrap();
        let of = |since: &str| Data::from([(SINCE.to_owned(), since.to_owned()), ("other".to_owned(), "x".to_owned())]);
        assert_eq!(dated(&Data::new(), now)[SINCE], "2026-11-30");
        assert_eq!(dated(&of("2025-01-02"), now), of("2025-01-02"));
        for none in ["", "yesterday", "2025-13-02", "2025-01-02T00"] {
            assert_eq!(dated(&of(none), now), of("2026-11-30"), "{none}");
        }
    }
}
