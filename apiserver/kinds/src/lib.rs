//! Built-in kinds -> the engine's table: the strategy of each kind in one file, one line each in [`table`].

use std::sync::Arc;

use apiserver::kind::Kind;

pub mod admission;
pub mod admissionregistration;
pub mod apiservice;
pub mod auth;
pub mod authentication_trust;
pub mod binding;
pub mod bootstrap_service;
pub mod certificatesigningrequest;
pub mod common;
pub mod componentstatus;
pub mod config;
pub mod configmap;
pub mod controllerrevision;
pub mod cronjob;
pub mod csidriver;
pub mod csinode;
pub mod csistoragecapacity;
pub mod daemonset;
pub mod deployment;
pub mod endpoints;
pub mod endpointslice;
pub mod event;
pub mod eviction;
pub mod flow;
pub mod flowschema;
pub mod horizontalpodautoscaler;
pub mod ingress;
pub mod ingressclass;
pub mod ipaddress;
pub mod job;
pub mod lease;
pub mod limitrange;
pub mod metrics;
pub mod namespace;
pub mod net;
pub mod networkpolicy;
pub mod node;
pub mod older;
pub mod persistentvolume;
pub mod persistentvolumeclaim;
pub mod pod;
pub mod poddisruptionbudget;
pub mod podtemplate;
pub mod ports;
pub mod priorityclass;
pub mod prioritylevelconfiguration;
pub mod replicaset;
pub mod replicationcontroller;
pub mod resource;
pub mod resourcequota;
pub mod roles;
pub mod runtimeclass;
pub mod schema;
pub mod secret;
pub mod service;
pub mod serviceaccount;
pub mod servicecidr;
pub mod statefulset;
pub mod storageclass;
pub mod volumeattachment;
pub mod volumeattributesclass;
pub mod volumesources;

pub use config::Config;

/// One line per kind, in upstream's order of groups. A kind's file has `pub fn kind() -> Kind`, or takes the [`Config`].
const TABLE: &[fn(&Config) -> Kind] = &[
    // core
    |_| binding::kind(),
    |_| configmap::kind(),
    |_| endpoints::kind(),
    |_| event::kind(),
    |_| limitrange::kind(),
    |_| namespace::kind(),
    |_| node::kind(),
    |_| persistentvolume::kind(),
    |_| persistentvolumeclaim::kind(),
    |_| pod::kind(),
    |_| podtemplate::kind(),
    |_| replicationcontroller::kind(),
    |_| resourcequota::kind(),
    |_| secret::kind(),
    |_| serviceaccount::kind(),
    service::kind,
    // admissionregistration.k8s.io
    |_| admissionregistration::policies::mutating(),
    |_| admissionregistration::bindings::mutating(),
    |_| admissionregistration::webhooks::mutating(),
    |_| admissionregistration::policies::validating(),
    |_| admissionregistration::bindings::validating(),
    |_| admissionregistration::webhooks::validating(),
    // apiregistration.k8s.io
    |_| apiservice::kind(),
    // apps
    |_| controllerrevision::kind(),
    |_| daemonset::kind(),
    |_| deployment::kind(),
    |_| replicaset::kind(),
    |_| statefulset::kind(),
    // autoscaling
    |_| horizontalpodautoscaler::kind(),
    |_| horizontalpodautoscaler::v1_kind(),
    // batch
    |_| cronjob::kind(),
    |_| job::kind(),
    // certificates.k8s.io
    |_| certificatesigningrequest::kind(),
    // coordination.k8s.io
    |_| lease::kind(),
    // discovery.k8s.io
    |_| endpointslice::kind(),
    // events.k8s.io
    |_| event::events_kind(),
    // flowcontrol.apiserver.k8s.io
    |_| flowschema::kind(),
    |_| prioritylevelconfiguration::kind(),
    // networking.k8s.io
    |_| ingress::kind(),
    |_| ingressclass::kind(),
    |_| ipaddress::kind(),
    |_| networkpolicy::kind(),
    |_| servicecidr::kind(),
    // node.k8s.io
    |_| runtimeclass::kind(),
    // policy
    |_| poddisruptionbudget::kind(),
    // rbac.authorization.k8s.io
    |_| roles::cluster_role(),
    |_| roles::cluster_role_binding(),
    |_| roles::role(),
    |_| roles::role_binding(),
    // resource.k8s.io
    |_| resource::class::kind(),
    |_| resource::claim::kind(),
    |_| resource::template::kind(),
    |_| resource::slice::kind(),
    // scheduling.k8s.io
    |_| priorityclass::kind(),
    // storage.k8s.io
    |_| csidriver::kind(),
    |_| csinode::kind(),
    |_| csistoragecapacity::kind(),
    |_| storageclass::kind(),
    |_| volumeattachment::kind(),
    |_| volumeattributesclass::kind(),
];

/// All that is served: the table, the token subresource, and the reviews.
pub fn all(config: &Config, tokens: &Arc<auth::Tokens>) -> Vec<Arc<Kind>> {
    let mut kinds: Vec<Kind> = TABLE.iter().map(|make| make(config)).collect();
    for kind in kinds.iter_mut().filter(|k| k.plural == "serviceaccounts") {
        kind.subresources.push(auth::token_subresource(tokens));
    }
    let mut all: Vec<Arc<Kind>> = kinds.into_iter().map(Arc::new).chain(auth::kinds()).collect();
    sort(&mut all);
    all
}

/// Discovery shows groups in the order of their priorities.
pub fn sort(kinds: &mut [Arc<Kind>]) {
    kinds.sort_by_key(|kind| apiservice::register::rank(&kind.group));
}

/// All built-in kinds, for `Engine::new`.
pub fn table(config: &Config) -> Vec<Arc<Kind>> {
    TABLE.iter().map(|make| Arc::new(make(config))).collect()
}
