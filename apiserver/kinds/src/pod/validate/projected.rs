//! Sources of a projected volume -> what is wrong with them.

use std::collections::HashSet;

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{local_path, require, volume_files};
use crate::common::{Path, Read};

const TYPES: [&str; 6] = ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

/// `validateProjectionSources`; `path` is the volume's.
pub fn sources(sources: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let (list, mut files) = (path.field("sources"), HashSet::new());
    for (i, source) in sources.iter().enumerate() {
        let at = list.index(i);
        for name in ["secret", "configMap"] {
            let Some(found) = source.at(name) else { continue };
            let here = at.field(name);
            require(found, "name", here, causes);
            volume_files::keys(found.list("items"), here.field("items"), causes);
            conflicts(found.list("items"), found.text("name"), &mut files, path, causes);
        }
        if let Some(found) = source.at("downwardAPI") {
            for file in found.list("items") {
                volume_files::downward_file(file, at.field("downwardAPI"), causes);
                conflicts(std::slice::from_ref(file), file.text("path"), &mut files, path, causes);
            }
        }
        if let Some(token) = source.at("serviceAccountToken") {
            service_account_token(token, at.field("serviceAccountToken"), path, causes);
        }
        if TYPES.iter().filter(|t| source.at(t).is_some()).count() > 1 {
            causes.forbidden(at, "may not specify more than 1 volume type per source");
        }
    }
}

/// A pod without service account has no token to mount.
pub fn tokens_need_account(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for (i, volume) in spec.list("volumes").iter().enumerate() {
        for (j, _) in volume.at("projected").list("sources").iter().enumerate().filter(|(_, s)| s.at("serviceAccountToken").is_some()) {
            let at = format!("{}.projected.sources[{j}].serviceAccountToken", path.index(i));
            causes.forbidden(at, "must not be specified when serviceAccountName is not set");
        }
    }
}

fn service_account_token(token: &Value, path: Path<'_>, volume: Path<'_>, causes: &mut FieldErrors) {
    let seconds = token.int("expirationSeconds").unwrap_or(0);
    if seconds < 600 {
        causes.invalid(path.field("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        causes.invalid(path.field("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if require(token, "path", volume, causes) {
        local_path(token.text("path"), volume.field("path"), causes);
    }
}

fn conflicts<'v>(items: &'v [Value], shown: &str, files: &mut HashSet<&'v str>, path: Path<'_>, causes: &mut FieldErrors) {
    for file in items.iter().map(|i| i.text("path")).filter(|p| !p.is_empty()) {
        if !files.insert(file) {
            causes.invalid(path, shown, "conflicting duplicate paths");
        }
    }
}
