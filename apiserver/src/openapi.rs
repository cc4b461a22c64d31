//! The table of kinds and the described definitions -> OpenAPI documents, v3 per group version and v2 as one.
//!
//! Sources: kube-openapi `pkg/handler`, `pkg/handler3`. A document is built when it is first asked for and cached compressed.

mod definitions;
mod gnostic;
mod operations;
mod parameters;
mod v2;
mod v3;

use std::{
    collections::HashMap,
    io::{Read, Write},
    sync::Arc,
};

use api::Status;
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    body::{Response, empty, full},
    engine::Engine,
    kind::Kind,
    non_resource::{Router, non_resource_routes},
    schema::OpenApiVersion,
    wire,
};

const JSON: &str = "application/json";
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What older clients call it.
const GNOSTIC_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Serves `/openapi/v2` and `/openapi/v3`.
#[derive(Default)]
pub struct OpenApi {
    cached: Mutex<CachedDocuments>,
}

/// Documents of one state of the table.
#[derive(Default)]
struct CachedDocuments {
    kinds: Vec<Arc<Kind>>,
    documents: HashMap<Document, Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Document {
    V2,
    V2Gnostic,
    /// Of a group version, or of a path beside them: `apis/apps/v1`, `version`.
    V3 {
        place: String,
    },
}

impl OpenApi {
    /// The document's bytes, gzip.
    async fn document(&self, kinds: Vec<Arc<Kind>>, wanted: Document) -> Result<Bytes, Status> {
        if let Some(bytes) = self.cached(&kinds, &wanted) {
            return Ok(bytes);
        }
        let (asked, table) = (wanted.clone(), kinds.clone());
        let built = tokio::task::spawn_blocking(move || build(&table, &asked)).await;
        let bytes = built.map_err(Status::internal)?.map_err(Status::internal)?;
        let mut cached = self.cached.lock();
        if !same(&cached.kinds, &kinds) {
            *cached = CachedDocuments { kinds, documents: HashMap::new() };
        }
        cached.documents.insert(wanted, bytes.clone());
        Ok(bytes)
    }

    fn cached(&self, kinds: &[Arc<Kind>], wanted: &Document) -> Option<Bytes> {
        let cached = self.cached.lock();
        same(&cached.kinds, kinds).then(|| cached.documents.get(wanted).cloned()).flatten()
    }

    fn root(&self, kinds: &[Arc<Kind>]) -> Value {
        let mut paths = Map::new();
        for kind in kinds {
            let path = path(kind);
            if !paths.contains_key(&path) {
                let hash = hash(kinds.iter().filter(|k| k.group == kind.group && k.version == kind.version));
                let url = format!("/openapi/v3/{path}?hash={hash}");
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
        for place in operations::of_no_kind(kinds).iter().map(place) {
            let url = format!("/openapi/v3/{place}?hash={}", hash_of_place(place));
            paths.insert(place.to_owned(), json!({"serverRelativeURL": url}));
        }
        json!({"paths": paths})
    }

    async fn v2(&self, kinds: Vec<Arc<Kind>>, request: &Parts) -> Result<Response, Status> {
        let (document, media_type) = match choose(request, &[JSON, GNOSTIC, GNOSTIC_OLD]) {
            Some(JSON) => (Document::V2, JSON),
            Some(_) => (Document::V2Gnostic, GNOSTIC),
            None => return Err(Status::not_acceptable(&[JSON, GNOSTIC])),
        };
        let etag = hash(kinds.iter());
        if known(request, &etag) {
            return Ok(finish(not_modified(), &etag));
        }
        let bytes = self.document(kinds, document).await?;
        Ok(finish(packed(request, media_type, bytes)?, &etag))
    }

    async fn v3(&self, kinds: Vec<Arc<Kind>>, place: &str, request: &Parts) -> Result<Option<Response>, Status> {
        let of: Vec<Arc<Kind>> = kinds.iter().filter(|k| path(k) == place).cloned().collect();
        if of.is_empty() && !operations::of_no_kind(&kinds).iter().any(|operation| self::place(operation) == place) {
            return Ok(None);
        }
        if choose(request, &[JSON]).is_none() {
            return Err(Status::not_acceptable(&[JSON]));
        }
        let etag = if of.is_empty() { hash_of_place(place) } else { hash(of.iter()) };
        let asked = request.uri.query().unwrap_or_default().split('&').find_map(|p| p.strip_prefix("hash="));
        if asked.is_some_and(|hash| !hash.is_empty() && hash != etag) {
            return Ok(Some(moved(&format!("/openapi/v3/{place}?hash={etag}"))));
        }
        let document = Document::V3 { place: place.to_owned() };
        let mut response = match known(request, &etag) {
            true => not_modified(),
            false => packed(request, JSON, self.document(kinds, document).await?)?,
        };
        if asked.is_some() {
            let immutable = HeaderValue::from_static("public, immutable, max-age=31536000");
            response.headers_mut().insert(header::CACHE_CONTROL, immutable);
        }
        Ok(Some(finish(response, &etag)))
    }
}

impl OpenApi {
    /// Serves the documents of `engine`'s kinds.
    pub fn routes(self, engine: Arc<Engine>) -> Router {
        let all = Arc::new((self, engine));
        non_resource_routes(&["/openapi/{*document}"], move |request| {
            let all = all.clone();
            async move { all.0.reply(&all.1, &request).await }
        })
    }

    async fn reply(&self, engine: &Engine, request: &Parts) -> Option<Response> {
        let rest = request.uri.path().trim_end_matches('/').strip_prefix("/openapi/")?;
        if request.method != Method::GET && request.method != Method::HEAD {
            return Some(wire::refusal(&Status::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )));
        }
        let kinds = engine.kinds();
        let served = match rest.split_once('/') {
            None if rest == "v2" => self.v2(kinds, request).await.map(Some),
            None if rest == "v3" => Ok(Some(finish(wire::json(StatusCode::OK, &self.root(&kinds)), &hash(kinds.iter())))),
            Some(("v3", place)) => self.v3(kinds, place, request).await,
            _ => Ok(None),
        };
        served.unwrap_or_else(|status| Some(wire::refusal(&status)))
    }
}

/// Changes when a document does: with the definitions and the kinds that are in it.
fn hash<'k>(kinds: impl Iterator<Item = &'k Arc<Kind>>) -> String {
    let mut hash = Sha256::new();
    for kind in kinds {
        hash.update(format!("{}/{}/{}/{} {:?} {:?}", kind.group, kind.version, kind.kind, kind.plural, kind.scope, kind.verbs));
        kind.subresources.iter().for_each(|s| hash.update(format!("{}{:?}{:?}", s.name, s.body, s.verbs)));
        hash.update(kind.schema.name());
        hash.update(kind.schema.digest());
        // The checksum at the end of a gzip file stands for its content.
        let built_in = kind.schema.tables().map_or(&[][..], |tables| tables.definitions());
        hash.update(built_in.get(built_in.len().saturating_sub(8)..).unwrap_or_default());
    }
    hash.finalize().iter().map(|b| format!("{b:02X}")).collect()
}

fn build(kinds: &[Arc<Kind>], wanted: &Document) -> std::io::Result<Bytes> {
    let text = definitions::inflate(kinds)?;
    let version = match wanted {
        Document::V2 | Document::V2Gnostic => OpenApiVersion::V2,
        Document::V3 { .. } => OpenApiVersion::V3,
    };
    // Of another group's kinds nothing is said in version 3.
    let is_in = |kind: &&Arc<Kind>| match wanted {
        Document::V3 { place } => path(kind) == *place,
        Document::V2 | Document::V2Gnostic => true,
    };
    let told: Vec<Arc<Kind>> = kinds.iter().filter(is_in).cloned().collect();
    let own: Vec<(&str, String)> = told.iter().filter_map(|kind| Some((kind.schema.name(), kind.schema.definition(version)?))).collect();
    let all = definitions::Definitions::of(&text, &own)?;
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    match wanted {
        Document::V2 => v2::write(&mut out, &all, &told)?,
        Document::V2Gnostic => out.write_all(&gnostic::encode(&all, &told)?)?,
        Document::V3 { place } => {
            let mut operations = operations::of_no_kind(kinds);
            operations.retain(|operation| self::place(operation) == place);
            operations.extend(operations::of_kinds(&told, &all));
            let names = told.first().map_or(("", ""), |kind| (kind.group.as_ref(), kind.version.as_ref()));
            v3::write(&mut out, &all, operations, definitions::custom_lists(&all, &told), names)?;
        }
    }
    Ok(out.finish()?.into())
}

/// Where version 3 tells of an operation that is about no kind.
fn place(operation: &operations::Operation) -> &str {
    operation.path.trim_matches('/')
}

/// Its document changes with the binary only.
fn hash_of_place(place: &str) -> String {
    let digest = Sha256::digest(format!("{place} {}", crate::version::GIT_VERSION));
    digest.iter().map(|b| format!("{b:02X}")).collect()
}

/// `api/v1`, `apis/apps/v1`.
fn path(kind: &Kind) -> String {
    if kind.group.is_empty() { format!("api/{}", kind.version) } else { format!("apis/{}/{}", kind.group, kind.version) }
}

/// The first of the client's media types that is among `offered`.
fn choose<'o>(request: &Parts, offered: &[&'o str]) -> Option<&'o str> {
    let accept = request.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    accept.split(',').find_map(|clause| {
        let media = clause.split(';').next().unwrap_or_default().trim();
        match media {
            "" | "*/*" | "application/*" => offered.first().copied(),
            media => offered.iter().find(|o| **o == media).copied(),
        }
    })
}

/// As it is cached where the client takes gzip, else unpacked.
fn packed(request: &Parts, media_type: &'static str, bytes: Bytes) -> Result<Response, Status> {
    let takes = request.headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("gzip"));
    if takes {
        let mut response = wire::reply(StatusCode::OK, media_type, full(bytes));
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        return Ok(response);
    }
    let mut plain = Vec::new();
    GzDecoder::new(bytes.as_ref()).read_to_end(&mut plain).map_err(Status::internal)?;
    Ok(wire::reply(StatusCode::OK, media_type, full(plain)))
}

fn known(request: &Parts, etag: &str) -> bool {
    request.headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == format!("\"{etag}\"").as_bytes())
}

fn not_modified() -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

fn moved(to: &str) -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(to).expect("group and version are fit for a header"));
    response
}

fn finish(mut response: Response, etag: &str) -> Response {
    let etag = HeaderValue::from_str(&format!("\"{etag}\"")).expect("hexadecimal digits are fit for a header");
    response.headers_mut().insert(header::ETAG, etag);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    response
}

fn same(a: &[Arc<Kind>], b: &[Arc<Kind>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

#[cfg(test)]
mod tests;
