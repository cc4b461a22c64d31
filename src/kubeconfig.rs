//! One cluster's access -> the user's kubeconfig, beside what stands there. As kind does it.

use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::{
    flags::{CommonFlags, KubeconfigFlags},
    machine::dirs::Dirs,
};

/// The name of our cluster, user and context: this server, by its loopback where it listens there.
pub const CONTEXT: &str = "skiff";
/// Before a server's address, in the name of its cluster and context: kubectl tries no other server of its own accord.
pub const OF_SERVER: &str = "skiff@";
const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

pub fn run(flags: &KubeconfigFlags) -> anyhow::Result<()> {
    let kept = parse(&admin(&flags.common)?)?;
    let config = match &flags.server {
        None if flags.merge => for_here(kept),
        server => for_elsewhere(kept, server.as_deref()),
    };
    if !flags.merge {
        print!("{}", to_yaml(&config)?);
        return Ok(());
    }
    let target = default_path();
    merge_into(&target, &config)?;
    say!("context {CONTEXT:?} merged into {}", target.display());
    Ok(())
}

fn admin(flags: &CommonFlags) -> anyhow::Result<String> {
    let path = Dirs::new(flags.data_dir.as_deref()).kubeconfig();
    fs::read_to_string(&path).with_context(|| format!("{}: is there a cluster on this --data-dir? `skiff up` makes one", path.display()))
}

/// What is kept on disk: `admin` (one cluster, user, context, which get our name), and one more cluster and context for each server by the address that
/// others reach it at; `own` is the first of them.
pub fn kept(admin: Value, own: SocketAddr, servers: &BTreeSet<SocketAddr>) -> Value {
    let mut config = named(admin);
    for server in std::iter::once(&own).chain(servers.iter().filter(|server| **server != own)) {
        let name = format!("{OF_SERVER}{}", server.ip());
        let mut cluster = config["clusters"][0].clone();
        cluster["name"] = json!(name);
        cluster["cluster"]["server"] = json!(format!("https://{server}"));
        add(&mut config, "clusters", cluster);
        add(&mut config, "contexts", json!({"name": name, "context": {"cluster": name, "user": CONTEXT}}));
    }
    config
}

/// For kubectl on this machine, which is on every network: without this server's address elsewhere.
pub fn for_here(mut kept: Value) -> Value {
    if let Some((own, _)) = servers_of(&kept).into_iter().next() {
        remove(&mut kept, |name| name == own);
    }
    kept
}

/// For kubectl elsewhere: the context is this server by the address that others reach it at, or whatever is at `url`.
fn for_elsewhere(kept: Value, url: Option<&str>) -> Value {
    let servers = servers_of(&kept);
    let Some(chosen) = url.or_else(|| servers.first().map(|(_, url)| url.as_str())).map(|url| url.trim_end_matches('/').to_owned()) else {
        return kept;
    };
    let mut config = kept;
    let same: Vec<&String> = servers.iter().filter(|(_, url)| *url == chosen).map(|(name, _)| name).collect();
    remove(&mut config, |name| same.iter().any(|one| *one == name));
    for cluster in config["clusters"].as_array_mut().into_iter().flatten().filter(|cluster| cluster["name"] == CONTEXT) {
        cluster["cluster"]["server"] = json!(chosen);
    }
    config
}

/// The servers by their addresses elsewhere, ours first: names and URLs.
fn servers_of(kept: &Value) -> Vec<(String, String)> {
    let clusters = kept["clusters"].as_array().into_iter().flatten();
    let of = |cluster: &Value| {
        let name = cluster["name"].as_str().filter(|name| name.starts_with(OF_SERVER))?;
        Some((name.to_owned(), cluster["cluster"]["server"].as_str()?.to_owned()))
    };
    clusters.filter_map(of).collect()
}

fn is_ours(name: &Value) -> bool {
    name.as_str().is_some_and(|name| name == CONTEXT || name.starts_with(OF_SERVER))
}

fn add(config: &mut Value, list: &str, item: Value) {
    if let Some(items) = config[list].as_array_mut() {
        items.push(item);
    }
}

fn remove(config: &mut Value, is_meant: impl Fn(&str) -> bool) {
    for list in LISTS {
        if let Some(Value::Array(items)) = config.get_mut(list) {
            items.retain(|item| !item["name"].as_str().is_some_and(&is_meant));
        }
    }
}

/// Gives cluster, user and context our own name, so that they stand beside others in one file.
fn named(mut config: Value) -> Value {
    for (list, inner) in [("clusters", None), ("users", None), ("contexts", Some("context"))] {
        if let Some(item) = config[list].get_mut(0) {
            item["name"] = CONTEXT.into();
            if let Some(inner) = inner {
                item[inner]["cluster"] = CONTEXT.into();
                item[inner]["user"] = CONTEXT.into();
            }
        }
    }
    config["current-context"] = CONTEXT.into();
    config
}

/// `$KUBECONFIG` (its first file), else `~/.kube/config`.
pub fn default_path() -> PathBuf {
    let named = std::env::var("KUBECONFIG").ok();
    match named.as_deref().and_then(|v| v.split(':').find(|p| !p.is_empty())) {
        Some(first) => first.into(),
        None => std::env::home_dir().unwrap_or_default().join(".kube/config"),
    }
}

/// Puts `ours` into the file, in place of what was ours, and makes its context current; all else in the file stays.
///
/// # Errors
/// A file that is no kubeconfig is left as it is.
pub fn merge_into(path: &Path, ours: &Value) -> anyhow::Result<()> {
    let old = match fs::read_to_string(path) {
        Ok(text) => parse(&text).with_context(|| format!("{} is no kubeconfig and was left as it is", path.display()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Null,
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    write_private(path, &to_yaml(&merged(old, ours))?)
}

/// Takes our entries out again; a file without them is not touched.
pub fn remove_from(path: &Path) -> anyhow::Result<()> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
    let mut config = parse(&text).with_context(|| format!("{} is no kubeconfig and was left as it is", path.display()))?;
    let before = config.clone();
    for list in LISTS {
        if let Some(Value::Array(items)) = config.get_mut(list) {
            items.retain(|item| !is_ours(&item["name"]));
        }
    }
    if is_ours(&config["current-context"]) {
        config["current-context"] = json!("");
    }
    if config == before { Ok(()) } else { write_private(path, &to_yaml(&config)?) }
}

/// Only the owner may read it; readers never see half of it.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let dir = path.parent().context("a kubeconfig has a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let temporary = path.with_extension("skiff-new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    // Without it a power cut may leave an empty file under the name.
    file.sync_all()?;
    fs::rename(&temporary, path).with_context(|| format!("writing {}", path.display()))
}

pub fn to_yaml(value: &Value) -> anyhow::Result<String> {
    serde_yaml::to_string(value).context("a kubeconfig as YAML")
}

fn parse(text: &str) -> anyhow::Result<Value> {
    match serde_yaml::from_str(text)? {
        Value::Null => Ok(Value::Null),
        value @ Value::Object(_) => Ok(value),
        _ => bail!("not a map"),
    }
}

fn merged(old: Value, ours: &Value) -> Value {
    let mut config = if old.is_null() { json!({"apiVersion": "v1", "kind": "Config", "preferences": {}}) } else { old };
    for list in LISTS {
        let mut items: Vec<Value> = config[list].as_array().cloned().unwrap_or_default();
        items.retain(|item| !is_ours(&item["name"]));
        items.extend(ours[list].as_array().cloned().unwrap_or_default());
        config[list] = Value::Array(items);
    }
    config["current-context"] = json!(CONTEXT);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_put_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/config");
        let entry = |name: &str| json!({"clusters": [{"name": name}], "users": [{"name": name}], "contexts": [{"name": name}], "current-context": name});
        merge_into(&path, &entry(CONTEXT)).unwrap();
        fs::write(&path, to_yaml(&entry("kind")).unwrap()).unwrap();
        merge_into(&path, &entry(CONTEXT)).unwrap();
        merge_into(&path, &entry(CONTEXT)).unwrap();
        let merged = parse(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(merged["clusters"], json!([{"name": "kind"}, {"name": "skiff"}]));
        assert_eq!(merged["current-context"], "skiff");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        remove_from(&path).unwrap();
        let left = parse(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(left["users"], json!([{"name": "kind"}]));
    }

    fn made(own: &str, servers: &[&str]) -> Value {
        let item = json!([{"name": "x", "cluster": {"server": "https://127.0.0.1:6443", "certificate-authority-data": "Q0E="}}]);
        let admin = json!({"clusters": item, "users": [{"name": "x", "user": {}}], "contexts": [{"name": "x", "context": {}}]});
        kept(admin, own.parse().unwrap(), &servers.iter().map(|server| server.parse().unwrap()).collect())
    }

    /// `context=url` of each.
    fn contexts(config: &Value) -> Vec<String> {
        let all = config["contexts"].as_array().unwrap().iter().map(|context| {
            assert_eq!(context["context"]["user"], CONTEXT);
            let cluster =
                config["clusters"].as_array().unwrap().iter().find(|cluster| cluster["name"] == context["context"]["cluster"]).unwrap();
            assert_eq!(cluster["cluster"]["certificate-authority-data"], "Q0E=");
            format!("{}={}", context["name"].as_str().unwrap(), cluster["cluster"]["server"].as_str().unwrap())
        });
        all.collect()
    }

    #[test]
    fn every_server_is_a_context() {
        let all = made("10.0.0.2:6443", &["10.0.0.1:6443", "10.0.0.2:6443", "[fd00::1]:7443"]);
        let (first, third) = ("skiff@10.0.0.1=https://10.0.0.1:6443", "skiff@fd00::1=https://[fd00::1]:7443");
        assert_eq!(contexts(&all), ["skiff=https://127.0.0.1:6443", "skiff@10.0.0.2=https://10.0.0.2:6443", first, third]);
        assert_eq!(contexts(&for_here(all.clone())), ["skiff=https://127.0.0.1:6443", first, third]);
        assert_eq!(contexts(&for_elsewhere(all.clone(), None)), ["skiff=https://10.0.0.2:6443", first, third]);
        let other = for_elsewhere(all.clone(), Some("https://10.0.0.1:6443/"));
        assert_eq!(contexts(&other), ["skiff=https://10.0.0.1:6443", "skiff@10.0.0.2=https://10.0.0.2:6443", third]);
        assert_eq!(contexts(&for_elsewhere(made("10.0.0.2:6443", &[]), None)), ["skiff=https://10.0.0.2:6443"]);
        assert_eq!(contexts(&for_elsewhere(all, Some("https://a.example:443"))).len(), 4);
        // What an older skiff has kept.
        let mut old = made("10.0.0.2:6443", &[]);
        remove(&mut old, |name| name != CONTEXT);
        assert_eq!((contexts(&for_here(old.clone())), contexts(&for_elsewhere(old.clone(), None))), (contexts(&old), contexts(&old)));
    }

    #[test]
    fn servers_that_went_leave_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let read = || parse(&fs::read_to_string(&path).unwrap()).unwrap();
        merge_into(&path, &for_here(made("10.0.0.2:6443", &["10.0.0.1:6443"]))).unwrap();
        merge_into(&path, &for_here(made("10.0.0.2:6443", &["10.0.0.3:6443"]))).unwrap();
        assert_eq!(contexts(&read()), ["skiff=https://127.0.0.1:6443", "skiff@10.0.0.3=https://10.0.0.3:6443"]);
        remove_from(&path).unwrap();
        assert_eq!(read()["contexts"], json!([]));
    }

    #[test]
    fn a_file_that_is_no_kubeconfig_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::write(&path, "- a\n- b\n").unwrap();
        assert!(merge_into(&path, &json!({})).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "- a\n- b\n");
    }
}
