//! A controller without its runner: keys that were woken are looked at and planned when asked, nothing is carried out. For tests of scale.

use std::{sync::Arc, time::Duration};

use api::steps;

use crate::{
    Controller, Wake,
    runner::{rest_of, wake_on},
};

/// Between the events that a test lets happen: a key that rests is woken by many of them and looks once.
const EVENT_EVERY: Duration = Duration::from_millis(1);

/// Steps of one look for each object of its weight, and for none at all: a controller that rests in proportion to its weight looks in proportion.
const STEPS_EACH: u64 = 8;
const STEPS_BESIDE: u64 = 2048;

pub struct Still<C> {
    this: C,
    wake: Wake,
}

impl<C: Controller> Still<C> {
    pub fn new(this: C) -> Self {
        let wake = wake_on("still", Arc::default());
        this.watches(&wake);
        Self { this, wake }
    }

    /// Runs what was woken; the steps that this costs each of the events which a key rests for. (Steps are what is counted: `api::steps`.)
    ///
    /// # Panics
    /// Where a look costs more than its weight says: the rest that is made of the weight would hide it.
    pub async fn run(&self) -> u64 {
        let mut cost = 0;
        while let Some(key) = self.wake.queue().next() {
            let before = steps::so_far();
            let world = self.this.observe(&key).await;
            let weight = world.as_ref().map_or(0, |world| self.this.weight(world));
            if let Some(world) = world {
                drop(self.this.plan(&world, &key));
            }
            let steps = steps::so_far() - before;
            let most = STEPS_EACH * weight as u64 + STEPS_BESIDE;
            assert!(weight == 0 || steps <= most, "{} takes {steps} steps for {key}, which weighs {weight}", self.this.name());
            let rest = rest_of(weight);
            let events = rest.max(EVENT_EVERY).as_micros() / EVENT_EVERY.as_micros();
            cost += steps / u64::try_from(events).unwrap_or(u64::MAX).max(1);
            self.wake.queue().finish(&key, Vec::new());
        }
        cost
    }
}
