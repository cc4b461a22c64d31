//! History older than five minutes is forgotten: by each server of its own store, of an etcd by one of all that are over it.
//!
//! Source: `staging/src/k8s.io/apiserver/pkg/storage/etcd3/compact.go`. All compare and swap the same key as upstream's servers do, which may be among
//! them: whoever finds it as it was five minutes ago compacts, the others take note of the revision at which somebody else did. Lists of what is
//! forgotten are refused from then on also where nothing has changed and they could be told: tokens of pages expire as elsewhere.

use std::{sync::Arc, time::Duration};

use apiserver::engine::Engine;
use store::{Error, Expect, Op, Outcome, Rev, Store, Txn};

/// Watches may resume from this far back, at least (upstream: `--etcd-compaction-interval`).
const COMPACT_EACH: Duration = Duration::from_secs(300);
/// Upstream's, and without a slash before it as there.
const KEY: &str = "compact_rev_key";

/// What one server remembers between two looks.
#[derive(Default)]
struct Compactor {
    /// The key's last write that we know; 0 is none.
    written: Rev,
    /// The store's revision at our last look.
    then: Rev,
}

/// Whose history it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// Of this server alone.
    Own,
    Shared,
}

pub async fn compact(engine: Arc<Engine>, store: Arc<dyn Store>, history: History) {
    let mut compactor = Compactor::default();
    loop {
        tokio::time::sleep(COMPACT_EACH).await;
        let then = compactor.then;
        let looked = match history {
            History::Own => compactor.look_alone(&*store).await,
            History::Shared => compactor.look(&*store).await,
        };
        match looked {
            Ok(compacted) => {
                engine.forget(then);
                tracing::debug!(compacted, then, "history is older");
            }
            Err(error) => tracing::warn!(%error, rev = then, "compaction failed; trying again in five minutes"),
        }
    }
}

impl Compactor {
    /// As [`Compactor::look`], where nobody else would.
    async fn look_alone(&mut self, store: &dyn Store) -> Result<Option<Rev>, Error> {
        let now = store.revision().await?;
        let then = std::mem::replace(&mut self.then, now);
        store.compact(then).await.map(|()| (then > 0).then_some(then))
    }

    /// The revision below which history was forgotten, if it was our turn.
    async fn look(&mut self, store: &dyn Store) -> Result<Option<Rev>, Error> {
        let expect = if self.written == 0 { Expect::Absent } else { Expect::At(self.written) };
        let put = Op::Put { key: KEY.into(), value: self.then.to_string().into(), ttl: None };
        match store.txn(Txn { expect: vec![(KEY.into(), expect)], ops: vec![put] }).await? {
            Outcome::Done(now) => {
                let then = std::mem::replace(&mut self.then, now);
                self.written = now;
                // A server that has just started knows of no revision that is old enough.
                if then == 0 {
                    return Ok(None);
                }
                store.compact(then).await.map(|()| Some(then))
            }
            Outcome::Refused { found, rev } => {
                (self.written, self.then) = (found.into_iter().flatten().next().map_or(0, |entry| entry.rev), rev);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use store::{Range, memory::Memory};

    use super::*;

    async fn write(store: &dyn Store) -> Rev {
        let put = Op::Put { key: "/registry/x".into(), value: "1".into(), ttl: None };
        let Ok(Outcome::Done(rev)) = store.txn(Txn { expect: vec![], ops: vec![put] }).await else { panic!("it is written") };
        rev
    }

    #[tokio::test]
    async fn what_is_ones_own_is_forgotten_by_oneself() {
        let (store, mut server) = (Memory::new(), Compactor::default());
        let first = write(&store).await;
        assert_eq!(server.look_alone(&store).await.unwrap(), None);
        write(&store).await;
        assert_eq!(server.look_alone(&store).await.unwrap(), Some(first));
        let then = write(&store).await - 1;
        assert_eq!(server.look_alone(&store).await.unwrap(), Some(then));
        assert!(matches!(store.range(Range { at: Some(first), ..Range::default() }).await, Err(Error::Compacted { .. })));
        assert!(store.range(Range { at: Some(then), ..Range::default() }).await.is_ok(), "five minutes are kept");
    }

    #[tokio::test]
    async fn of_many_servers_one_compacts_and_another_where_it_is_gone() {
        let store = Memory::new();
        let mut servers = [Compactor::default(), Compactor::default(), Compactor::default()];
        let mut compacted = Vec::new();
        // The first is killed after the fourth round.
        for round in 0..8 {
            write(&store).await;
            let mut by = Vec::new();
            for (n, server) in servers.iter_mut().enumerate().skip(usize::from(round >= 4)) {
                by.extend(server.look(&store).await.unwrap().map(|rev| (n, rev)));
            }
            compacted.push(by);
        }
        let who: Vec<Vec<usize>> = compacted.iter().map(|by| by.iter().map(|(n, _)| *n).collect()).collect();
        assert_eq!(who[0], [0usize; 0], "nobody knows what is old");
        assert_eq!(who[1..4], [[0], [0], [0]]);
        assert_eq!(who[4..], [[1], [1], [1], [1]]);
        let last = compacted[7][0].1;
        assert!(compacted[6][0].1 < last);
        assert!(matches!(store.range(Range { at: Some(last - 1), ..Range::default() }).await, Err(Error::Compacted { .. })));
        assert!(store.range(Range { at: Some(last), ..Range::default() }).await.is_ok(), "five minutes are kept");
    }
}
