//! The labels of a namespace -> the policy that its pods are held to. Source: `pod-security-admission/api/helpers.go`.

use std::fmt;

use api::field_errors::FieldErrors;

use serde_json::Value;

use crate::common::{Path, Read};

const PREFIX: &str = "pod-security.kubernetes.io/";
const LEVEL: &str = "must be one of privileged, baseline, restricted";
const VERSION: &str = "must be \"latest\" or \"v1.x\"";

/// From the least strict to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// The minor version whose rules hold, `u32::MAX` for the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Default for Policy {
    fn default() -> Self {
        let none = LevelVersion { level: Level::Privileged, version: Version::LATEST };
        Self { enforce: none, audit: none, warn: none }
    }
}

impl Policy {
    /// `PolicyToEvaluate`: what cannot be read is the strictest for pods, and nothing for warnings and audit. `label` gives a label's value by its key,
    /// `self` holds where there is none.
    pub fn of<'a>(&self, label: impl Fn(&str) -> Option<&'a str>, causes: &mut FieldErrors) -> Self {
        let mut mode = |name: &str, default: LevelVersion, fallback: Level| {
            let key = format!("{PREFIX}{name}");
            let level = label(&key).map(|text| read(Level::parse(text), &key, text, LEVEL, causes));
            let key = format!("{key}-version");
            let version = label(&key).map(|text| read(Version::parse(text), &key, text, VERSION, causes));
            let lv = LevelVersion {
                level: level.map_or(default.level, |level| level.unwrap_or(fallback)),
                version: version.map_or(default.version, |version| version.unwrap_or(Version::LATEST)),
            };
            (lv, level, version)
        };
        let (enforce, enforced, _) = mode("enforce", self.enforce, Level::Restricted);
        let (audit, ..) = mode("audit", self.audit, Level::Privileged);
        let (mut warn, warned, warn_version) = mode("warn", self.warn, Level::Privileged);
        if warned.is_none() && enforced.flatten().is_some_and(|level| level > warn.level) {
            warn.level = enforce.level;
            if warn_version.is_none() {
                warn.version = enforce.version;
            }
        }
        Self { enforce, audit, warn }
    }

    /// Of the `defaults` of a configuration.
    pub fn configured(defaults: Option<&Value>, causes: &mut FieldErrors) -> Self {
        let path = Path::new("defaults");
        let mut mode = |name: &str| {
            let text = |field: &str, default: &'static str| {
                match defaults.text(field) {
                    "" => default,
                    text => text,
                }
                .to_owned()
            };
            let (level, key) = (text(name, "privileged"), format!("{name}-version"));
            let version = text(&key, "latest");
            let (read_level, read_version) = (Level::parse(&level), Version::parse(&version));
            if read_level.is_none() {
                causes.invalid(path.field(name), level, LEVEL);
            }
            if read_version.is_none() {
                causes.invalid(path.field(&key), version, VERSION);
            }
            LevelVersion { level: read_level.unwrap_or(Level::Restricted), version: read_version.unwrap_or(Version::LATEST) }
        };
        let (enforce, warn, audit) = (mode("enforce"), mode("warn"), mode("audit"));
        Self { enforce, audit, warn }
    }

    /// Those of its modes that are not privileged and that a label of a namespace says: `enforce=baseline:latest, warn=...`.
    pub fn told<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> String {
        let modes = [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)];
        let is_said = |name: &str| label(&format!("{PREFIX}{name}")).or_else(|| label(&format!("{PREFIX}{name}-version"))).is_some();
        let told = modes.into_iter().filter(|(name, mode)| mode.level != Level::Privileged && is_said(name));
        told.map(|(name, mode)| format!("{name}={mode}")).collect::<Vec<_>>().join(", ")
    }

    pub fn is_fully_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        [Level::Privileged, Level::Baseline, Level::Restricted].into_iter().find(|level| level.word() == text)
    }

    fn word(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

impl Version {
    pub const LATEST: Self = Self(u32::MAX);

    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::LATEST);
        }
        let digits = text.strip_prefix("v1.")?;
        let is_number = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        let number = digits.parse::<u32>().ok().filter(|_| is_number)?;
        Some(Self(number.min(u32::MAX - 1)))
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.level.word();
        match self.version {
            Version::LATEST => write!(f, "{level}:latest"),
            Version(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

fn read<T>(found: Option<T>, key: &str, text: &str, rule: &str, causes: &mut FieldErrors) -> Option<T> {
    if found.is_none() {
        causes.invalid(Path::new("metadata.labels").key(key), text, rule);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(labels: &[(&str, &str)]) -> (String, Vec<String>) {
        let mut causes = FieldErrors::default();
        let find = |key: &str| labels.iter().find(|(name, _)| key.strip_prefix(PREFIX) == Some(*name)).map(|(_, value)| *value);
        let Policy { enforce, audit, warn } = Policy::default().of(find, &mut causes);
        (format!("{enforce} {audit} {warn}"), causes.0.iter().map(|c| c.text()).collect())
    }

    #[test]
    fn labels_say_what_holds() {
        let cases: [(&[(&str, &str)], &str); 5] = [
            (&[], "privileged:latest privileged:latest privileged:latest"),
            (&[("enforce", "baseline"), ("enforce-version", "v1.22")], "baseline:v1.22 privileged:latest baseline:v1.22"),
            (&[("enforce", "restricted"), ("warn", "baseline")], "restricted:latest privileged:latest baseline:latest"),
            (&[("enforce", "restricted"), ("warn-version", "v1.0")], "restricted:latest privileged:latest restricted:v1.0"),
            (&[("audit", "restricted"), ("enforce", "privileged")], "privileged:latest restricted:latest privileged:latest"),
        ];
        for (labels, wanted) in cases {
            assert_eq!(policy(labels), (wanted.to_owned(), Vec::new()), "{labels:?}");
        }
    }

    #[test]
    fn a_configuration_says_what_holds_without_labels() {
        let mut causes = FieldErrors::default();
        let config = serde_json::json!({"enforce": "baseline", "enforce-version": "v1.30", "warn": "restricted"});
        let defaults = Policy::configured(Some(&config), &mut causes);
        let of = |labels: &[(&str, &str)]| {
            let find = |key: &str| labels.iter().find(|(name, _)| key.strip_prefix(PREFIX) == Some(*name)).map(|(_, value)| *value);
            let found = defaults.of(find, &mut FieldErrors::default());
            (format!("{} {} {}", found.enforce, found.audit, found.warn), found.told(find))
        };
        assert!(causes.is_empty());
        assert_eq!(of(&[]), ("baseline:v1.30 privileged:latest restricted:latest".into(), String::new()));
        assert_eq!(
            of(&[("enforce", "restricted")]),
            ("restricted:v1.30 privileged:latest restricted:latest".into(), "enforce=restricted:v1.30".into())
        );
        Policy::configured(Some(&serde_json::json!({"audit": "x", "warn-version": "y"})), &mut causes);
        let told: Vec<String> = causes.0.iter().map(|c| c.text()).collect();
        let wanted = [
            r#"defaults.warn-version: Invalid value: "y": must be "latest" or "v1.x""#,
            r#"defaults.audit: Invalid value: "x": must be one of privileged, baseline, restricted"#,
        ];
        assert_eq!(told, wanted);
    }

    #[test]
    fn what_cannot_be_read_is_strict_for_pods_alone() {
        let (found, causes) = policy(&[("enforce", "x"), ("audit", "y"), ("warn-version", "v1.01")]);
        assert_eq!(found, "restricted:latest privileged:latest privileged:latest");
        let wanted = [
            r#"metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "x": must be one of privileged, baseline, restricted"#,
            r#"metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: "y": must be one of privileged, baseline, restricted"#,
            r#"metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "v1.01": must be "latest" or "v1.x""#,
        ];
        assert_eq!(causes, wanted);
    }
}
