//! The table of kinds, the described definitions and what other servers say of theirs -> OpenAPI documents, v3 per group version and v2 as one.
//!
//! Sources: kube-openapi `pkg/handler`, `pkg/handler3`; kube-aggregator `pkg/controllers/openapi`, `openapiv3`. What another server serves it is asked
//! for itself in v3, as for all else of its group version. A document is built when it is first asked for and cached compressed.

mod definitions;
mod gnostic;
mod merge;
mod operations;
mod parameters;
mod v2;
mod v3;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
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

pub use merge::of_group_version;

use crate::{
    body::{Response, empty, full},
    delegation::{Delegations, Table},
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
    delegations: Arc<Delegations>,
    building: Arc<tokio::sync::Mutex<()>>,
}

/// What documents are made of.
#[derive(Clone)]
struct World {
    kinds: Vec<Arc<Kind>>,
    table: Arc<Table>,
}

/// Documents of one state of the table.
#[derive(Default)]
struct CachedDocuments {
    kinds: Vec<Arc<Kind>>,
    table: Arc<Table>,
    documents: HashMap<Document, Bytes>,
    told: Option<Arc<Told>>,
}

/// What is said of the documents of one state, worked out once for all who ask: a client looks whether anything has changed each time that it begins.
struct Told {
    /// Of all together.
    whole: String,
    /// The hash of each document of our own kinds, by its place.
    hashes: HashMap<String, String>,
    /// `/openapi/v3`
    root: Bytes,
}

impl CachedDocuments {
    /// Nothing of another state is kept.
    fn of(&mut self, world: &World) -> &mut Self {
        if !(same(&self.kinds, &world.kinds) && Arc::ptr_eq(&self.table, &world.table)) {
            *self = Self { kinds: world.kinds.clone(), table: world.table.clone(), ..Self::default() };
        }
        self
    }
}

impl Told {
    fn of(world: &World) -> Self {
        let World { kinds, table } = world;
        let mut by_place: BTreeMap<String, Vec<&Arc<Kind>>> = BTreeMap::new();
        for kind in kinds {
            by_place.entry(path(kind)).or_default().push(kind);
        }
        let hashes: HashMap<String, String> = by_place.into_iter().map(|(place, kinds)| (place, hash(kinds.into_iter()))).collect();
        let mut paths = Map::new();
        let mut tell = |place: String, hash: &str| {
            let url = format!("/openapi/v3/{place}?hash={hash}");
            paths.insert(place, json!({"serverRelativeURL": url}));
        };
        let mut known = HashSet::new();
        for kind in kinds {
            let place = path(kind);
            if table.remote(&kind.group, &kind.version).is_none()
                && known.insert(place.clone())
                && let Some(hash) = hashes.get(&place)
            {
                tell(place, hash);
            }
        }
        for of in table.versions() {
            if let Some(hash) = of.remote.as_ref().and_then(|remote| remote.openapi_v3.as_ref()) {
                tell(format!("apis/{}/{}", of.group, of.version), hash);
            }
        }
        for place in operations::of_no_kind(kinds).iter().map(place) {
            tell(place.to_owned(), &hash_of_place(place));
        }
        Self { whole: world.hash(), hashes, root: format!("{}\n", json!({"paths": paths})).into() }
    }
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
    async fn document(&self, world: World, wanted: Document) -> Result<Bytes, Status> {
        if let Some(bytes) = self.cached(&world, &wanted) {
            return Ok(bytes);
        }
        // One is built at a time, also where who asked has gone meanwhile.
        let turn = self.building.clone().lock_owned().await;
        if let Some(bytes) = self.cached(&world, &wanted) {
            return Ok(bytes);
        }
        let (asked, of) = (wanted.clone(), world.clone());
        let built = tokio::task::spawn_blocking(move || build(&of, &asked).map(|bytes| (bytes, turn))).await;
        let (bytes, _turn) = built.map_err(Status::internal)?.map_err(Status::internal)?;
        self.cached.lock().of(&world).documents.insert(wanted, bytes.clone());
        Ok(bytes)
    }

    fn told(&self, world: &World) -> Arc<Told> {
        let known = self.cached.lock().of(world).told.clone();
        known.unwrap_or_else(|| {
            let told = Arc::new(Told::of(world));
            self.cached.lock().of(world).told = Some(told.clone());
            told
        })
    }

    fn cached(&self, world: &World, wanted: &Document) -> Option<Bytes> {
        self.cached.lock().of(world).documents.get(wanted).cloned()
    }

    async fn v2(&self, world: World, request: &Parts) -> Result<Response, Status> {
        let (document, media_type) = match choose(request, &[JSON, GNOSTIC, GNOSTIC_OLD]) {
            Some(JSON) => (Document::V2, JSON),
            Some(_) => (Document::V2Gnostic, GNOSTIC),
            None => return Ok(unacceptable()),
        };
        let etag = self.told(&world).whole.clone();
        if known(request, &etag) {
            return Ok(finish(not_modified(), &etag));
        }
        let bytes = self.document(world, document).await?;
        Ok(finish(packed(request, media_type, bytes)?, &etag))
    }

    async fn v3(&self, world: World, place: &str, request: &Parts) -> Result<Option<Response>, Status> {
        let hash = self.told(&world).hashes.get(place).cloned();
        if hash.is_none() && !operations::of_no_kind(&world.kinds).iter().any(|operation| self::place(operation) == place) {
            return Ok(None);
        }
        if choose(request, &[JSON]).is_none() {
            return Ok(Some(unacceptable()));
        }
        let etag = hash.unwrap_or_else(|| hash_of_place(place));
        let asked = request.uri.query().unwrap_or_default().split('&').find_map(|p| p.strip_prefix("hash="));
        if asked.is_some_and(|hash| !hash.is_empty() && hash != etag) {
            return Ok(Some(moved(&format!("/openapi/v3/{place}?hash={etag}"))));
        }
        let document = Document::V3 { place: place.to_owned() };
        let mut response = match known(request, &etag) {
            true => not_modified(),
            false => packed(request, JSON, self.document(world, document).await?)?,
        };
        if asked.is_some() {
            let immutable = HeaderValue::from_static("public, immutable, max-age=31536000");
            response.headers_mut().insert(header::CACHE_CONTROL, immutable);
        }
        Ok(Some(finish(response, &etag)))
    }
}

impl OpenApi {
    /// With what other servers serve.
    pub fn new(delegations: Arc<Delegations>) -> Self {
        Self { delegations, ..Self::default() }
    }

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
        let world = World { kinds: engine.kinds(), table: self.delegations.table() };
        let served = match rest.split_once('/') {
            None if rest == "v2" => self.v2(world, request).await.map(Some),
            // Upstream does not say what it is, and Go takes it for text.
            None if rest == "v3" => {
                let told = self.told(&world);
                Ok(Some(finish(wire::reply(StatusCode::OK, "text/plain; charset=utf-8", full(told.root.clone())), &told.whole)))
            }
            Some(("v3", place)) => self.v3(world, place, request).await,
            _ => Ok(None),
        };
        served.unwrap_or_else(|status| Some(wire::refusal(&status)))
    }
}

impl World {
    fn hash(&self) -> String {
        let own = hash(self.kinds.iter());
        let mut all = Sha256::new();
        for of in self.table.versions() {
            if let Some(remote) = &of.remote {
                all.update(format!("{}/{} {:?}", of.group, of.version, remote.openapi_v3));
                all.update(remote.openapi_v2.as_deref().unwrap_or_default());
            }
        }
        if self.table.versions().iter().all(|of| of.remote.is_none()) {
            return own;
        }
        all.update(own);
        hex(all)
    }

    /// What others say of their own, in the order of their priorities.
    fn documents(&self) -> Vec<Value> {
        let mut remote: Vec<_> = self.table.versions().iter().filter(|of| of.remote.is_some()).collect();
        remote.sort_by_key(|of| (std::cmp::Reverse((of.group_priority, of.version_priority)), &of.group, &of.version));
        let texts = remote.into_iter().filter_map(|of| of.remote.as_ref()?.openapi_v2.as_ref());
        texts.filter_map(|text| serde_json::from_slice(text).ok()).collect()
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02X}")).collect()
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
    hex(hash)
}

fn build(world: &World, wanted: &Document) -> std::io::Result<Bytes> {
    let kinds = &world.kinds;
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
    let documents = world.documents();
    let has_others = !documents.is_empty();
    let others = |own: &v2::Own| {
        let definition = |name: &str| all.value_in_v2(name);
        merge::merged(documents, &merge::Own { paths: &own.paths, parameters: &own.shared, definition })
    };
    match wanted {
        Document::V2 => {
            let own = v2::Own::of(v2::operations(&all, &told));
            let others = others(&own);
            v2::write(&mut out, &all, &told, own, &others)?;
        }
        Document::V2Gnostic => {
            let operations = v2::operations(&all, &told);
            let others = if has_others { others(&v2::Own::of(operations.clone())) } else { merge::Merged::default() };
            out.write_all(&gnostic::encode(&all, &told, operations, &others)?)?;
        }
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

/// Nothing is said of what would be.
fn unacceptable() -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response
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
