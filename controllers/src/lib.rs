//! The cluster's will: what users asked for -> objects that make it so. One file per controller, one visible table.

mod amount;
mod attachdetach;
mod bootstrap;
mod catalog;
mod census;
mod certificates;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod doomed;
mod endpoints;
mod endpointslice;
mod endpointslicemirroring;
mod ephemeral;
mod expand;
mod garbage;
mod horizontalpodautoscaler;
mod index;
mod job;
mod lasted;
mod localstorage;
mod members;
mod namespace;
mod namespaces;
mod nodeipam;
mod nodelifecycle;
mod nodenews;
mod nodettl;
mod owned;
mod persistentvolume;
mod podgc;
mod protection;
mod replicas;
mod replicaset;
mod replicationcontroller;
mod resourcequota;
mod revisions;
mod roles;
mod root_ca;
#[cfg(test)]
mod scale;
mod serviceaccount;
mod servicecidrs;
mod services;
mod statefulset;
mod tainteviction;
mod ttlafterfinished;

use std::{ops::Deref, sync::Arc};

pub use bootstrap::USED_BY_NODE as TOKEN_USED_BY;
pub use certificates::{Authority, Reserved};
pub use horizontalpodautoscaler::AutoscalerConfig;
pub use nodelifecycle::NodeConfig;

use api::task::Group;
use client::{Caches, Recorder, kube, leader::Clock};
use ipnet::IpNet;
use reconcile::Controller;

/// What controllers must know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--cluster-cidr`, at most one of each family: nodes get their pod ranges from here.
    pub cluster_cidrs: Vec<IpNet>,
    /// The cluster's CA (PEM), published to every namespace.
    pub root_ca: String,
    /// Who signs certificates.
    pub authority: Arc<dyn Authority>,
    /// The longest life of a certificate that is signed, in seconds.
    pub signing_seconds: u64,
    /// What no node's certificate may bear.
    pub reserved: Reserved,
    /// When nodes are given up.
    pub nodes: NodeConfig,
    /// What waits are measured with.
    pub clock: Clock,
    /// `--terminated-pod-gc-threshold`: so many terminated pods may stay; 0 is any number.
    pub terminated_pods_max: usize,
    /// When and how far autoscalers scale.
    pub autoscalers: AutoscalerConfig,
}

/// Upstream's `--terminated-pod-gc-threshold`.
pub const TERMINATED_PODS_MAX: usize = 12_500;

/// Upstream's `--cluster-signing-duration`: one year.
pub const SIGNING_SECONDS: u64 = 365 * 24 * 3600;

/// A client that acts as the service account of this name in kube-system.
pub type ClientFor<'a> = &'a dyn Fn(&str) -> kube::Client;

/// What a controller is started with.
pub struct Start<'a> {
    pub config: &'a Config,
    pub caches: &'a Caches,
    pub clients: ClientFor<'a>,
    pub group: &'a Group,
    /// What several controllers ask about pods is kept once.
    owned: owned::Owned,
    selected: Arc<services::Selected>,
    on_node: index::ByNode,
    users: index::ByClaim,
    shelf: persistentvolume::Shelf,
    attached: attachdetach::View,
    /// What the garbage collector watches is told from there.
    census: census::Census,
    #[cfg(test)]
    stills: Option<scale::Stills>,
}

/// A row of the table that is being started.
pub struct Entry<'a> {
    start: &'a Start<'a>,
    account: &'static str,
    component: &'static str,
}

/// Service account in kube-system (its RBAC role is `system:controller:<account>`), component name in events, and how it starts.
type Row = (&'static str, &'static str, fn(&Entry<'_>));

const TABLE: &[Row] = &[
    ("replicaset-controller", "replicaset-controller", |s| s.run(replicaset::ReplicaSets::new(s.caches, &s.owned, s.config))),
    ("replication-controller", "replication-controller", |s| s.run(replicationcontroller::Controllers::new(s.caches, &s.owned, s.config))),
    ("deployment-controller", "deployment-controller", |s| s.run(deployment::Deployments::new(s.caches, &s.owned, s.config))),
    ("daemon-set-controller", "daemonset-controller", |s| s.run(daemonset::DaemonSets::new(s.caches, &s.owned, s.config))),
    ("statefulset-controller", "statefulset-controller", |s| s.run(statefulset::StatefulSets::new(s.caches, &s.owned, s.config))),
    ("job-controller", "job-controller", |s| s.run(job::Jobs::new(s.caches, &s.owned, s.config))),
    ("job-controller", "job-controller", |s| s.run(job::Orphans::new(s.caches, &s.owned, s.client()))),
    ("ttl-after-finished-controller", "ttl-after-finished-controller", |s| s.run(ttlafterfinished::Finished::new(s.caches, s.config))),
    ("cronjob-controller", "cronjob-controller", |s| s.run(cronjob::CronJobs::new(s.caches))),
    ("horizontal-pod-autoscaler", "horizontal-pod-autoscaler", |s| s.run(horizontalpodautoscaler::Autoscalers::of(s))),
    ("endpoint-controller", "endpoint-controller", |s| s.run(endpoints::Endpoints::new(s.caches, &s.selected))),
    ("endpointslice-controller", "endpoint-slice-controller", |s| s.run(endpointslice::EndpointSlices::new(s.caches, &s.selected))),
    ("endpointslicemirroring-controller", "endpoint-slice-mirroring-controller", |s| s.run(endpointslicemirroring::Mirrors::new(s.caches))),
    ("namespace-controller", "namespace-controller", |s| s.run(namespace::Namespaces::new(s.caches, s.client()))),
    ("generic-garbage-collector", "garbage-collector-controller", |s| s.run(garbage::Garbage::new(s.client(), s.group, &s.census))),
    ("node-controller", "node-controller", |s| s.run(nodelifecycle::NodeLifecycle::new(s.caches, &s.on_node, &s.config.nodes))),
    ("node-controller", "node-controller", |s| s.run(nodenews::NodeNews::new(s.caches))),
    ("ttl-controller", "ttl-controller", |s| s.run(nodettl::NodeTtl::new(s.caches))),
    ("node-controller", "taint-eviction-controller", |s| s.run(tainteviction::TaintEviction::new(s.caches, &s.on_node))),
    ("pod-garbage-collector", "pod-garbage-collector", |s| s.run(podgc::PodGc::new(s.caches, &s.on_node, s.client(), s.config))),
    ("persistent-volume-binder", "persistentvolume-controller", |s| s.run(persistentvolume::Claims::of(s))),
    ("persistent-volume-binder", "persistentvolume-controller", |s| s.run(persistentvolume::Volumes::new(s.caches, &s.shelf, s.client()))),
    ("persistent-volume-binder", "skiff.dev/local", |s| s.run(localstorage::LocalStorage::new(s.caches, &s.users))),
    ("attachdetach-controller", "attachdetach-controller", |s| s.run(attachdetach::Attachments::of(s))),
    ("attachdetach-controller", "attachdetach-controller", |s| s.run(attachdetach::Reports::new(&s.attached))),
    ("expand-controller", "volume_expand", |s| s.run(expand::Expansion::new(s.caches))),
    ("ephemeral-volume-controller", "ephemeral_volume", |s| s.run(ephemeral::Ephemeral::new(s.caches, &s.users))),
    ("pvc-protection-controller", "pvc-protection-controller", |s| s.run(protection::Claims::new(s.caches, &s.users, s.client()))),
    ("pv-protection-controller", "pv-protection-controller", |s| s.run(protection::Volumes::new(s.caches))),
    ("volumeattributesclass-protection-controller", "vac-protection-controller", |s| s.run(protection::Classes::new(s.caches))),
    ("service-account-controller", "serviceaccount-controller", |s| s.run(serviceaccount::ServiceAccounts::new(s.caches))),
    ("service-cidrs-controller", "service-cidr-controller", |s| s.run(servicecidrs::ServiceCidrs::new(s.caches))),
    ("root-ca-cert-publisher", "root-ca-cert-publisher", |s| s.run(root_ca::RootCa::new(s.caches, &s.config.root_ca))),
    ("disruption-controller", "controllermanager", |s| s.run(disruption::Budgets::new(s.caches, s.config, s.client()))),
    ("disruption-controller", "controllermanager", |s| s.run(disruption::StaleDisruptions::new(s.caches, s.config))),
    ("clusterrole-aggregation-controller", "clusterrole-aggregation-controller", |s| s.run(roles::Roles::new(s.caches))),
    ("certificate-controller", "csrapproving", |s| s.run(certificates::Approving::new(s.caches, s.config, s.client()))),
    ("certificate-controller", "csrapproving-serving", |s| s.run(certificates::ServingApproval::new(s.caches, s.config))),
    ("certificate-controller", "csrsigning", |s| s.run(certificates::Signing::new(s.caches, s.config))),
    ("certificate-controller", "csrcleaner", |s| s.run(certificates::Cleaning::new(s.caches, s.config))),
    ("certificate-controller", "nodekeys", |s| s.run(certificates::Release::new(s.caches, s.config))),
    ("resourcequota-controller", "resourcequota-controller", |s| s.run(resourcequota::Quotas::new(s.caches, s.client(), &s.census))),
    ("token-cleaner", "tokencleaner", |s| s.run(bootstrap::TokenCleaner::new(s.caches, s.config))),
    ("bootstrap-signer", "bootstrapsigner", |s| s.run(bootstrap::BootstrapSigner::new(s.caches))),
    ("node-controller", "cidrAllocator", |s| s.run(nodeipam::NodeIpam::new(s.caches, &s.config.cluster_cidrs))),
];

/// Starts every controller of the table in `group`.
pub fn start(config: &Config, caches: &Caches, clients: ClientFor<'_>, group: &Group) {
    let (owned, selected) = (owned::Owned::new(&caches.of()), Arc::new(services::Selected::new(caches)));
    let (on_node, users) = (index::by_node(&caches.of()), index::by_claim(&caches.of()));
    let shelf = persistentvolume::Shelf::of(&caches.of(), &caches.of());
    let attached = attachdetach::View::new(caches, &users, &on_node);
    let start = Start {
        config,
        caches,
        clients,
        group,
        owned,
        selected,
        on_node,
        users,
        shelf,
        attached,
        census: census::Census::default(),
        #[cfg(test)]
        stills: None,
    };
    for &(account, component, begin) in TABLE {
        begin(&Entry { start: &start, account, component });
    }
}

impl Entry<'_> {
    /// A client that is this controller's service account.
    fn client(&self) -> kube::Client {
        (self.clients)(self.account)
    }

    fn run<C: Controller>(&self, this: C) {
        #[cfg(test)]
        if let Some(stills) = &self.stills {
            return stills.borrow_mut().push((self.component, std::rc::Rc::new(reconcile::Still::new(this))));
        }
        let recorder = Recorder::new(self.client(), self.component, None, self.group);
        reconcile::run(this, self.client(), recorder, self.group);
    }
}

impl<'a> Deref for Entry<'a> {
    type Target = Start<'a>;

    fn deref(&self) -> &Start<'a> {
        self.start
    }
}
