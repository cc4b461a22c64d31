//! Resources that nobody may take where no quota covers them. Source: `CheckRequest`, `apis/resourcequota/v1`.

use std::collections::BTreeSet;

use api::{Status, field_errors::FieldErrors};
use apiserver::identity::Review;
use serde_json::Value;

use super::{Asked, Quota, Scope, forbidden};
use crate::common::{Path, Read};

/// `LimitedResource`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    group: String,
    resource: String,
    contains: Vec<String>,
    scopes: Vec<Scope>,
}

/// # Errors
/// What is wrong with the configuration, in upstream's words.
pub fn read(config: Option<&Value>) -> Result<Vec<Limited>, String> {
    let (path, mut causes) = (Path::new("limitedResources"), FieldErrors::default());
    let list = config.list("limitedResources");
    for (i, limited) in list.iter().enumerate() {
        if limited.text("resource").is_empty() {
            causes.required(path.index(i).field("resource"), "");
        }
    }
    let texts: Vec<String> = causes.0.iter().map(|cause| cause.text()).collect();
    if texts.is_empty() { Ok(list.iter().map(Limited::of).collect()) } else { Err(texts.join(", ")) }
}

/// Refuses what is taken of a limited resource, or under a limited scope, without a quota for it.
///
/// # Errors
/// 403; 500 for scopes, as upstream.
pub fn check(limited: &[Limited], asked: &Asked<'_>, quotas: &[impl AsRef<Quota>], review: &Review<'_>) -> Result<(), Status> {
    let takes_nothing = asked
        .before
        .as_ref()
        .is_some_and(|before| asked.now.usage.iter().all(|(name, amount)| before.usage.get(name).is_some_and(|was| amount <= was)));
    if limited.is_empty() || takes_nothing {
        return Ok(());
    }
    let kind = review.ctx.kind;
    let about = |one: &&Limited| one.group == kind.group && one.resource == kind.plural;
    let taken = asked.now.usage.iter().filter(|(_, amount)| !amount.is_zero() && !amount.is_negative()).map(|(name, _)| name.as_str());
    let rules: Vec<&Limited> = limited.iter().filter(about).collect();
    let mut lacking: BTreeSet<&str> = taken.filter(|name| rules.iter().any(|one| one.is_about(name))).collect();
    let is_in = |scope: &Scope| asked.is_in(scope);
    for quota in quotas.iter().map(AsRef::as_ref).filter(|quota| quota.scopes.iter().all(is_in)) {
        lacking.retain(|name| !quota.hard.contains_key(*name));
    }
    if !lacking.is_empty() {
        return Err(forbidden(review, &format!("insufficient quota to consume: {}", lacking.into_iter().collect::<Vec<_>>().join(","))));
    }
    let covered: BTreeSet<&str> =
        quotas.iter().flat_map(|quota| &quota.as_ref().scopes).filter(|scope| is_in(scope)).map(|scope| scope.name.as_str()).collect();
    let scopes = limited.iter().flat_map(|one| &one.scopes).filter(|scope| is_in(scope) && !covered.contains(scope.name.as_str()));
    let told: Vec<String> = scopes.map(|scope| format!("{{{} {} [{}]}}", scope.name, scope.operator, scope.values.join(" "))).collect();
    if told.is_empty() {
        return Ok(());
    }
    Err(Status::new(500, "", format!("insufficient quota to match these scopes: [{}]", told.join(" "))))
}

impl Limited {
    fn of(limited: &Value) -> Self {
        let texts = |field: &str| limited.list(field).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            group: limited.text("apiGroup").to_owned(),
            resource: limited.text("resource").to_owned(),
            contains: texts("matchContains"),
            scopes: limited.list("matchScopes").iter().map(Scope::of).collect(),
        }
    }

    fn is_about(&self, name: &str) -> bool {
        self.contains.iter().any(|part| name.contains(part.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_configuration_names_resources() {
        assert_eq!(read(Some(&json!({"limitedResources": [{}]}))).unwrap_err(), "limitedResources[0].resource: Required value");
        let found = read(Some(&json!({"limitedResources": [{"resource": "pods", "matchContains": ["cpu"]}]}))).unwrap();
        assert!(found[0].is_about("requests.cpu") && !found[0].is_about("memory"));
    }
}
