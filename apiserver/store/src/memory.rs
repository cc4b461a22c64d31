//! The memory back end: nothing outlives the process. For tests, and for clusters that should leave no trace.

use std::{collections::HashMap, sync::Arc};

use crate::{
    Event,
    local::{Disk, Loaded, Local},
    trouble::Trouble,
};

/// A store that forgets.
pub type Memory = Local;

struct NoDisk;

impl Memory {
    pub fn new() -> Self {
        Self::start(Box::new(NoDisk), Loaded::default())
    }

    /// For simulations in one thread: writes are carried out by whoever asks, time is the runtime's. A task of the caller's must run
    /// [`Local::tend`] if keys with a time to live are to go. Must be called within a runtime.
    pub fn without_thread() -> Self {
        Self::inline(Box::new(NoDisk), Loaded::default())
    }
}

impl Disk for NoDisk {
    fn commit(&mut self, _: &[Arc<Vec<Event>>], _: &HashMap<Arc<str>, u64>) -> Result<(), Trouble> {
        Ok(())
    }
}
