//! When less than was charged is believed of a quota.
//!
//! Admission charges first, and then the object is written: who counts in between finds less than is charged, and would let another one in.

use std::{collections::HashMap, time::Duration};

use api::{Key, k8s::api::core::v1::ResourceQuota};
use parking_lot::Mutex;
use reconcile::own_key;
use tokio::time::Instant;

use super::amounts;

/// Upstream's `--resource-quota-sync-period`.
pub const RESYNC: Duration = Duration::from_secs(300);
/// What was charged is there by then, or was refused by somebody else: what goes meanwhile is taken back afterwards...
pub const CALM: Duration = Duration::from_millis(300);
/// ... but no later than this, however much comes.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// By quota.
#[derive(Default)]
pub struct Looks(Mutex<HashMap<Key, Look>>);

#[derive(Clone, Copy, Default)]
struct Look {
    /// Since when there may be less than was charged.
    less: Option<Instant>,
    charged: Option<Instant>,
    /// When less was believed last.
    whole: Option<Instant>,
}

impl Looks {
    /// Less than was charged may be there.
    pub fn less(&self, key: &Key) {
        self.0.lock().entry(key.clone()).or_default().less.get_or_insert_with(Instant::now);
    }

    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    /// Notes what was charged. It may be for what never comes: another look believes in less once nothing more is charged for a while.
    pub fn changed(&self, old: &ResourceQuota, new: &ResourceQuota) {
        let used = |quota: &ResourceQuota| amounts(quota.status.as_ref().and_then(|status| status.used.as_ref()));
        let (before, now) = (used(old), used(new));
        if now.iter().any(|(name, amount)| before.get(name).is_some_and(|before| before < amount)) {
            self.0.lock().entry(own_key(new)).or_default().charged = Some(Instant::now());
        }
    }

    /// Whether this look believes in less, and after what wait another one may where this one does not. One of a new quota does, and one that is due.
    pub fn begin(&self, key: &Key, is_new: bool, now: Instant) -> (Option<Duration>, bool) {
        let mut looks = self.0.lock();
        let look = looks.entry(key.clone()).or_default();
        let is_due = look.whole.is_none_or(|whole| now.saturating_duration_since(whole) >= RESYNC);
        if is_due {
            look.less.get_or_insert(now);
        }
        let is_charged = look.charged > look.whole;
        let calm = look.charged.map_or(Duration::ZERO, |charged| (charged + CALM).saturating_duration_since(now));
        let patience = look.less.map_or(Duration::MAX, |since| (since + PATIENCE).saturating_duration_since(now));
        let wait = calm.min(patience);
        let is_less = look.less.is_some() || is_charged;
        let is_believed = is_new || is_less && wait.is_zero();
        if !is_believed {
            return (is_less.then_some(wait), false);
        }
        (look.less, look.whole) = (None, Some(now));
        (None, true)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn less_is_believed_once_nothing_was_charged_for_a_while() {
        let (looks, key) = (Looks::default(), Key::new("a", "q"));
        let begin = |is_new| looks.begin(&key, is_new, Instant::now());
        let charge = || {
            let of = |used: &str| -> ResourceQuota {
                serde_json::from_value(json!({"metadata": {"namespace": "a", "name": "q"}, "status": {"used": {"pods": used}}})).unwrap()
            };
            looks.changed(&of("1"), &of("2"));
        };
        assert_eq!(begin(false), (None, true), "the first look");
        assert_eq!(begin(false), (None, false), "nothing went");
        looks.less(&key);
        assert_eq!(begin(false), (None, true));
        charge();
        looks.less(&key);
        assert_eq!(begin(false), (Some(CALM), false), "what was charged may not be there yet");
        assert_eq!(begin(true), (None, true), "nothing is charged to one that is not told what it may have");
        charge();
        looks.less(&key);
        tokio::time::advance(CALM).await;
        assert_eq!(begin(false), (None, true));
        looks.less(&key);
        for _ in 0..20 {
            charge();
            tokio::time::advance(PATIENCE / 20).await;
        }
        assert_eq!(begin(false), (None, true), "however much comes");
        tokio::time::advance(RESYNC).await;
        assert_eq!(begin(false), (None, true), "everything is counted again in the end");
        tokio::time::advance(CALM).await;
        charge();
        assert_eq!(begin(false), (Some(CALM), false), "what was charged may never come");
        tokio::time::advance(CALM).await;
        assert_eq!((begin(false), begin(false)), ((None, true), (None, false)), "it is looked for once");
        for _ in 0..20 {
            charge();
            tokio::time::advance(PATIENCE / 20).await;
            assert!(!begin(false).1, "while more comes nothing says that there is less");
        }
        looks.forget(&key);
        assert!(looks.0.lock().is_empty());
    }
}
