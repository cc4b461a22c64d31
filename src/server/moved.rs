//! Objects where earlier versions of this server kept them -> where upstream does: before anything is served.

use std::{sync::Arc, time::Duration};

use store::{Error, Expect, Op, Outcome, Range, Store, Txn};

/// Under `/registry/`: where they were, and are.
const MOVED: [(&str, &str); 2] = [("ingresses/", "ingress/"), ("apiservices/", "apiregistration.k8s.io/apiservices/")];

/// How often an older server's writes are looked for.
const AGAIN: Duration = Duration::from_secs(60);

/// Another server may do the same, or have made the object anew: then its own stays.
///
/// # Errors
/// The store's.
pub async fn settle(store: &dyn Store) -> Result<(), Error> {
    for (from, to) in MOVED.map(|(from, to)| (format!("/registry/{from}"), format!("/registry/{to}"))) {
        for entry in store.range(Range { prefix: from.clone(), ..Range::default() }).await?.entries {
            let old = entry.key.to_string();
            let new = format!("{to}{}", old.strip_prefix(&from).unwrap_or_default());
            let gone = Op::Delete { key: old.clone() };
            let expect = vec![(old.clone(), Expect::At(entry.rev)), (new.clone(), Expect::Absent)];
            let put = Op::Put { key: new, value: entry.value, ttl: None };
            if let Outcome::Refused { .. } = store.txn(Txn { expect, ops: vec![put, gone.clone()] }).await? {
                store.txn(Txn { expect: vec![(old, Expect::At(entry.rev))], ops: vec![gone] }).await?;
            }
        }
    }
    Ok(())
}

/// An older server that runs beside goes on writing where it always did: what it makes is found here too, a minute later at most.
pub async fn keep(store: Arc<dyn Store>) {
    loop {
        tokio::time::sleep(AGAIN).await;
        if let Err(error) = settle(&*store).await {
            tracing::warn!(%error, "objects that an older server wrote where they were kept once are not moved yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use store::memory::Memory;

    use super::*;

    #[tokio::test]
    async fn what_was_elsewhere_is_moved_and_what_is_there_stays() {
        let store = Memory::new();
        let put = |key: &str, value: &'static str| Op::Put { key: key.into(), value: value.into(), ttl: None };
        let ops = vec![
            put("/registry/ingresses/a/b", "moved"),
            put("/registry/ingresses/a/c", "old"),
            put("/registry/ingress/a/c", "new"),
            put("/registry/ingressclasses/x", "other"),
        ];
        store.txn(Txn { expect: Vec::new(), ops }).await.unwrap();
        for _ in 0..2 {
            settle(&store).await.unwrap();
            let all = store.range(Range { prefix: "/registry/".into(), ..Range::default() }).await.unwrap().entries;
            let all: Vec<_> = all.iter().map(|entry| (&*entry.key, &*entry.value)).collect();
            let expected = [("/registry/ingress/a/b", "moved"), ("/registry/ingress/a/c", "new"), ("/registry/ingressclasses/x", "other")];
            assert_eq!(all, expected.map(|(key, value)| (key, value.as_bytes())));
        }
    }
}
