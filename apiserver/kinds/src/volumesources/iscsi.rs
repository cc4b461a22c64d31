//! An iSCSI disk -> what is wrong with it. Source: `validateISCSIVolumeSource`, `validateISCSIPersistentVolumeSource`.

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::Of;
use crate::common::{Path, Read, name_rules, require};

const TOO_LONG: &str =
    "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
const NAME_BYTES: usize = 64;

pub fn check(source: &Value, of: Of<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    require(source, "targetPortal", path, causes);
    let (initiator, portal) = (source.at("initiatorName").and_then(Value::as_str), source.text("targetPortal"));
    if let Of::Persistent(name) = of
        && is_too_long(source, name)
    {
        causes.invalid(path.field("targetportal"), portal, TOO_LONG);
    }
    if require(source, "iqn", path, causes) {
        name(source.text("iqn"), of, path.field("iqn"), causes);
    }
    let lun = source.int("lun").unwrap_or(0);
    for error in name_rules::in_range(lun, 0, 255) {
        causes.invalid(path.field("lun"), lun, &error);
    }
    let secret = source.at("secretRef");
    let has_password = ["chapAuthDiscovery", "chapAuthSession"].iter().any(|field| source.is_true(field));
    if has_password && secret.is_none() {
        causes.required(path.field("secretRef"), "");
    }
    if let Some(secret) = secret.filter(|_| of != Of::Pod) {
        require(secret, "name", path.field("secretRef"), causes);
    }
    if let Some(initiator) = initiator {
        name(initiator, of, path.field("initiatorname"), causes);
    }
}

/// A pod's volume of this name; upstream blames the name. `path` is the volume's.
pub fn volume_name(source: &Value, volume: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if is_too_long(source, volume) {
        causes.invalid(path.field("name"), volume, TOO_LONG);
    }
}

fn is_too_long(source: &Value, volume: &str) -> bool {
    source.at("initiatorName").is_some() && volume.len() + 1 + source.text("targetPortal").len() > NAME_BYTES
}

fn name(name: &str, of: Of<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let well = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => is_hex_name(name, 16),
        Some("naa") => is_hex_name(name, 32),
        _ if of == Of::Pod => return causes.invalid(path, name, "must be valid format starting with iqn, eui, or naa"),
        _ => false,
    };
    if !well {
        causes.invalid(path, name, "must be valid format");
    }
}

/// `iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`, wherever it begins.
fn is_iqn(name: &str) -> bool {
    name.match_indices("iqn.").any(|(at, begin)| is_dated(&name.as_bytes()[at + begin.len()..]))
}

fn is_dated(rest: &[u8]) -> bool {
    let is_date = |date: &[u8]| {
        date.iter().enumerate().all(|(i, b)| match i {
            4 => *b == b'-',
            7 => *b == b'.',
            _ => b.is_ascii_digit(),
        })
    };
    let Some((date, rest)) = rest.split_at_checked(8) else { return false };
    let Some(colon) = rest.iter().position(|b| *b == b':') else { return false };
    let (authority, target) = rest.split_at(colon);
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    // Go's `\s`: no vertical tab.
    let is_end = |b: &u8| b",;*&$|\t\n\x0c\r ".contains(b);
    is_date(date) && !authority.is_empty() && authority.iter().all(is_word) && target.len() > 1 && !target[1..].iter().any(is_end)
}

/// `^eui.[[:alnum:]]{16}$`: the point is any character.
fn is_hex_name(name: &str, length: usize) -> bool {
    let mut rest = name.get(3..).unwrap_or_default().chars();
    let dot = rest.next().is_some_and(|c| c != '\n');
    let text = rest.as_str();
    dot && text.len() == length && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(source: Value, of: Of<'_>) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&source, of, Path::new("v"), &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn names_are_of_three_kinds() {
        for good in ["iqn.2001-04.com.example:storage:kube", "eui.0123456789abcdef", &format!("naa.{}", "a".repeat(32))] {
            assert_eq!(texts(json!({"targetPortal": "p", "iqn": good}), Of::Pod), Vec::<String>::new(), "{good}");
        }
        for bad in ["iqn.2001-4.com:x", "iqn.2001-04.com", "iqn.2001-04.com:", "iqn.2001-04.com:a b", "eui.1", "naa", "iqn.20"] {
            let wanted = format!("v.iqn: Invalid value: {bad:?}: must be valid format");
            assert_eq!(texts(json!({"targetPortal": "p", "iqn": bad}), Of::Pod), [wanted]);
        }
        let wanted = r#"v.iqn: Invalid value: "é": must be valid format starting with iqn, eui, or naa"#;
        assert_eq!(texts(json!({"targetPortal": "p", "iqn": "é"}), Of::Pod), [wanted]);
    }

    #[test]
    fn all_that_is_wrong_is_said() {
        let bad = json!({"iqn": "x", "lun": -1, "chapAuthSession": true, "initiatorName": "y"});
        let wanted = [
            "v.targetPortal: Required value",
            r#"v.iqn: Invalid value: "x": must be valid format"#,
            "v.lun: Invalid value: -1: must be between 0 and 255, inclusive",
            "v.secretRef: Required value",
            r#"v.initiatorname: Invalid value: "y": must be valid format"#,
        ];
        assert_eq!(texts(bad, Of::Persistent("n")), wanted);
        let long = json!({"targetPortal": "p".repeat(60), "iqn": "iqn.2001-04.a:b", "initiatorName": "iqn.2001-04.a:b"});
        assert_eq!(texts(long.clone(), Of::Persistent("long")).len(), 1);
        assert_eq!(texts(long, Of::Persistent("abc")), Vec::<String>::new());
    }
}
