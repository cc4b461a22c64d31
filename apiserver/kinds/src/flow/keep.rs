//! Stored levels and flow schemas -> those that must be there, as they must be, told whether their levels exist.
//!
//! Source: `pkg/registry/flowcontrol/rest/storage_flowcontrol.go`, `pkg/registry/flowcontrol/ensurer`; apiserver
//! `pkg/util/flowcontrol/apf_controller.go` (`presyncFlowSchemaStatus`).

use std::{collections::HashSet, sync::Arc, time::Duration};

use api::{GroupResource, Key, Status, time::Timestamp};
use apiserver::{
    engine::Engine,
    fairness::{Config, Limits},
    identity::User,
};
use serde_json::{Value, json};
use tokio::{sync::Notify, time};

use super::{AUTO_UPDATE, DANGLING, GROUP, config, objects};
use crate::common::{Read, all_written, conditions, edit, read, settled};

/// As upstream, where nothing has changed.
const LOOK_EACH: Duration = Duration::from_secs(60);
/// What changes at once is looked at once.
const SETTLE: Duration = Duration::from_millis(200);

/// Whether an administrator's changes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strategy {
    Suggested,
    Mandatory,
}

/// Looks after them for as long as the server runs: when something has changed, and from time to time. `user` is who the server is to itself.
pub async fn keep(engine: Arc<Engine>, user: User) {
    let changed = Arc::new(Notify::new());
    for resource in [levels(), schemas()] {
        let changed = changed.clone();
        engine.on_change(&resource, Arc::new(move |_| changed.notify_one()));
    }
    loop {
        let _ = time::timeout(LOOK_EACH, changed.notified()).await;
        time::sleep(SETTLE).await;
        let ensured = ensure(&engine, &user).await;
        if let Err(status) = tell_schemas(&engine, &user).await.and(ensured) {
            tracing::warn!(error = status.message, "levels and flow schemas not brought up to date; trying again");
        }
    }
}

/// Makes what is missing, brings up to date what nobody has changed, and deletes what an older server had made.
///
/// # Errors
/// The first write that failed, but for those that lost against another.
pub async fn ensure(engine: &Arc<Engine>, user: &User) -> Result<(), Status> {
    let (all, mandatory) = (config(Limits::default()), Config::mandatory(Limits::default()));
    let strategy = |is_mandatory| if is_mandatory { Strategy::Mandatory } else { Strategy::Suggested };
    let fixed_level = |name: &str| strategy(mandatory.levels.iter().any(|level| level.name == name));
    let fixed_schema = |name: &str| strategy(mandatory.schemas.iter().any(|schema| schema.name == name));
    let of_levels = all.levels.iter().map(|level| (levels(), objects::level(level), fixed_level(&level.name)));
    let of_schemas = all.schemas.iter().map(|schema| (schemas(), objects::schema(schema), fixed_schema(&schema.name)));
    let wanted: Vec<_> = of_levels.chain(of_schemas).collect();
    let made: HashSet<(GroupResource, String)> = wanted.iter().map(|(gr, of, _)| (gr.clone(), read::name(of).to_owned())).collect();
    let name = |of: &Value| read::name(of).to_owned();
    let written = all_written(wanted.into_iter().map(|(gr, of, strategy)| (name(&of), each(engine, user, gr, of, strategy)))).await;
    let mut unwanted: Vec<(GroupResource, Key)> = Vec::new();
    for gr in [schemas(), levels()] {
        let there = engine.cached_list(&gr, None).into_iter().filter(|object| automatic(&object.value()) == Some(true));
        let keys = there.map(|object| (gr.clone(), object.key.clone()));
        unwanted.extend(keys.filter(|(gr, key)| !made.contains(&(gr.clone(), key.name.clone()))));
    }
    let deletions =
        unwanted.into_iter().map(|(gr, key)| (key.name.clone(), async move { settled(engine.delete(&gr, &key, json!({}), user).await) }));
    let deleted = all_written(deletions).await;
    written.and(deleted)
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

/// Each schema's condition that says whether its level is missing. One after the other: none of them is in a hurry.
async fn tell_schemas(engine: &Arc<Engine>, user: &User) -> Result<(), Status> {
    let mut done = Ok(());
    for schema in engine.cached_list(&schemas(), None) {
        let object = schema.value();
        let level = object.at("spec").at("priorityLevelConfiguration").text("name").to_owned();
        let wanted = dangling(&level, engine.cached(&levels(), &Key::new("", &level)).is_some());
        if is_told(&object, &wanted) {
            continue;
        }
        let change = |object: &mut Value| {
            if let Some(status) = edit::make_child(object, "status") {
                conditions::set(status, wanted.clone(), Timestamp::now());
            }
            Ok(())
        };
        let told = settled(engine.update(&schemas(), &schema.key, "status", user, &change).await.map(drop));
        done = done.and(told);
    }
    done
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

fn levels() -> GroupResource {
    GroupResource::new(GROUP, "prioritylevelconfigurations")
}

fn schemas() -> GroupResource {
    GroupResource::new(GROUP, "flowschemas")
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
