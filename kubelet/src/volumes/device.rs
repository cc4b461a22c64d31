//! A block device -> its file system mounted, made first where the device has nothing on it.
//!
//! Source: `formatAndMountSensitive` and `getDiskFormat` in `mount-utils/mount_linux.go`.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

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
            None => self.format().await?,
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
        let mounted = run("mount", &arguments, MOUNT_BOUND).await?;
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
        let looked = run("blkid", &arguments, LOOK_BOUND).await?;
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
        let made = run(&format!("mkfs.{}", self.kind), &arguments, FORMAT_BOUND).await?;
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
            Err(why) => {
                tracing::warn!(why, "a volume is mounted without a check of its file system");
                return Ok(());
            }
            Ok(checked) => checked,
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

async fn run(program: &str, arguments: &[&OsStr], bound: Duration) -> Result<Output, String> {
    let mut command = Command::from(api::programs::command(program));
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    match timeout(bound, command.output()).await {
        Ok(ran) => ran.map_err(|error| format!("{program}: {error}")),
        Err(_) => Err(format!("{program} did not end in {} s", bound.as_secs())),
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
