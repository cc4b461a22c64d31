//! Environment and stdin -> a request; results and faults -> JSON, in each version's shape.

use std::{io::Read, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The versions we speak, oldest first.
pub const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The version in which an error is reported when the request's could not be read.
pub const NEWEST: &str = "1.1.0";
/// More is no network configuration.
pub const STDIN_BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// One call of the plugin.
#[derive(Clone, Debug)]
pub struct Request {
    pub command: Command,
    pub owner: Owner,
    /// Path of the sandbox's network namespace; may be gone on DEL.
    pub netns: Option<PathBuf>,
    pub conf: Conf,
}

/// Who holds an address: one interface of one sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    #[serde(rename = "containerID")]
    pub container: String,
    pub ifname: String,
}

/// The network configuration as the runtime hands it over.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    pub cni_version: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub bridge: String,
    /// Bytes; 0 leaves the kernel's default.
    pub mtu: u32,
    pub ipam: Ipam,
    pub runtime_config: RuntimeConfig,
    pub prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Owner>>,
}

/// The range of addresses, and where the leases are kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ipam {
    pub subnet: String,
    pub gateway: Option<IpAddr>,
    pub data_dir: PathBuf,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    pub port_mappings: Vec<PortMapping>,
}

/// A port of the host that leads into the sandbox.
///
/// containerd 1.6 writes its field names as they stand in its code (`HostPort`), others as the convention has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortMapping {
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    #[serde(alias = "Protocol")]
    pub protocol: String,
    #[serde(rename = "hostIP", alias = "HostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

/// A failure as the specification's error result.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: u32,
    pub msg: String,
    pub details: String,
}

/// What ADD made; [`AddResult::result`] renders it.
#[derive(Debug)]
pub struct AddResult {
    pub bridge: (String, String),
    pub host: (String, String),
    pub sandbox: (String, String),
    pub netns: String,
    pub address: IpNet,
    pub gateway: IpAddr,
}

impl Request {
    /// # Errors
    /// Codes 4 (environment), 5 (stdin), 6 (not JSON), 1 (version we do not speak).
    pub fn read() -> Result<Self, Fault> {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        Self::of(variable, || {
            let mut text = String::new();
            std::io::stdin().take(STDIN_BYTES_MAX).read_to_string(&mut text).map_err(|e| Fault::io("read stdin", &e))?;
            Ok(text)
        })
    }

    /// From variables (empty where they are not set) and the text on stdin, which is only read where the command is one.
    pub fn of(variable: impl Fn(&str) -> String, stdin: impl FnOnce() -> Result<String, Fault>) -> Result<Self, Fault> {
        let command = command(&variable("CNI_COMMAND"))?;
        let netns = Some(variable("CNI_NETNS")).filter(|n| !n.is_empty()).map(PathBuf::from);
        let owner = Owner { container: variable("CNI_CONTAINERID"), ifname: variable("CNI_IFNAME") };
        Self::from_parts(command, owner, netns, &stdin()?)
    }

    pub fn from_parts(command: Command, owner: Owner, netns: Option<PathBuf>, text: &str) -> Result<Self, Fault> {
        let conf = if command == Command::Version && text.trim().is_empty() { Conf::default() } else { parse(text)? };
        let request = Self { command, owner, netns, conf };
        if command != Command::Version {
            request.check_version()?;
        }
        if matches!(command, Command::Add | Command::Del | Command::Check) {
            request.check_environment()?;
        }
        Ok(request)
    }

    fn check_version(&self) -> Result<(), Fault> {
        if SUPPORTED.contains(&self.conf.cni_version.as_str()) {
            return Ok(());
        }
        let details = format!("config is {:?}, plugin supports {SUPPORTED:?}", self.conf.cni_version);
        Err(Fault::new(1, "incompatible CNI versions", details))
    }

    fn check_environment(&self) -> Result<(), Fault> {
        let Owner { container, ifname } = &self.owner;
        if !is_container_id(container) {
            return Err(Fault::new(4, "invalid environment variable", format!("CNI_CONTAINERID is not a container ID: {container:?}")));
        }
        if !is_interface_name(ifname) {
            return Err(Fault::new(4, "invalid environment variable", format!("CNI_IFNAME is not an interface name: {ifname:?}")));
        }
        if self.netns.is_none() && self.command != Command::Del {
            return Err(Fault::new(4, "required env variables [CNI_NETNS] missing", ""));
        }
        Ok(())
    }
}

impl Conf {
    pub fn bridge(&self) -> &str {
        if self.bridge.is_empty() { super::BRIDGE } else { &self.bridge }
    }
}

impl Fault {
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// Code 5: input or output failed.
    pub fn io(what: &str, error: &dyn std::fmt::Display) -> Self {
        Self::new(5, format!("could not {what}"), error.to_string())
    }

    /// Code 7: the configuration makes no sense.
    pub fn config(msg: impl Into<String>) -> Self {
        Self::new(7, msg, "")
    }

    pub fn body(&self, version: &str) -> Value {
        let mut body = json!({"cniVersion": version, "code": self.code, "msg": self.msg});
        if !self.details.is_empty() {
            body["details"] = self.details.as_str().into();
        }
        body
    }
}

impl AddResult {
    pub fn result(&self, version: &str) -> Value {
        let interface = |(name, mac): &(String, String)| json!({"name": name, "mac": mac});
        let mut inner = interface(&self.sandbox);
        inner["sandbox"] = self.netns.as_str().into();
        let mut ip = json!({"interface": 2, "address": self.address.to_string(), "gateway": self.gateway});
        // Dropped by 1.0.0, required before.
        if version.starts_with("0.") {
            ip["version"] = if self.gateway.is_ipv4() { "4" } else { "6" }.into();
        }
        json!({
            "cniVersion": version,
            "interfaces": [interface(&self.bridge), interface(&self.host), inner],
            "ips": [ip],
            "routes": [{"dst": if self.gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, "gw": self.gateway}],
            "dns": {},
        })
    }
}

/// The answer to VERSION.
pub fn versions() -> Value {
    json!({"cniVersion": NEWEST, "supportedVersions": SUPPORTED})
}

fn parse(text: &str) -> Result<Conf, Fault> {
    serde_json::from_str(text).map_err(|e| Fault::new(6, "failed to decode the network configuration", e.to_string()))
}

fn command(word: &str) -> Result<Command, Fault> {
    Ok(match word {
        "ADD" => Command::Add,
        "DEL" => Command::Del,
        "CHECK" => Command::Check,
        "GC" => Command::Gc,
        "STATUS" => Command::Status,
        "VERSION" => Command::Version,
        "" => return Err(Fault::new(4, "required env variables [CNI_COMMAND] missing", "")),
        other => return Err(Fault::new(4, format!("unknown CNI_COMMAND: {other}"), "")),
    })
}

fn is_container_id(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(allowed)
}

fn is_interface_name(text: &str) -> bool {
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    !text.is_empty() && text.len() <= 15 && text != "." && text != ".." && !text.contains(forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> AddResult {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        AddResult {
            bridge: pair("skiff0", "0a:58:0a:f4:00:01"),
            host: pair("veth1", "0a:00:00:00:00:01"),
            sandbox: pair("eth0", "0a:58:0a:f4:00:02"),
            netns: "/run/netns/x".into(),
            address: "10.244.0.2/24".parse().unwrap(),
            gateway: "10.244.0.1".parse().unwrap(),
        }
    }

    fn request(command: Command, id: &str, ifname: &str, netns: Option<&str>, text: &str) -> Result<Request, Fault> {
        Request::from_parts(command, Owner { container: id.into(), ifname: ifname.into() }, netns.map(Into::into), text)
    }

    #[test]
    fn results_take_the_shape_of_the_version() {
        let old = made().result("0.4.0");
        assert_eq!(old["ips"][0], json!({"interface": 2, "address": "10.244.0.2/24", "gateway": "10.244.0.1", "version": "4"}));
        let new = made().result("1.0.0");
        assert_eq!(new["ips"][0].get("version"), None);
        assert_eq!(new["interfaces"][2], json!({"name": "eth0", "mac": "0a:58:0a:f4:00:02", "sandbox": "/run/netns/x"}));
        assert_eq!(new["interfaces"][0].get("sandbox"), None);
    }

    #[test]
    fn bad_calls_are_refused_with_the_codes_of_the_specification() {
        let conf = r#"{"cniVersion":"1.0.0","name":"n","type":"skiff-cni"}"#;
        let cases = [
            (request(Command::Add, "a", "eth0", Some("/x"), "{"), 6),
            (request(Command::Add, "a", "eth0", Some("/x"), r#"{"cniVersion":"9.0.0"}"#), 1),
            (request(Command::Add, "../a", "eth0", Some("/x"), conf), 4),
            (request(Command::Add, "", "eth0", Some("/x"), conf), 4),
            (request(Command::Add, "a", "eth0/..", Some("/x"), conf), 4),
            (request(Command::Add, "a", "sixteen-letters-x", Some("/x"), conf), 4),
            (request(Command::Add, "a", "eth0", None, conf), 4),
        ];
        for (i, (outcome, code)) in cases.into_iter().enumerate() {
            assert_eq!(outcome.unwrap_err().code, code, "case {i}");
        }
        assert!(request(Command::Del, "a", "eth0", None, conf).is_ok());
        assert!(request(Command::Version, "", "", None, "").is_ok());
    }

    #[test]
    fn port_mappings_come_with_the_runtime_config() {
        let mapping = PortMapping { host_port: 80, container_port: 8080, protocol: "tcp".into(), host_ip: "1.2.3.4".into() };
        for ports in [
            r#"{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":"1.2.3.4"}"#,
            r#"{"HostPort":80,"ContainerPort":8080,"Protocol":"tcp","HostIP":"1.2.3.4"}"#,
        ] {
            let text = format!(r#"{{"cniVersion":"1.0.0","runtimeConfig":{{"portMappings":[{ports}]}}}}"#);
            let request = request(Command::Add, "a", "eth0", Some("/x"), &text).unwrap();
            assert_eq!(request.conf.runtime_config.port_mappings, std::slice::from_ref(&mapping));
        }
    }
}
