//! Flags -> which admission plugins run, and how they are set up. Names and defaults are kube-apiserver's (`pkg/server/options/admission.go`); the
//! file is an AdmissionConfiguration (`pkg/admission/config.go`).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use apiserver::strict::strict;
use clap::Args;
use kinds::admission::Options;
use serde::Deserialize;
use serde_json::Value;

const VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
/// Files of old that are one plugin's configuration, by the key that tells them (`ReadAdmissionConfiguration`).
const ALONE: [(&str, &str); 2] = [("podNodeSelectorPluginConfig", "PodNodeSelector"), ("imagePolicy", "ImagePolicyWebhook")];

#[derive(Args, Clone, Debug, Default)]
pub struct AdmissionFlags {
    /// Admission plugins beyond those that are on by default (docs/admission.md); their order does not matter
    #[arg(long, value_name = "PLUGIN,...", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins to leave out although they are on by default
    #[arg(long, value_name = "PLUGIN,...", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// How admission plugins are set up (AdmissionConfiguration)
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
}

impl AdmissionFlags {
    /// # Errors
    /// Unknown plugins, in upstream's words; a file that cannot be read.
    pub fn options(&self) -> anyhow::Result<Options> {
        let trimmed = |names: &[String]| names.iter().map(|name| name.trim().to_owned()).collect();
        let configuration = self.admission_control_config_file.as_deref().map(configuration).transpose()?.unwrap_or_default();
        let options =
            Options { enable: trimmed(&self.enable_admission_plugins), disable: trimmed(&self.disable_admission_plugins), configuration };
        options.check().map_err(anyhow::Error::msg)?;
        for name in options.unread() {
            tracing::warn!(plugin = name, "--admission-control-config-file configures an admission plugin that there is not");
        }
        Ok(options)
    }
}

/// Each plugin's own, by its name.
fn configuration(file: &Path) -> anyhow::Result<BTreeMap<String, Value>> {
    let what = || format!("--admission-control-config-file {}", file.display());
    let config = yaml(file).with_context(what)?;
    if config["kind"] != "AdmissionConfiguration" {
        return match ALONE.iter().find(|(key, _)| config.get(key).is_some()) {
            Some((_, plugin)) => Ok(BTreeMap::from([((*plugin).to_owned(), config)])),
            None => Err(anyhow::anyhow!("kind: {} is not AdmissionConfiguration", config["kind"])).with_context(what),
        };
    }
    if !VERSIONS.iter().any(|version| config["apiVersion"] == *version) {
        return Err(anyhow::anyhow!("apiVersion: {} is not {}", config["apiVersion"], VERSIONS[0])).with_context(what);
    }
    let config: Configuration = strict(&config).map_err(anyhow::Error::msg).with_context(what)?;
    let mut out = BTreeMap::new();
    for plugin in config.plugins.unwrap_or_default() {
        let Some(name) = plugin.name.filter(|name| !name.is_empty()) else { bail!("{}: a plugin without a name", what()) };
        let own = match (plugin.configuration, plugin.path.filter(|path| !path.is_empty())) {
            (None, None) => continue,
            // As upstream: beside the file that names it.
            (None, Some(path)) => {
                let path = file.parent().unwrap_or(Path::new("")).join(path);
                yaml(&path).with_context(|| format!("configuration of admission plugin {name:?}, {}", path.display()))?
            }
            (Some(own), _) => own,
        };
        out.entry(name).or_insert(own);
    }
    Ok(out)
}

/// `AdmissionConfiguration`
#[derive(Deserialize)]
struct Configuration {
    plugins: Option<Vec<Plugin>>,
}

#[derive(Deserialize)]
struct Plugin {
    name: Option<String>,
    path: Option<String>,
    configuration: Option<Value>,
}

fn yaml(file: &Path) -> anyhow::Result<Value> {
    Ok(serde_yaml::from_str(&fs::read_to_string(file)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_sets_up_plugins() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        write("limits.yaml", "{apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: []}");
        let file = write(
            "admission.yaml",
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: EventRateLimit\n  path: limits.yaml\n\
             - name: PodSecurity\n  configuration:\n    kind: PodSecurityConfiguration\n- name: Priority\n",
        );
        let found = configuration(&file).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["EventRateLimit", "PodSecurity"]);
        assert_eq!(
            (&found["EventRateLimit"]["kind"], &found["PodSecurity"]["kind"]),
            (&"Configuration".into(), &"PodSecurityConfiguration".into())
        );
        let alone = write("alone.yaml", "podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: a=b}");
        assert_eq!(configuration(&alone).unwrap().keys().collect::<Vec<_>>(), ["PodNodeSelector"]);
        for bad in [
            "kind: Pod",
            "kind: AdmissionConfiguration\napiVersion: v1",
            "kind: [",
            "{kind: AdmissionConfiguration, apiVersion: apiserver.config.k8s.io/v1, plugins: [{path: x}]}",
        ] {
            assert!(configuration(&write("bad.yaml", bad)).is_err(), "{bad}");
        }
        for (fields, at) in [("plugns: []", "plugns"), ("plugins: [{name: a, confguration: {}}]", "plugins[0].confguration")] {
            let text = format!("{{kind: AdmissionConfiguration, apiVersion: apiserver.config.k8s.io/v1, {fields}}}");
            let why = format!("{:#}", configuration(&write("bad.yaml", &text)).unwrap_err());
            assert!(why.ends_with(&format!("bad.yaml: strict decoding error: unknown field {at:?}")), "{why}");
        }
    }

    #[test]
    fn unknown_plugins_are_refused() {
        let flags = AdmissionFlags { enable_admission_plugins: vec!["Nothing".into()], ..AdmissionFlags::default() };
        assert_eq!(flags.options().unwrap_err().to_string(), "enable-admission-plugins plugin \"Nothing\" is unknown");
    }
}
