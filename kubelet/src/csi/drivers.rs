//! The drivers that are registered on this node, by name.
//!
//! Source: `csi_drivers_store.go`, `validateVersions` in `pkg/volume/csi/csi_plugin.go`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use csi::Driver;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Drivers register some moments after the agent starts: whoever wants one waits so long for it.
const REGISTERED_BOUND: Duration = Duration::from_secs(5);
/// CSI's own bound for a name.
const NAME_MAX: usize = 63;

/// Numbers of a version: `1.9.0`.
pub type Version = Vec<u64>;

pub struct Drivers {
    known: Mutex<HashMap<String, Known>>,
    changed: watch::Sender<()>,
}

struct Known {
    driver: Driver,
    version: Version,
    /// The socket that it registered with.
    by: PathBuf,
}

impl Default for Drivers {
    fn default() -> Self {
        Self { known: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Drivers {
    /// # Errors
    /// Upstream's words, where it is not registered, some seconds on either.
    pub async fn get(&self, name: &str) -> Result<Driver, String> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                changed.mark_unchanged();
                if let Some(known) = self.known.lock().get(name) {
                    return known.driver.clone();
                }
                // Its sender lives as long as we do.
                let _ = changed.changed().await;
            }
        };
        let found = tokio::time::timeout(REGISTERED_BOUND, found).await;
        found.map_err(|_| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    /// One that is registered now.
    pub fn registered(&self, name: &str) -> Option<Driver> {
        self.known.lock().get(name).map(|known| known.driver.clone())
    }

    /// The version that it would have.
    ///
    /// # Errors
    /// Upstream's words: none of its versions is ours, or another has its name.
    pub fn judge(&self, name: &str, versions: &[String]) -> Result<Version, String> {
        is_name(name)?;
        if versions.is_empty() {
            return Err(format!("CSI driver {name:?} failed. Plugin returned an empty list for supported versions"));
        }
        let ours = |version: &Version| version.first() == Some(&1);
        let Some(highest) = versions.iter().filter_map(|text| version(text)).filter(ours).max() else {
            return Err(format!("CSI driver {name:?} failed. None of the versions specified {versions:?} are supported"));
        };
        match self.known.lock().get(name) {
            Some(there) if there.version >= highest => Err(format!(
                "CSI driver {name:?} failed. Another driver with the same name is already registered with a higher supported version: {:?}",
                written(&there.version)
            )),
            _ => Ok(highest),
        }
    }

    pub fn put(&self, name: &str, endpoint: &Path, version: Version, by: &Path) {
        self.known.lock().insert(name.to_owned(), Known { driver: Driver::at(endpoint), version, by: by.to_owned() });
        self.changed.send_replace(());
    }

    /// Takes it away where it was registered with that socket; whether it was.
    pub fn remove(&self, name: &str, by: &Path) -> bool {
        let mut known = self.known.lock();
        let is_it = known.get(name).is_some_and(|known| known.by == by);
        if is_it {
            known.remove(name);
        }
        is_it
    }
}

/// Upstream's `ValidateCSIDriverName`, near enough: it goes into names of objects.
fn is_name(name: &str) -> Result<(), String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let good = name.len() <= NAME_MAX && name.chars().all(inner) && edge(name.chars().next()) && edge(name.chars().next_back());
    if good { Ok(()) } else { Err(format!("CSI driver name {:?} is not valid", name.chars().take(NAME_MAX).collect::<String>())) }
}

fn version(text: &str) -> Option<Version> {
    let numbers = text.trim().trim_start_matches('v').split(['-', '+']).next()?;
    numbers.split('.').map(|number| number.parse().ok()).collect()
}

fn written(version: &Version) -> String {
    version.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// Where a driver does its work. Upstream's `parseEndpoint` takes more; a node's drivers have sockets.
///
/// # Errors
/// It is no absolute path.
pub fn socket(endpoint: &str) -> Result<PathBuf, String> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if path.starts_with('/') { Ok(path.into()) } else { Err(format!("endpoint {endpoint:?} is no absolute path of a socket")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_drivers_of_a_version_that_we_speak() {
        let drivers = Drivers::default();
        let judged = |versions: &[&str]| drivers.judge("d.example", &versions.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(judged(&["0.3.0", "1.0.0", "v1.9.0", "2.0.0"]), Ok(vec![1, 9, 0]));
        assert!(judged(&[]).unwrap_err().contains("empty list"));
        assert!(judged(&["2.0.0", "x"]).unwrap_err().contains("None of the versions"));
        drivers.put("d.example", Path::new("/d"), vec![1, 0, 0], Path::new("/r"));
        assert_eq!(judged(&["1.0.1"]), Ok(vec![1, 0, 1]));
        assert!(judged(&["1.0.0"]).unwrap_err().ends_with(r#"higher supported version: "1.0.0""#));
        assert!(!drivers.remove("d.example", Path::new("/other")));
        assert!(drivers.remove("d.example", Path::new("/r")) && judged(&["1.0.0"]).is_ok());
        for bad in ["", "a/b", "../x", "-a", "a.", &"a".repeat(64)] {
            drivers.judge(bad, &["1.0.0".to_owned()]).unwrap_err();
        }
    }

    #[test]
    fn endpoints_are_absolute_paths() {
        assert_eq!(socket("/a/b.sock"), Ok("/a/b.sock".into()));
        assert_eq!(socket("unix:///a/b.sock"), Ok("/a/b.sock".into()));
        for bad in ["", "a.sock", "tcp://1.2.3.4:5", "unix://a"] {
            socket(bad).unwrap_err();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_wants_a_driver_waits_for_it_a_little() {
        let drivers = Drivers::default();
        assert!(drivers.get("d").await.unwrap_err().contains("driver name d not found"));
        let (found, ()) = tokio::join!(drivers.get("d"), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drivers.put("d", Path::new("/d"), vec![1], Path::new("/r"));
        });
        assert_eq!(found, Ok(Driver::at(Path::new("/d"))));
    }
}
