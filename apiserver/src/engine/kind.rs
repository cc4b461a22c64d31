//! What the engine knows of a kind: names, scope, verbs, columns, and its strategy. One value per kind and version, built-in or custom.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use api::{GroupResource, Gvk, Gvr, Status, field_errors::FieldErrors, time::Timestamp};
use async_trait::async_trait;
use serde_json::Value;

use super::{Claims, Engine};
use crate::schema::Schema;

pub use super::{
    Ctx,
    derived::{Derived, Made, Origins},
};

/// A word of a kind: in the binary for built-in kinds, owned for those that are made while the server runs.
pub type Name = Cow<'static, str>;
pub type Names = Vec<Name>;

pub fn names(words: &[&'static str]) -> Names {
    words.iter().map(|word| Name::Borrowed(word)).collect()
}

/// One kind in one version, as served under `/apis/<group>/<version>/<plural>`.
pub struct Kind {
    pub group: Name,
    pub version: Name,
    pub kind: Name,
    pub plural: Name,
    pub singular: Name,
    pub short_names: Names,
    pub categories: Names,
    pub scope: Scope,
    /// Of `create delete deletecollection get list patch update watch`, those that are served.
    pub verbs: Names,
    pub storage: Storage,
    pub conversion: Conversion,
    /// What is done to an object that comes from the store, in this version, before it is shown: custom kinds prune and default it. `None` for kinds
    /// that store what they show.
    pub read: Option<ReadStep>,
    pub subresources: Vec<Subresource>,
    /// Table columns after which [`Strategy::cells`] fills the rows.
    pub columns: Cow<'static, [Column]>,
    /// Fields that a field selector may name, besides `metadata.name` and `metadata.namespace`. One that is kept as another kind has none that the
    /// other does not look up.
    pub fields: Cow<'static, [Field]>,
    pub schema: Schema,
    /// True where `metadata.generation` starts at 1 and rises with each change of anything but metadata and status.
    pub generation: bool,
    pub strategy: Arc<dyn Strategy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// Where objects of the kind are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Under `/registry/<prefix>/[<namespace>/]<name>`, as this group, version and kind. `ttl_seconds` deletes them that long after their last write.
    Kept { prefix: Name, ttl_seconds: Option<u64> },
    /// Kept as another kind of the table (`group`, `version`, `plural`); [`Kind::conversion`] says how one becomes the other.
    As { group: Name, version: Name, plural: Name },
    /// Only answered (reviews): [`Strategy::answer`] makes the reply of a create. Or worked out when it is asked for: [`Strategy::derived`].
    Nowhere,
}

/// How objects go from one version of their kind to another. The version that an object is stored in stands in it.
#[derive(Clone)]
pub enum Conversion {
    /// There is one version.
    None,
    /// Worked out at once, and never failing: an object in whatever version -> the same in this one.
    Direct(DirectConversion),
    /// What may fail and may wait (webhooks).
    Remote(Arc<dyn Converter>),
}

/// See [`Conversion::Direct`].
pub type DirectConversion = Arc<dyn Fn(&Gvk, Value) -> Value + Send + Sync>;
type Step = dyn Fn(&mut Value, Came) + Send + Sync;
/// See [`Kind::read`]. Equal only to itself and its clones.
#[derive(Clone)]
pub struct ReadStep {
    step: Arc<Step>,
    number: u32,
}

/// How an object came to the version in which it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It is stored in it.
    AsStored,
    /// From another one.
    Converted,
}

impl ReadStep {
    pub fn new(step: impl Fn(&mut Value, Came) + Send + Sync + 'static) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self { step: Arc::new(step), number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    pub(crate) fn run(&self, object: &mut Value, came: Came) {
        (self.step)(object, came);
    }

    /// One that no other step has had lately.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

/// A conversion that somebody else is asked for.
#[async_trait]
pub trait Converter: Send + Sync {
    /// `objects`, each in the version that it names, in version `to`, in their order. Asked before anything of a reply is written.
    ///
    /// # Errors
    /// Why not: the request fails so.
    async fn convert(&self, to: &Gvk, objects: Vec<Value>) -> Result<Vec<Value>, Status>;
}

pub struct Subresource {
    pub name: Name,
    /// Kind of the body in discovery, with its group and version where they differ from the parent's.
    pub body: Gvk,
    /// Of a body that is not the object itself (a Scale, what an action takes); open where there is none.
    pub schema: Schema,
    pub verbs: Names,
    pub handler: Handler,
}

pub enum Handler {
    /// get, update, patch of the whole object, of which only `status` (and what the strategy lets pass) is taken.
    Status,
    /// `autoscaling/v1` Scale over the paths given.
    Scale(ScalePaths),
    /// get/update/patch of the whole object in the strategy's own way (e.g. `finalize`, `approval`): [`Strategy::prepare_subresource`].
    Object,
    /// create of a body that is not the object itself: binding, eviction, token.
    Action(Arc<dyn Action>),
    /// A stream to or through a node: log, exec, attach, portforward, proxy.
    Connect(Arc<dyn Connect>),
}

impl Handler {
    pub(crate) fn start(&self, engine: &Arc<Engine>) {
        if let Handler::Action(action) = self {
            action.start(engine);
        }
    }
}

/// JSON pointers (`/spec/replicas`); the selector is a label selector or a map.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    pub spec_replicas: Name,
    pub status_replicas: Name,
    pub selector: Name,
}

/// A column of a server-side Table (`metav1.TableColumnDefinition`). `priority` above 0 shows with `-o wide` only.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: Name,
    /// `string`, `integer`, `date`, ...
    pub typ: Name,
    /// `name` for the first column, else empty.
    pub format: Name,
    pub description: Name,
    pub priority: i32,
}

impl Column {
    /// One that is always shown. `typ` is `string`, `integer` or `date`.
    pub const fn new(name: &'static str, typ: &'static str, description: &'static str) -> Self {
        let format = Name::Borrowed("");
        Self { name: Name::Borrowed(name), typ: Name::Borrowed(typ), format, description: Name::Borrowed(description), priority: 0 }
    }
}

/// A field selector's field: where its value stands. Absent reads as `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub label: Name,
    /// JSON pointer, in the form that is stored.
    pub pointer: Name,
    pub default: Name,
    pub lookup: Lookup,
    /// The label of another one, whose value is read where there is nothing here.
    pub instead: Option<Name>,
}

/// How objects are found that have a certain value in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// All are looked at.
    Scan,
    /// By an index: for fields that divide many objects into small parts, each asked for by somebody else.
    Index,
}

/// How an object goes when it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// At once (finalizers apart).
    Now,
    /// Marked with `deletionTimestamp` and `deletionGracePeriodSeconds`; somebody deletes it again with 0.
    Seconds(i64),
}

/// Which of upstream's functions a kind's own `ValidateUpdate` calls on the metadata, after those that are called for every kind
/// (`rest.BeforeUpdate`): a refusal tells what is wrong as often as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaCheck {
    None,
    /// `ValidateObjectMeta`, as of a new object.
    Create,
    /// `ValidateObjectMetaUpdate`.
    Update,
    Both,
}

/// The strategy of one kind: a unit struct in one file of `kinds`. Every hook has the default that most kinds want.
///
/// The order of a write is: decode, `default`, mutating admission, `prepare_*`, `validate*`, validating admission, [`Claimant::claim`], store.
#[async_trait]
pub trait Strategy: Send + Sync {
    /// Fills in upstream's defaults. Idempotent; run on what is written. What is read is completed by [`Kind::read`].
    fn default(&self, _object: &mut Value) {}

    /// What makes the stored version of an object that another server stored in an older one, where upstream does that.
    fn upgrade(&self) -> Option<fn(Value) -> Value> {
        None
    }

    /// What of `PrepareForCreate` names an object that nobody has named.
    fn prepare_name(&self, _object: &mut Value) {}

    /// Strategy's `PrepareForCreate`: drops what a creator may not set (the engine has already emptied `status` where a status subresource exists).
    fn prepare_create(&self, _ctx: &Ctx<'_>, _object: &mut Value) {}

    /// Strategy's `PrepareForUpdate` (the engine has already carried `status` over where a status subresource exists).
    fn prepare_update(&self, _ctx: &Ctx<'_>, _new: &mut Value, _old: &Value) {}

    /// The same for the subresource `ctx.subresource`. For `status` the engine has already carried over all but `status` and `metadata`.
    fn prepare_subresource(&self, _ctx: &Ctx<'_>, _new: &mut Value, _old: &Value) {}

    /// How `metadata.name` must look; `None` if it is well-formed. Default: a DNS subdomain.
    fn name_error(&self, name: &str) -> Option<String> {
        crate::names::subdomain_error(name)
    }

    /// What is wrong by who asks and by what else there is. Runs before the others, for the object and for the subresource `ctx.subresource`; `old` on
    /// an update.
    fn validate_request(&self, _ctx: &Ctx<'_>, _new: &Value, _old: Option<&Value>, _causes: &mut FieldErrors) {}

    fn validate(&self, _object: &Value, _causes: &mut FieldErrors) {}

    /// Fields (by name, from the root) that a write to the object (empty) or to `subresource` leaves as they are: nobody comes to own them by it
    /// (`GetResetFields`). `None`: the status, where it has a subresource; of that, the spec (of custom kinds also the metadata).
    fn reset_fields(&self, _subresource: &str) -> Option<&'static [&'static [&'static str]]> {
        None
    }

    /// Runs after [`Strategy::validate`] of an object that is being made.
    fn validate_create(&self, _object: &Value, _causes: &mut FieldErrors) {}

    /// Runs after [`Strategy::validate`] of the new object.
    fn validate_update(&self, _new: &Value, _old: &Value, _causes: &mut FieldErrors) {}

    /// See [`MetaCheck`]. Writes to subresources are [`MetaCheck::Update`].
    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Update
    }

    /// Instead of the two above, for a write to `subresource`.
    fn validate_subresource(&self, _subresource: &str, _new: &Value, _old: &Value, _causes: &mut FieldErrors) {}

    /// What every request for the kind is warned of (`APILifecycleDeprecated`).
    fn deprecation(&self) -> Option<Cow<'static, str>> {
        None
    }

    /// Texts for `Warning` headers.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Whether an update to a missing object creates it (`AllowCreateOnUpdate`).
    fn create_on_update(&self) -> bool {
        false
    }

    /// Whether an update may leave out `resourceVersion` (`AllowUnconditionalUpdate`).
    fn unconditional_update(&self) -> bool {
        true
    }

    /// For kinds whose objects hold what must be unique in the cluster (addresses, ports).
    fn claimant(&self) -> Option<&dyn Claimant> {
        None
    }

    /// How a deletion with `requested` seconds goes.
    fn grace(&self, _object: &Value, _requested: Option<i64>) -> Grace {
        Grace::Now
    }

    /// Called as the object is first marked for deletion, before it is stored so (e.g. a phase becomes Terminating).
    fn begin_delete(&self, _ctx: &Ctx<'_>, _object: &mut Value) {}

    /// Whether the object must stay although it has no metadata finalizers (e.g. a finalizer list in its spec).
    fn holds_deletion(&self, _object: &Value) -> bool {
        false
    }

    /// Whether dependents are orphaned where the deleter does not say (`DefaultGarbageCollectionPolicy`).
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Whether its deletion puts finalizers of garbage collection (`DefaultGarbageCollectionPolicy` is not `Unsupported`).
    fn collects_garbage(&self, _object: &Value) -> bool {
        true
    }

    /// What a deletion is warned of that does not say what becomes of dependents.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }

    /// Whether a finalizer has to be a standard one or to have a domain: upstream's packages that use the core group's checks of metadata, and not the
    /// generic ones, ask for it.
    fn checks_names_of_finalizers(&self) -> bool {
        true
    }

    /// Whether upstream's storage deletes the kind in its own way: it looks at the preconditions itself, and the first deletion only marks.
    fn has_own_deletion(&self) -> bool {
        false
    }

    /// Whether a creator may bring a status (upstream's strategy does not reset it).
    fn created_with_status(&self) -> bool {
        false
    }

    /// Whether a finished deletion is answered with the object instead of a Status (`ReturnDeletedObject`).
    fn returns_deleted(&self) -> bool {
        false
    }

    /// The table cells of one object, one per column.
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value>;

    /// For kinds that are kept nowhere and read all the same.
    fn derived(&self) -> Option<&dyn Derived> {
        None
    }

    /// What a table's row tells of the object as a whole (`TableRowCondition`): a list, where there is something.
    fn row_conditions(&self, _object: &Value) -> Option<Value> {
        None
    }

    /// Parts of the metadata whose changes make a generation, too.
    fn counted_metadata(&self) -> &'static [&'static str] {
        &[]
    }

    /// The reply to a create of a kind that is kept nowhere.
    async fn answer(&self, ctx: &Ctx<'_>, _object: Value) -> Result<Value, Status> {
        Err(Status::method_not_allowed(&ctx.kind.group_resource(), "create"))
    }
}

/// What must be unique in the cluster is claimed in the transaction that stores the object, and given back in the one that deletes it: no memory
/// of it is kept, so that several API servers may share a store.
#[async_trait]
pub trait Claimant: Send + Sync {
    /// The last step before the store: fills in what `object` has not asked for itself. Run anew where somebody else was faster.
    ///
    /// # Errors
    /// 422 where what is asked for is taken or out of range; 500 where nothing is left.
    async fn claim(&self, ctx: &Ctx<'_>, object: &mut Value, old: Option<&Value>) -> Result<Claims, Status>;

    /// What goes with `object`, which is about to be deleted.
    async fn release(&self, ctx: &Ctx<'_>, object: &Value) -> Result<Claims, Status>;
}

/// A create on a subresource whose body is another kind. Returns the reply's body and its HTTP status (201 most often).
#[async_trait]
pub trait Action: Send + Sync {
    /// Whether a body that names this other `apiVersion` is read as [`Subresource::body`] all the same (`AcceptsGroupVersion`).
    fn accepts(&self, _api_version: &str) -> bool {
        false
    }

    async fn run(&self, ctx: &Ctx<'_>, body: Value) -> Result<(u16, Value), Status>;

    /// Called once before serving: the action begins to follow what it looks at ([`View`](crate::engine::View)).
    fn start(&self, _engine: &Arc<Engine>) {}
}

/// Where a streaming subresource leads.
#[async_trait]
pub trait Connect: Send + Sync {
    /// Whether the URL goes on after the subresource; such a one also takes HEAD and OPTIONS.
    fn takes_path(&self) -> bool {
        false
    }

    /// The request as its options object (`PodExecOptions` and the like; the engine names its kind), for admission. `path` and `query` as of
    /// [`Connect::target`]. `None`: no connect but a read, which admission is not asked about (logs).
    fn options(&self, path: &str, query: &str) -> Option<Value>;

    /// A verb that the caller must be allowed besides that of the request.
    fn also_needs(&self) -> Option<&'static str> {
        None
    }

    /// `path` is what follows the subresource in the URL (proxy only), `query` the raw query string.
    async fn target(&self, ctx: &Ctx<'_>, path: &str, query: &str) -> Result<Target, Status>;
}

/// The other end of a connect: the engine forwards the request there, upgrades and all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `https` (the node's agent, with our client certificate), `http`.
    pub scheme: &'static str,
    /// A name or an address; what it stands for is looked at before it is called, and must be neither loopback nor link-local.
    pub host: String,
    pub port: u16,
    /// With the query string.
    pub path_and_query: String,
    /// The node whose agent the peer is, if it is one: it is reached through the node's tunnel where there is one, its serving certificate is checked
    /// against our CA, and ours is shown.
    pub node_agent: Option<String>,
    /// For `proxy`: the path prefix that redirects and links are rewritten to; `None` otherwise.
    pub rewrite_prefix: Option<String>,
}

impl Kind {
    pub fn gvk(&self) -> Gvk {
        Gvk::new(&self.group, &self.version, &self.kind)
    }

    pub fn gvr(&self) -> Gvr {
        Gvr { group: self.group.clone(), version: self.version.clone(), resource: self.plural.clone() }
    }

    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.plural)
    }

    pub fn api_version(&self) -> String {
        api::names::api_version(&self.group, &self.version)
    }

    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// Whether what is written under the subresource (empty for none) is the object itself.
    pub(crate) fn is_object_of(&self, subresource: &str) -> bool {
        self.subresource(subresource).is_none_or(|sub| matches!(sub.handler, Handler::Status | Handler::Object))
    }

    /// The schema of what is written under the subresource: the object's, or that of its body.
    pub fn body_schema(&self, subresource: &str) -> &Schema {
        match self.subresource(subresource).filter(|_| !self.is_object_of(subresource)) {
            Some(sub) => &sub.schema,
            None => &self.schema,
        }
    }

    /// The kind of it.
    pub fn body_kind(&self, subresource: &str) -> Gvk {
        match self.subresource(subresource).filter(|_| !self.is_object_of(subresource)) {
            Some(sub) => sub.body.clone(),
            None => self.gvk(),
        }
    }

    pub(crate) fn has_status(&self) -> bool {
        self.subresource("status").is_some_and(|sub| matches!(sub.handler, Handler::Status))
    }

    /// Whether anybody can ask for it: a version that objects are only stored in has no verbs.
    pub(crate) fn is_served(&self) -> bool {
        !self.verbs.is_empty() || !self.subresources.is_empty()
    }

    pub fn serves(&self, verb: &str) -> bool {
        self.verbs.iter().any(|served| served == verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}
