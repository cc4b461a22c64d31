//! This machine -> what it lacks for `skiff up`, and the command that mends it. Or a data directory -> whether it is sound.

use anyhow::bail;
use api::{preflight::Finding, task::Group};

use crate::{
    flags::{CheckFlags, POD_RANGE, pod_ranges},
    machine::{
        address::host_name,
        dirs::Dirs,
        instance::{self, NodeLock},
    },
    node::{
        kept::Kept,
        preflight::{self, Needs, Wish, here, programs},
    },
};

/// Of an API server, unless flags say another.
const API_PORT: u16 = 6443;

/// Prints what was asked for; true if all is well.
///
/// # Errors
/// There is no data directory of ours where one was named, or a skiff runs on it; or something stands between this machine and the servers that were named.
pub async fn run(flags: CheckFlags) -> anyhow::Result<bool> {
    let group = Group::new();
    if !flags.join.server.is_empty() {
        return servers(&flags, &group).await.map(|()| true);
    }
    if flags.common.data_dir.is_some() {
        return data(&Dirs::new(flags.common.data_dir.as_deref()));
    }
    let found = Box::pin(here::look(&of_default_range(wish(&flags)), &[], Needs::Joiners(API_PORT), &group)).await;
    found.iter().for_each(|finding| say!("{finding}"));
    let lacks_nothing = machine();
    Ok(lacks_nothing && !found.iter().any(Finding::blocks))
}

/// Prints what stands between this machine and the servers that were named.
///
/// # Errors
/// Something does.
async fn servers(flags: &CheckFlags, group: &Group) -> anyhow::Result<()> {
    let found = Box::pin(preflight::look(&flags.join, &wish(flags), group)).await;
    found.iter().for_each(|finding| say!("{finding}"));
    let here = machine();
    match found.iter().filter(|finding| finding.blocks()).count() {
        0 if here => Ok(()),
        0 => bail!("this machine cannot join yet"),
        n => bail!("{n} of {} things stand between this machine and the cluster", found.len()),
    }
}

fn wish(flags: &CheckFlags) -> Wish {
    // A machine that is a node has its name.
    let kept = Kept::read_only(&Dirs::new(flags.common.data_dir.as_deref()).node());
    // One that only tried to join keeps the key it asked with, and is none; one whose certificate cannot be read was one.
    let is_node = !matches!(kept.node(), Ok(None));
    // What its cluster said.
    let told = || kept.cluster().ok().flatten().filter(|_| is_node).map(|cluster| cluster.cluster_cidrs);
    let given = flags.cluster_cidr.as_ref().map(|ranges| ranges.list().to_vec());
    Wish {
        name: (!is_node).then(|| flags.node_name.clone().unwrap_or_else(host_name)),
        node_ip: flags.node_ip,
        kubelet_port: flags.kubelet_port,
        pod_network: flags.pod_network,
        vxlan_port: flags.vxlan_port,
        cluster_cidrs: given.or_else(told).unwrap_or_default(),
    }
}

/// Where neither a flag nor a server said one.
fn of_default_range(wish: Wish) -> Wish {
    if !wish.cluster_cidrs.is_empty() {
        return wish;
    }
    let cluster_cidrs = pod_ranges(POD_RANGE).expect("it is one, as written there").list().to_vec();
    Wish { cluster_cidrs, ..wish }
}

/// Reads all that is kept, down to the last checksum, and changes nothing.
fn data(dirs: &Dirs) -> anyhow::Result<bool> {
    if !dirs.is_ours() {
        bail!("{} is no data directory of skiff", dirs.root.display());
    }
    if let Some(running) = instance::running(dirs)? {
        let (root, pid) = (dirs.root.display(), running.pid);
        bail!(
            "skiff runs on {root} (process {pid}): what it keeps there is checked while it is stopped; `skiff down --data-dir {root}` stops it"
        );
    }
    let store = store(dirs);
    let tls = dirs.tls().is_dir().then(|| apiserver::certs::check(&dirs.tls()).map_err(|error| error.to_string()));
    let mut sound = true;
    for (what, found) in [("store", store), ("certificates", tls.unwrap_or_else(|| Ok("none yet".into())))] {
        let (sign, text) = match &found {
            Ok(text) => ("\u{2713}", text),
            Err(text) => ("\u{2717}", text),
        };
        say!(" {sign} {what}: {text}");
        sound &= found.is_ok();
    }
    Ok(sound)
}

fn store(dirs: &Dirs) -> Result<String, String> {
    if !dirs.store().is_dir() {
        return Ok("none yet".into());
    }
    match store::redb::check(&dirs.store()).map_err(|error| error.to_string())? {
        None => Ok("nothing was ever written".into()),
        Some(seen) => {
            let cut = match seen.loose_bytes {
                0 => String::new(),
                n => format!(", and {n} bytes of a write that was cut off and never acknowledged"),
            };
            let (objects, rev, records) = (seen.objects, seen.rev, seen.log_records);
            Ok(format!("{objects} objects at revision {rev}, {records} commits of it in the log{cut} (format {})", seen.format))
        }
    }
}

/// Prints every need; true if all are met.
fn machine() -> bool {
    let needs = programs::needs();
    needs.iter().for_each(|need| say!("{need}"));
    let lacking = needs.iter().filter(|need| need.blocks()).count();
    match lacking {
        0 => say!("this machine can run `skiff up`"),
        n => say!("this machine lacks {n} of {} things for `skiff up` (`skiff server` needs none of them)", needs.len()),
    }
    if let Some(whose) = NodeLock::holder() {
        say!("a skiff has a node here already ({whose}); there can be one at a time: `skiff down --data-dir` and that directory stops it");
    }
    lacking == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Cli, Verb};

    #[test]
    fn pods_are_where_a_flag_says_or_the_cluster_that_was_joined_or_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let data = format!("--data-dir={}", dir.path().display());
        let ranges = |more: &[&str]| {
            let args = ["skiff", "check", &data].into_iter().chain(more.iter().copied()).map(std::ffi::OsString::from).collect::<Vec<_>>();
            let Verb::Check(flags) = Cli::read(args).unwrap().verb else { panic!("a check") };
            let wish = wish(&flags);
            let text = |wish: &Wish| wish.cluster_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            (text(&wish), text(&of_default_range(wish.clone())))
        };
        assert_eq!(ranges(&[]), (String::new(), POD_RANGE.into()), "a server is asked, if there is one");
        let node = Dirs::new(Some(dir.path())).node();
        let kept = Kept::open(&node).unwrap();
        kept.join_key().unwrap();
        let Verb::Check(flags) = Cli::read(["skiff", "check", &data].map(std::ffi::OsString::from)).unwrap().verb else {
            panic!("a check")
        };
        assert!(wish(&flags).name.is_some(), "who only tried to join is no node yet, and its name may be taken");
        let wanted = client::certificate::Wanted::node_client("a");
        let own = client::certificate::self_signed(&wanted, std::time::Duration::from_secs(60), api::time::Timestamp::now()).unwrap();
        kept.set_client("CA", &own);
        assert!(wish(&flags).name.is_none());
        let cluster = r#"{"clusterCIDRs":["10.1.0.0/16"],"clusterDNS":"10.96.0.10","clusterDomain":"cluster.local"}"#;
        std::fs::write(node.join("cluster.json"), cluster).unwrap();
        assert_eq!(ranges(&[]).0, "10.1.0.0/16");
        assert_eq!(ranges(&["--cluster-cidr=10.2.0.0/16"]).1, "10.2.0.0/16");
    }
}
