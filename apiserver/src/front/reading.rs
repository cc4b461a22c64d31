//! GET of one object, of its scale, and LIST.

use std::{pin::pin, sync::Arc};

use api::{Key, Status};
use http::StatusCode;

use super::{
    Call,
    negotiate::{self, Answer, Format, Offer, Output, Transform},
    options::{ListOptions, when},
    pieces, protobuf,
    render::{self, ListMeta},
    scale as shown,
    stream::{Items, ListBody},
    watching,
};
use crate::{
    body::{Response, boxed},
    engine::{
        derived, form,
        list::{self, Listed, When},
        registry::Served,
        scale,
    },
    kind::ScalePaths,
    lane::Weight,
    schema::Schema,
    wire,
};

impl Call {
    /// The form of the reply.
    pub(super) fn output(&self, served: &Served) -> Result<Output, Status> {
        negotiate::output(&self.parts.headers, &self.query, self.offer(served))
    }

    fn offer<'a>(&self, served: &'a Served) -> Offer<'a> {
        Offer { schema: &served.kind.schema, tables: served.kind.shows_tables(&self.info.subresource) }
    }

    pub(super) async fn get(&self, served: &Served) -> Result<Response, Status> {
        let output = self.output(served)?;
        let object = match served.kind.strategy.derived() {
            Some(derived) => derived::get(&self.engine, served, derived, &Key::new(self.info.place(), &self.info.name)).await?,
            None => form::view(served, self.object(served).await?).await?,
        };
        let bytes = object.bytes();
        // As they are, they need no work.
        let weight = if output == Output::JSON { Weight::Light } else { Weight::of(bytes.len()) };
        let shown = async { render::object(&served.kind, &output, StatusCode::OK, bytes, self.now) };
        self.front.lane.run(weight, pin!(shown)).await
    }

    pub(super) async fn get_scale(&self, served: &Served, paths: &ScalePaths) -> Result<Response, Status> {
        let output = self.output(served)?;
        let object = self.object(served).await?;
        shown::reply(served, &output, StatusCode::OK, scale::of(paths, &form::value(served, &object).await?), self.now)
    }

    async fn object(&self, served: &Served) -> Result<Arc<crate::engine::Object>, Status> {
        let key = Key::new(self.info.place(), &self.info.name);
        if let When::NotOlderThan(rev) | When::Exactly(rev) = when(&self.query, false)? {
            self.engine.reach(rev).await?;
        }
        // "0" is content with what the cache has; everything else is answered as of now.
        let cached = served.cache.as_ref().filter(|_| self.query.get("resourceVersion") == "0").and_then(|cache| cache.get(&key));
        let found = match cached {
            Some(object) => Some(object),
            None => self.engine.stored(served, &key).await?,
        };
        found.ok_or_else(|| Status::not_found(&served.kind.group_resource(), &key.name))
    }

    pub(super) async fn list(&self, served: &Served) -> Result<Response, Status> {
        let output = self.output(served)?;
        let options = ListOptions::read(&self.query, &self.info, served)?;
        let listed = match served.kind.strategy.derived() {
            Some(derived) => derived::list(&self.engine, derived, &options.selection).await?,
            None => list::list(&self.engine, served, &options.selection, &options.when, options.limit).await?,
        };
        self.listed(served, &output, listed).await
    }

    /// JSON of objects as they are, and of their metadata, is made of the cached bytes; all else of parsed objects, one at a time.
    pub(super) async fn listed(&self, served: &Served, output: &Output, mut listed: Listed) -> Result<Response, Status> {
        output.fits(&served.kind, Answer::Many)?;
        let is_custom = matches!(served.kind.schema, Schema::Custom(_)) && served.kind.strategy.derived().is_none();
        let tells_no_token = output.transform == Transform::Plain && is_custom;
        let meta = ListMeta { rev: listed.rev, token: listed.token, remaining: listed.remaining, tells_no_token };
        // Objects of custom kinds are most often as their schema would have them.
        let mut is_shown = !served.converts() || listed.objects.iter().all(|object| form::is_as_stored(served, object));
        if form::is_remote(served) {
            listed.objects = match listed.shown.take() {
                Some(shown) => shown,
                None => {
                    let asked = listed.objects.iter().map(|object| (object.clone(), object.rev)).collect();
                    Arc::new(form::views(served, asked).await?.into_iter().map(|(object, _)| object).collect())
                }
            };
            // What needed no asking for is yet to be completed.
            is_shown = served.kind.read.is_none();
        }
        if *output == Output::JSON && is_shown {
            let items = if served.kind.schema.has_protobuf() { Items::Untyped } else { Items::Typed };
            let head = render::list_head(&served.kind.list_kind(), &served.kind.api_version(), &meta);
            return Ok(wire::reply(StatusCode::OK, "application/json", boxed(ListBody::new(head.into(), listed.objects, items))));
        }
        if output.format == Format::Protobuf {
            return Ok(protobuf::list(&self.engine, served, &output.transform, &meta.value(), listed.objects).await);
        }
        Ok(pieces::reply(&self.front.lane, served, output, &meta, listed.objects, self.now).await)
    }

    pub(super) async fn watch(&self, served: &Served) -> Result<Response, Status> {
        let output = negotiate::stream_output(&self.parts.headers, &self.query, self.offer(served))?;
        let options = ListOptions::read(&self.query, &self.info, served)?;
        let timing = (self.holds.permit(), self.front.timeouts.watch);
        watching::watch(&self.engine, served, &output, options, timing).await
    }
}
