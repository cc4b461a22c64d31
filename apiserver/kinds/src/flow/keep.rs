//! Stored levels and flow schemas -> those that must be there, as they must be, told whether their levels exist.
//!
//! Source: `pkg/registry/flowcontrol/rest/storage_flowcontrol.go`, `pkg/registry/flowcontrol/ensurer`; apiserver
//! `pkg/util/flowcontrol/apf_controller.go` (`presyncFlowSchemaStatus`).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use api::{GroupResource, Key, Status, time::Timestamp};
use apiserver::{
    engine::Engine,
    fairness::{Config, Limits},
    identity::User,
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{self, Instant},
};

use super::{
    AUTO_UPDATE, DANGLING, config, digest,
    drive::{Mirror, revisions},
    levels, objects, schemas,
};
use crate::common::{Read, all_written, conditions, edit, read, settled};

/// As upstream, where nothing has changed.
const LOOK_EACH: Duration = Duration::from_secs(60);
/// What changes at once is looked at once.
const SETTLE: Duration = Duration::from_millis(200);
/// Of one object's spec, or of one schema's status, in a minute (upstream: six).
const WRITES_MAX: usize = 6;
const MINUTE: Duration = Duration::from_secs(60);
/// Writes in flight at one time.
const PARALLEL: usize = 64;

/// Whether an administrator's changes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strategy {
    Suggested,
    Mandatory,
}

/// Looks after them for as long as the server runs: when something has changed, which `driven` tells, and from time to time. `user` is who the
/// server is to itself. Schemas are told of their levels where those drive the server (`tells`).
pub async fn keep(engine: Arc<Engine>, user: User, driven: Arc<Notify>, tells: bool) {
    let (mut seen, mut written) = (Seen::default(), Written::default());
    loop {
        let _ = time::timeout(LOOK_EACH, driven.notified()).await;
        time::sleep(SETTLE).await;
        seen.refresh(&engine);
        let ensured = make(&engine, &user, &mut written).await.and(remove(&engine, &user, seen.unwanted()).await);
        let told = if tells { tell_schemas(&engine, &user, &seen, &mut written).await } else { Ok(()) };
        if let Err(status) = told.and(ensured) {
            tracing::warn!(error = status.message, "levels and flow schemas not brought up to date; trying again");
        }
    }
}

/// Makes what is missing, brings up to date what nobody has changed, and deletes what an older server had made.
///
/// # Errors
/// The first write that failed, but for those that lost against another.
pub async fn ensure(engine: &Arc<Engine>, user: &User) -> Result<(), Status> {
    let made = make(engine, user, &mut Written::default()).await;
    let mut seen = Seen::default();
    seen.refresh(engine);
    made.and(remove(engine, user, seen.unwanted()).await)
}

/// What is looked at of the objects, each read once per revision.
#[derive(Default)]
struct Seen {
    levels: Mirror<SeenLevel>,
    schemas: Mirror<SeenSchema>,
}

struct SeenLevel {
    /// It is the server's own to change.
    automatic: bool,
    /// It is not broken: a broken one is as good as none.
    stands: bool,
}

struct SeenSchema {
    automatic: bool,
    level: Box<str>,
    /// What it has been told of its level, if that is all there is to tell.
    is_there: Option<bool>,
}

impl Seen {
    fn refresh(&mut self, engine: &Arc<Engine>) {
        let (of_levels, of_schemas) = (engine.cached_list(&levels(), None), engine.cached_list(&schemas(), None));
        self.levels.refresh(revisions(&of_levels), |object| SeenLevel::read(&object.value()));
        self.schemas.refresh(revisions(&of_schemas), |object| SeenSchema::read(&object.value()));
    }

    /// What an older server has made.
    fn unwanted(&self) -> Vec<(GroupResource, Key)> {
        let config = config(Limits::default());
        let level = |name: &str| config.levels.iter().any(|level| level.name == name);
        let schema = |name: &str| config.schemas.iter().any(|schema| schema.name == name);
        let of_schemas = self.schemas.all().filter(|(name, seen)| seen.automatic && !schema(name)).map(|(name, _)| (schemas(), name));
        let of_levels = self.levels.all().filter(|(name, seen)| seen.automatic && !level(name)).map(|(name, _)| (levels(), name));
        of_schemas.chain(of_levels).map(|(gr, name)| (gr, Key::new("", name))).collect()
    }
}

impl SeenLevel {
    fn read(object: &Value) -> Self {
        Self { automatic: automatic(object) == Some(true), stands: digest::level(object).is_some() }
    }
}

impl SeenSchema {
    fn read(object: &Value) -> Self {
        let level = object.at("spec").at("priorityLevelConfiguration").text("name");
        let is_there = [true, false].into_iter().find(|is_there| is_told(object, &dangling(level, *is_there)));
        Self { automatic: automatic(object) == Some(true), level: level.into(), is_there }
    }
}

/// What was written in the last minute: servers that disagree about an object (one is being replaced by a newer one, say) do not write it
/// again and again (`shouldDelayUpdate`).
#[derive(Default)]
struct Written(HashMap<String, VecDeque<Instant>>);

impl Written {
    /// Whether the object may be written; it counts as written then.
    fn may(&mut self, name: &str) -> bool {
        let now = Instant::now();
        let times = self.0.entry(name.to_owned()).or_default();
        while times.front().is_some_and(|at| now.duration_since(*at) > MINUTE) {
            times.pop_front();
        }
        let may = times.len() < WRITES_MAX;
        if may {
            times.push_back(now);
        }
        may
    }

    /// Nothing is kept of what was not written for a minute.
    fn sweep(&mut self) {
        let now = Instant::now();
        self.0.retain(|_, times| times.back().is_some_and(|at| now.duration_since(*at) <= MINUTE));
    }
}

async fn make(engine: &Arc<Engine>, user: &User, written: &mut Written) -> Result<(), Status> {
    let (all, mandatory) = (config(Limits::default()), Config::mandatory(Limits::default()));
    let strategy = |is_mandatory| if is_mandatory { Strategy::Mandatory } else { Strategy::Suggested };
    let fixed_level = |name: &str| strategy(mandatory.levels.iter().any(|level| level.name == name));
    let fixed_schema = |name: &str| strategy(mandatory.schemas.iter().any(|schema| schema.name == name));
    let of_levels = all.levels.iter().map(|level| (levels(), objects::level(level), fixed_level(&level.name)));
    let of_schemas = all.schemas.iter().map(|schema| (schemas(), objects::schema(schema), fixed_schema(&schema.name)));
    written.sweep();
    let mut due = Vec::new();
    for (gr, of, strategy) in of_levels.chain(of_schemas) {
        // What is missing is made, however often.
        let found = engine.cached(&gr, &Key::new("", read::name(&of))).map(|found| found.value());
        let is_due = found.as_ref().is_none_or(|found| revised(found, &of, strategy).is_some());
        if is_due && (found.is_none() || written.may(&format!("{}/{}", gr.resource, read::name(&of)))) {
            due.push((gr, of, strategy));
        }
    }
    all_written(due.into_iter().map(|(gr, of, strategy)| (read::name(&of).to_owned(), each(engine, user, gr, of, strategy)))).await
}

async fn remove(engine: &Arc<Engine>, user: &User, unwanted: Vec<(GroupResource, Key)>) -> Result<(), Status> {
    let deletions =
        unwanted.into_iter().map(|(gr, key)| (key.name.clone(), async move { settled(engine.delete(&gr, &key, json!({}), user).await) }));
    all_written(deletions).await
}

async fn each(engine: &Arc<Engine>, user: &User, gr: GroupResource, wanted: Value, strategy: Strategy) -> Result<(), Status> {
    let key = Key::new("", read::name(&wanted));
    let found = match engine.cached(&gr, &key) {
        Some(found) => found.value(),
        None => return settled(engine.create(&gr, "", wanted, user).await.map(drop)),
    };
    if revised(&found, &wanted, strategy).is_none() {
        return Ok(());
    }
    let change = |object: &mut Value| {
        if let Some(revised) = revised(object, &wanted, strategy) {
            *object = revised;
        }
        Ok(())
    };
    settled(engine.update(&gr, &key, "", user, &change).await.map(drop))
}

/// `ReviseIfNeeded`
fn revised(found: &Value, wanted: &Value, strategy: Strategy) -> Option<Value> {
    let said = automatic(found);
    let is_untouched = || found.at("metadata").int("generation") == Some(1);
    let is_automatic = strategy == Strategy::Mandatory || said.unwrap_or_else(is_untouched);
    let is_changed = is_automatic && !is_as_wanted(found, wanted);
    if said == Some(is_automatic) && !is_changed {
        return None;
    }
    let mut revised = found.clone();
    if is_changed {
        edit::carry(&mut revised, wanted, "spec");
    }
    let metadata = edit::make_child(&mut revised, "metadata")?;
    edit::set(edit::make_child(metadata, "annotations")?, AUTO_UPDATE, is_automatic.to_string());
    Some(revised)
}

/// How much the exempt level has of the server is the administrator's to say.
fn is_as_wanted(found: &Value, wanted: &Value) -> bool {
    let (spec, exempt) = (found.at("spec"), found.at("spec").at("exempt"));
    let mut wanted = wanted.at("spec").cloned().unwrap_or(Value::Null);
    if let Some(own) = edit::child(&mut wanted, "exempt") {
        let Some(exempt) = exempt else { return false };
        *own = exempt.clone();
    }
    read::same(spec, Some(&wanted))
}

/// The annotation, where it is a boolean (`strconv.ParseBool`).
fn automatic(object: &Value) -> Option<bool> {
    match object.at("metadata").at("annotations").text(AUTO_UPDATE) {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Each schema's condition that says whether its level is missing; some at a time, so that the store puts them into one commit.
async fn tell_schemas(engine: &Arc<Engine>, user: &User, seen: &Seen, written: &mut Written) -> Result<(), Status> {
    let mut due = Vec::new();
    for (name, schema) in seen.schemas.all() {
        let is_there = seen.levels.get(&schema.level).is_some_and(|level| level.stands);
        if schema.is_there != Some(is_there) && written.may(&format!("flowschemas/{name}/status")) {
            due.push((name.to_owned(), dangling(&schema.level, is_there)));
        }
    }
    let tells = due.into_iter().map(|(name, wanted)| tell(engine, user, name, wanted));
    let told: Vec<Result<(), Status>> = stream::iter(tells).buffer_unordered(PARALLEL).collect().await;
    told.into_iter().collect()
}

async fn tell(engine: &Arc<Engine>, user: &User, name: String, wanted: Value) -> Result<(), Status> {
    let change = |object: &mut Value| {
        if let Some(status) = edit::make_child(object, "status") {
            conditions::set(status, wanted.clone(), Timestamp::now());
        }
        Ok(())
    };
    settled(engine.update(&schemas(), &Key::new("", &name), "status", user, &change).await.map(drop))
}

fn dangling(level: &str, is_there: bool) -> Value {
    let start = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    if is_there {
        json!({"type": DANGLING, "status": "False", "reason": "Found", "message": format!("{start} and it exists")})
    } else {
        json!({"type": DANGLING, "status": "True", "reason": "NotFound", "message": format!("{start} but there is no such object")})
    }
}

fn is_told(schema: &Value, wanted: &Value) -> bool {
    let found = schema.at("status").list("conditions").iter().find(|c| c.text("type") == DANGLING);
    ["status", "reason", "message"].iter().all(|field| found.at(field) == wanted.at(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(of: &Value, annotation: Option<&str>, generation: i64) -> Value {
        let mut object = of.clone();
        object["metadata"]["generation"] = generation.into();
        object["metadata"]["annotations"] = annotation.map_or(Value::Null, |text| json!({AUTO_UPDATE: text}));
        object
    }

    #[test]
    fn an_administrators_changes_are_kept_where_they_may_be() {
        let wanted = objects::schema(config(Limits::default()).schemas.iter().find(|s| s.name == "probes").unwrap());
        assert_eq!(revised(&stored(&wanted, Some("true"), 1), &wanted, Strategy::Suggested), None);
        let mut other = wanted.clone();
        other["spec"]["matchingPrecedence"] = json!(7);
        assert_eq!(revised(&stored(&other, Some("false"), 2), &wanted, Strategy::Suggested), None);
        let mended = revised(&stored(&other, Some("true"), 2), &wanted, Strategy::Suggested).unwrap();
        assert_eq!(mended["spec"], wanted["spec"]);
        let kept = revised(&stored(&other, None, 2), &wanted, Strategy::Suggested).unwrap();
        assert_eq!((&kept["spec"], automatic(&kept)), (&other["spec"], Some(false)));
        let fresh = revised(&stored(&other, Some("maybe"), 1), &wanted, Strategy::Suggested).unwrap();
        assert_eq!((&fresh["spec"], automatic(&fresh)), (&wanted["spec"], Some(true)));
        let forced = revised(&stored(&other, Some("false"), 2), &wanted, Strategy::Mandatory).unwrap();
        assert_eq!((&forced["spec"], automatic(&forced)), (&wanted["spec"], Some(true)));
    }

    #[test]
    fn the_exempt_levels_share_is_the_administrators() {
        let wanted = objects::level(&Config::mandatory(Limits::default()).levels[0]);
        let mut other = stored(&wanted, Some("true"), 2);
        other["spec"]["exempt"]["nominalConcurrencyShares"] = json!(9);
        assert_eq!(revised(&other, &wanted, Strategy::Mandatory), None);
        other["spec"]["exempt"] = Value::Null;
        assert_eq!(revised(&other, &wanted, Strategy::Mandatory).unwrap()["spec"], wanted["spec"]);
    }

    #[test]
    fn a_schema_is_told_once() {
        let told = |condition: Value| json!({"status": {"conditions": [condition]}});
        assert!(is_told(&told(dangling("a", true)), &dangling("a", true)));
        assert!(!is_told(&told(dangling("a", true)), &dangling("a", false)) && !is_told(&json!({}), &dangling("a", true)));
    }
}
