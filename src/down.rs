//! `skiff down` and `skiff reset`: stop, and remove what was made.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};

use crate::{
    agent,
    dirs::Dirs,
    flags::{CommonFlags, DownFlags},
    instance, kubeconfig,
};

const STOP_BOUND: Duration = Duration::from_secs(20);

pub async fn down(flags: DownFlags) -> anyhow::Result<()> {
    let dirs = ours(&flags.common)?;
    match instance::stop(&dirs, STOP_BOUND).await? {
        true if flags.pods => println!("skiff stopped"),
        true => println!("skiff stopped; its pods go on running, `skiff up` takes them up again"),
        false => println!("skiff was not running on {}", dirs.root.display()),
    }
    if flags.pods {
        agent::stop_pods(&dirs).await?;
        println!("pods and containerd stopped");
    }
    Ok(())
}

pub async fn reset(flags: CommonFlags) -> anyhow::Result<()> {
    let dirs = ours(&flags)?;
    instance::stop(&dirs, STOP_BOUND).await?;
    println!(" \u{2713} skiff stopped");
    // `skiff server` has no node: without root there was nothing to make.
    if rustix::process::geteuid().is_root() && dirs.agent().exists() {
        agent::stop_pods(&dirs).await?;
        println!(" \u{2713} pods and containerd stopped");
        agent::clean(&dirs).await?;
        println!(" \u{2713} rules, links, mounts and cgroups removed");
    }
    kubeconfig::remove_from(&kubeconfig::default_path())?;
    remove(&dirs.root)?;
    println!(" \u{2713} {} removed", dirs.root.display());
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

fn remove(root: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))
}
