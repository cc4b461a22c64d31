//! A query -> options of list, watch and writes, checked. Source: apimachinery `metav1` options and `internalversion/validation`.

use api::{Gvk, Status, field_errors::FieldErrors};
use serde_json::{Map, Value, json};

use super::{
    info::{RequestInfo, Selectors},
    query::Query,
};
use crate::{
    engine::{context::MANAGER_LENGTH_MAX, list::When, registry::Served, select::Selection},
    schema::FieldValidation,
};

/// `metav1.ListOptions` of a list or a watch.
#[derive(Clone)]
pub(crate) struct ListOptions {
    pub selection: Selection,
    pub limit: usize,
    pub when: When,
    pub bookmarks: bool,
    pub send_initial: Option<bool>,
    pub timeout_seconds: Option<u64>,
}

/// Options that all writes have.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
    /// As admission sees them.
    pub value: Value,
}

impl ListOptions {
    /// # Errors
    /// 400 for what cannot be read, 422 for options that contradict each other.
    pub fn read(query: &Query, info: &RequestInfo, served: &Served) -> Result<Self, Status> {
        let Selectors { fields, labels } = info.selectors.clone();
        let (fields, labels) = (fields.map_err(Status::bad_request)?, labels.map_err(Status::bad_request)?);
        let selection = Selection::new(&served.kind, served.stored_kind(), info.place(), labels, fields)?;
        check(query, info.verb == "watch")?;
        // What the cache has is given whole (`shouldDelegateList`, in upstream's cacher).
        let is_any = query.get("resourceVersion") == "0" && query.get("continue").is_empty();
        let limit = query.number("limit")?.filter(|_| !is_any).unwrap_or_default();
        Ok(Self {
            selection,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            when: when(query, limit > 0).map_err(|status| match query.get("resourceVersion") {
                text if info.verb == "watch" && status.message.starts_with("invalid resource version: ") => bad_version_of_watch(text),
                _ => status,
            })?,
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial: query.optional_flag("sendInitialEvents"),
            timeout_seconds: query.number("timeoutSeconds")?,
        })
    }
}

pub(super) fn when(query: &Query, paged: bool) -> Result<When, Status> {
    let (token, version) = (query.get("continue"), query.get("resourceVersion"));
    if !token.is_empty() {
        if !matches!(version, "" | "0") {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        return Ok(When::Continue(token.to_owned()));
    }
    let rev = match version {
        "" => return Ok(When::Newest),
        "0" => return Ok(When::Any),
        text => text.parse::<u64>().map_err(|_| bad_version(text))?,
    };
    match query.get("resourceVersionMatch") {
        "Exact" => Ok(When::Exactly(rev)),
        "" if paged && rev > 0 => Ok(When::Exactly(rev)),
        _ => Ok(When::NotOlderThan(rev)),
    }
}

/// A watch says it as an error that is no Status.
fn bad_version_of_watch(text: &str) -> Status {
    let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
    Status::new(500, "", format!("resourceVersion: Invalid value: {text:?}: {why}"))
}

fn bad_version(text: &str) -> Status {
    let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
    Status::bad_request(format!("invalid resource version: resourceVersion: Invalid value: {text:?}: {why}"))
}

fn check(query: &Query, watch: bool) -> Result<(), Status> {
    let mut causes = FieldErrors::default();
    if watch {
        check_watch(query, &mut causes)
    } else {
        check_list(query, &mut causes)
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid(&Gvk::new("meta.k8s.io", "v1", "ListOptions"), "", &causes)) }
}

fn check_list(query: &Query, causes: &mut FieldErrors) {
    let matching = query.get("resourceVersionMatch");
    let at = "resourceVersionMatch";
    if !matching.is_empty() {
        if query.get("resourceVersion").is_empty() {
            causes.forbidden(at, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !query.get("continue").is_empty() {
            causes.forbidden(at, "resourceVersionMatch is forbidden when continue is provided");
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            causes.not_supported(at, matching, &["Exact", "NotOlderThan", ""]);
        }
        if matching == "Exact" && query.get("resourceVersion") == "0" {
            causes.forbidden(at, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if query.optional_flag("sendInitialEvents").is_some() {
        causes.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
}

fn check_watch(query: &Query, causes: &mut FieldErrors) {
    let matching = query.get("resourceVersionMatch");
    let at = "resourceVersionMatch";
    let initial = query.optional_flag("sendInitialEvents");
    if initial.is_some() && matching != "NotOlderThan" {
        causes.forbidden(at, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if !matching.is_empty() {
        if initial.is_none() {
            causes.forbidden(at, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if matching != "NotOlderThan" {
            causes.not_supported(at, matching, &["NotOlderThan"]);
        }
        if !query.get("continue").is_empty() {
            causes.forbidden(at, "resourceVersionMatch is forbidden when continue is provided");
        }
    }
}

impl WriteOptions {
    /// `kind` is the options' kind, `CreateOptions` and the like.
    ///
    /// # Errors
    /// 422 for values that do not exist.
    pub fn read(query: &Query, kind: &str) -> Result<Self, Status> {
        Self::checked(query, kind, FieldErrors::default())
    }

    /// Of a patch, which may be applied.
    ///
    /// # Errors
    /// As of [`WriteOptions::read`].
    pub fn of_patch(query: &Query, is_apply: bool) -> Result<Self, Status> {
        let mut causes = FieldErrors::default();
        if !is_apply && query.optional_flag("force").is_some() {
            causes.forbidden("force", "may not be specified for non-apply patch");
        }
        if is_apply && query.get("fieldManager").is_empty() {
            causes.required("fieldManager", "is required for apply patch");
        }
        let mut options = Self::checked(query, "PatchOptions", causes)?;
        if let Some(force) = query.optional_flag("force") {
            options.value["force"] = force.into();
        }
        Ok(options)
    }

    fn checked(query: &Query, kind: &str, mut causes: FieldErrors) -> Result<Self, Status> {
        let manager = query.get("fieldManager");
        if manager.len() > MANAGER_LENGTH_MAX {
            causes.too_long("fieldManager", MANAGER_LENGTH_MAX);
        }
        for (at, c) in manager.char_indices().filter(|(_, c)| !is_printed(*c)) {
            causes.invalid("fieldManager", manager, &format!("invalid character U+{:04X} (at position {at})", u32::from(c)));
        }
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        if dry_run.iter().any(|value| *value != "All") {
            causes.not_supported("dryRun", json!(dry_run), &["All"]);
        }
        let validation = match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                causes.not_supported("fieldValidation", other, &["Ignore", "Strict", "Warn", ""]);
                FieldValidation::Warn
            }
        };
        if !causes.is_empty() {
            return Err(Status::invalid(&Gvk::new("meta.k8s.io", "v1", kind), "", &causes));
        }
        let mut value = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if !dry_run.is_empty() {
            value["dryRun"] = json!(dry_run);
        }
        for name in ["fieldManager", "fieldValidation"].into_iter().filter(|name| !query.get(name).is_empty()) {
            value[name] = query.get(name).into();
        }
        Ok(Self { dry_run: !dry_run.is_empty(), validation, value })
    }
}

/// Go's `unicode.IsPrint`, as far as names go: no control characters, and no space but the plain one.
fn is_printed(c: char) -> bool {
    c == ' ' || !c.is_control() && !c.is_whitespace()
}

/// `metav1.DeleteOptions` given in the query.
pub(crate) fn delete_options(query: &Query) -> Result<Value, Status> {
    let mut options = Map::new();
    if let Some(seconds) = query.all("gracePeriodSeconds").next() {
        let number: Result<i64, _> = seconds.parse();
        let number = number.map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {seconds:?}: invalid syntax")))?;
        options.insert("gracePeriodSeconds".into(), number.into());
    }
    if let Some(policy) = query.all("propagationPolicy").next() {
        options.insert("propagationPolicy".into(), policy.into());
    }
    if let Some(orphan) = query.optional_flag("orphanDependents") {
        options.insert("orphanDependents".into(), orphan.into());
    }
    let dry_run: Vec<&str> = query.all("dryRun").collect();
    if !dry_run.is_empty() {
        options.insert("dryRun".into(), json!(dry_run));
    }
    Ok(Value::Object(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradicting_options_are_refused() {
        let refused = [
            ("resourceVersionMatch=Exact", false),
            ("resourceVersionMatch=Exact&resourceVersion=0", false),
            ("resourceVersionMatch=Foo&resourceVersion=1", false),
            ("sendInitialEvents=true", false),
            ("sendInitialEvents=true", true),
            ("resourceVersionMatch=NotOlderThan", true),
        ];
        for (text, watch) in refused {
            assert_eq!(check(&Query::parse(Some(text)), watch).err().map(|s| s.code), Some(422), "{text}");
        }
        assert_eq!(check(&Query::parse(Some("sendInitialEvents=true&resourceVersionMatch=NotOlderThan")), true), Ok(()));
    }
}
