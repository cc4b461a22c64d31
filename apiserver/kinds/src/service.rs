//! Service: the strategy of stable addresses: cluster IPs and node ports are claimed here, types change here, and the proxy finds an endpoint here.
//!
//! Source: `pkg/registry/core/service`, `pkg/apis/core/validation`, `ValidateService`.
//!
//! - `defaults`: upstream's defaults. `prepare`: what is inferred from the old object and the type.
//! - `validate`, `validate_update`: all causes. `proxy`: `services/proxy`.
//! - `allocate`: what is claimed, in the Service's own transaction. `addresses` (`range`, `objects`): which cluster IPs are free;
//!   `node_ports` (`bitmap`, `allocation`): which node ports are. `repair`: what an older store lacks of it.
//!
//! Upstream validates after it has allocated; here claims come last, so that nothing is claimed for an object that is refused.

use std::borrow::Cow;

use api::{Status, field_errors::FieldErrors, time::Timestamp};
use apiserver::{
    engine::Claims,
    kind::{Claimant, Column, Ctx, Field, Kind, Name, Storage, Strategy, names},
};
use async_trait::async_trait;
use serde_json::Value;

use crate::{
    common::{self, table},
    config::Config,
};

mod addresses;
mod allocate;
mod allocation;
mod bitmap;
mod cells;
mod cluster_ips;
mod defaults;
mod node_ports;
mod objects;
mod prepare;
mod proxy;
mod range;
mod repair;
pub(crate) mod resolve;
pub(crate) mod shape;
mod validate;
mod validate_update;

use allocate::Allocator;

pub use repair::{bootstrap, keep_claims};

const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Type", "string", "type determines how the Service is exposed. Defaults to ClusterIP."),
    table::column("Cluster-IP", "string", "clusterIP is the IP address of the service and is usually assigned randomly."),
    table::column(
        "External-IP",
        "string",
        "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.",
    ),
    table::column("Port(s)", "string", "The list of ports that are exposed by this service."),
    table::AGE_COLUMN,
    table::wide("Selector", "string", "Route service traffic to pods with label keys and values matching this selector."),
];
const FIELDS: &[Field] = &[table::field("spec.clusterIP", "/spec/clusterIP", ""), table::field("spec.type", "/spec/type", "")];

pub fn kind(config: &Config) -> Kind {
    Kind {
        short_names: names(&["svc"]),
        categories: names(&["all"]),
        storage: Storage::Kept { prefix: Name::Borrowed("services/specs"), ttl_seconds: None },
        subresources: vec![proxy::subresource(), common::status("", "v1", "Service")],
        columns: Cow::Borrowed(COLUMNS),
        fields: Cow::Borrowed(FIELDS),
        ..common::kind("", "v1", "Service", "services", "io.k8s.api.core.v1", Services::new(config))
    }
}

struct Services {
    /// `IPv4` or `IPv6`: the one family this cluster has.
    family: &'static str,
    allocator: Allocator,
}

impl Services {
    fn new(config: &Config) -> Self {
        let family = crate::net::family(config.default_service_cidr().network());
        Self { family, allocator: Allocator::new(config, family) }
    }
}

#[async_trait]
impl Strategy for Services {
    fn default(&self, object: &mut Value) {
        defaults::fill(object);
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        prepare::create(object, self.family);
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        prepare::update(new, old, self.family);
    }

    /// A label, since `RelaxedServiceNameValidation` (on since 1.36).
    fn name_error(&self, name: &str) -> Option<String> {
        if name.contains('.') {
            return Some("must not contain dots".into());
        }
        apiserver::names::label_error(name)
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        validate::new(object, self.family, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        validate::changed(new, self.family, causes);
        validate_update::service(new, old, causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, _old: &Value, causes: &mut FieldErrors) {
        validate_update::load_balancer_status(new, causes);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        validate::warnings(new)
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn claimant(&self) -> Option<&dyn Claimant> {
        Some(self)
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells::cells(object, now)
    }
}

#[async_trait]
impl Claimant for Services {
    async fn claim(&self, ctx: &Ctx<'_>, object: &mut Value, old: Option<&Value>) -> Result<Claims, Status> {
        // A status has neither addresses nor ports.
        if ctx.subresource.is_empty() { self.allocator.claim(ctx, object, old).await } else { Ok(Claims::default()) }
    }

    async fn release(&self, ctx: &Ctx<'_>, object: &Value) -> Result<Claims, Status> {
        self.allocator.release(ctx, object).await
    }
}
