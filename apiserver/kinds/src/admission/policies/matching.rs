//! `matchConstraints`, `matchResources`, and the rules of webhooks -> whether they are about a write, and in which version of it. Sources: apiserver
//! `pkg/admission/plugin/policy/matching/matching.go`, `pkg/admission/plugin/webhook/generic/webhook.go` (`ShouldCallHook`).

use std::{collections::BTreeSet, sync::Arc};

use api::{GroupResource, Key, Status, selector::Labels};
use apiserver::{
    identity::{Operation, Review},
    kind::Kind,
};
use serde_json::Value;

use crate::{
    admission::{
        request::is_namespace,
        webhooks::rules::{About, Rule},
    },
    common::{Read, selector},
};

/// `MatchResources`
pub(crate) struct MatchResources {
    rules: Vec<NamedRule>,
    excluded: Vec<NamedRule>,
    policy: MatchPolicy,
    namespaces: Result<Option<Labels>, String>,
    objects: Result<Option<Labels>, String>,
}

/// Whether a rule is about a write to the same objects under another group or version as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MatchPolicy {
    Exact,
    #[default]
    Equivalent,
}

/// `NamedRuleWithOperations`
pub(crate) struct NamedRule {
    rule: Rule,
    /// Empty for all.
    names: Vec<String>,
}

impl MatchPolicy {
    pub fn of(word: &str) -> Self {
        if word == "Exact" { Self::Exact } else { Self::Equivalent }
    }
}

impl NamedRule {
    pub fn of(rule: Rule) -> Self {
        Self { rule, names: Vec::new() }
    }

    /// One that cannot be read (another server's) is about everything.
    fn read(value: &Value) -> Self {
        let rule = serde_json::from_value(value.clone()).unwrap_or_else(|_| Rule::everything());
        Self { rule, names: value.list("resourceNames").iter().filter_map(Value::as_str).map(str::to_owned).collect() }
    }

    fn has(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|named| named == name)
    }
}

impl MatchResources {
    pub fn read(resources: Option<&Value>) -> Self {
        let rules = |field: &str| resources.list(field).iter().map(NamedRule::read).collect();
        Self {
            rules: rules("resourceRules"),
            excluded: rules("excludeResourceRules"),
            policy: MatchPolicy::of(resources.text("matchPolicy")),
            namespaces: selector::parse(resources.at("namespaceSelector")),
            objects: selector::parse(resources.at("objectSelector")),
        }
    }

    /// The resources that its rules name, without their parts; `None` where they may be any.
    pub fn resources(&self) -> Option<BTreeSet<&str>> {
        let mut out = BTreeSet::new();
        if self.rules.is_empty() {
            return None;
        }
        for name in self.rules.iter().flat_map(|rule| rule.rule.resources()) {
            match name.split('/').next().unwrap_or_default() {
                "*" => return None,
                name => out.insert(name),
            };
        }
        Some(out)
    }

    /// The kind in whose version it is about the write; `None` where it is not.
    ///
    /// # Errors
    /// A selector that cannot be read, or a namespace that is not there.
    pub fn matches(&self, review: &Review<'_>) -> Result<Option<Arc<Kind>>, String> {
        let matched = match self.rules.is_empty() {
            true => Some(review.ctx.kind.clone()),
            false => matched(&self.rules, self.policy, review),
        };
        let Some(kind) = matched else { return Ok(None) };
        // What one selector leaves out is not refused for the other's sake.
        let selected = [selects_namespace(&self.namespaces, review), selects_object(&self.objects, review)];
        if selected.iter().any(|selects| matches!(selects, Ok(false))) || matched_by(&self.excluded, self.policy, review) {
            return Ok(None);
        }
        match selected.into_iter().find_map(Result::err) {
            Some(status) => Err(status.message),
            None => Ok(Some(kind)),
        }
    }
}

/// `MatchNamespaceSelector`
pub(crate) fn selects_namespace(selector: &Result<Option<Labels>, String>, review: &Review<'_>) -> Result<bool, Status> {
    let selector = match selector {
        Ok(Some(selector)) if !selector.is_empty() => selector,
        Ok(_) => return Ok(true),
        Err(why) => return Err(Status::internal(why.clone())),
    };
    let ctx = review.ctx;
    let is_of_namespace = is_namespace(ctx);
    if is_of_namespace && matches!(ctx.operation, Operation::Create | Operation::Update) && ctx.subresource.is_empty() {
        // Nobody else knows of it yet.
        return Ok(selects(selector, review.object.as_deref()));
    }
    let name = if is_of_namespace { ctx.name } else { ctx.namespace };
    if name.is_empty() {
        return Ok(true);
    }
    let namespaces = GroupResource::new("", "namespaces");
    match ctx.engine.cached(&namespaces, &Key::new("", name)) {
        Some(namespace) => Ok(selector.matches_with(|key| namespace.label(key))),
        None => Err(Status::not_found(&namespaces, name)),
    }
}

/// `MatchObjectSelector`: the new object or the old one.
pub(crate) fn selects_object(selector: &Result<Option<Labels>, String>, review: &Review<'_>) -> Result<bool, Status> {
    match selector {
        Ok(Some(selector)) if !selector.is_empty() => {
            let objects = [review.object.as_deref(), review.old];
            Ok(objects.into_iter().any(|object| object.is_some() && selects(selector, object)))
        }
        Ok(_) => Ok(true),
        Err(why) => Err(Status::internal(why.clone())),
    }
}

fn selects(selector: &Labels, object: Option<&Value>) -> bool {
    let labels = object.at("metadata").at("labels");
    selector.matches_with(|key| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
}

fn matched_by(rules: &[NamedRule], policy: MatchPolicy, review: &Review<'_>) -> bool {
    !rules.is_empty() && matched(rules, policy, review).is_some()
}

/// The kind that the first fitting rule is about.
pub(crate) fn matched(rules: &[NamedRule], policy: MatchPolicy, review: &Review<'_>) -> Option<Arc<Kind>> {
    let (about, ctx) = (About::of(review), review.ctx);
    if rules.iter().any(|rule| rule.rule.matches(&about) && rule.has(ctx.name)) {
        return Some(ctx.kind.clone());
    }
    // Other kinds are looked for only where one of them could fit.
    let could = |rule: &NamedRule| rule.has(ctx.name) && rule.rule.matches_in_any_version(&about);
    if policy == MatchPolicy::Exact || !rules.iter().any(could) {
        return None;
    }
    let others = ctx.engine.equivalents(ctx.kind);
    let has_part = |kind: &&Arc<Kind>| ctx.subresource.is_empty() || kind.subresource(ctx.subresource).is_some();
    let fits = |rule: &NamedRule, kind: &Kind| {
        rule.has(ctx.name) && rule.rule.matches(&About { group: &kind.group, version: &kind.version, resource: &kind.plural, ..about })
    };
    rules.iter().find_map(|rule| others.iter().filter(has_part).find(|kind| fits(rule, kind)).cloned())
}
