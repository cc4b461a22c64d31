//! A loop without its runner: keys that were woken are looked at and planned when asked, nothing is carried out. For tests of scale.

use std::{sync::Arc, time::Duration};

use api::steps;

use crate::{
    Loop, Wake,
    runner::{rest_of, wake_on},
};

/// Between the events that a test lets happen: a key that rests is woken by many of them and looks once.
const EVENT_EVERY: Duration = Duration::from_millis(1);

pub struct Still<L> {
    this: L,
    wake: Wake,
}

impl<L: Loop> Still<L> {
    pub fn new(this: L) -> Self {
        let wake = wake_on(Arc::default());
        this.wire(&wake);
        Self { this, wake }
    }

    /// Runs what was woken; the steps that this costs each of the events which a key rests for.
    pub async fn run(&self) -> u64 {
        let mut cost = 0;
        while let Some(key) = self.wake.queue().next() {
            let before = steps::so_far();
            let world = self.this.look(&key).await;
            let rest = world.as_ref().map_or(Duration::ZERO, |world| rest_of(self.this.weight(world)));
            if let Some(world) = world {
                drop(self.this.plan(&world, &key));
            }
            let steps = steps::so_far() - before;
            let events = rest.max(EVENT_EVERY).as_micros() / EVENT_EVERY.as_micros();
            cost += steps / u64::try_from(events).unwrap_or(u64::MAX).max(1);
            self.wake.queue().finish(&key, Vec::new());
        }
        cost
    }
}
