//! Requests that one delegate has -> whether it may get one more. A server that hangs keeps what waits for it, and nothing else.

use std::{collections::HashMap, sync::Arc};

use super::Delegate;

/// Requests that a delegate may have at a time, streams apart: as many as upstream serves itself.
const REQUESTS_MAX: usize = 400;
/// Watches and other streams that it may have at a time; each is a connection.
const STREAMS_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct Load {
    requests: Shared,
    streams: Shared,
}

/// One sort, with what each user has of it.
#[derive(Default)]
struct Shared {
    all: usize,
    by_user: HashMap<String, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Request,
    Stream,
}

/// One request's place, until it is dropped.
pub(super) struct Place {
    delegate: Arc<Delegate>,
    sort: Sort,
    user: String,
}

impl Place {
    /// `None` where there are too many, or too many of this user's: nobody takes more than an eighth.
    pub fn take(delegate: &Arc<Delegate>, sort: Sort, user: &str) -> Option<Self> {
        let has_room = delegate.load.lock().of(sort).take(user, if sort == Sort::Stream { STREAMS_MAX } else { REQUESTS_MAX });
        has_room.then(|| Self { delegate: delegate.clone(), sort, user: user.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.delegate.load.lock().of(self.sort).give_back(&self.user);
    }
}

impl Load {
    fn of(&mut self, sort: Sort) -> &mut Shared {
        match sort {
            Sort::Request => &mut self.requests,
            Sort::Stream => &mut self.streams,
        }
    }
}

impl Shared {
    fn take(&mut self, user: &str, most: usize) -> bool {
        if self.all >= most || self.by_user.get(user).is_some_and(|own| *own >= most / 8) {
            return false;
        }
        self.all += 1;
        *self.by_user.entry(user.to_owned()).or_default() += 1;
        true
    }

    fn give_back(&mut self, user: &str) {
        self.all = self.all.saturating_sub(1);
        if let Some(own) = self.by_user.get_mut(user) {
            *own -= 1;
            if *own == 0 {
                self.by_user.remove(user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_more_than_an_eighth_and_all_is_given_back() {
        let mut shared = Shared::default();
        let taken = |shared: &mut Shared, user: &str| (0..10).filter(|_| shared.take(user, 16)).count();
        let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        assert_eq!(all.map(|user| taken(&mut shared, user)), [2, 2, 2, 2, 2, 2, 2, 2, 0]);
        shared.give_back("a");
        assert_eq!(taken(&mut shared, "i"), 1);
        shared.give_back("i");
        shared.give_back("a");
        all[1..8].iter().for_each(|user| (0..2).for_each(|_| shared.give_back(user)));
        assert_eq!((shared.all, shared.by_user.len()), (0, 0));
    }
}
