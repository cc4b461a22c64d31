//! `metadata.managedFields` <-> who owns what. Sources: apimachinery `pkg/util/managedfields/internal/managedfields.go`, `capmanagers.go`.

use std::collections::BTreeMap;

use api::time::Timestamp;
use serde_json::{Map, Value};

use crate::{
    engine::context::{Ctx, ManagerOperation},
    fields::{Comparison, Set, Typ, is_outdated, reconcile},
};

/// Most entries of updates; the oldest beyond are joined (`DefaultMaxUpdateManagers`).
const UPDATERS_MAX: usize = 10;
/// Most entries that a body may bring: one with more says nothing of who owns what.
const ENTRIES_MAX: usize = 1_000;
/// Who owns what those did.
const ANCIENT: &str = "ancient-changes";

/// Whose an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub manager: String,
    pub operation: ManagerOperation,
    /// Empty for who applies: one that applies in another version is the same.
    pub version: String,
    pub subresource: String,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub who: Who,
    /// The `apiVersion` that the fields are of.
    pub version: String,
    pub time: Option<String>,
    fields: Fields,
}

#[derive(Clone, Debug)]
enum Fields {
    /// As they are stored, in canonical form.
    Kept(Value),
    Set(Set),
}

/// In the order in which they are shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Managed(pub Vec<Entry>);

/// Where entries come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Store,
    Client,
}

impl Who {
    pub fn of(ctx: &Ctx<'_>, manager: &str, version: &str) -> Self {
        let operation = ctx.manager.operation;
        let manager = if manager.is_empty() { "unknown" } else { manager }.to_owned();
        let version = if operation == ManagerOperation::Apply { String::new() } else { version.to_owned() };
        Self { manager, operation, version, subresource: ctx.subresource.to_owned() }
    }

    /// What managers are sorted by (`BuildManagerIdentifier`).
    pub fn identifier(&self) -> String {
        let mut out = Map::new();
        out.insert("manager".into(), self.manager.as_str().into());
        out.insert("operation".into(), self.operation.word().into());
        for (name, value) in [("apiVersion", &self.version), ("subresource", &self.subresource)] {
            if !value.is_empty() {
                out.insert(name.into(), value.as_str().into());
            }
        }
        Value::Object(out).to_string()
    }

    /// As conflicts name it (`printManager`).
    pub fn shown(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == ManagerOperation::Update {
            out.push_str(&format!(" using {}", self.version));
        }
        out
    }
}

impl ManagerOperation {
    fn word(self) -> &'static str {
        match self {
            Self::Update => "Update",
            Self::Apply => "Apply",
        }
    }
}

impl Entry {
    pub fn new(who: Who, version: &str, time: Option<String>, set: Set) -> Self {
        Self { who, version: version.to_owned(), time, fields: Fields::Set(set) }
    }

    pub fn set(&self) -> Set {
        match &self.fields {
            Fields::Kept(fields) => Set::from_fields(fields).unwrap_or_default(),
            Fields::Set(set) => set.clone(),
        }
    }

    pub fn put(&mut self, set: Set) {
        self.fields = Fields::Set(set);
    }

    pub fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Kept(fields) => fields.as_object().is_none_or(Map::is_empty),
            Fields::Set(set) => set.is_empty(),
        }
    }

    pub fn meets(&self, set: &Set) -> bool {
        match &self.fields {
            Fields::Kept(fields) => set.meets(fields),
            Fields::Set(own) => !own.intersection(set).is_empty(),
        }
    }

    fn has_all(&self, set: &Set) -> bool {
        match &self.fields {
            Fields::Kept(fields) => set.is_within(fields),
            Fields::Set(own) => set.difference(own).is_empty(),
        }
    }

    /// Brings fields that were told apart under an older schema up to this one.
    pub fn reconcile(&mut self, typ: Typ<'_>) {
        let is_outdated = match &self.fields {
            Fields::Kept(fields) => is_outdated(typ, fields),
            Fields::Set(_) => true,
        };
        if is_outdated {
            let mut set = self.set();
            reconcile(typ, &mut set);
            self.put(set);
        }
    }

    /// What stands in the entry stays as it is where it has none of these.
    pub fn take_away(&mut self, sets: &[&Set]) {
        for set in sets {
            if self.meets(set) {
                self.put(self.set().difference(set));
            }
        }
    }

    fn decode(mut entry: Value, at: usize, source: Source) -> Result<Self, String> {
        let fields = entry.as_object_mut().and_then(|entry| entry.swap_remove("fieldsV1")).unwrap_or_default();
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => ManagerOperation::Apply,
            "Update" => ManagerOperation::Update,
            _ => return Err("operation must be `Apply` or `Update`".into()),
        };
        let version = text("apiVersion").to_owned();
        if version.is_empty() {
            return Err("apiVersion must not be empty".into());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
            other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {at}")),
        }
        let who = Who {
            manager: text("manager").to_owned(),
            operation,
            version: if operation == ManagerOperation::Apply { String::new() } else { version.clone() },
            subresource: text("subresource").to_owned(),
        };
        let time = Some(text("time").to_owned()).filter(|time| !time.is_empty());
        let fields = match source {
            Source::Store => Fields::Kept(fields),
            Source::Client => Fields::Set(Set::from_fields(&fields)?),
        };
        Ok(Self { who, version, time, fields })
    }

    fn encode(self) -> Value {
        let mut out = Map::with_capacity(7);
        out.insert("manager".into(), self.who.manager.into());
        out.insert("operation".into(), self.who.operation.word().into());
        out.insert("apiVersion".into(), self.version.into());
        if let Some(time) = self.time {
            out.insert("time".into(), time.into());
        }
        out.insert("fieldsType".into(), "FieldsV1".into());
        let fields = match self.fields {
            Fields::Kept(fields) => fields,
            Fields::Set(set) => set.to_fields(),
        };
        out.insert("fieldsV1".into(), fields);
        if !self.who.subresource.is_empty() {
            out.insert("subresource".into(), self.who.subresource.into());
        }
        Value::Object(out)
    }

    fn seconds(&self) -> i64 {
        self.time.as_deref().and_then(|time| time.parse::<Timestamp>().ok()).map_or(0, |time| time.as_second())
    }
}

impl Managed {
    /// # Errors
    /// What upstream cannot read either, in its words.
    pub fn decode(list: Value, source: Source) -> Result<Self, String> {
        let Value::Array(list) = list else { return Ok(Self::default()) };
        let mut out: Vec<Entry> = Vec::new();
        let mut places = BTreeMap::new();
        let count = list.len();
        if source == Source::Client && count > ENTRIES_MAX {
            return Err(format!("{count} entries, at most {ENTRIES_MAX} are taken"));
        }
        for (at, entry) in list.into_iter().enumerate() {
            let entry = Entry::decode(entry, at, source)?;
            // The last of several is the one that counts.
            let place = *places.entry(entry.who.identifier()).or_insert(out.len());
            match out.get_mut(place) {
                Some(other) => *other = entry,
                None => out.push(entry),
            }
        }
        Ok(Self(out))
    }

    /// `None` where nobody owns anything.
    pub fn encode(mut self) -> Option<Value> {
        self.0.retain(|entry| !entry.is_empty());
        let key = |entry: &Entry| {
            let Who { manager, operation, subresource, .. } = &entry.who;
            (operation.word(), entry.seconds(), manager.clone(), entry.version.clone(), subresource.clone())
        };
        self.0.sort_by_cached_key(key);
        (!self.0.is_empty()).then(|| self.0.into_iter().map(Entry::encode).collect())
    }

    pub fn of(&self, who: &Who) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.who == *who)
    }

    /// Takes what a write added, changed and removed from whom it was, and gives what is there to `who`. `compared` has the comparison in each
    /// version that entries are of; those of other versions go.
    pub fn record(&mut self, who: &Who, version: &str, compared: &BTreeMap<String, Comparison>, now: &str) {
        self.0.retain_mut(|entry| {
            let Some(Comparison { added, modified, removed }) = compared.get(&entry.version) else { return false };
            if entry.who == *who {
                entry.take_away(&[removed])
            } else {
                entry.take_away(&[added, modified, removed])
            }
            !entry.is_empty() || entry.who == *who
        });
        let Some(Comparison { added, modified, .. }) = compared.get(version) else { return };
        if added.is_empty() && modified.is_empty() {
            return;
        }
        match self.0.iter_mut().find(|entry| entry.who == *who) {
            Some(entry) => {
                if !entry.has_all(added) || !entry.has_all(modified) {
                    entry.put(entry.set().union(added).union(modified));
                }
                entry.time = Some(now.to_owned());
            }
            None => self.0.push(Entry::new(who.clone(), version, Some(now.to_owned()), added.union(modified))),
        }
    }

    /// Joins the oldest entries of updates where there are too many.
    pub fn cap(&mut self) {
        self.0.retain(|entry| !entry.is_empty());
        let mut count = self.0.iter().filter(|entry| entry.who.operation == ManagerOperation::Update).count();
        if count <= UPDATERS_MAX {
            return;
        }
        self.0.sort_by_cached_key(|entry| (entry.seconds(), entry.who.identifier()));
        let mut firsts: BTreeMap<String, Who> = BTreeMap::new();
        let updaters: Vec<Who> =
            self.0.iter().filter(|entry| entry.who.operation == ManagerOperation::Update).map(|entry| entry.who.clone()).collect();
        for who in updaters {
            if count <= UPDATERS_MAX {
                return;
            }
            let Some(first) = firsts.get(&who.version).cloned() else {
                firsts.insert(who.version.clone(), who);
                continue;
            };
            let ancient = Who { manager: ANCIENT.into(), subresource: String::new(), ..who.clone() };
            let Some(at) = self.0.iter().position(|entry| entry.who == who) else { continue };
            let joined = self.0.remove(at);
            if self.of(&ancient).is_none()
                && let Some(entry) = self.0.iter_mut().find(|entry| entry.who == first)
            {
                entry.who = ancient.clone();
            }
            if let Some(entry) = self.0.iter_mut().find(|entry| entry.who == ancient) {
                entry.put(entry.set().union(&joined.set()));
                entry.time = joined.time;
            }
            count -= 1;
        }
    }
}
