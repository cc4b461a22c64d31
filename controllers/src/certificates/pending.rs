//! Claims of names as they change -> how many each user was given whose machines have not become nodes, without a look at all of them.

use std::{collections::HashMap, sync::Arc};

use api::k8s::api::core::v1::Secret;
use client::Cache;
use parking_lot::Mutex;

use super::names;

/// By user. Clones share it.
#[derive(Clone, Default)]
pub struct Pending(Arc<Mutex<HashMap<String, usize>>>);

impl Pending {
    pub fn of(claims: &Cache<Secret>) -> Self {
        let this = Self::default();
        let kept = this.clone();
        claims.on_change(move |old, new| kept.put(old.map(|claim| &**claim), new.map(|claim| &**claim)));
        this
    }

    pub fn count(&self, user: &str) -> usize {
        self.0.lock().get(user).copied().unwrap_or_default()
    }

    fn put(&self, old: Option<&Secret>, new: Option<&Secret>) {
        let mut counts = self.0.lock();
        if let Some(user) = new.and_then(names::pending) {
            *counts.entry(user).or_default() += 1;
        }
        if let Some(user) = old.and_then(names::pending)
            && let Some(count) = counts.get_mut(&user)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use api::k8s::api::core::v1::Node;
    use serde_json::json;

    use super::*;

    fn claim(by: &str) -> Secret {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        serde_json::from_value(json!({"metadata": {"name": "n"}, "data": {"by": BASE64_STANDARD.encode(by)}})).unwrap()
    }

    #[test]
    fn who_came_or_went_is_not_waited_for() {
        let pending = Pending::default();
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "uid": "u"}})).unwrap();
        pending.put(None, Some(&claim("a")));
        pending.put(None, Some(&claim("a")));
        pending.put(None, Some(&claim("b")));
        assert_eq!((pending.count("a"), pending.count("b"), pending.count("c")), (2, 1, 0));
        pending.put(Some(&claim("a")), Some(&names::come(&claim("a"), &node)));
        pending.put(Some(&claim("a")), Some(&claim("b")));
        assert_eq!((pending.count("a"), pending.count("b")), (0, 2));
        pending.put(Some(&names::come(&claim("a"), &node)), None);
        pending.put(Some(&claim("b")), None);
        pending.put(Some(&claim("b")), None);
        assert!(pending.0.lock().is_empty());
    }
}
