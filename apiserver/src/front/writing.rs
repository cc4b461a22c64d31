//! POST, PUT and PATCH -> the engine. Source: apiserver `pkg/endpoints/handlers/{create,update,patch}.go`.
//!
//! A body is read here; what is done with it is done apart where it may take long ([`crate::lane`]).

use std::pin::pin;

use api::{Gvk, Key, Status, field_errors::FieldErrors};
use bytes::Bytes;
use futures::FutureExt;
use http::StatusCode;
use serde_json::Value;

use super::{
    Call, auth,
    negotiate::{self, Input, Output},
    options::WriteOptions,
    patch::{self, Patch, Spent},
    render, scale as shown,
};
use crate::{
    body::{Body, Response},
    engine::{
        context::ManagerOperation,
        create, form, managed_fields, meta,
        registry::Served,
        scale, subresource,
        update::{self, Missing, Updated},
    },
    identity::Operation,
    kind::{Action, Handler, Kind, ScalePaths, Subresource},
    lane::Weight,
    parse::{self, Parsed},
    schema::{self, FieldValidation, Schema},
    smp,
};

impl Call {
    pub(super) async fn create(&self, served: &Served, body: Body) -> Result<Response, Status> {
        let output = self.output(served)?;
        let input = negotiate::input(&self.parts.headers)?;
        let body = self.read(body).await?;
        self.front.lane.run(weight(input, &body), pin!(self.create_from(served, &output, input, &body))).await
    }

    async fn create_from(&self, served: &Served, output: &Output, input: Input, body: &Bytes) -> Result<Response, Status> {
        let kind = &served.kind;
        let options = WriteOptions::read(&self.query, "CreateOptions")?;
        let mut object = self.decode(&kind.schema, &kind.gvk(), input, body, &options)?;
        meta::typed(&object).map_err(|why| form::mistyped(kind, &why))?;
        meta::wipe(&mut object);
        self.put_namespace(&mut object)?;
        // Of a path that names it: it is made under the name that was authorized.
        if !self.info.name.is_empty() {
            self.check_name(&object)?;
        }
        let name = meta::text(&object, "name").to_owned();
        let ctx = self.ctx(served, Operation::Create, &name, &options.value, options.dry_run);
        let created = create::create(&ctx, object).await?;
        render::object(kind, output, StatusCode::CREATED, created.bytes(), self.now)
    }

    pub(super) async fn update(&self, served: &Served, body: Body) -> Result<Response, Status> {
        let input = negotiate::input(&self.parts.headers)?;
        let output = self.output(served)?;
        let body = self.read(body).await?;
        self.front.lane.run(weight(input, &body), pin!(self.update_from(served, &output, input, &body))).await
    }

    async fn update_from(&self, served: &Served, output: &Output, input: Input, body: &Bytes) -> Result<Response, Status> {
        let kind = &served.kind;
        let options = WriteOptions::read(&self.query, "UpdateOptions")?;
        let scale = self.scale(served);
        let mut object = match scale {
            Some((_, sub)) => self.decode(&sub.schema, &sub.body, input, body, &options)?,
            None => self.decode(&kind.schema, &kind.gvk(), input, body, &options)?,
        };
        meta::typed(&object).map_err(|why| form::mistyped(kind, &why))?;
        self.put_namespace(&mut object)?;
        self.check_name(&object)?;
        let edit = |value: &mut Value| {
            *value = object.clone();
            Ok(())
        };
        let ctx = self.ctx(served, Operation::Update, &self.info.name, &options.value, options.dry_run);
        let updated = update::update(&ctx, &edit, body.len(), Missing::Create(&|| self.may_create().boxed())).await?;
        self.updated(served, output, scale.map(|(paths, _)| paths), &updated)
    }

    pub(super) async fn patch(&self, served: &Served, body: Body) -> Result<Response, Status> {
        let output = self.output(served)?;
        let body = self.read(body).await?;
        // A small patch of a large object is as much work as writing it.
        let weight = Weight::of(body.len().max(self.cached_len(served)));
        self.front.lane.run(weight, pin!(self.patch_from(served, &output, &body))).await
    }

    /// About how long the object is, where it is known.
    fn cached_len(&self, served: &Served) -> usize {
        let object = served.cache.as_ref().and_then(|cache| cache.get(&Key::new(self.info.place(), &self.info.name)));
        object.map_or(0, |object| object.shown_len())
    }

    async fn patch_from(&self, served: &Served, output: &Output, body: &Bytes) -> Result<Response, Status> {
        let kind = &served.kind;
        let options = WriteOptions::of_patch(&self.query, patch::is_apply(&self.parts.headers))?;
        let (patch, duplicates) = patch::read(&self.parts.headers, &self.query, &kind.schema, body)?;
        if let Some(audit) = &self.audit {
            audit.sent_patch(body);
        }
        let scale = self.scale(served);
        let spent = Spent::default();
        let mut ctx = self.ctx(served, Operation::Update, &self.info.name, &options.value, options.dry_run);
        let is_apply = matches!(patch, Patch::Apply(_));
        if is_apply {
            ctx.manager.operation = ManagerOperation::Apply;
        }
        let allowed = || self.may_create().boxed();
        let missing = if is_apply { Missing::Apply(&allowed) } else { Missing::Refuse };
        let ctx = ctx;
        let edit = |value: &mut Value| {
            let is_first = spent.is_nothing();
            let too_much_again = |status: Status| if is_first { status } else { Status::stale(&kind.group_resource(), &self.info.name) };
            let refused = |status: Status| if status.code == 413 { too_much_again(status) } else { status };
            let is_new = value.is_null();
            patch.apply(&ctx, value, &spent).map_err(refused)?;
            if is_apply {
                self.notes.warn(applied_strictly(&duplicates, options.validation)?);
                self.applied(kind, value, is_new)?;
            }
            if scale.is_none() {
                let gvk = kind.gvk();
                managed_fields::keep_reset(value);
                let named = parse::name_kind(&kind.schema, &gvk, value, body);
                named.map_err(|status| renamed_by_patch(&patch, kind, value, status))?;
                // What is applied has been held against the schema already.
                let (twice, mode) = if is_apply { (&[][..], FieldValidation::Ignore) } else { (&duplicates[..], options.validation) };
                let texts = kind.schema.check(&gvk, value, twice, mode);
                self.notes.warn(texts.map_err(|status| refused_patch(&patch, kind, value, status))?);
                self.check_name(value)?;
            }
            meta::typed(value).map_err(|why| form::mistyped(kind, &why)).map(drop)
        };
        let updated = update::update(&ctx, &edit, body.len(), missing).await?;
        self.updated(served, output, scale.map(|(paths, _)| paths), &updated)
    }

    /// What is applied is of the name and namespace that are asked for, and new where there is nothing.
    fn applied(&self, kind: &Kind, object: &mut Value, is_new: bool) -> Result<(), Status> {
        let uid = meta::text(object, "uid");
        if is_new && !uid.is_empty() {
            let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(Status::conflict(&kind.group_resource(), &self.info.name, &why));
        }
        self.put_namespace(object)?;
        self.check_name(object)
    }

    /// A create on a subresource whose body is another kind.
    pub(super) async fn act(&self, served: &Served, sub: &Subresource, action: &dyn Action, body: Body) -> Result<Response, Status> {
        let output = self.output(served)?;
        let input = negotiate::input(&self.parts.headers)?;
        let body = self.read(body).await?;
        let work = pin!(self.act_on(served, sub, action, &output, input, &body));
        self.front.lane.run(weight(input, &body), work).await
    }

    async fn act_on(
        &self,
        served: &Served,
        sub: &Subresource,
        action: &dyn Action,
        output: &Output,
        input: Input,
        body: &Bytes,
    ) -> Result<Response, Status> {
        let options = WriteOptions::read(&self.query, "CreateOptions")?;
        let mut parsed = parse_as(&sub.schema, &sub.body, input, body)?;
        let object = &mut parsed.value;
        if object.get("apiVersion").and_then(Value::as_str).is_some_and(|version| action.accepts(version)) {
            object["apiVersion"] = sub.body.api_version().into();
        }
        parse::name_kind(&sub.schema, &sub.body, object, body)?;
        self.tell_sent(object);
        self.notes.warn(checked(&sub.schema, &sub.body, &mut parsed, options.validation)?);
        let mut object = parsed.value;
        meta::typed(&object).map_err(|why| Status::bad_request(format!("{}: {why}", sub.body.kind)))?;
        meta::of(&mut object).retain(|_, value| !value.is_null());
        self.put_namespace(&mut object)?;
        let ctx = self.ctx(served, Operation::Create, &self.info.name, &options.value, options.dry_run);
        let (code, reply) = subresource::act(&ctx, action, object).await?;
        Ok(render::encoded(&served.kind.schema, output.format, StatusCode::from_u16(code).unwrap_or(StatusCode::CREATED), &reply))
    }

    fn updated(&self, served: &Served, output: &Output, scale: Option<&ScalePaths>, updated: &Updated) -> Result<Response, Status> {
        let code = if updated.created { StatusCode::CREATED } else { StatusCode::OK };
        match scale {
            Some(paths) => shown::reply(served, output, code, scale::of(paths, &updated.object.value()), self.now),
            None => render::object(&served.kind, output, code, updated.object.bytes(), self.now),
        }
    }

    fn scale<'a>(&self, served: &'a Served) -> Option<(&'a ScalePaths, &'a Subresource)> {
        let sub = served.kind.subresource(&self.info.subresource)?;
        match &sub.handler {
            Handler::Scale(paths) => Some((paths, sub)),
            _ => None,
        }
    }

    fn decode(&self, schema: &Schema, gvk: &Gvk, input: Input, body: &Bytes, options: &WriteOptions) -> Result<Value, Status> {
        let mut parsed = parse_as(schema, gvk, input, body)?;
        self.notes.warn(self.unserved(schema, gvk, &parsed.value, options.validation)?);
        parse::name_kind(schema, gvk, &mut parsed.value, body)?;
        managed_fields::keep_reset(&mut parsed.value);
        self.tell_sent(&parsed.value);
        self.notes.warn(checked(schema, gvk, &mut parsed, options.validation)?);
        Ok(parsed.value)
    }

    /// A custom object of a version that its definition does not have is read by no schema, so that all its fields are unknown; that it is refused
    /// comes then.
    fn unserved(&self, schema: &Schema, gvk: &Gvk, object: &Value, mode: FieldValidation) -> Result<Vec<String>, Status> {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let Some((group, version)) = api::names::split_api_version(text("apiVersion")) else { return Ok(Vec::new()) };
        let is_ours = matches!(schema, Schema::Custom(_)) && group == gvk.group && text("kind") == gvk.kind;
        if !is_ours || self.engine.registry.load().find(group, version, &self.info.resource).is_some() {
            return Ok(Vec::new());
        }
        schema.unknown_version(&Gvk::new(group, version, &gvk.kind), object, mode)
    }

    pub(super) fn tell_sent(&self, object: &Value) {
        if let Some(audit) = &self.audit {
            audit.sent(object);
        }
    }

    /// An update that makes an object is a create as well (`withAuthorization` in `update.go`).
    async fn may_create(&self) -> Result<(), Status> {
        auth::authorize_as(&self.engine, &self.info, &self.user, "create").await
    }

    /// The object's namespace is that of the request.
    fn put_namespace(&self, object: &mut Value) -> Result<(), Status> {
        let wanted = self.info.place();
        let given = meta::text(object, "namespace");
        if !wanted.is_empty() && !given.is_empty() && given != wanted {
            let words = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Status::bad_request(words));
        }
        if wanted.is_empty() {
            meta::of(object).shift_remove("namespace");
        } else {
            meta::of(object).insert("namespace".into(), wanted.into());
        }
        Ok(())
    }

    /// The object's name is that of the URL.
    fn check_name(&self, object: &Value) -> Result<(), Status> {
        let (given, wanted) = (meta::text(object, "name"), self.info.name.as_str());
        if given == wanted {
            return Ok(());
        }
        if given.is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
            )));
        }
        Err(Status::bad_request(format!("the name of the object ({given}) does not match the name on the URL ({wanted})")))
    }
}

/// [`Schema::check`] of a body. Keys that stand twice in YAML its reader tells of, and no schema.
fn checked(schema: &Schema, gvk: &Gvk, parsed: &mut Parsed, mode: FieldValidation) -> Result<Vec<String>, Status> {
    if parsed.lines.is_empty() {
        return schema.check(gvk, &mut parsed.value, &parsed.duplicates, mode);
    }
    let unknown = schema.check(gvk, &mut parsed.value, &[], FieldValidation::Warn)?;
    let lines = match mode {
        FieldValidation::Strict => vec![format!("yaml: unmarshal errors:\n  {}", parsed.lines.join("\n  "))],
        FieldValidation::Warn | FieldValidation::Ignore => parsed.lines.clone(),
    };
    schema::strict(gvk, lines.into_iter().chain(unknown).collect(), mode)
}

/// What a configuration that is applied says twice, in the words of YAML's reader (`applyPatchToCurrentObject`).
fn applied_strictly(lines: &[String], mode: FieldValidation) -> Result<Vec<String>, Status> {
    match mode {
        FieldValidation::Strict if !lines.is_empty() => Err(Status::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
            lines.join("\n  ")
        ))),
        FieldValidation::Strict | FieldValidation::Warn => Ok(lines.to_vec()),
        FieldValidation::Ignore => Ok(Vec::new()),
    }
}

/// A patch makes an object of another kind of it: what comes of patches by JSON is decoded as what it says it is, and then is not what was to come.
fn renamed_by_patch(patch: &Patch, kind: &Kind, patched: &mut Value, status: Status) -> Status {
    if !matches!(patch, Patch::Json(_) | Patch::Merge(_)) {
        return status;
    }
    let shown = patched.clone();
    let text = |field: &str| shown.get(field).and_then(Value::as_str).unwrap_or_default();
    let gvk = kind.gvk();
    let mistyped = kind.schema.mistyped_as(&gvk, text("apiVersion"), text("kind"), patched);
    refused_patch(patch, kind, &shown, mistyped.unwrap_or(status))
}

/// What a patch leads to is no object of its kind: 422 for what would be a 400 elsewhere.
fn refused_patch(patch: &Patch, kind: &Kind, patched: &Value, status: Status) -> Status {
    let shown = match patch {
        Patch::Strategic(patch) => smp::shown(patch),
        Patch::Json(_) | Patch::Merge(_) | Patch::Apply(_) => patched.to_string(),
    };
    let told = status.message.split_once(&format!(" cannot be handled as a {}: ", kind.kind));
    let restored = match patch {
        Patch::Strategic(_) => kind.schema.structure().and_then(|structure| structure.unrestorable(patched)),
        Patch::Json(_) | Patch::Merge(_) | Patch::Apply(_) => None,
    };
    let why = restored.as_deref().unwrap_or(told.map_or(status.message.as_str(), |(_, why)| why));
    let mut causes = FieldErrors::default();
    causes.invalid("patch", shown, why);
    Status::invalid(&Gvk::new("", "", ""), "", &causes)
}

/// A short YAML may name the same thing over and over.
pub(super) fn weight(input: Input, body: &[u8]) -> Weight {
    if input == Input::Yaml { Weight::Heavy } else { Weight::of(body.len()) }
}

fn parse_as(schema: &Schema, gvk: &Gvk, input: Input, body: &[u8]) -> Result<Parsed, Status> {
    let unrecognized = |why: String| parse::unrecognized(&gvk.kind, &why, body);
    match input {
        Input::Json => parse::json(body).map_err(unrecognized),
        Input::Yaml => parse::yaml(body).map_err(unrecognized),
        Input::Protobuf => schema.protobuf(&gvk.kind, body),
    }
}
