//! What a disk did not do -> what that means for those who write, and for the store's health.

use std::{io, time::Duration};

use tokio::sync::watch;

use crate::Error;

/// While writes fail, how often it is looked whether they would go again.
pub(crate) const PROBE_EACH: Duration = Duration::from_secs(1);

/// Whether writes are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    Sound,
    /// They fail, and why: the disk is full, say. It heals by itself. Reads go on.
    Failing(String),
    /// A sync failed, and where: what was last written may be lost although it can be read, and no later sync would tell. Nothing is written
    /// any more; a new start reads what is on the disk.
    Ended(String),
}

/// Why a commit is not durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing of it is on the disk, nor will be.
    Unwritten(String),
    /// It may or may not be on the disk at the next start, unless a later one is carried out.
    Open(String),
    /// A sync failed: so it may or may not, and so may nothing come after it.
    Ended(String),
}

impl Trouble {
    pub fn unwritten(doing: &str, error: &io::Error) -> Self {
        Self::Unwritten(format!("{doing}: {error}"))
    }

    pub fn ended(doing: &str, error: &io::Error) -> Self {
        Self::Ended(format!("{doing}: {error}"))
    }

    /// What the author of the write is told.
    pub fn answer(self) -> Answer {
        match self {
            Self::Unwritten(why) => (Error::Unwritten, why),
            Self::Open(why) => (Error::Undecided, why),
            Self::Ended(why) => (Error::Undecided, format!("{why}; no more writes are taken")),
        }
    }
}

/// An error for each of several.
pub(crate) type Answer = (fn(String) -> Error, String);

/// The condition of a store, told only when it changes.
pub(crate) struct Health {
    now: Condition,
    told: watch::Sender<Condition>,
}

impl Health {
    pub fn new() -> (Self, watch::Receiver<Condition>) {
        let (told, receiver) = watch::channel(Condition::Sound);
        (Self { now: Condition::Sound, told }, receiver)
    }

    pub fn now(&self) -> &Condition {
        &self.now
    }

    /// Takes note of how the last write went.
    pub fn note(&mut self, done: Result<(), &Trouble>) {
        let next = match (done, &self.now) {
            // There is no way back from the end, and the first reason for failing stands until it is gone.
            (_, Condition::Ended(_)) | (Ok(()), Condition::Sound) => return,
            (Err(Trouble::Unwritten(_) | Trouble::Open(_)), Condition::Failing(_)) => return,
            (Ok(()), _) => Condition::Sound,
            (Err(Trouble::Unwritten(why) | Trouble::Open(why)), _) => Condition::Failing(why.clone()),
            (Err(Trouble::Ended(why)), _) => Condition::Ended(why.clone()),
        };
        match &next {
            Condition::Sound => tracing::info!("the disk takes writes again"),
            Condition::Failing(why) => tracing::error!(why, "the disk takes no writes: they are refused until it does, reads go on"),
            Condition::Ended(why) => tracing::error!(why, "a sync failed: no more writes are taken"),
        }
        self.now = next.clone();
        self.told.send_replace(next);
    }
}
