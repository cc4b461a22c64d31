//! `skiff down` and `skiff reset`: stop, and remove what was made.

use std::{fs, io::ErrorKind, path::Path, time::Duration};

use anyhow::{Context, bail};
use kubelet::volumes::remove_all;

use crate::{
    flags::{CommonFlags, DownFlags, ResetFlags},
    kubeconfig,
    machine::{dirs::Dirs, instance},
    node,
    up::machines::Machines,
};

const STOP_BOUND: Duration = Duration::from_secs(20);
/// Our pod network's name.
const NETWORK: &str = "skiff";
/// Where containerd's network library keeps what plugins answered. It cannot be told another place, and leaves entries behind whose
/// sandbox went without it.
const RESULTS: &str = "/var/lib/cni/results";

pub async fn down(flags: DownFlags) -> anyhow::Result<()> {
    let dirs = ours(&flags.common)?;
    match instance::stop(&dirs, STOP_BOUND).await? {
        true if flags.pods => say!("skiff stopped"),
        true => say!("skiff stopped; its pods go on running, `skiff up` takes them up again"),
        false => say!("skiff was not running on {}", dirs.root.display()),
    }
    if flags.pods {
        if let Some(machines) = Machines::of(&dirs) {
            machines.stop().await.context("stopping the other machines")?;
            say!("the other machines are switched off");
        }
        node::stop_pods(&dirs).await?;
        say!("pods and containerd stopped");
    }
    Ok(())
}

pub async fn reset(flags: ResetFlags) -> anyhow::Result<()> {
    let dirs = ours(&flags.common)?;
    instance::stop(&dirs, STOP_BOUND).await?;
    say!(" \u{2713} skiff stopped");
    if let Some(machines) = Machines::of(&dirs) {
        machines.remove().await.context("removing the other machines")?;
        say!(" \u{2713} the other machines removed");
    }
    // `skiff server` has no node: without root there was nothing to make.
    if rustix::process::geteuid().is_root() && dirs.agent().exists() {
        node::stop_pods(&dirs).await?;
        say!(" \u{2713} pods and containerd stopped");
        node::clean(&dirs).await?;
        forget_results(Path::new(RESULTS)).context("removing cached results of the pod network")?;
        say!(" \u{2713} rules, links, mounts and cgroups removed");
    }
    if flags.keep_data {
        say!(" \u{2713} {} kept", dirs.root.display());
        return Ok(());
    }
    kubeconfig::remove_from(&kubeconfig::default_path())?;
    remove(&dirs.root)?;
    say!(" \u{2713} {} removed", dirs.root.display());
    Ok(())
}

/// Never anything that is not ours.
fn ours(flags: &CommonFlags) -> anyhow::Result<Dirs> {
    let dirs = Dirs::new(flags.data_dir.as_deref());
    if !dirs.is_ours() {
        bail!("{} is no data directory of skiff: there is nothing to do", dirs.root.display());
    }
    Ok(dirs)
}

/// Removes the results of our network, named `skiff-<sandbox>-<interface>`, and of the same sandboxes' loopback.
fn forget_results(dir: &Path) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    let names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let sandboxes: Vec<&str> =
        names.iter().filter_map(|name| Some(name.strip_prefix(NETWORK)?.strip_prefix('-')?.rsplit_once('-')?.0)).collect();
    let ours = |name: &&String| {
        sandboxes.iter().any(|id| **name == format!("cni-loopback-{id}-lo") || name.starts_with(&format!("{NETWORK}-{id}-")))
    };
    names.iter().filter(ours).try_for_each(|name| fs::remove_file(dir.join(name)))
}

/// Where a disk of its own is mounted there, that is emptied, and what is mounted further below is not entered; where the path is a link, what
/// it leads to goes.
fn remove(root: &Path) -> anyhow::Result<()> {
    let root = &root.canonicalize().with_context(|| format!("removing {}", root.display()))?;
    let is_empty = || fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none());
    match remove_all(root) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy && is_empty() => Ok(()),
        done => done.with_context(|| format!("removing {}", root.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_our_network_are_forgotten_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["skiff-1a-eth0", "cni-loopback-1a-lo", "cni-loopback-2b-lo", "bridge-2b-eth0", "skiffs-2b-eth0"];
        for name in names {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        forget_results(dir.path()).unwrap();
        let left = |name: &&&str| dir.path().join(name).exists();
        assert_eq!(names.iter().filter(left).collect::<Vec<_>>(), [&"cni-loopback-2b-lo", &"bridge-2b-eth0", &"skiffs-2b-eth0"]);
        forget_results(&dir.path().join("none")).unwrap();
    }
}
