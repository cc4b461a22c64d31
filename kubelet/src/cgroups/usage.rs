//! A cgroup's counters -> what it uses. Sources: cAdvisor `container/libcontainer/handler.go` (`setCPUStats`, `setMemoryStats`), which upstream's node
//! agent asks.

use std::fs;

/// What a cgroup and those below it use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of all processors since the cgroup was made.
    pub cpu_nano: u64,
    pub memory: Memory,
    /// `None` where the kernel does not count them.
    pub processes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The page cache with it.
    pub usage_bytes: u64,
    /// What would have to be found elsewhere under pressure: usage without the page cache that was not touched lately.
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub limit_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
}

/// What no limit reads as in cgroup v1: all that is more than a machine can have (cAdvisor: `maxMemorySize`).
const UNLIMITED_BYTES: u64 = 1 << 62;

impl Memory {
    /// `stat` is `memory.stat`.
    pub(super) fn v1(usage_bytes: u64, stat: &str) -> Self {
        let all = |name: &str| entry(stat, name).unwrap_or_default();
        Self {
            usage_bytes,
            working_set_bytes: usage_bytes.saturating_sub(all("total_inactive_file")),
            rss_bytes: all("total_rss"),
            page_faults: all("total_pgfault"),
            major_page_faults: all("total_pgmajfault"),
            limit_bytes: entry(stat, "hierarchical_memory_limit").filter(|limit| *limit < UNLIMITED_BYTES),
            swap_bytes: entry(stat, "total_swap"),
        }
    }

    pub(super) fn v2(usage_bytes: u64, stat: &str, (limit_bytes, swap_bytes): (Option<u64>, Option<u64>)) -> Self {
        let all = |name: &str| entry(stat, name).unwrap_or_default();
        Self {
            usage_bytes,
            working_set_bytes: usage_bytes.saturating_sub(all("inactive_file")),
            rss_bytes: all("anon"),
            page_faults: all("pgfault"),
            major_page_faults: all("pgmajfault"),
            limit_bytes,
            swap_bytes,
        }
    }

    /// Of `/proc/meminfo`, where the root of the tree says nothing.
    pub(super) fn machine(stat: &str) -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let bytes = |name: &str| entry(&text, name).unwrap_or_default() << 10;
        let usage = bytes("MemTotal:").saturating_sub(bytes("MemFree:"));
        let swap = bytes("SwapTotal:").saturating_sub(bytes("SwapFree:"));
        Self::v2(usage, stat, (None, Some(swap)))
    }
}

/// The number behind a word at the start of a line.
pub(super) fn entry(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', '\t']))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_set_is_without_what_can_go() {
        let stat = "cache 100\nrss 1\ntotal_cache 5000\ntotal_rss 3000\ntotal_inactive_file 4000\ntotal_pgfault 9\ntotal_pgmajfault 2\n\
            hierarchical_memory_limit 9223372036854771712\ntotal_swap 0\n";
        let memory = Memory::v1(8000, stat);
        let seen = (memory.working_set_bytes, memory.rss_bytes, memory.page_faults, memory.major_page_faults);
        assert_eq!((seen, memory.limit_bytes, memory.swap_bytes), ((4000, 3000, 9, 2), None, Some(0)));
        let limited = stat.replace("9223372036854771712", "1048576");
        assert_eq!(Memory::v1(100, &limited).limit_bytes, Some(1 << 20));
        assert_eq!(Memory::v1(100, &limited).working_set_bytes, 0, "the counters are not of one moment");
    }
}
