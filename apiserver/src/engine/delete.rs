//! A delete -> the object gone, or marked for deletion. Source: apiserver `registry/store.go` `Delete`, `rest/delete.go` `BeforeDelete`.

use std::sync::Arc;

use api::{
    GroupResource, Gvk, Status,
    field_errors::FieldErrors,
    time::{self, Timestamp, rfc3339},
};
use serde_json::{Value, json};

use super::{
    admit,
    claims::Claims,
    context::Ctx,
    form,
    meta::{self, FOREGROUND, ORPHAN},
    object::Object,
    update::{Tries, erase, replace},
};
use crate::kind::{Grace, Kind, Storage};

/// `metav1.DeleteOptions`, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub grace_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub policy: Option<String>,
}

pub(crate) struct Deleted {
    /// The last state, in the served form.
    pub object: Arc<Object>,
    pub gone: bool,
}

#[derive(Debug, PartialEq)]
enum Fate {
    /// Its deletion is under way already.
    Stays,
    Marked(Value),
    /// What it was in the end, where that is another than what is stored: a kind with grace periods is marked first.
    Goes(Option<Value>),
}

impl Options {
    /// # Errors
    /// 400 for wrong types, 422 for contradictions.
    pub fn read(options: &Value) -> Result<Self, Status> {
        let bad = |name: &str| Status::bad_request(format!("DeleteOptions: {name} has the wrong type"));
        let get = |name: &str| options.get(name).filter(|value| !value.is_null());
        let text = |value: Option<&Value>, name: &str| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(bad(name)),
        };
        let preconditions = get("preconditions");
        let read = Self {
            grace_seconds: get("gracePeriodSeconds").map(|v| v.as_i64().ok_or_else(|| bad("gracePeriodSeconds"))).transpose()?,
            uid: text(preconditions.and_then(|p| p.get("uid")), "preconditions.uid")?,
            resource_version: text(preconditions.and_then(|p| p.get("resourceVersion")), "preconditions.resourceVersion")?,
            orphan_dependents: get("orphanDependents").map(|v| v.as_bool().ok_or_else(|| bad("orphanDependents"))).transpose()?,
            policy: text(get("propagationPolicy"), "propagationPolicy")?.filter(|policy| !policy.is_empty()),
        };
        read.checked()
    }

    fn checked(self) -> Result<Self, Status> {
        let mut causes = FieldErrors::default();
        if let Some(policy) = &self.policy {
            if self.orphan_dependents.is_some() {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                causes.invalid("propagationPolicy", policy.as_str(), why);
            } else if !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan") {
                // Upstream's order is not that of the alphabet, and "nil" is its own.
                let why = "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"";
                causes.not_supported_as("propagationPolicy", policy.as_str(), why);
            }
        }
        if causes.is_empty() { Ok(self) } else { Err(Status::invalid(&Gvk::new("meta.k8s.io", "v1", "DeleteOptions"), "", &causes)) }
    }
}

pub(crate) async fn delete(ctx: &Ctx<'_>, options: &Options) -> Result<Deleted, Status> {
    let served = ctx.served;
    let gr = served.kind.group_resource();
    let mut tries = Tries::default();
    loop {
        let Some(current) = ctx.engine.stored(served, &ctx.key()).await? else { return Err(Status::not_found(&gr, ctx.name)) };
        let object = form::value(served, &current).await?;
        check_preconditions(&served.kind, &object, options)?;
        admit::mutate(ctx, None, Some(&object)).await?;
        admit::validate(ctx, None, Some(&object)).await?;
        let shown = form::view(served, current.clone());
        match fate(ctx, &object, options) {
            Fate::Stays => return Ok(Deleted { object: shown.await?, gone: false }),
            Fate::Goes(last) => {
                if ctx.dry_run || erase(ctx, &current).await? {
                    let object = match last {
                        Some(last) => form::loose(ctx.key(), &last),
                        None => shown.await?,
                    };
                    return Ok(Deleted { object, gone: true });
                }
            }
            Fate::Marked(marked) if marked == object => return Ok(Deleted { object: shown.await?, gone: false }),
            Fate::Marked(marked) if ctx.dry_run => return Ok(Deleted { object: form::loose(ctx.key(), &marked), gone: false }),
            Fate::Marked(marked) => {
                if let Some(object) = replace(ctx, current.rev, &marked, Claims::default()).await? {
                    return Ok(Deleted { object, gone: false });
                }
            }
        }
        if !tries.goes_on_after(current.stored().len()) {
            return Err(Status::stale(&gr, ctx.name));
        }
    }
}

fn check_preconditions(kind: &Kind, object: &Value, options: &Options) -> Result<(), Status> {
    let name = meta::text(object, "name");
    let (uid, version) = (meta::text(object, "uid"), meta::text(object, "resourceVersion"));
    let own = kind.strategy.has_own_deletion();
    // Told of the kind that it is kept as, as in `refuse_invalid`.
    let group = if let Storage::As { group, .. } = &kind.storage { group } else { &kind.group };
    let gr = if own { kind.group_resource() } else { GroupResource::new(group, &kind.kind) };
    let fails = |what: &str, wanted: &str, is: &str, perhaps: &str| {
        let why = match own {
            true => format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}"),
            false => format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({is}). The object might have been {perhaps}"
            ),
        };
        Status::conflict(&gr, name, &why)
    };
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        return Err(fails("UID", wanted, uid, "deleted and then recreated"));
    }
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
        return Err(fails("ResourceVersion", wanted, version, "modified"));
    }
    Ok(())
}

fn fate(ctx: &Ctx<'_>, object: &Value, options: &Options) -> Fate {
    let strategy = &ctx.kind.strategy;
    // Negative values are treated as one second.
    let requested = options.grace_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let mut marked = object.clone();
    let graceful = match remaining_grace(object) {
        Some(left) if requested.is_none_or(|seconds| seconds >= left) => return Fate::Stays,
        Some(left) => Some(shorten(&mut marked, left, requested.unwrap_or_default(), ctx.now)),
        None if meta::field(object, "deletionTimestamp").is_some() => None,
        None => match strategy.grace(object, requested) {
            Grace::Now => None,
            Grace::Seconds(seconds) => {
                meta::mark_deleted(&mut marked, ctx.now, seconds);
                Some(seconds)
            }
        },
    };
    if strategy.collects_garbage(object) {
        set_finalizers(&mut marked, strategy.orphans_by_default(), options);
    }
    let held = !meta::finalizers(&marked).is_empty() || strategy.holds_deletion(&marked);
    if !held && graceful.unwrap_or_default() == 0 {
        return Fate::Goes(graceful.map(|_| marked));
    }
    if graceful.is_none() && meta::field(object, "deletionTimestamp").is_none() {
        meta::mark_deleted(&mut marked, ctx.now, 0);
    }
    if meta::field(object, "deletionTimestamp").is_none() {
        strategy.begin_delete(ctx, &mut marked);
    }
    Fate::Marked(marked)
}

/// The grace period of a deletion that is under way and not yet over.
fn remaining_grace(object: &Value) -> Option<i64> {
    meta::field(object, "deletionTimestamp")?;
    meta::field(object, "deletionGracePeriodSeconds")?.as_i64().filter(|seconds| *seconds > 0)
}

/// A shorter grace period moves the deletion forward, though not into the past. Returns the period that holds now.
fn shorten(object: &mut Value, left: i64, requested: i64, now: Timestamp) -> i64 {
    let at = time::parse(meta::text(object, "deletionTimestamp")).unwrap_or(now);
    let moved = at.checked_sub(jiff::SignedDuration::from_secs(left - requested)).unwrap_or(now);
    let (at, seconds) = match (moved < now, requested) {
        (true, 0) => (now, 0),
        (true, _) => (now, 1),
        (false, seconds) => (moved, seconds),
    };
    let meta = meta::of(object);
    meta.insert("deletionTimestamp".into(), rfc3339(at).into());
    meta.insert("deletionGracePeriodSeconds".into(), seconds.into());
    seconds
}

/// `deletionFinalizersForGarbageCollection`: what the garbage collector has to do before the object may go.
fn set_finalizers(object: &mut Value, orphans_by_default: bool, options: &Options) {
    let had = meta::finalizers(object);
    let wanted = match (options.orphan_dependents, options.policy.as_deref()) {
        (Some(true), _) | (None, Some("Orphan")) => Some(ORPHAN),
        (None, Some("Foreground")) => Some(FOREGROUND),
        (Some(false), _) | (None, Some(_)) => None,
        (None, None) => {
            let set = had.iter().find_map(|f| [ORPHAN, FOREGROUND].into_iter().find(|known| f == known));
            set.or(orphans_by_default.then_some(ORPHAN))
        }
    };
    let mut finalizers: Vec<String> = had.iter().filter(|f| ![ORPHAN, FOREGROUND].contains(&f.as_str())).cloned().collect();
    finalizers.extend(wanted.map(str::to_owned));
    if finalizers.is_empty() {
        meta::of(object).shift_remove("finalizers");
    } else if had != finalizers {
        meta::of(object).insert("finalizers".into(), json!(finalizers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_become_finalizers() {
        let policy = |p: &str| Options { policy: Some(p.into()), ..Options::default() };
        let cases = [
            (policy("Orphan"), json!(["a", "orphan"])),
            (policy("Foreground"), json!(["a", "foregroundDeletion"])),
            (policy("Background"), json!(["a"])),
            (Options { orphan_dependents: Some(true), ..Options::default() }, json!(["a", "orphan"])),
        ];
        for (options, wanted) in cases {
            let mut object = json!({"metadata": {"finalizers": ["a"]}});
            set_finalizers(&mut object, false, &options);
            assert_eq!(object["metadata"]["finalizers"], wanted, "{options:?}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let both = Options::read(&json!({"orphanDependents": true, "propagationPolicy": "Orphan"}));
        assert_eq!(both.err().map(|s| s.code), Some(422));
        assert_eq!(Options::read(&json!({"propagationPolicy": "Nope"})).err().map(|s| s.code), Some(422));
        assert_eq!(Options::read(&json!({"gracePeriodSeconds": "1"})).err().map(|s| s.code), Some(400));
    }

    #[test]
    fn a_shorter_grace_moves_the_deletion_forward_not_back() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut object = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30}});
        assert_eq!(shorten(&mut object, 30, 10, now), 10);
        assert_eq!(object["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
        let late: Timestamp = "2026-01-01T00:00:20Z".parse().unwrap();
        assert_eq!(shorten(&mut object, 10, 5, late), 1);
        assert_eq!(object["metadata"]["deletionTimestamp"], "2026-01-01T00:00:20Z");
    }
}
