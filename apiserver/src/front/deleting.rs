//! DELETE of one object or of a selection. Source: apiserver `pkg/endpoints/handlers/delete.go`.

use std::{pin::pin, sync::Arc};

use api::Status;
use futures::{StreamExt, stream};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{
    Call,
    negotiate::{self, Input},
    options::{ListOptions, WriteOptions, delete_options},
    render, writing,
};
use crate::{
    body::{Body, Response},
    engine::{
        Object,
        delete::{self, Deleted, Options},
        list, meta,
        registry::Served,
    },
    identity::Operation,
    kind::Kind,
    pace::{TURN_BYTES_MAX, Turn},
    parse,
};

/// Deletions of one deletecollection that run at a time: those that wait share a commit.
const AT_A_TIME: usize = 32;
/// What these may hold together, in KiB of objects as they are stored: each is parsed, before and after its commit. A larger one goes alone.
const TOGETHER_KIB_MAX: u32 = 1024;

impl Call {
    pub(super) async fn delete(&self, served: &Served, body: Body) -> Result<Response, Status> {
        let kind = &served.kind;
        let output = self.output(served)?;
        let (value, dry_run) = self.delete_options(served, body).await?;
        let options = Options::read(&value)?;
        self.warn_of_deletion(kind, &options);
        let ctx = self.ctx(served, Operation::Delete, &self.info.name, &value, dry_run);
        let deleted = Box::pin(delete::delete(&ctx, &options)).await?;
        // 202 is for old clients that asked for a cascade in the old way.
        let accepted = !deleted.gone && options.orphan_dependents == Some(false);
        let code = if accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
        if !deleted.gone || kind.strategy.returns_deleted() {
            return render::object(kind, &output, code, deleted.object.bytes(), self.now);
        }
        Ok(render::encoded(&kind.schema, output.format, code, &self.success(served, &deleted)))
    }

    /// What the kind says to who does not say what becomes of dependents.
    fn warn_of_deletion(&self, kind: &Kind, options: &Options) {
        if options.policy.is_none() && options.orphan_dependents.is_none() {
            self.notes.warn(kind.strategy.deletion_warning().map(str::to_owned).into_iter().collect());
        }
    }

    pub(super) async fn delete_collection(&self, served: &Served, body: Body) -> Result<Response, Status> {
        let output = self.output(served)?;
        let (value, dry_run) = self.delete_options(served, body).await?;
        let options = Options::read(&value)?;
        self.warn_of_deletion(&served.kind, &options);
        let wanted = ListOptions::read(&self.query, &self.info, served)?;
        let listed = list::list(&self.engine, served, &wanted.selection, &wanted.when, wanted.limit).await?;
        let objects = listed.objects.clone();
        let room = Semaphore::new(TOGETHER_KIB_MAX as usize);
        let mut deletions = Vec::with_capacity(objects.len());
        for object in objects.iter() {
            deletions.push(self.delete_one(served, object, &room, (&value, &options, dry_run)));
        }
        let (mut under_way, mut turn, mut refused) = (stream::iter(deletions).buffer_unordered(AT_A_TIME), Turn::default(), None);
        while let Some(deleted) = under_way.next().await {
            turn.took(*deleted.as_ref().unwrap_or(&TURN_BYTES_MAX));
            turn.rest().await;
            refused = refused.or(deleted.err());
        }
        if let Some(status) = refused {
            return Err(status);
        }
        self.listed(served, &output, listed).await
    }

    /// Tells how many bytes the object had.
    async fn delete_one(
        &self,
        served: &Served,
        object: &Arc<Object>,
        room: &Semaphore,
        (value, options, dry_run): (&Value, &Options, bool),
    ) -> Result<usize, Status> {
        let bytes = object.stored().len();
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).saturating_add(1);
        let _room = room.acquire_many(kib.min(TOGETHER_KIB_MAX)).await;
        let mut ctx = self.ctx(served, Operation::Delete, &object.key.name, value, dry_run);
        ctx.namespace = &object.key.namespace;
        match Box::pin(delete::delete(&ctx, options)).await {
            Err(status) if status.code == 404 => Ok(bytes),
            done => done.map(|_| bytes),
        }
    }

    /// From the body where there is one, else from the query.
    async fn delete_options(&self, served: &Served, body: Body) -> Result<(Value, bool), Status> {
        let body = self.read(body).await?;
        let value = if body.is_empty() {
            delete_options(&self.query)?
        } else {
            let weight = writing::weight(negotiate::input(&self.parts.headers)?, &body);
            self.front.lane.run(weight, pin!(async { self.options_body(served, &body) })).await?
        };
        let in_query = WriteOptions::read(&self.query, "DeleteOptions")?.dry_run;
        let dry_run: Vec<&str> = value.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        Status::known_dry_run(&dry_run)?;
        let in_body = !dry_run.is_empty();
        Ok((value, in_body || in_query))
    }

    fn options_body(&self, served: &Served, body: &[u8]) -> Result<Value, Status> {
        // Told of as it is, and not as of bodies of other kinds.
        let undecoded = |why: String| Status::bad_request(parse::undecoded(&why));
        let parsed = match negotiate::input(&self.parts.headers)? {
            Input::Json => parse::json(body).map_err(undecoded),
            Input::Yaml => parse::yaml(body).map_err(undecoded),
            Input::Protobuf => served.kind.schema.protobuf("DeleteOptions", body),
        };
        let value = parsed?.value;
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or("DeleteOptions");
        if !value.is_object() || kind != "DeleteOptions" {
            return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
        }
        self.tell_sent(&value);
        Ok(value)
    }

    fn success(&self, served: &Served, deleted: &Deleted) -> Value {
        let kind = &served.kind;
        let object = deleted.object.value();
        let mut details = json!({"name": self.info.name});
        if !kind.group.is_empty() {
            details["group"] = kind.group.as_ref().into();
        }
        details["kind"] = kind.plural.as_ref().into();
        details["uid"] = meta::text(&object, "uid").into();
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
    }
}
