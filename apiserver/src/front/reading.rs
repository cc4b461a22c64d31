//! GET of one object, of its scale, and LIST.

use api::{Key, Status};
use http::StatusCode;
use serde_json::{Map, Value};

use super::{
    Call,
    negotiate::{self, Format, Output, Shape},
    query::{ListOptions, when},
    render::{self, ListMeta},
    scale as shown,
    stream::ListBody,
    watching,
};
use crate::{
    body::{Response, boxed},
    engine::{
        form,
        list::{self, When},
        scale,
        table::Served,
    },
    kind::ScalePaths,
    wire,
};

impl Call {
    pub(super) async fn get(&self, served: &Served) -> Result<Response, Status> {
        let output = negotiate::output(&self.parts.headers, &self.query)?;
        let object = self.object(served).await?;
        let object = form::view(served, object);
        Ok(render::object(&served.kind, &output, StatusCode::OK, object.bytes(), self.now))
    }

    pub(super) async fn get_scale(&self, served: &Served, paths: &ScalePaths) -> Result<Response, Status> {
        let output = negotiate::output(&self.parts.headers, &self.query)?;
        let object = self.object(served).await?;
        Ok(shown::reply(&output, StatusCode::OK, scale::of(paths, &form::value(served, &object)), self.now))
    }

    async fn object(&self, served: &Served) -> Result<std::sync::Arc<crate::engine::Object>, Status> {
        let key = Key::new(self.namespace(served), &self.info.name);
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
        let output = negotiate::output(&self.parts.headers, &self.query)?;
        let options = ListOptions::read(&self.query, &served.kind, self.namespace(served), false)?;
        let listed = list::list(&self.engine, served, &options.selection, &options.when, options.limit).await?;
        let meta = ListMeta { rev: listed.rev, token: listed.token, remaining: listed.remaining };
        if output == (Output { format: Format::Json, shape: Shape::Plain }) && !served.converts() {
            return Ok(wire::reply(StatusCode::OK, "application/json", boxed(ListBody::new(head(served, &meta).into(), listed.objects))));
        }
        let values: Vec<Value> = listed.objects.iter().map(|object| form::value(served, object)).collect();
        let list = render::list(&served.kind, &output.shape, &meta, values, self.now);
        Ok(render::encoded(output.format, StatusCode::OK, &list))
    }

    pub(super) async fn watch(&self, served: &Served) -> Result<Response, Status> {
        let output = negotiate::output(&self.parts.headers, &self.query)?;
        let mut query = self.query.clone();
        // The old path form names one object: .../watch/.../<name>.
        if !self.info.name.is_empty() && self.query.get("fieldSelector").is_empty() {
            query.push("fieldSelector", &format!("metadata.name={}", self.info.name));
        }
        let options = ListOptions::read(&query, &served.kind, self.namespace(served), true)?;
        watching::watch(&self.engine, served, &output, options).await
    }
}

/// All of a list that comes before its items.
fn head(served: &Served, meta: &ListMeta) -> String {
    let mut head = Map::new();
    head.insert("kind".into(), served.kind.list_kind().into());
    head.insert("apiVersion".into(), served.kind.api_version().into());
    head.insert("metadata".into(), meta.value());
    let mut text = Value::Object(head).to_string();
    text.pop();
    text.push_str(",\"items\":[");
    text
}
