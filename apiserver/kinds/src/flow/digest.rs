//! Stored levels and flow schemas -> how requests share the server.
//!
//! Whatever another server has written there: what is broken is left out, numbers are cut to what they may be, and what is mandatory is as it must
//! be. Source: apiserver `pkg/util/flowcontrol/apf_controller.go` (`queueSetCompleterForPL`, `plSpecCommons`, `digestFlowSchemasLocked`).

use std::{borrow::Cow, sync::Arc};

use apiserver::fairness::{
    CATCH_ALL, Config, Distinguisher, EXEMPT, Level, Limits, Paths, Queuing, Resources, Response, Rule, Schema, Subject,
};
use serde_json::Value;

use crate::common::{Read, read};

type Text = Cow<'static, str>;

const SHARES: i64 = 30;
const LAST_PRECEDENCE: i64 = 10_000;

/// `None`: it is broken, and as good as not there.
pub fn level(object: &Value) -> Option<Level> {
    let (name, spec) = (read::name(object), object.at("spec"));
    let (exempt, limited) = (spec.at("exempt"), spec.at("limited"));
    let named = |level: Level| Level { name: owned(name), uid: owned(object.at("metadata").text("uid")), ..level };
    let mandatory = || Config::mandatory(Limits::default()).levels.into_iter().find(|level| level.name == name);
    if name == EXEMPT {
        // How much it has is the administrator's to say.
        return mandatory().map(|level| Level { shares: shares(exempt, 0), lendable_percent: percent(exempt), ..named(level) });
    }
    if name == CATCH_ALL {
        return mandatory().map(named);
    }
    if spec.text("type") != "Limited" || exempt.is_some() {
        return None;
    }
    let (limited, response) = (limited?, limited.at("limitResponse"));
    let response = match (response.text("type"), response.at("queuing")) {
        ("Reject", None) => Response::Reject,
        ("Queue", Some(queuing)) => {
            let number = |field: &str| usize::try_from(queuing.int(field).unwrap_or(0).clamp(1, i64::from(i32::MAX))).unwrap_or(1);
            Response::Queue(Queuing { queues: number("queues"), hand: number("handSize"), length: number("queueLengthLimit") })
        }
        _ => return None,
    };
    let borrowing = limited.int("borrowingLimitPercent").map(|percent| u32::try_from(percent.clamp(0, i64::from(i32::MAX))).unwrap_or(0));
    Some(Level {
        name: owned(name),
        uid: owned(object.at("metadata").text("uid")),
        shares: shares(Some(limited), SHARES),
        lendable_percent: percent(Some(limited)),
        borrowing_percent: borrowing,
        response,
    })
}

pub fn schema(object: &Value) -> Arc<Schema> {
    let (name, spec, uid) = (read::name(object), object.at("spec"), owned(object.at("metadata").text("uid")));
    if let Some(mandatory) = Config::mandatory(Limits::default()).schemas.into_iter().find(|schema| schema.name == name) {
        return Arc::new(Schema { uid, ..mandatory });
    }
    // Only the administrators' comes first.
    let precedence = spec.int("matchingPrecedence").unwrap_or(LAST_PRECEDENCE).clamp(2, LAST_PRECEDENCE);
    Arc::new(Schema {
        name: owned(name),
        uid,
        level: owned(spec.at("priorityLevelConfiguration").text("name")),
        precedence: i32::try_from(precedence).unwrap_or(i32::MAX),
        by: match spec.at("distinguisherMethod").text("type") {
            "ByUser" => Some(Distinguisher::User),
            "ByNamespace" => Some(Distinguisher::Namespace),
            _ => None,
        },
        rules: spec.list("rules").iter().map(rule).collect(),
    })
}

fn shares(of: Option<&Value>, default: i64) -> u32 {
    u32::try_from(of.int("nominalConcurrencyShares").unwrap_or(default).clamp(0, i64::from(i32::MAX))).unwrap_or(0)
}

fn percent(of: Option<&Value>) -> u32 {
    u32::try_from(of.int("lendablePercent").unwrap_or(0).clamp(0, 100)).unwrap_or(0)
}

fn rule(rule: &Value) -> Rule {
    Rule {
        subjects: rule.list("subjects").iter().filter_map(subject).collect(),
        resources: rule.list("resourceRules").iter().map(resources).collect(),
        paths: rule
            .list("nonResourceRules")
            .iter()
            .map(|rule| Paths { verbs: texts(rule, "verbs"), paths: texts(rule, "nonResourceURLs") })
            .collect(),
    }
}

fn subject(subject: &Value) -> Option<Subject> {
    match subject.text("kind") {
        "User" => subject.at("user").map(|user| Subject::User(owned(user.text("name")))),
        "Group" => subject.at("group").map(|group| Subject::Group(owned(group.text("name")))),
        "ServiceAccount" => subject
            .at("serviceAccount")
            .map(|account| Subject::Account { namespace: owned(account.text("namespace")), name: owned(account.text("name")) }),
        _ => None,
    }
}

fn resources(rule: &Value) -> Resources {
    Resources {
        verbs: texts(rule, "verbs"),
        groups: texts(rule, "apiGroups"),
        resources: texts(rule, "resources"),
        namespaces: texts(rule, "namespaces"),
        cluster: rule.is_true("clusterScope"),
    }
}

fn texts(of: &Value, field: &str) -> Vec<Text> {
    of.list(field).iter().filter_map(Value::as_str).map(owned).collect()
}

fn owned(text: &str) -> Text {
    Text::Owned(text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::objects, *};

    fn stored(of: &Value, uid: &str) -> Value {
        let mut object = of.clone();
        object["metadata"]["uid"] = json!(uid);
        object
    }

    #[test]
    fn what_is_made_is_read_as_it_was() {
        let config = super::super::config(Limits::default());
        for level in &config.levels {
            let read = super::level(&stored(&objects::level(level), "u"));
            assert_eq!(read, Some(Level { uid: "u".into(), ..level.clone() }), "{}", level.name);
        }
        for schema in &config.schemas {
            let read = super::schema(&stored(&objects::schema(schema), "u"));
            assert_eq!(format!("{read:?}"), format!("{:?}", Schema { uid: "u".into(), ..schema.clone() }));
        }
    }

    #[test]
    fn what_another_server_wrote_takes_nothing_from_what_is_mandatory() {
        let odd = json!({"metadata": {"name": "exempt"}, "spec": {"type": "Limited", "exempt": {"nominalConcurrencyShares": 9, "lendablePercent": 900}}});
        let exempt = level(&odd).unwrap();
        assert_eq!((exempt.response, exempt.shares, exempt.lendable_percent), (Response::Exempt, 9, 100));
        let rest = level(&json!({"metadata": {"name": "catch-all"}, "spec": {"limited": {"nominalConcurrencyShares": 0}}})).unwrap();
        assert_eq!((rest.response, rest.shares), (Response::Reject, 5));
        let schema = schema(&json!({"metadata": {"name": "exempt", "uid": "u"}, "spec": {"matchingPrecedence": 10_000, "rules": []}}));
        assert_eq!((&*schema.uid, schema.precedence, schema.rules.len()), ("u", 1, 1));
    }

    #[test]
    fn numbers_are_cut_and_what_is_broken_is_left_out() {
        let of = |limited: Value| level(&json!({"metadata": {"name": "a"}, "spec": {"type": "Limited", "limited": limited}}));
        let queuing = json!({"queues": i64::MAX, "handSize": -1, "queueLengthLimit": 0});
        let read = of(json!({"nominalConcurrencyShares": i64::from(i32::MAX), "lendablePercent": -3, "borrowingLimitPercent": -1,
            "limitResponse": {"type": "Queue", "queuing": queuing}}))
        .unwrap();
        assert_eq!((read.shares, read.lendable_percent, read.borrowing_percent), (i32::MAX.unsigned_abs(), 0, Some(0)));
        let bounded = Queuing { queues: 2_147_483_647, hand: 1, length: 1 };
        assert_eq!(read.response, Response::Queue(bounded));
        assert_eq!(of(json!({"limitResponse": {"type": "Reject"}})).unwrap().shares, 30);
        for broken in [
            json!(null),
            json!({}),
            json!({"limitResponse": {"type": "Reject", "queuing": {}}}),
            json!({"limitResponse": {"type": "Queue"}}),
            json!({"limitResponse": {"type": "Sometimes", "queuing": {}}}),
            json!({"limitResponse": 7}),
        ] {
            assert_eq!(of(broken.clone()), None, "{broken}");
        }
        assert_eq!(level(&json!({"metadata": {"name": "b"}, "spec": {"type": "Exempt", "exempt": {}}})), None);
        let odd = schema(&json!({"metadata": {"name": "a"}, "spec": {"matchingPrecedence": -7, "distinguisherMethod": {"type": "ByMood"},
            "rules": [null, {"subjects": [{"kind": "User"}, {"kind": "Robot"}, 7], "resourceRules": "all"}]}}));
        assert_eq!((odd.precedence, odd.by, odd.rules.len()), (2, None, 2));
        assert!(odd.rules.iter().all(|rule| rule.subjects.is_empty() && rule.resources.is_empty()));
    }
}
