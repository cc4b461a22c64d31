//! Process ids -> what they have used: CPU time, memory, bytes written.

use std::{
    collections::HashSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// A tick in `/proc/<pid>/stat`: Linux tells user programs 100 a second, whatever the kernel itself uses.
const TICK_MS: f64 = 10.0;

/// What some processes have used, together, since they started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu_ms: f64,
    pub rss_kib: u64,
    /// The most that was resident at once, since the last [`forget_peak`].
    pub peak_kib: u64,
    /// What is of the process alone: not the pages of its file.
    pub anonymous_kib: u64,
    /// Sent to the disk.
    pub written: u64,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub cpu_ms: f64,
    pub elapsed: Duration,
    pub written: u64,
    pub after: Usage,
}

/// A moment, and what was used until then.
pub struct Meter<'a> {
    pids: &'a [u32],
    begun: Instant,
    before: Usage,
}

impl<'a> Meter<'a> {
    pub fn start(pids: &'a [u32]) -> Self {
        Self { pids, before: usage(pids), begun: Instant::now() }
    }

    pub fn stop(&self) -> Spent {
        let elapsed = self.begun.elapsed();
        let after = usage(self.pids);
        Spent { cpu_ms: after.cpu_ms - self.before.cpu_ms, elapsed, written: after.written.saturating_sub(self.before.written), after }
    }
}

impl Spent {
    /// CPU milliseconds for each of `count`; none where no process was named.
    pub fn cpu_ms_each(&self, count: usize) -> f64 {
        self.cpu_ms / count as f64
    }

    pub fn per_second(&self, count: usize) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }
}

pub fn usage(pids: &[u32]) -> Usage {
    pids.iter().map(|pid| of(*pid)).fold(Usage::default(), |a, b| Usage {
        cpu_ms: a.cpu_ms + b.cpu_ms,
        rss_kib: a.rss_kib + b.rss_kib,
        peak_kib: a.peak_kib + b.peak_kib,
        anonymous_kib: a.anonymous_kib + b.anonymous_kib,
        written: a.written + b.written,
    })
}

/// CPU milliseconds so far of the processes whose command line names `folder`, but for `apart`: with all that they started, be it
/// there still or waited for.
pub fn cpu_ms_below(folder: &Path, apart: &[u32]) -> f64 {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let read = |pid: u32, name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stats: Vec<(u32, String)> = pids.map(|pid| (pid, String::from_utf8_lossy(&read(pid, "stat")).into_owned())).collect();
    let folder = folder.as_os_str().as_encoded_bytes();
    let names = |pid: u32| memchr::memmem::find(&read(pid, "cmdline"), folder).is_some();
    let mut family: HashSet<u32> = stats.iter().map(|(pid, _)| *pid).filter(|pid| !apart.contains(pid) && names(*pid)).collect();
    // Children may come before their parents.
    while let Some((child, _)) = stats.iter().find(|(pid, stat)| !family.contains(pid) && family.contains(&parent(stat))) {
        family.insert(*child);
    }
    let used = |(_, stat): &(u32, String)| cpu_ms(stat) + [16, 17].iter().map(|i| field(stat, *i) as f64 * TICK_MS).sum::<f64>();
    stats.iter().filter(|(pid, _)| family.contains(pid)).map(used).sum()
}

/// The peak begins anew at what is resident now, where the kernel lets us.
pub fn forget_peak(pids: &[u32]) {
    for pid in pids {
        // Another user's process keeps its peak: the row then reads one that is too high.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

fn of(pid: u32) -> Usage {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let number = |text: &str, key: &str| {
        let line = text.lines().find(|l| l.starts_with(key));
        line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let (stat, status, io) = (read("stat"), read("status"), read("io"));
    Usage {
        cpu_ms: cpu_ms(&stat),
        rss_kib: number(&status, "VmRSS:"),
        peak_kib: number(&status, "VmHWM:"),
        anonymous_kib: number(&status, "RssAnon:"),
        written: number(&io, "write_bytes:"),
    }
}

/// Without children: user and system time.
fn cpu_ms(stat: &str) -> f64 {
    (field(stat, 14) + field(stat, 15)) as f64 * TICK_MS
}

fn parent(stat: &str) -> u32 {
    u32::try_from(field(stat, 4)).unwrap_or(0)
}

/// proc(5): the state, after the name, is field 3.
fn field(stat: &str, number: usize) -> u64 {
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    fields.split(' ').nth(number - 3).and_then(|t| t.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_and_spaces_do_not_shift_the_fields() {
        let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert!((cpu_ms(stat) - 3000.0).abs() < f64::EPSILON);
        assert_eq!(parent(stat), 1);
    }

    #[test]
    fn what_a_process_started_counts_as_its_own() {
        let dir = tempfile::tempdir().unwrap();
        // Its child is waited for, and uses what shows in ticks.
        let script = "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; echo done; read line";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script, "sh"]).arg(dir.path()).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 4]).unwrap();
        assert!(cpu_ms_below(dir.path(), &[]) > 0.0);
        assert!(cpu_ms_below(dir.path(), &[child.id()]) < f64::EPSILON);
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn we_use_something_ourselves() {
        let own = usage(&[std::process::id()]);
        assert!(own.rss_kib > 0 && own.peak_kib >= own.rss_kib);
    }
}
