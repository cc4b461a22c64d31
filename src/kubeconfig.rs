//! One cluster's access -> the user's kubeconfig, beside what stands there. As kind does it.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::{
    flags::{CommonFlags, KubeconfigFlags},
    machine::dirs::Dirs,
};

/// The name of our cluster, user and context.
pub const CONTEXT: &str = "skiff";

pub fn run(flags: &KubeconfigFlags) -> anyhow::Result<()> {
    let text = admin(&flags.common)?;
    if !flags.merge {
        print!("{text}");
        return Ok(());
    }
    let target = default_path();
    merge_into(&target, &parse(&text)?)?;
    say!("context {CONTEXT:?} merged into {}", target.display());
    Ok(())
}

fn admin(flags: &CommonFlags) -> anyhow::Result<String> {
    let path = Dirs::new(flags.data_dir.as_deref()).kubeconfig();
    fs::read_to_string(&path).with_context(|| format!("{}: is there a cluster on this --data-dir? `skiff up` makes one", path.display()))
}

/// `$KUBECONFIG` (its first file), else `~/.kube/config`.
pub fn default_path() -> PathBuf {
    let named = std::env::var("KUBECONFIG").ok();
    match named.as_deref().and_then(|v| v.split(':').find(|p| !p.is_empty())) {
        Some(first) => first.into(),
        None => std::env::home_dir().unwrap_or_default().join(".kube/config"),
    }
}

/// Puts `ours` (one cluster, user, context) into the file and makes it current; all else in the file stays.
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
    for list in ["clusters", "users", "contexts"] {
        if let Some(Value::Array(items)) = config.get_mut(list) {
            items.retain(|item| item["name"] != CONTEXT);
        }
    }
    if config["current-context"] == CONTEXT {
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
    for list in ["clusters", "users", "contexts"] {
        let mut items: Vec<Value> = config[list].as_array().cloned().unwrap_or_default();
        items.retain(|item| item["name"] != CONTEXT);
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

    #[test]
    fn a_file_that_is_no_kubeconfig_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::write(&path, "- a\n- b\n").unwrap();
        assert!(merge_into(&path, &json!({})).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "- a\n- b\n");
    }
}
