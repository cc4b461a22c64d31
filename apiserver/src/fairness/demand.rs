//! How many seats a level could use, over time. Source: apiserver `pkg/util/flowcontrol/fairqueuing/integrator.go`, `seatDemandStats` in
//! `apf_controller.go`. Nothing is governed by it here: seats move with each request. It is told, as upstream tells it.

use std::time::Duration;

/// `borrowingAdjustmentPeriod`. Where nothing happens a period lasts until something does, or somebody looks.
const PERIOD: Duration = Duration::from_secs(10);
/// `seatDemandSmoothingCoefficient`, for one period.
const SMOOTHING: f64 = 0.977;

/// Seats that are taken and waited for, weighted by time. Times are on the caller's clock.
#[derive(Debug)]
pub(crate) struct Demand {
    began: Duration,
    synced: Duration,
    /// Of the current period: sums over its seconds.
    area: f64,
    squares: f64,
    max: usize,
    told: Told,
}

/// Of the last period, in seats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Told {
    pub high_watermark: usize,
    pub average: f64,
    pub deviation: f64,
    pub smoothed: f64,
}

impl Demand {
    pub fn new(now: Duration) -> Self {
        Self { began: now, synced: now, area: 0.0, squares: 0.0, max: 0, told: Told::default() }
    }

    /// It was `seats` since the last call.
    #[expect(clippy::cast_precision_loss, reason = "seats are few")]
    pub fn over(&mut self, now: Duration, seats: usize) {
        let (passed, seats_now) = (now.saturating_sub(self.synced).as_secs_f64(), seats as f64);
        self.synced = self.synced.max(now);
        self.area += seats_now * passed;
        self.squares += seats_now * seats_now * passed;
        self.max = self.max.max(seats);
        let lasted = now.saturating_sub(self.began);
        if lasted >= PERIOD {
            self.end(lasted);
            (self.began, self.area, self.squares, self.max) = (now, 0.0, 0.0, seats);
        }
    }

    fn end(&mut self, lasted: Duration) {
        let seconds = lasted.as_secs_f64();
        let average = self.area / seconds;
        let deviation = (self.squares / seconds - average * average).max(0.0).sqrt();
        let envelope = average + deviation;
        let kept = SMOOTHING.powf(seconds / PERIOD.as_secs_f64());
        let smoothed = envelope.max(kept * self.told.smoothed + (1.0 - kept) * envelope);
        self.told = Told { high_watermark: self.max, average, deviation, smoothed };
    }

    pub fn told(&self) -> Told {
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_told_by_its_time() {
        let at = Duration::from_secs;
        let mut demand = Demand::new(at(100));
        demand.over(at(105), 4);
        demand.over(at(110), 0);
        let told = demand.told();
        assert_eq!((told.high_watermark, told.average, told.deviation, told.smoothed), (4, 2.0, 2.0, 4.0));
        // Half is forgotten in five minutes.
        for second in 0..30 {
            demand.over(at(120 + 10 * second), 0);
        }
        let told = demand.told();
        assert!((1.9..2.1).contains(&told.smoothed) && told.high_watermark == 0, "{told:?}");
    }

    #[test]
    fn a_clock_that_stands_still_is_no_fault() {
        let mut demand = Demand::new(Duration::ZERO);
        for seats in 0..100 {
            demand.over(Duration::ZERO, seats);
        }
        assert_eq!(demand.told(), Told::default());
    }
}
