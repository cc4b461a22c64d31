//! Pod + container + what it refers to -> the container's environment.
//!
//! Source: `makeEnvironmentVariables` in `pkg/kubelet/kubelet_pods.go`.

mod services;

use std::{collections::BTreeMap, sync::Arc};

use api::k8s::api::core::v1::{ConfigMap, Container, EnvFromSource, EnvVarSource, Pod, Secret, Service};

pub use self::services::{Links, variables as service_variables};
use crate::{
    container_config::expand::expand,
    downward::{self, Facts},
    meta,
};

/// The ConfigMaps and Secrets of a pod's namespace that it refers to, by name. What does not exist is not in it.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// What an environment is made of. `services` are those of the pod's namespace and `default/kubernetes`.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub facts: &'a Facts,
    pub fetched: &'a Fetched,
    pub services: &'a [Arc<Service>],
    /// Where the `kubernetes` service is, which every pod gets variables for.
    pub master_namespace: &'a str,
}

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

impl Fetched {
    /// # Errors
    /// `configmap "x" not found`.
    pub fn config_map(&self, name: &str) -> Result<&Arc<ConfigMap>, String> {
        self.config_maps.get(name).ok_or_else(|| format!("configmap {name:?} not found"))
    }

    /// # Errors
    /// `secret "x" not found`.
    pub fn secret(&self, name: &str) -> Result<&Arc<Secret>, String> {
        self.secrets.get(name).ok_or_else(|| format!("secret {name:?} not found"))
    }
}

/// Builds the environment. Order of precedence: `env`, `envFrom` (the later wins), services.
///
/// # Errors
/// Upstream's words; the container waits with `CreateContainerConfigError`.
pub fn build(input: Input<'_>) -> Result<Environment, String> {
    let spec = input.pod.spec.as_ref();
    let linked = spec.and_then(|s| s.enable_service_links).unwrap_or(true);
    let links = if linked { Links::All } else { Links::MasterOnly };
    let services = service_variables(input.services, meta::namespace(input.pod), input.master_namespace, links);
    let mut own = Environment::new();
    for source in input.container.env_from.iter().flatten() {
        add_source(&mut own, source, input.fetched)?;
    }
    for variable in input.container.env.iter().flatten() {
        let written = variable.value.as_deref().unwrap_or_default();
        let value = match &variable.value_from {
            _ if !written.is_empty() => Some(expand(written, &mut |name| own.get(name).or_else(|| services.get(name)).cloned())),
            Some(from) => resolve(input, from)?,
            None => Some(String::new()),
        };
        if let Some(value) = value {
            own.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        own.entry(name).or_insert(value);
    }
    Ok(own)
}

/// The names of the ConfigMaps and Secrets that the containers' environments refer to.
pub fn references(pod: &Pod) -> (Vec<&str>, Vec<&str>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for container in meta::containers(pod) {
        for source in container.env_from.iter().flatten() {
            config_maps.extend(source.config_map_ref.as_ref().map(|r| r.name.as_str()));
            secrets.extend(source.secret_ref.as_ref().map(|r| r.name.as_str()));
        }
        for from in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
            config_maps.extend(from.config_map_key_ref.as_ref().map(|r| r.name.as_str()));
            secrets.extend(from.secret_key_ref.as_ref().map(|r| r.name.as_str()));
        }
    }
    (config_maps, secrets)
}

fn add_source(own: &mut Environment, source: &EnvFromSource, fetched: &Fetched) -> Result<(), String> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    if let Some(reference) = &source.config_map_ref {
        let Some(map) = unless_optional(fetched.config_map(&reference.name), reference.optional)? else { return Ok(()) };
        for (key, value) in map.data.iter().flatten() {
            own.insert(format!("{prefix}{key}"), value.clone());
        }
    } else if let Some(reference) = &source.secret_ref {
        let Some(secret) = unless_optional(fetched.secret(&reference.name), reference.optional)? else { return Ok(()) };
        for (key, value) in secret.data.iter().flatten() {
            own.insert(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
        }
    }
    Ok(())
}

/// `None`: optional and not there.
fn resolve(input: Input<'_>, from: &EnvVarSource) -> Result<Option<String>, String> {
    let (pod, namespace) = (input.pod, meta::namespace(input.pod));
    if let Some(reference) = &from.field_ref {
        return downward::variable(pod, &reference.field_path, input.facts).map(Some);
    }
    if let Some(reference) = &from.resource_field_ref {
        return downward::resource(pod, Some(input.container), reference, input.facts.allocatable).map(Some);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let Some(map) = unless_optional(input.fetched.config_map(&reference.name), reference.optional)? else { return Ok(None) };
        let value = map.data.as_ref().and_then(|d| d.get(&reference.key)).cloned();
        let missing = || format!("couldn't find key {} in ConfigMap {namespace}/{}", reference.key, reference.name);
        return unless_optional(value.ok_or_else(missing), reference.optional);
    }
    if let Some(reference) = &from.secret_key_ref {
        let Some(secret) = unless_optional(input.fetched.secret(&reference.name), reference.optional)? else { return Ok(None) };
        let value = secret.data.as_ref().and_then(|d| d.get(&reference.key));
        let value = value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        let missing = || format!("couldn't find key {} in Secret {namespace}/{}", reference.key, reference.name);
        return unless_optional(value.ok_or_else(missing), reference.optional);
    }
    Err("environment variables from files (fileKeyRef) are not supported".into())
}

fn unless_optional<T>(found: Result<T, String>, optional: Option<bool>) -> Result<Option<T>, String> {
    match found {
        Err(_) if optional == Some(true) => Ok(None),
        found => found.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    fn fetched() -> Fetched {
        let map: ConfigMap = serde_json::from_str(r#"{"metadata":{"name":"cm"},"data":{"a":"1","b.c":"2"}}"#).unwrap();
        let secret: Secret = serde_json::from_str(r#"{"metadata":{"name":"s"},"data":{"a":"c2VjcmV0"}}"#).unwrap();
        Fetched { config_maps: [("cm".into(), Arc::new(map))].into(), secrets: [("s".into(), Arc::new(secret))].into() }
    }

    fn built(container: &str) -> Result<Environment, String> {
        let p = pod(&format!(r#"{{"containers":[{container}]}}"#));
        let facts = Facts { pod_ips: vec!["10.1.1.1".into()], ..Facts::default() };
        let fetched = fetched();
        let container = &p.spec.as_ref().unwrap().containers[0];
        build(Input { pod: &p, container, facts: &facts, fetched: &fetched, services: &[], master_namespace: "default" })
    }

    fn env(list: &str) -> Result<String, String> {
        let all = built(&format!(r#"{{"name":"a","env":[{list}]}}"#))?;
        Ok(all.get("X").cloned().unwrap_or_else(|| "<none>".into()))
    }

    #[test]
    fn each_source_gives_its_value() {
        let cases = [
            (r#"{"name":"X","value":"v"}"#, "v"),
            (r#"{"name":"X"}"#, ""),
            (r#"{"name":"Y","value":"1"},{"name":"X","value":"$(Y)-$(Z)-$$(Y)"}"#, "1-$(Z)-$(Y)"),
            (r#"{"name":"X","value":"1"},{"name":"X","value":"$(X)2"}"#, "12"),
            (r#"{"name":"X","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}"#, "web"),
            (r#"{"name":"X","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}"#, "10.1.1.1"),
            (r#"{"name":"X","valueFrom":{"configMapKeyRef":{"name":"cm","key":"a"}}}"#, "1"),
            (r#"{"name":"X","valueFrom":{"secretKeyRef":{"name":"s","key":"a"}}}"#, "secret"),
            (r#"{"name":"X","valueFrom":{"secretKeyRef":{"name":"s","key":"z","optional":true}}}"#, "<none>"),
            (r#"{"name":"X","valueFrom":{"configMapKeyRef":{"name":"none","key":"z","optional":true}}}"#, "<none>"),
        ];
        for (list, wanted) in cases {
            assert_eq!(env(list).as_deref(), Ok(wanted), "{list}");
        }
    }

    #[test]
    fn what_is_missing_is_said_in_upstreams_words() {
        let cases = [
            (r#"{"configMapKeyRef":{"name":"cm","key":"z"}}"#, "couldn't find key z in ConfigMap default/cm"),
            (r#"{"secretKeyRef":{"name":"s","key":"z"}}"#, "couldn't find key z in Secret default/s"),
            (r#"{"configMapKeyRef":{"name":"none","key":"z"}}"#, "configmap \"none\" not found"),
            (r#"{"secretKeyRef":{"name":"none","key":"z"}}"#, "secret \"none\" not found"),
        ];
        for (from, wanted) in cases {
            assert_eq!(env(&format!(r#"{{"name":"X","valueFrom":{from}}}"#)).unwrap_err(), wanted);
        }
    }

    #[test]
    fn whole_maps_take_a_prefix_and_yield_to_env() {
        let got = built(
            r#"{"name":"a","envFrom":[{"prefix":"P_","configMapRef":{"name":"cm"}},{"secretRef":{"name":"s"}},
            {"configMapRef":{"name":"none","optional":true}}],"env":[{"name":"P_a","value":"mine"},{"name":"c","value":"$(a)"}]}"#,
        );
        let wanted = [("P_a", "mine"), ("P_b.c", "2"), ("a", "secret"), ("c", "secret")];
        assert_eq!(got.unwrap(), wanted.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert!(built(r#"{"name":"a","envFrom":[{"secretRef":{"name":"none"}}]}"#).is_err());
    }

    #[test]
    fn references_name_what_is_read() {
        let p = pod(r#"{"containers":[{"name":"a","envFrom":[{"secretRef":{"name":"s1"}}],
            "env":[{"name":"X","valueFrom":{"configMapKeyRef":{"name":"c1","key":"k"}}}]}],"initContainers":[{"name":"i","envFrom":[{"configMapRef":{"name":"c2"}}]}]}"#);
        assert_eq!(references(&p), (vec!["c1", "c2"], vec!["s1"]));
    }
}
