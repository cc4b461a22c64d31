//! A definition and the names that others of its group have -> the names that it gets, and its conditions.
//!
//! Source: `pkg/controller/{status,establish,apiapproval}`, `pkg/apihelpers/helpers.go`.

use std::collections::HashSet;

use api::{
    quoted,
    time::{Timestamp, rfc3339},
};
use kinds::common::{Read, edit};
use serde_json::{Map, Value, json};

pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVED: &str = "api-approved.kubernetes.io";

/// What others of the group are called.
#[derive(Debug, Default)]
pub struct Taken {
    pub resources: HashSet<String>,
    pub kinds: HashSet<String>,
}

impl Taken {
    /// Adds the names that a definition has been given.
    pub fn add(&mut self, definition: &Value) {
        let names = definition.at("status").at("acceptedNames");
        let all =
            [names.text("plural"), names.text("singular")].into_iter().chain(names.list("shortNames").iter().filter_map(Value::as_str));
        self.resources.extend(all.filter(|name| !name.is_empty()).map(str::to_owned));
        let all = [names.text("kind"), names.text("listKind")];
        self.kinds.extend(all.into_iter().filter(|name| !name.is_empty()).map(str::to_owned));
    }
}

/// Brings names and conditions up to date. Idempotent.
pub fn settle(definition: &mut Value, taken: &Taken, now: Timestamp) {
    if let Some(status) = edit::make_child(definition, "status")
        && status.at("conditions").is_none()
    {
        edit::set(status, "conditions", json!([]));
    }
    if definition.at("spec").at("names") != definition.at("status").at("acceptedNames") {
        accept(definition, taken, now);
    }
    if is_true(definition, "NamesAccepted") && !is_true(definition, "Established") {
        let words = ["True", "InitialNamesAccepted", "the initial names have been accepted"];
        set_condition(definition, "Established", words, now);
    }
    approve(definition, now);
}

/// Whether a condition of this type is `True`.
pub fn is_true(definition: &Value, typ: &str) -> bool {
    condition(definition, typ).is_some_and(|condition| condition.text("status") == "True")
}

/// Sets a condition (status, reason, message); its time stays while its status does.
pub fn set_condition(definition: &mut Value, typ: &str, [status, reason, message]: [&str; 3], now: Timestamp) {
    let mut wanted = json!({"type": typ, "status": status, "lastTransitionTime": rfc3339(now), "reason": reason, "message": message});
    let Some(part) = edit::make_child(definition, "status") else { return };
    edit::default_to(part, "conditions", json!([]));
    let Some(conditions) = part.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    match conditions.iter_mut().find(|condition| condition.text("type") == typ) {
        None => conditions.push(wanted),
        Some(found) => {
            if found.text("status") == status {
                edit::carry(&mut wanted, found, "lastTransitionTime");
            }
            *found = wanted;
        }
    }
}

fn condition<'d>(definition: &'d Value, typ: &str) -> Option<&'d Value> {
    definition.at("status").list("conditions").iter().find(|condition| condition.text("type") == typ)
}

/// `calculateNamesAndConditions`
fn accept(definition: &mut Value, taken: &Taken, now: Timestamp) {
    let wanted = definition.at("spec").at("names").cloned().unwrap_or_default();
    let had = definition.at("status").at("acceptedNames").cloned().unwrap_or_default();
    let mut names = Map::new();
    let mut refused: Option<(&str, String)> = None;
    let mut take = |field: &'static str, reason: &'static str, used: &HashSet<String>, names: &mut Map<String, Value>| {
        let (want, have) = (wanted.text(field), had.text(field));
        let is_free = want == have || !used.contains(want);
        if !is_free {
            refused = Some((reason, format!("{} is already in use", quoted(want))));
        }
        let given = if is_free { want } else { have };
        if !given.is_empty() || matches!(field, "plural" | "kind") {
            names.insert(field.to_owned(), given.into());
        }
    };
    take("plural", "PluralConflict", &taken.resources, &mut names);
    take("singular", "SingularConflict", &taken.resources, &mut names);
    let mut short = wanted.list("shortNames");
    let used: Vec<String> = short
        .iter()
        .filter(|name| !had.list("shortNames").contains(name))
        .filter_map(Value::as_str)
        .filter(|name| taken.resources.contains(*name))
        .map(|name| format!("{} is already in use", quoted(name)))
        .collect();
    let short_refused = (!used.is_empty()).then(|| if used.len() == 1 { used[0].clone() } else { format!("[{}]", used.join(", ")) });
    if short_refused.is_some() {
        short = had.list("shortNames");
    }
    if !short.is_empty() {
        names.insert("shortNames".into(), short.to_vec().into());
    }
    take("kind", "KindConflict", &taken.kinds, &mut names);
    take("listKind", "ListKindConflict", &taken.kinds, &mut names);
    // The last that is refused is told.
    let refused = match (refused, short_refused) {
        (Some((reason, why)), Some(_)) if reason.ends_with("KindConflict") => Some((reason, why)),
        (_, Some(why)) => Some(("ShortNamesConflict", why)),
        (refused, None) => refused,
    };
    if let Some(categories) = wanted.at("categories") {
        names.insert("categories".into(), categories.clone());
    }
    let accepted = match &refused {
        Some((reason, why)) => ["False", reason, why],
        None => ["True", "NoConflicts", "no conflicts found"],
    };
    if let Some(status) = edit::make_child(definition, "status") {
        edit::set(status, "acceptedNames", names);
    }
    set_condition(definition, "NamesAccepted", accepted, now);
    if condition(definition, "Established").is_none() && refused.is_some() {
        set_condition(definition, "Established", ["False", "NotAccepted", "not all names are accepted"], now);
    }
}

/// Groups that are Kubernetes' own (`IsProtectedCommunityGroup`).
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|domain| group == *domain || group.ends_with(&format!(".{domain}")))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    Missing,
    Invalid,
    Bypassed,
    Approved,
}

/// `GetAPIApprovalState`, with its reason.
pub fn approval(definition: &Value) -> (Approval, String) {
    let annotation = definition.at("metadata").at("annotations").text(APPROVED);
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    let is_url = annotation.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && !rest.starts_with('/') && !rest.is_empty() && crate::schema::formats::is_uri(annotation)
    });
    match annotation {
        "" => (Approval::Missing, format!("protected groups must have approval annotation {APPROVED:?}, {SEE}")),
        text if text.starts_with("unapproved") => (Approval::Bypassed, format!("not approved: {}", quoted(text))),
        text if is_url => (Approval::Approved, format!("approved in {text}")),
        _ => (
            Approval::Invalid,
            format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {SEE}"
            ),
        ),
    }
}

/// The key of the annotation, for causes.
pub const APPROVAL_FIELD: &str = "metadata.annotations[api-approved.kubernetes.io]";

fn approve(definition: &mut Value, now: Timestamp) {
    if !is_protected(definition.at("spec").text("group")) {
        return;
    }
    let (state, why) = approval(definition);
    let (status, reason) = match state {
        Approval::Missing => ("False", "MissingAnnotation"),
        Approval::Invalid => ("False", "InvalidAnnotation"),
        Approval::Bypassed => ("False", "UnapprovedAnnotation"),
        Approval::Approved => ("True", "ApprovedAnnotation"),
    };
    set_condition(definition, "KubernetesAPIApprovalPolicyConformant", [status, reason, &why], now);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widget() -> Value {
        json!({"spec": {"group": "example.io", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList",
            "shortNames": ["wg"]}}})
    }

    #[test]
    fn free_names_are_given_and_nothing_changes_the_second_time() {
        let (mut definition, now) = (widget(), Timestamp::UNIX_EPOCH);
        settle(&mut definition, &Taken::default(), now);
        assert_eq!(definition["status"]["acceptedNames"], definition["spec"]["names"]);
        let told: Vec<_> =
            definition["status"]["conditions"].as_array().unwrap().iter().map(|c| (c.text("type"), c.text("status"))).collect();
        assert_eq!(told, [("NamesAccepted", "True"), ("Established", "True")]);
        let before = definition.clone();
        settle(&mut definition, &Taken::default(), Timestamp::MAX);
        assert_eq!(definition, before);
    }

    #[test]
    fn names_of_others_are_refused_in_upstreams_words() {
        let (mut definition, mut taken) = (widget(), Taken::default());
        taken.add(&json!({"status": {"acceptedNames": {"plural": "x", "kind": "Widget", "shortNames": ["wg"]}}}));
        settle(&mut definition, &taken, Timestamp::UNIX_EPOCH);
        assert!(!is_true(&definition, "Established"));
        let condition = condition(&definition, "NamesAccepted").unwrap();
        assert_eq!((condition.text("reason"), condition.text("message")), ("KindConflict", r#""Widget" is already in use"#));
        assert_eq!(
            definition["status"]["acceptedNames"],
            json!({"plural": "widgets", "singular": "widget", "kind": "", "listKind": "WidgetList"})
        );
    }

    #[test]
    fn approval_is_told_of_kubernetes_own_groups() {
        let of = |text: &str| approval(&json!({"metadata": {"annotations": {APPROVED: text}}})).0;
        assert_eq!(
            [of(""), of("unapproved, x"), of("https://a.b/c"), of("http:///c"), of("x")],
            [Approval::Missing, Approval::Bypassed, Approval::Approved, Approval::Invalid, Approval::Invalid]
        );
        assert!(is_protected("x.k8s.io") && !is_protected("xk8s.io"));
    }
}
