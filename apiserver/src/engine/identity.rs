//! Who asks, and what a request passes: authentication, authorization, admission. The authenticators, authorizers and plugins live in `kinds`.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use api::{
    Status,
    selector::{Fields, Labels},
};
use async_trait::async_trait;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Ctx, Engine};

pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";

/// A user as the authenticator found it (`user.Info`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// In the group that everybody is in who has a name. One that is in it already is not copied.
    #[must_use]
    pub fn authenticated(mut self: Arc<Self>) -> Arc<Self> {
        let known = [AUTHENTICATED, UNAUTHENTICATED].iter().any(|group| self.groups.iter().any(|g| g == group));
        if !known && self.name != ANONYMOUS {
            Arc::make_mut(&mut self).groups.push(AUTHENTICATED.into());
        }
        self
    }
}

/// What the transport knows of the other end: put into the request's extensions by the TLS acceptor (from the verified client
/// certificate) or by an in-process caller, which thereby passes the same authorization and admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user of the verified client certificate ([`User::authenticated`] already), shared by all requests on the connection.
    pub certificate: Option<Arc<User>>,
    pub address: Option<std::net::SocketAddr>,
}

impl Peer {
    /// A caller in this process: as `user`, without an address.
    pub fn local(user: User) -> Self {
        Self { certificate: Some(Arc::new(user)), address: None }
    }
}

/// What is asked, as authorizers and admission see it (`authorizer.Attributes`).
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    pub verb: &'a str,
    pub resource_request: bool,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// The URL's path, for requests that are about no resource.
    pub path: &'a str,
    /// What a list, watch or deletecollection selects; nothing where it could not be read, which is to ask for all.
    pub fields: Option<&'a Fields>,
    /// The same of labels.
    pub labels: Option<&'a Labels>,
}

impl Default for Attributes<'_> {
    fn default() -> Self {
        static NOBODY: User = User { name: String::new(), uid: String::new(), groups: Vec::new(), extra: BTreeMap::new() };
        let none = "";
        Self {
            user: &NOBODY,
            verb: none,
            resource_request: false,
            group: none,
            version: none,
            resource: none,
            subresource: none,
            namespace: none,
            name: none,
            path: none,
            fields: None,
            labels: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    Deny(String),
    NoOpinion(String),
}

/// A decision, and what went wrong on the way to it: where nothing is allowed and something went wrong, nobody knows whether it would have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    /// Errors of authorizers, in their order, as `utilerrors.NewAggregate` prints them; empty where there are none.
    pub error: String,
}

impl From<Decision> for Verdict {
    fn from(decision: Decision) -> Self {
        Self { decision, error: String::new() }
    }
}

impl Verdict {
    pub fn is_allowed(&self) -> bool {
        matches!(self.decision, Decision::Allow(_))
    }

    pub fn reason(&self) -> &str {
        let (Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason)) = &self.decision;
        reason
    }

    /// What a refusal says where an authorizer that failed is refused by (`checkAuthorization` of impersonation and of resource claims).
    pub fn why(&self) -> String {
        let parts = [self.error.as_str(), self.reason()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }
}

/// Rules as `SelfSubjectRulesReview` lists them: `ResourceRule`s and `NonResourceRule`s as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub resource: Vec<Value>,
    pub non_resource: Vec<Value>,
    /// True where there may be more than is listed.
    pub incomplete: bool,
    /// Why, or empty.
    pub error: String,
}

/// Who a token speaks for, and to whom (`authenticator.Response`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Shared where it is kept for the next request, and then best [`User::authenticated`] already.
    pub user: Arc<User>,
    /// Of the audiences that were asked for (or, where none were, of the API server's own) those the token is meant for; never empty.
    pub audiences: Vec<String>,
}

impl Known {
    /// A user of a token that names no audience, so that it is for the API server alone (`authenticator.WrapAudienceAgnosticToken`). `asked` is
    /// empty where the API server asks for itself; `None` where none of `asked` is it.
    pub fn of_the_server(user: Arc<User>, own: &[String], asked: &[String]) -> Option<Self> {
        let audiences: Vec<String> =
            if asked.is_empty() { own.to_vec() } else { asked.iter().filter(|a| own.contains(a)).cloned().collect() };
        (!audiences.is_empty()).then_some(Self { user, audiences })
    }
}

/// A bearer token -> user. `Ok(None)`: not one of ours, ask the next.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// # Errors
    /// The token is one of ours and not good, or for none of `audiences`.
    async fn token(&self, engine: &Arc<Engine>, token: &str, audiences: &[String]) -> Result<Option<Known>, Status>;
}

/// May this be done? Asked in order; the first that allows or denies has the word.
pub trait Authorizer: Send + Sync {
    /// From memory.
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision;
    /// The same of one that may fail. One that must ask somebody outside keeps a thread meanwhile: who can wait calls [`Engine::verdict`].
    fn at_once(&self, attributes: &Attributes<'_>) -> Verdict {
        self.authorize(attributes).into()
    }
    /// The same of one that may have to ask somebody outside; `None`: [`Self::at_once`] does not wait.
    fn ask<'a>(&'a self, _attributes: &'a Attributes<'a>) -> Option<BoxFuture<'a, Verdict>> {
        None
    }
    /// What it lets `user` do in `namespace`, as far as it can be listed (`authorizer.RuleResolver`).
    fn rules(&self, _user: &User, _namespace: &str) -> Rules {
        Rules::default()
    }
    /// Called once before serving: the authorizer subscribes to what it must know ([`Engine::on_change`]).
    fn start(&self, _engine: &Arc<Engine>) {}
}

/// What admission looks at.
pub struct Review<'a> {
    /// With the operation and the options as sent.
    pub ctx: &'a Ctx<'a>,
    /// The new object; for an action its body, for a scale the Scale, for a connect its options; `None` on delete.
    pub object: Reviewed<'a>,
    pub old: Option<&'a Value>,
    pub reinvocation: &'a mut Reinvocation,
    /// The plugin that was asked last does not do this half at all: it is not counted.
    pub(crate) is_passed_over: AtomicBool,
}

impl Review<'_> {
    fn pass_over(&self) {
        self.is_passed_over.store(true, Ordering::Relaxed);
    }
}

/// Whether the plugins that change objects are asked a second time (`reinvocation.go`), and what each remembers of the first. There is no third.
#[derive(Default)]
pub struct Reinvocation {
    is_wanted: bool,
    is_again: bool,
    memories: HashMap<&'static str, Box<dyn Any + Send + Sync>>,
}

impl Reinvocation {
    /// Asks for it: something has changed since a plugin looked that wants to look again.
    pub fn request(&mut self) {
        self.is_wanted = true;
    }

    /// What `plugin` keeps of the first time for the second (which of its webhooks ran, and what they saw).
    pub fn memory<T: Any + Send + Sync + Default>(&mut self, plugin: &'static str) -> &mut T {
        let kept = self.memories.entry(plugin).or_insert_with(|| Box::<T>::default());
        kept.downcast_mut().expect("a plugin keeps values of one type")
    }

    /// Whether this is the second time.
    pub fn is_again(&self) -> bool {
        self.is_again
    }

    pub(crate) fn begin_again(&mut self) -> bool {
        self.is_again = self.is_wanted;
        self.is_again
    }
}

/// What stands in a write: a plugin may change it only while it is admitted.
#[derive(Debug)]
pub enum Reviewed<'a> {
    /// On delete.
    Nothing,
    Admitted(&'a mut Value),
    Validated(&'a Value),
}

impl Reviewed<'_> {
    pub fn as_deref(&self) -> Option<&Value> {
        match self {
            Self::Nothing => None,
            Self::Admitted(object) => Some(object),
            Self::Validated(object) => Some(object),
        }
    }

    /// `None` where it may not be changed.
    pub fn as_deref_mut(&mut self) -> Option<&mut Value> {
        match self {
            Self::Admitted(object) => Some(object),
            Self::Nothing | Self::Validated(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As rules and requests of webhooks name it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// One admission plugin. `admit` may change the object; `validate` runs when all have. A refusal is a 403 in upstream's words.
#[async_trait]
pub trait Admission: Send + Sync {
    fn name(&self) -> &'static str;
    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        review.pass_over();
        Ok(())
    }
    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        review.pass_over();
        Ok(())
    }
    /// Called once before serving: the plugin begins to follow what it looks at ([`View`](crate::engine::View)).
    fn start(&self, _engine: &Arc<Engine>) {}
}

/// Whether who shows nothing is let in as nobody in particular (`apiserver.config.k8s.io` `AnonymousAuthConfig`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anonymous {
    Everywhere,
    /// At these paths alone.
    At(Vec<String>),
    Nowhere,
}

impl Anonymous {
    pub fn is_let_in(&self, path: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::At(paths) => paths.iter().any(|one| one == path),
            Self::Nowhere => false,
        }
    }
}

/// What each request passes, in order.
#[derive(Clone)]
pub struct Auth {
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    pub authorizers: Vec<Arc<dyn Authorizer>>,
    pub admission: Vec<Arc<dyn Admission>>,
    pub anonymous: Anonymous,
}

impl Default for Auth {
    fn default() -> Self {
        Self { authenticators: Vec::new(), authorizers: Vec::new(), admission: Vec::new(), anonymous: Anonymous::Everywhere }
    }
}
