//! `--eviction-hard` -> how much of memory, disk and process ids must be free before the node says that it is under pressure.

use std::{fmt, str::FromStr};

use api::quantity::Quantity;

/// Thresholds by signal; a signal that was not named has none.
///
/// Source: `parseThresholdStatement` in `pkg/kubelet/eviction/helpers.go`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictionHard {
    pub(crate) memory: Threshold,
    pub(crate) disk: Threshold,
    pub(crate) inodes: Threshold,
    pub(crate) pids: Threshold,
}

/// How much must be free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Threshold {
    #[default]
    None,
    Amount(i64),
    /// In thousandths of a percent of all there is.
    Share(i64),
}

impl EvictionHard {
    /// Upstream's, without those of the image file system: images lie on the node's own.
    pub const DEFAULT: &str = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%";
}

impl Default for EvictionHard {
    fn default() -> Self {
        Self::DEFAULT.parse().expect("the default is well-formed: the tests parse it")
    }
}

/// As it is read.
impl fmt::Display for EvictionHard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, disk, inodes, pids } = self;
        let all = [("memory.available", memory), ("nodefs.available", disk), ("nodefs.inodesFree", inodes), ("pid.available", pids)];
        let parts = all.iter().filter_map(|(signal, threshold)| match threshold {
            Threshold::None => None,
            Threshold::Amount(amount) => Some(format!("{signal}<{amount}")),
            Threshold::Share(share) => Some(format!("{signal}<{}.{:03}%", share / 1000, share % 1000)),
        });
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for EvictionHard {
    type Err = String;

    /// # Errors
    /// What upstream says of the first part that is not `signal<amount`, or whose signal is not looked at here.
    fn from_str(text: &str) -> Result<Self, String> {
        let none = Threshold::None;
        let mut thresholds = Self { memory: none, disk: none, inodes: none, pids: none };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (signal, amount) = part
                .split_once('<')
                .ok_or_else(|| format!("invalid eviction threshold syntax {part}, expected <signal><operator><value>"))?;
            let threshold = match signal {
                "memory.available" => &mut thresholds.memory,
                "nodefs.available" => &mut thresholds.disk,
                "nodefs.inodesFree" => &mut thresholds.inodes,
                "pid.available" => &mut thresholds.pids,
                _ => return Err(format!("unsupported eviction signal {signal}")),
            };
            *threshold = Threshold::parse(signal, amount)?;
        }
        Ok(thresholds)
    }
}

impl Threshold {
    fn parse(signal: &str, text: &str) -> Result<Self, String> {
        let Some(percent) = text.strip_suffix('%') else {
            let amount = Quantity::parse(text)?;
            if amount.is_negative() || amount.is_zero() {
                return Err(format!("eviction threshold {signal} must be positive: {text}"));
            }
            return Ok(Self::Amount(amount.units()));
        };
        match Quantity::parse(percent)?.milli() {
            // As upstream: both switch the signal off.
            0 | 100_000 => Ok(Self::None),
            share if share < 0 => Err(format!("eviction percentage threshold {signal} must be >= 0%: {text}")),
            share if share > 100_000 => Err(format!("eviction percentage threshold {signal} must be <= 100%: {text}")),
            share => Ok(Self::Share(share)),
        }
    }

    /// What must be free of `all`.
    pub(crate) fn of(self, all: i64) -> i64 {
        match self {
            Self::None => 0,
            Self::Amount(amount) => amount,
            // In this order nothing overflows.
            Self::Share(share) => all / 100_000 * share + all % 100_000 * share / 100_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_amounts_or_shares() {
        let hard = EvictionHard::default();
        assert_eq!(
            (hard.memory.of(1 << 40), hard.disk.of(1000), hard.inodes.of(i64::MAX), hard.pids.of(1000)),
            (100 << 20, 100, i64::MAX / 20, 0)
        );
        let one: EvictionHard = " nodefs.available<0.5%,pid.available<1k,".parse().unwrap();
        assert_eq!((one.memory.of(1000), one.disk.of(1000), one.inodes.of(1000), one.pids.of(0)), (0, 5, 0, 1000));
        assert_eq!("memory.available<100%,nodefs.available<0%".parse::<EvictionHard>(), "".parse());
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for text in
            [EvictionHard::DEFAULT, "", "memory.available<100Mi", "nodefs.available<0.5%,nodefs.inodesFree<12.345%,pid.available<1k"]
        {
            let hard: EvictionHard = text.parse().unwrap();
            assert_eq!(hard.to_string().parse(), Ok(hard), "{text}: {hard}");
        }
    }

    #[test]
    fn what_is_no_threshold_is_named() {
        for (text, why) in [
            ("nodefs.available", "invalid eviction threshold syntax nodefs.available, expected <signal><operator><value>"),
            ("imagefs.available<1%", "unsupported eviction signal imagefs.available"),
            ("nodefs.available<-1%", "eviction percentage threshold nodefs.available must be >= 0%: -1%"),
            ("nodefs.available<101%", "eviction percentage threshold nodefs.available must be <= 100%: 101%"),
            ("memory.available<0", "eviction threshold memory.available must be positive: 0"),
            ("memory.available<-1Gi", "eviction threshold memory.available must be positive: -1Gi"),
        ] {
            assert_eq!(text.parse::<EvictionHard>(), Err(why.to_owned()));
        }
        assert!("memory.available<x".parse::<EvictionHard>().is_err());
    }
}
