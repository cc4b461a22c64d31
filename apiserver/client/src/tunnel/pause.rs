//! How a tunnel ended -> how long until the next try. After a server's end all its nodes come again: not in one moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Of a server that knows no tunnels, or has no right for us: it may be another one some day.
const REFUSED: Duration = Duration::from_secs(300);
/// What stood for so long was good.
const LASTED: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Pause(Option<Duration>);

impl Pause {
    /// With jitter: from half of it to one and a half.
    pub fn after(&mut self, lasted: Duration, is_refused: bool) -> Duration {
        let longer = self.0.filter(|_| lasted < LASTED).map_or(FIRST, |last| (last * 2).min(PAUSE_MAX));
        self.0 = Some(longer);
        (if is_refused { REFUSED } else { longer }).mul_f64(rand::random_range(0.5..1.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_differ_and_begin_anew() {
        let short = Duration::ZERO;
        let mut pause = Pause::default();
        let all: Vec<Duration> = (0..20).map(|_| pause.after(short, false)).collect();
        assert!(all[0] < FIRST * 2 && all[0] >= FIRST / 2);
        assert!(all[6..].iter().all(|one| *one >= PAUSE_MAX / 2 && *one < PAUSE_MAX * 2));
        assert!(all[6..].windows(2).any(|two| two[0] != two[1]), "jitter");
        assert!(pause.after(LASTED, false) < FIRST * 2, "a tunnel that stood begins anew");
        assert!(pause.after(short, true) >= REFUSED / 2);
    }
}
