//! A review -> what webhooks and expressions are told of it: the request, and the objects in the version that a rule has matched. Sources:
//! apiserver `pkg/admission/plugin/cel/condition.go` (`CreateAdmissionRequest`), `pkg/admission/conversion.go` (`NewVersionedAttributes`).

use std::{borrow::Cow, sync::Arc};

use api::{GroupResource, Key, Status};
use apiserver::{
    identity::{Review, User},
    kind::{Ctx, Kind},
};
use cel::Check;
use serde_json::{Map, Value, json};

use super::webhooks::rules;

/// A write in the version that a rule is about.
pub(crate) struct Versioned<'a> {
    pub kind: Arc<Kind>,
    pub object: Option<Cow<'a, Value>>,
    pub old: Option<Cow<'a, Value>>,
}

impl<'a> Versioned<'a> {
    /// # Errors
    /// Those of a conversion that is asked for.
    pub async fn of(review: &'a Review<'_>, kind: &Arc<Kind>) -> Result<Self, Status> {
        let (object, old) = (review.object.as_deref(), review.old);
        if !is_converted(review.ctx, kind) {
            return Ok(Self { kind: kind.clone(), object: object.map(Cow::Borrowed), old: old.map(Cow::Borrowed) });
        }
        let (object, old) = (Self::one(review, kind, object).await?, Self::one(review, kind, old).await?);
        Ok(Self { kind: kind.clone(), object, old })
    }

    async fn one(review: &Review<'_>, kind: &Kind, value: Option<&Value>) -> Result<Option<Cow<'a, Value>>, Status> {
        let Some(value) = value else { return Ok(None) };
        let ctx = review.ctx;
        Ok(Some(Cow::Owned(ctx.engine.convert(ctx.kind, kind, value.clone()).await?)))
    }
}

/// What was changed in a version back in the one that is written.
///
/// # Errors
/// Those of a conversion that is asked for.
pub(crate) async fn converted_back(ctx: &Ctx<'_>, kind: &Arc<Kind>, object: Value) -> Result<Value, Status> {
    if is_converted(ctx, kind) { ctx.engine.convert(kind, ctx.kind, object).await } else { Ok(object) }
}

/// A body of its own (a Scale, say) is the same in all versions of what it is about.
fn is_converted(ctx: &Ctx<'_>, kind: &Arc<Kind>) -> bool {
    kind.gvr() != ctx.kind.gvr() && ctx.body().1 == ctx.kind.gvk()
}

pub(crate) fn is_namespace(ctx: &Ctx<'_>) -> bool {
    ctx.kind.group.is_empty() && ctx.kind.plural == "namespaces"
}

/// A Namespace lies in itself.
pub(crate) fn namespace_of<'a>(ctx: &Ctx<'a>) -> &'a str {
    if is_namespace(ctx) { ctx.name } else { ctx.namespace }
}

/// The Namespace that the object lies in, which none does of the cluster's and no Namespace itself.
///
/// # Errors
/// 404 where there is none.
pub(crate) fn namespace_object(ctx: &Ctx<'_>) -> Result<Option<Value>, Status> {
    if ctx.namespace.is_empty() || is_namespace(ctx) {
        return Ok(None);
    }
    let namespaces = GroupResource::new("", "namespaces");
    let found = ctx.engine.cached(&namespaces, &Key::new("", ctx.namespace));
    let mut value = found.ok_or_else(|| Status::not_found(&namespaces, ctx.namespace))?.value();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for hidden in ["managedFields", "ownerReferences", "selfLink"] {
            metadata.shift_remove(hidden);
        }
    }
    Ok(Some(value))
}

/// `AdmissionRequest` without its uid and its objects. `matched` is the kind that a rule was about.
pub(crate) fn request(review: &Review<'_>, matched: &Kind) -> Value {
    let ctx = review.ctx;
    let kind = |kind: &Kind| {
        let gvk = kind.body_kind(ctx.subresource);
        json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
    };
    let resource = |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
    let mut request =
        json!({"kind": kind(matched), "resource": resource(matched), "requestKind": kind(ctx.kind), "requestResource": resource(ctx.kind)});
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            request[name] = value.into();
        }
    };
    put("subResource", ctx.subresource);
    put("requestSubResource", ctx.subresource);
    put("name", ctx.name);
    put("namespace", namespace_of(ctx));
    put("operation", rules::word(ctx.operation));
    request["userInfo"] = user_info(ctx.user);
    request["dryRun"] = ctx.dry_run.into();
    request["options"] = ctx.options.clone();
    request
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = user.groups.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = user.extra.iter().map(|(key, values)| (key.clone(), Value::from(values.clone()))).collect::<Map<_, _>>().into();
    }
    info
}

/// `authorizer.requestResource`
pub(crate) fn check(ctx: &Ctx<'_>) -> Check {
    Check {
        group: ctx.kind.group.to_string(),
        resource: ctx.kind.plural.to_string(),
        subresource: ctx.subresource.to_owned(),
        namespace: namespace_of(ctx).to_owned(),
        name: ctx.name.to_owned(),
        ..Check::default()
    }
}
