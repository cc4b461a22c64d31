//! What is seen of a Lease, and when -> what to ask for next: one candidate of an election. Pure: the time is handed in.
//!
//! Source: client-go `tools/leaderelection/leaderelection.go`, `resourcelock/leaselock.go`. Two differences: a candidate hears of the Lease by a watch
//! (it takes over when the Lease ends, not at the next of its looks), and a leader that reads another's name in it stops at once.
//!
//! **Why there are never two.** A leader leads until its deadline after the *beginning* of the last renewal that was acknowledged; a candidate
//! takes over no sooner than the Lease's duration after it has *seen* that very write, which is later than its beginning. Each measures with its own
//! monotonic clock, and nobody's wall clock is asked: as long as one clock does not run faster than the other by more than the duration is longer than
//! the deadline (half as much again, by default), the first has stopped before the second starts. Every write names the revision it was made from.

#[cfg(test)]
mod tests;

use std::time::Duration;

use api::time::{Timestamp, span};

/// Since some instant, on a clock that never goes back.
pub type Time = Duration;

/// How long a leader leads. Upstream's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Others wait for so long after they have seen the last renewal.
    pub lease_duration: Duration,
    /// A leader stops so long after the beginning of its last renewal.
    pub renew_deadline: Duration,
    /// Between renewals, and between attempts.
    pub retry_period: Duration,
}

/// What a Lease says (`LeaderElectionRecord`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Empty: nobody.
    pub holder: String,
    pub lease_seconds: i32,
    pub acquired: Option<Timestamp>,
    pub renewed: Option<Timestamp>,
    /// How often the holder changed.
    pub transitions: i32,
}

/// The Lease as of a revision; `None` where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub record: Option<Record>,
    pub rev: u64,
}

/// What the candidate wants of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Create(Record),
    /// Refused unless the Lease's last write was this revision.
    Update(Record, u64),
    /// As it is now, not as some cache has it.
    Read,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// At this revision.
    Written(u64),
    /// Somebody else wrote before.
    Conflict,
    Read(Seen),
    /// None in time, or one that leaves open what was done.
    Open,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Ask(Ask),
    /// Until then, or until something is seen.
    Wait(Option<Time>),
}

/// One candidate. See the module.
#[derive(Debug)]
pub struct Election {
    identity: String,
    timing: Timing,
    /// With when that was first seen.
    seen: Option<(Seen, Time)>,
    /// Whoever held a Lease that is gone may think that it leads until then.
    held_until: Time,
    /// When the last renewal that was acknowledged was begun: we lead.
    renewed: Option<Time>,
    not_before: Time,
    /// What we know is not what stands there.
    is_behind: bool,
}

impl Default for Timing {
    fn default() -> Self {
        let [lease_duration, renew_deadline, retry_period] = [15, 10, 2].map(Duration::from_secs);
        Self { lease_duration, renew_deadline, retry_period }
    }
}

impl Timing {
    /// # Errors
    /// They do not go together (`NewLeaderElector`).
    pub fn check(&self) -> Result<(), String> {
        if self.lease_duration <= self.renew_deadline {
            return Err("leaseDuration must be greater than renewDeadline".into());
        }
        if self.lease_duration.subsec_nanos() > 0 || self.lease_duration > Duration::from_secs(3600) {
            return Err("leaseDuration must be in whole seconds, an hour at most".into());
        }
        if self.renew_deadline <= self.retry_period.mul_f64(1.2) {
            return Err("renewDeadline must be greater than retryPeriod*JitterFactor".into());
        }
        if self.retry_period.is_zero() {
            return Err("retryPeriod must be greater than zero".into());
        }
        Ok(())
    }
}

impl Election {
    pub fn new(identity: String, timing: Timing) -> Self {
        Self { identity, timing, seen: None, held_until: Time::ZERO, renewed: None, not_before: Time::ZERO, is_behind: false }
    }

    /// Until when we lead, if nothing is acknowledged any more.
    pub fn leads_until(&self) -> Option<Time> {
        self.renewed.map(|begun| begun + self.timing.renew_deadline)
    }

    pub fn leads(&self, now: Time) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// Whom the Lease names; empty: nobody.
    pub fn holder(&self) -> &str {
        self.record().map_or("", |record| &record.holder)
    }

    /// Told by a watch, or read. What is older than what is known says nothing.
    pub fn saw(&mut self, seen: Seen, now: Time) {
        if let Some((known, _)) = &self.seen
            && (seen.rev < known.rev || seen == *known)
        {
            return;
        }
        if let Some(until) = self.held_by_another_until().filter(|_| seen.record.is_none()) {
            self.held_until = until;
        }
        if seen.record.as_ref().is_some_and(|record| record.holder != self.identity) {
            self.renewed = None;
        }
        self.is_behind = false;
        self.seen = Some((seen, now));
    }

    /// What to do now. `wall` is what the record says to people; nobody decides by it.
    pub fn next(&mut self, now: Time, wall: Timestamp) -> Next {
        if !self.leads(now) {
            self.renewed = None;
        }
        let until = if self.renewed.is_some() { self.leads_until() } else { None };
        if now < self.not_before {
            return Next::Wait(Some(until.map_or(self.not_before, |until| until.min(self.not_before))));
        }
        let Some((seen, _)) = &self.seen else { return Next::Wait(until) };
        if self.is_behind {
            return Next::Ask(Ask::Read);
        }
        if let Some(others) = self.held_by_another_until().filter(|others| now < *others) {
            return Next::Wait(Some(others));
        }
        let record = self.mine(seen.record.as_ref(), wall);
        Next::Ask(if seen.record.is_some() { Ask::Update(record, seen.rev) } else { Ask::Create(record) })
    }

    /// What came of `ask`, which was begun at `begun`. `jitter`, of 0 to 1, is how far attempts are spread.
    pub fn answered(&mut self, ask: Ask, begun: Time, now: Time, answer: Answer, jitter: f64) {
        if !self.leads(now) {
            self.renewed = None;
        }
        let spread = if self.renewed.is_some() { 1.0 } else { 1.0 + 0.2 * jitter.clamp(0.0, 1.0) };
        self.not_before = now + self.timing.retry_period.mul_f64(spread);
        match (answer, ask) {
            (Answer::Written(rev), Ask::Create(record) | Ask::Update(record, _)) => {
                self.is_behind = false;
                self.renewed = (record.holder == self.identity).then_some(begun);
                self.seen = Some((Seen { record: Some(record), rev }, now));
            }
            (Answer::Read(mut seen), _) => {
                self.is_behind = false;
                if let (None, Some((known, _))) = (&seen.record, &self.seen) {
                    // "Not found" names no revision.
                    seen.rev = known.rev;
                }
                self.saw(seen, now);
                // The watch may have told us of it before: then nothing is new.
                if self.renewed.is_some() || self.holder().is_empty() {
                    self.not_before = now;
                }
            }
            (Answer::Conflict, _) => {
                self.is_behind = true;
                if self.renewed.is_some() {
                    self.not_before = now;
                }
            }
            // A write may have been carried out all the same.
            (Answer::Written(_) | Answer::Open, _) => self.is_behind = true,
        }
    }

    /// We lead no longer, whatever the Lease says: it is taken again as anybody else would.
    pub fn resign(&mut self) {
        self.renewed = None;
    }

    /// What gives the Lease back (`ReleaseOnCancel`), once all that ran under it has ended; `None` where it is not ours.
    pub fn release(&self, wall: Timestamp) -> Option<Ask> {
        let (seen, _) = self.seen.as_ref()?;
        let record = seen.record.as_ref().filter(|record| record.holder == self.identity)?;
        let released =
            Record { holder: String::new(), lease_seconds: 1, acquired: Some(wall), renewed: Some(wall), transitions: record.transitions };
        Some(Ask::Update(released, seen.rev))
    }

    fn record(&self) -> Option<&Record> {
        self.seen.as_ref().and_then(|(seen, _)| seen.record.as_ref())
    }

    fn held_by_another_until(&self) -> Option<Time> {
        let (seen, at) = self.seen.as_ref()?;
        match &seen.record {
            Some(record) if record.holder.is_empty() || record.holder == self.identity => None,
            Some(record) => Some(*at + span(record.lease_seconds)),
            None => Some(self.held_until),
        }
    }

    fn mine(&self, old: Option<&Record>, wall: Timestamp) -> Record {
        let is_ours = old.is_some_and(|old| old.holder == self.identity);
        let transitions = old.map_or(0, |old| old.transitions.saturating_add(i32::from(!is_ours)));
        Record {
            holder: self.identity.clone(),
            lease_seconds: i32::try_from(self.timing.lease_duration.as_secs()).unwrap_or(i32::MAX),
            acquired: old.filter(|_| is_ours).and_then(|old| old.acquired).or(Some(wall)),
            renewed: Some(wall),
            transitions,
        }
    }
}
