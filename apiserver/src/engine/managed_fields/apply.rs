//! An applied configuration and the object it is for -> the object as it shall be, and who owns what of it. Sources: structured-merge-diff
//! `merge/update.go`, apimachinery `pkg/util/managedfields/internal/{structuredmerge,lastappliedmanager,lastappliedupdater,skipnonapplied}.go`.

use std::{borrow::Cow, collections::BTreeMap, ops::ControlFlow};

use api::{Status, time::rfc3339};
use serde_json::{Value, json};

use super::{
    FIELD,
    entries::{Entry, Managed, Source, Who},
    put, reset,
    versions::{self, Shape},
};
use crate::{
    engine::{
        context::{Ctx, ManagerOperation},
        meta,
    },
    fields::{Mode, Set, Side, Typ, compare, ensure_named, merge, remove, set_of, validate},
};

/// Who has what there was before anybody's fields were known.
const BEFORE: &str = "before-first-apply";
/// Who may take over what it applied on the client's side.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Most that is told of conflicts: a path may be as long as an object, and there are many.
const CONFLICTS_BYTES_MAX: usize = 1 << 20;

/// What is applied.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub value: Value,
    /// Takes what others own.
    pub is_forced: bool,
}

/// Makes `object` (null where there is none) what it shall be.
///
/// # Errors
/// 400 for what is of another kind, 500 for what is not of its schema (as upstream), 409 with every conflict.
pub(crate) fn apply(ctx: &Ctx<'_>, object: &mut Value, configuration: &Configuration) -> Result<(), Status> {
    let (schema, gvk) = ctx.body();
    let config = &configuration.value;
    let found = gvk_of(config);
    let wanted = format!("{}/{}, Kind={}", gvk.group, gvk.version, gvk.kind);
    if found != wanted {
        return Err(Status::bad_request(format!("invalid object type: {found}")));
    }
    if meta::field(config, FIELD).is_some() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let shape = Shape::of(schema);
    validate(shape.typ(), config).map_err(|why| unlike(&format!("typed patch object ({})", place(config)), &why))?;
    let mut live = std::mem::take(object);
    if !live.is_object() {
        live = json!({"kind": gvk.kind, "apiVersion": gvk.api_version()});
    }
    let mut managed = match live.get_mut("metadata").and_then(Value::as_object_mut).and_then(|meta| meta.shift_remove(FIELD)) {
        Some(list) => {
            Managed::decode(list, Source::Store).map_err(|why| Status::new(500, "", format!("failed to decode managed fields: {why}")))?
        }
        None => Managed::default(),
    };
    let version = gvk.api_version();
    shape.reconcile(&mut managed, &version);
    let round = Round { ctx, shape: &shape, version: &version, reset: reset(ctx), live: &live, config };
    let managed = round.begun(managed)?;
    let (merged, managed) = round.taken(managed, configuration.is_forced)?;
    *object = merged;
    if ctx.manager.name == KUBECTL {
        keep_last_applied(object, config);
    }
    put(object, managed.encode());
    Ok(())
}

/// `group/version, Kind=kind`.
fn gvk_of(config: &Value) -> String {
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    if version.contains('/') { "/, Kind=".to_owned() } else { format!("{group}/{version}, Kind={}", text("kind")) }
}

/// `objectGVKNN`
fn place(object: &Value) -> String {
    format!("{}/{}; {}", meta::text(object, "namespace"), meta::text(object, "name"), gvk_of(object))
}

/// Of what is not of its schema.
fn unlike(what: &str, why: &str) -> Status {
    Status::new(500, "", format!("failed to create {what}: {why}"))
}

struct Round<'a> {
    ctx: &'a Ctx<'a>,
    shape: &'a Shape,
    version: &'a str,
    reset: Set,
    /// Without its entries.
    live: &'a Value,
    config: &'a Value,
}

/// Somebody else's fields that the configuration would change, of each.
type Conflicts = Vec<(Who, Set)>;

enum Refusal {
    Conflicts(Conflicts),
    Status(Status),
}

impl Round<'_> {
    /// Where nobody owns anything, what is there is somebody's.
    fn begun(&self, mut managed: Managed) -> Result<Managed, Status> {
        if managed.0.is_empty() {
            let nothing = json!({});
            let new = Side { value: self.live, mode: self.shape.mode };
            let compared = versions::compared(self.ctx, self.shape, self.version, (&nothing, new), &managed, &self.reset);
            let compared = compared.map_err(|why| Status::new(500, "", format!("failed to create manager for existing fields: {why}")))?;
            let who =
                Who { operation: ManagerOperation::Update, version: self.version.to_owned(), ..Who::of(self.ctx, BEFORE, self.version) };
            managed.record(&who, self.version, &compared, &rfc3339(self.ctx.now));
        }
        Ok(managed)
    }

    fn taken(&self, managed: Managed, is_forced: bool) -> Result<(Value, Managed), Status> {
        let conflicts = match self.once(managed.clone(), is_forced) {
            Ok(done) => return Ok(done),
            Err(Refusal::Status(status)) => return Err(status),
            Err(Refusal::Conflicts(conflicts)) => conflicts,
        };
        let allowed = if self.ctx.manager.name == KUBECTL { self.allowed() } else { None };
        let Some(allowed) = allowed else { return Err(refused(&conflicts)) };
        let left = conflicts.into_iter().map(|(who, set)| (who, set.difference(&allowed)));
        let left: Conflicts = left.filter(|(_, set)| !set.is_empty()).collect();
        if !left.is_empty() {
            return Err(refused(&left));
        }
        self.once(managed, true).map_err(|refusal| match refusal {
            Refusal::Status(status) => status,
            Refusal::Conflicts(conflicts) => refused(&conflicts),
        })
    }

    fn once(&self, mut managed: Managed, is_forced: bool) -> Result<(Value, Managed), Refusal> {
        let who = Who::of(self.ctx, self.ctx.manager.name, self.version);
        let typ = self.shape.typ();
        let mut merged = self.live.clone();
        // Upstream looks at all of it, here only at what would be lost.
        merge(typ, &mut merged, self.config)
            .map_err(|why| Refusal::Status(unlike(&format!("typed live object ({})", place(self.live)), &why)))?;
        let set = set_of(typ, self.config, Mode::Raw).without(&self.reset);
        let last = managed.of(&who).cloned();
        managed.0.retain(|entry| entry.who != who);
        if let Some(last) = &last {
            merged = self.pruned(merged, &managed, &set, last);
        }
        let new = Side { value: &merged, mode: Mode::Raw };
        let compared = versions::compared(self.ctx, self.shape, self.version, (self.live, new), &managed, &self.reset);
        let compared = compared
            .map_err(|why| Refusal::Status(Status::new(500, "", format!("failed to compare objects: failed to compare: {why}"))))?;
        let mut conflicts = Vec::new();
        managed.0.retain_mut(|entry| {
            let Some(all) = compared.get(&entry.version) else { return false };
            if !is_forced && (entry.meets(&all.added) || entry.meets(&all.modified)) {
                conflicts.push((entry.who.clone(), entry.set().intersection(&all.added.union(&all.modified))));
            }
            entry.take_away(&[&all.added, &all.modified, &all.removed]);
            !entry.is_empty()
        });
        if !conflicts.is_empty() {
            return Err(Refusal::Conflicts(conflicts));
        }
        let time = if merged == *self.live { last.and_then(|last| last.time) } else { Some(rfc3339(self.ctx.now)) };
        managed.0.push(Entry::new(who, self.version, time, set.difference(&stripped())));
        Ok((merged, managed))
    }

    /// Without what the manager applied before and does not any more, and nobody else owns (`prune`).
    fn pruned(&self, merged: Value, managed: &Managed, set: &Set, last: &Entry) -> Value {
        let last_set = last.set();
        if last.version == self.version && last_set.difference(set).is_empty() {
            return merged;
        }
        let before = merged.clone();
        let Some((old, shape)) = self.in_version(&before, &last.version) else { return merged };
        let mut pruned = old.clone().into_owned();
        let last_set = ensure_named(Some(shape.typ()), &last_set);
        remove(shape.typ(), &mut pruned, &last_set);
        let mut owned: BTreeMap<&str, Set> = BTreeMap::from([(self.version, set.clone())]);
        for entry in &managed.0 {
            let all = owned.entry(&entry.version).or_default();
            *all = all.union(&entry.set());
        }
        // In the version that they were removed in first.
        let versions = [last.version.as_str()].into_iter().chain(owned.keys().copied().filter(|version| *version != last.version));
        let mut at = last.version.clone();
        for version in versions.collect::<Vec<_>>() {
            let Some(all) = owned.get(version) else { continue };
            let Some((whole, shape)) = self.in_version(&before, version) else { continue };
            let Some((left, _)) = self.converted(&pruned, &at, version) else { continue };
            let typ = shape.typ();
            let named = |value: &Value| ensure_named(Some(typ), &set_of(typ, value, Mode::Raw));
            let gone = named(&whole).difference(&named(&left).union(&ensure_named(Some(typ), all)));
            pruned = whole.into_owned();
            remove(typ, &mut pruned, &gone);
            at = version.to_owned();
        }
        // What is nobody's, or an updater's, stays though it hangs on what goes.
        let Some((left, shape)) = self.converted(&pruned, &at, &last.version) else { return merged };
        let typ: Typ<'_> = shape.typ();
        let named = |value: &Value| ensure_named(Some(typ), &set_of(typ, value, Mode::Raw));
        let gone = named(&old).difference(&named(&left)).intersection(&last_set);
        let mut out = old.into_owned();
        remove(typ, &mut out, &gone);
        let back = self.converted(&out, &last.version, self.version).map(|(value, _)| value.into_owned());
        back.unwrap_or(merged)
    }

    fn in_version<'v>(&self, value: &'v Value, version: &str) -> Option<(Cow<'v, Value>, Shape)> {
        self.converted(value, self.version, version)
    }

    fn converted<'v>(&self, value: &'v Value, from: &str, to: &str) -> Option<(Cow<'v, Value>, Shape)> {
        if from == to && to == self.version {
            return Some((Cow::Borrowed(value), Shape::of(self.ctx.body().0)));
        }
        let (converted, shape) = versions::other(self.ctx, value, to)?;
        Some((if from == to { Cow::Borrowed(value) } else { converted }, shape))
    }

    /// What was applied on the client's side and still stands: that may be taken over.
    fn allowed(&self) -> Option<Set> {
        let text = meta::field(self.live, "annotations")?.get(LAST_APPLIED)?.as_str()?;
        let last: Value = crate::parse::json(text.as_bytes()).ok()?.value;
        if last.get("apiVersion").and_then(Value::as_str) != Some(self.version) {
            return None;
        }
        let typ = self.shape.typ();
        validate(typ, &last).ok()?;
        let (old, live) = (Side { value: &last, mode: Mode::Raw }, Side { value: self.live, mode: self.shape.mode });
        let all = compare(typ, old, live).ok()?;
        Some(set_of(typ, &last, Mode::Raw).difference(&all.modified).difference(&all.added).difference(&all.removed))
    }
}

/// What nobody owns (`stripmeta.go`).
fn stripped() -> Set {
    Set::named(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
}

fn refused(conflicts: &[(Who, Set)]) -> Status {
    let mut conflicts: Vec<_> = conflicts.iter().map(|(who, set)| (who.identifier(), who.shown(), set)).collect();
    conflicts.sort_by(|one, other| one.0.cmp(&other.0));
    let count: usize = conflicts.iter().map(|(_, _, set)| set.len()).sum();
    let (mut lines, mut causes, mut room) = (Vec::new(), Vec::new(), CONFLICTS_BYTES_MAX);
    for (_, who, set) in &conflicts {
        lines.push(if count == 1 { format!("conflict with {who}") } else { format!("conflicts with {who}:") });
        let _: ControlFlow<()> = set.each(&mut |path| {
            let text: String = path.iter().map(ToString::to_string).collect();
            let Some(left) = room.checked_sub(text.len() + who.len()) else { return ControlFlow::Break(()) };
            room = left;
            causes.push(json!({"reason": "FieldManagerConflict", "message": format!("conflict with {who}"), "field": text}));
            lines.push(if count == 1 { text } else { format!("- {text}") });
            ControlFlow::Continue(())
        });
    }
    let message = match count {
        1 => format!("Apply failed with 1 conflict: {}", lines.join(": ")),
        _ => format!("Apply failed with {count} conflicts: {}", lines.join("\n")),
    };
    let mut status = Status::new(409, "Conflict", message);
    status.details.insert("causes".into(), causes.into());
    status
}

/// Where the annotation of the client's side is there, it says what is applied now.
fn keep_last_applied(object: &mut Value, config: &Value) {
    let has_one = |object: &Value| {
        meta::field(object, "annotations")
            .and_then(|all| all.get(LAST_APPLIED))
            .and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty())
    };
    if !has_one(object) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(LAST_APPLIED);
    }
    config.sort_all_objects();
    let text = format!("{config}\n");
    let Some(annotations) = meta::of(object).get_mut("annotations").and_then(Value::as_object_mut) else { return };
    annotations.insert(LAST_APPLIED.into(), text.into());
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > meta::ANNOTATIONS_BYTES_MAX {
        annotations.shift_remove(LAST_APPLIED);
    }
}
