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
        let mut out = api::quoted(&self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {}", api::quoted(&self.subresource)));
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

    fn take_set(&mut self) -> Set {
        match std::mem::replace(&mut self.fields, Fields::Set(Set::default())) {
            Fields::Kept(fields) => Set::from_fields(&fields).unwrap_or_default(),
            Fields::Set(set) => set,
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
            Fields::Set(own) => own.overlaps(set),
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
                let own = self.take_set();
                self.put(own.difference(set));
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
            other => return Err(format!("invalid fieldsType {} in managed fields entry {at}", api::quoted(other))),
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
                    let own = entry.take_set();
                    entry.put(own.union(added).union(modified));
                }
                entry.time = Some(now.to_owned());
            }
            None => self.0.push(Entry::new(who.clone(), version, Some(now.to_owned()), added.union(modified))),
        }
    }

    /// Joins the oldest entries of updates where there are too many.
    pub fn cap(&mut self) {
        self.0.retain(|entry| !entry.is_empty());
        let is_update = |entry: &Entry| entry.who.operation == ManagerOperation::Update;
        let mut beyond = self.0.iter().filter(|entry| is_update(entry)).count().saturating_sub(UPDATERS_MAX);
        if beyond == 0 {
            return;
        }
        self.0.sort_by_cached_key(|entry| (entry.seconds(), entry.who.identifier()));
        let mut joins: BTreeMap<String, Join> = BTreeMap::new();
        for mut entry in std::mem::take(&mut self.0) {
            if beyond > 0 && is_update(&entry) {
                if let Some(join) = joins.get_mut(&entry.version) {
                    join.sets.push(entry.take_set());
                    join.time = entry.time;
                    beyond -= 1;
                    continue;
                }
                joins.insert(entry.version.clone(), Join { first: self.0.len(), sets: Vec::new(), time: None });
            }
            self.0.push(entry);
        }
        for (version, Join { first, mut sets, time }) in joins.into_iter().filter(|(_, join)| !join.sets.is_empty()) {
            let ancient = Who { manager: ANCIENT.into(), operation: ManagerOperation::Update, version, subresource: String::new() };
            let at = self.0.iter().position(|entry| entry.who == ancient).unwrap_or(first);
            let Some(entry) = self.0.get_mut(at) else { continue };
            sets.push(entry.take_set());
            entry.put(Set::united(sets));
            (entry.who, entry.time) = (ancient, time);
        }
    }
}

/// Entries of one version that become one.
struct Join {
    /// Where the oldest of them stands, which the others are joined to.
    first: usize,
    sets: Vec<Set>,
    /// That of the last.
    time: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Element;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn keys(keys: impl Iterator<Item = usize>) -> Set {
        Set::of(keys.map(|at| vec![Element::field("data"), Element::field(&format!("key-{at:06}"))]))
    }

    fn entry(manager: usize, operation: ManagerOperation, set: Set) -> Entry {
        let version = if operation == ManagerOperation::Apply { "" } else { "v1" };
        let who = Who { manager: format!("m-{manager:04}"), operation, version: version.into(), subresource: String::new() };
        Entry::new(who, "v1", Some(format!("2025-01-01T{:02}:{:02}:00Z", manager / 60, manager % 60)), set)
    }

    /// The oldest has many, the others have one each.
    fn crowd(many: usize, operation: ManagerOperation) -> Managed {
        let others = (1..ENTRIES_MAX).map(|at| entry(at, operation, keys(std::iter::once(many + at))));
        Managed(std::iter::once(entry(0, operation, keys(0..many))).chain(others).collect())
    }

    #[test]
    fn joining_many_entries_costs_what_they_have() {
        const MANY: usize = 20_000;
        let mut managed = crowd(MANY, ManagerOperation::Update);
        let ((), steps) = api::steps::of(|| managed.cap());
        assert!(steps < 4 * (MANY as u64 + ENTRIES_MAX as u64), "{steps}");
        assert_eq!(managed.0.len(), UPDATERS_MAX);
        let joined = ENTRIES_MAX - UPDATERS_MAX;
        let ancient = managed.0.first().unwrap();
        assert_eq!((ancient.who.manager.as_str(), ancient.time.as_deref()), (ANCIENT, Some("2025-01-01T16:30:00Z")));
        assert_eq!(ancient.set(), keys((0..MANY).chain(MANY + 1..=MANY + joined)));
    }

    #[test]
    fn taking_much_from_many_costs_what_they_have() {
        const MANY: usize = 20_000;
        let removed = keys(0..MANY + ENTRIES_MAX);
        let kept = |mut entry: Entry| {
            let fields = entry.take_set().to_fields();
            Entry { fields: Fields::Kept(fields), ..entry }
        };
        let stored = Managed(crowd(MANY, ManagerOperation::Apply).0.into_iter().map(kept).collect());
        for mut managed in [crowd(MANY, ManagerOperation::Apply), stored] {
            let comparison = Comparison { added: keys(MANY * 2..MANY * 3), modified: Set::default(), removed: removed.clone() };
            let who = entry(0, ManagerOperation::Update, Set::default()).who;
            let compared = BTreeMap::from([("v1".to_owned(), comparison)]);
            let ((), steps) = api::steps::of(|| managed.record(&who, "v1", &compared, NOW));
            assert!(steps < 8 * (MANY as u64 + ENTRIES_MAX as u64), "{steps}");
            assert_eq!(managed.0.len(), 1, "nobody else has anything left");
            assert_eq!(managed.of(&who).unwrap().set(), keys(MANY * 2..MANY * 3));
        }
    }

    #[test]
    fn an_ancient_entry_takes_in_the_others_where_it_stands() {
        let mut all: Vec<Entry> = (0..12).map(|at| entry(at, ManagerOperation::Update, keys(at..at + 2))).collect();
        all[11].who.manager = ANCIENT.into();
        let mut managed = Managed(all);
        managed.cap();
        assert_eq!(managed.0.len(), UPDATERS_MAX);
        assert_eq!(managed.0[0].who.manager, "m-0000");
        let ancient = managed.0.last().unwrap();
        assert_eq!((ancient.who.manager.as_str(), ancient.set()), (ANCIENT, keys([1, 2, 3, 11, 12].into_iter())));
    }
}
