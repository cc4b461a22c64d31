//! A block device -> its file system mounted, made first where the device has nothing on it.
//!
//! Source: `formatAndMountSensitive` and `getDiskFormat` in `mount-utils/mount_linux.go`.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{process::Command, time::timeout};

use super::plugin::blocking;

/// Upstream's, where the volume names none.
pub const DEFAULT: &str = "ext4";
const LOOK_BOUND: Duration = Duration::from_secs(30);
/// Making and checking a file system, of large disks too.
const FORMAT_BOUND: Duration = Duration::from_secs(600);
const MOUNT_BOUND: Duration = Duration::from_secs(60);

/// What `blkid` says with where it finds nothing.
const BLKID_NOTHING: i32 = 2;
/// As `fsck` says that it could not mend all.
const FSCK_LEFT: i32 = 4;
/// Where file systems say what they are: of the device's begin, and of its end.
const READ_BYTES: [u64; 2] = [1 << 20, 64 << 10];

/// The file system of a device.
pub struct FileSystem<'a> {
    pub device: &'a Path,
    /// `ext4`, `xfs`, ...
    pub kind: &'a str,
    /// As `mount -o` takes them.
    pub options: &'a [String],
    pub read_only: bool,
    /// Elsewhere already: it is not checked then.
    pub is_mounted: bool,
}

impl FileSystem<'_> {
    /// Mounts it at a directory that is there. What a device has on it is never written over.
    ///
    /// # Errors
    /// Upstream's words.
    pub async fn mount(&self, target: &Path) -> Result<(), String> {
        let device = self.device.display();
        if self.kind.is_empty() || !self.kind.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            // It is part of a program's name.
            return Err(format!("invalid fsType {:?}", self.kind));
        }
        match self.content().await.map_err(|why| format!("failed to get disk format of disk {device}: {why}"))? {
            None if self.read_only => {
                return Err(format!("cannot mount unformatted disk {device} as we are manipulating it in read-only mode"));
            }
            None => {
                // `blkid` finds nothing on a disk that fails, either.
                let device = self.device.to_owned();
                blocking(move || readable(&device).map_err(|error| format!("disk {} cannot be read: {error}", device.display()))).await?;
                self.format().await?;
            }
            Some(found) => {
                if found != self.kind {
                    tracing::warn!(%device, wanted = self.kind, found, "a volume's disk has another file system than it says");
                }
                if !self.read_only && !self.is_mounted {
                    self.check().await?;
                }
            }
        }
        let mut options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        if self.read_only {
            options.push("ro");
        }
        options.push("defaults");
        let (options, kind) = (options.join(","), OsStr::new(self.kind));
        let arguments = [OsStr::new("-t"), kind, OsStr::new("-o"), OsStr::new(&options), self.device.as_os_str(), target.as_os_str()];
        let mounted = run("mount", &arguments, MOUNT_BOUND).await.map_err(|error| error.to_string())?;
        if mounted.status.success() {
            return Ok(());
        }
        Err(format!(
            "mount failed: {}\nMounting arguments: -t {} -o {options} {device} {}\nOutput: {}",
            mounted.status,
            self.kind,
            target.display(),
            said(&mounted)
        ))
    }

    /// What is on the device; `None` where nothing is.
    async fn content(&self) -> Result<Option<String>, String> {
        let arguments = ["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export"].map(OsStr::new);
        let arguments: Vec<&OsStr> = arguments.into_iter().chain([self.device.as_os_str()]).collect();
        let looked = run("blkid", &arguments, LOOK_BOUND).await.map_err(|error| error.to_string())?;
        match looked.status.code() {
            Some(0) => Ok(Some(content(&String::from_utf8_lossy(&looked.stdout)))),
            Some(BLKID_NOTHING) => Ok(None),
            _ => Err(format!("{}: {}", looked.status, said(&looked))),
        }
    }

    async fn format(&self) -> Result<(), String> {
        let first: &[&str] = match self.kind {
            "ext3" | "ext4" => &["-F", "-m0"],
            "xfs" => &["-f"],
            _ => &[],
        };
        let arguments: Vec<&OsStr> = first.iter().map(OsStr::new).chain([self.device.as_os_str()]).collect();
        let made = run(&format!("mkfs.{}", self.kind), &arguments, FORMAT_BOUND).await.map_err(|error| error.to_string())?;
        let device = self.device.display();
        if !made.status.success() {
            return Err(format!(
                "format of disk {:?} failed: type:({:?}) errcode:({}) output:({})",
                self.device,
                self.kind,
                made.status,
                said(&made)
            ));
        }
        tracing::info!(%device, kind = self.kind, "made the file system of a volume");
        Ok(())
    }

    async fn check(&self) -> Result<(), String> {
        let checked = match run("fsck", &[OsStr::new("-a"), self.device.as_os_str()], FORMAT_BOUND).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(%error, "a volume is mounted without a check of its file system");
                return Ok(());
            }
            checked => checked.map_err(|error| error.to_string())?,
        };
        match checked.status.code() {
            Some(FSCK_LEFT) => {
                Err(format!("'fsck' found errors on device {} but could not correct them: {}", self.device.display(), said(&checked)))
            }
            _ => Ok(()),
        }
    }
}

/// What `blkid -o export` says is there.
fn content(text: &str) -> String {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    match value("PTTYPE") {
        // Which no file system is called.
        Some(_) => "unknown data, probably partitions".into(),
        None => value("TYPE").unwrap_or_default().into(),
    }
}

/// Reads where a file system would be.
fn readable(device: &Path) -> io::Result<()> {
    let (mut disk, [first, last]) = (File::open(device)?, READ_BYTES);
    io::copy(&mut (&disk).take(first), &mut io::sink())?;
    let end = disk.seek(SeekFrom::End(0))?;
    disk.seek(SeekFrom::Start(end.saturating_sub(last)))?;
    io::copy(&mut disk.take(last), &mut io::sink()).map(drop)
}

/// Runs a program and what it starts (`fsck` starts another), which end with it.
///
/// # Errors
/// `NotFound` where there is no such program, `TimedOut`.
async fn run(program: &str, arguments: &[&OsStr], bound: Duration) -> io::Result<Output> {
    let mut command = Command::from(api::programs::command(program));
    command.args(arguments).env("LC_ALL", "C").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let of_program = |error: io::Error| io::Error::new(error.kind(), format!("{program}: {error}"));
    let child = command.spawn().map_err(of_program)?;
    let all = All(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let ended = timeout(bound, child.wait_with_output()).await;
    let ran = ended.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{program} did not end in {} s", bound.as_secs())))?;
    // The group's number may be another's once its leader was waited for.
    std::mem::forget(all);
    ran.map_err(of_program)
}

/// A program's group of processes, which is ended where nobody waits for it any more.
struct All(Option<Pid>);

impl Drop for All {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may be over.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

fn said(output: &Output) -> String {
    let all = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).trim().to_owned());
    all.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::volumes::mount_table;

    #[test]
    fn partitions_are_no_file_system() {
        assert_eq!(content("DEVNAME=/dev/x\nTYPE=ext4\n"), "ext4");
        assert_eq!(content("PTTYPE=dos\nTYPE=ext4\n"), "unknown data, probably partitions");
        // Something that has no type: nothing is made over it.
        assert_eq!(content("DEVNAME=/dev/x\n"), "");
    }

    #[tokio::test]
    async fn what_a_program_started_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let late = run("sh", &["-c", &script].map(OsStr::new), Duration::from_millis(500)).await.unwrap_err();
        assert_eq!((late.kind(), late.to_string().as_str()), (io::ErrorKind::TimedOut, "sh did not end in 0 s"));
        let pid = fs::read_to_string(file).unwrap();
        let is_there = || fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "));
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        while is_there() {
            assert!(tokio::time::Instant::now() < end, "it goes on");
            tokio::task::yield_now().await;
        }
        assert_eq!(run("no-such-program", &[], LOOK_BOUND).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_device_that_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::write(&disk, [0; 10]).unwrap();
        readable(&disk).unwrap();
        // The kernel's own answer to who reads: a directory, here.
        assert!(readable(dir.path()).is_err());
    }

    #[tokio::test]
    async fn what_is_no_kind_runs_no_program() {
        for kind in ["", "ext4 -F", "../x", "a/b"] {
            let system = FileSystem { device: Path::new("/dev/none"), kind, options: &[], read_only: false, is_mounted: false };
            assert_eq!(system.mount(Path::new("/nowhere")).await.unwrap_err(), format!("invalid fsType {kind:?}"));
        }
    }

    /// A loop device that goes with it.
    struct Loop(PathBuf);

    impl Loop {
        fn of(file: &Path) -> Option<Self> {
            fs::File::create(file).unwrap().set_len(32 << 20).unwrap();
            let made = api::programs::command("losetup").args(["-f", "--show"]).arg(file).output().ok()?;
            made.status.success().then(|| Self(String::from_utf8_lossy(&made.stdout).trim().into()))
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = api::programs::command("losetup").arg("-d").arg(&self.0).output();
        }
    }

    #[tokio::test]
    async fn an_empty_device_is_formatted_once() {
        let dir = tempfile::tempdir().unwrap();
        let Some(device) = Loop::of(&dir.path().join("disk")) else {
            eprintln!("not run: no loop device is to be had");
            return;
        };
        let at = |name: &str| {
            let target = dir.path().join("mounts").join(name);
            fs::create_dir_all(&target).unwrap();
            target
        };
        let system = |read_only| FileSystem { device: &device.0, kind: "ext4", options: &[], read_only, is_mounted: false };
        let unformatted = system(true).mount(&at("none")).await.unwrap_err();
        let first = system(false).mount(&at("a")).await;
        let written = first.is_ok().then(|| fs::write(at("a").join("kept"), "x"));
        let second = system(false).mount(&at("b")).await;
        let kept = at("b").join("kept").exists();
        mount_table::unmount_below(dir.path()).unwrap();
        assert!(unformatted.starts_with("cannot mount unformatted disk"), "{unformatted}");
        first.unwrap();
        written.unwrap().unwrap();
        second.unwrap();
        assert!(kept);
    }
}
