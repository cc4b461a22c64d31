//! Namespace -> its `default` ServiceAccount. Source: `pkg/controller/serviceaccount/serviceaccounts_controller.go`.

use api::{
    Key,
    k8s::{
        api::core::v1::{Namespace, ServiceAccount},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    },
};
use client::{Cache, Caches};
use reconcile::{Action, Controller, Plan, Wake, own_key};

use crate::namespaces::is_active;

const DEFAULT: &str = "default";

pub struct ServiceAccounts {
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
}

/// Whether the account of an active namespace is there.
pub struct World {
    exists: bool,
}

impl ServiceAccounts {
    pub fn new(caches: &Caches) -> Self {
        Self { namespaces: caches.of(), accounts: caches.of() }
    }
}

impl Controller for ServiceAccounts {
    type World = World;

    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.namespaces);
        wake.on(&self.accounts, |account, wake| {
            let key = own_key(account);
            if key.name == DEFAULT {
                wake(Key::new("", &key.namespace));
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let namespace = self.namespaces.get(key)?;
        is_active(&namespace).then(|| World { exists: self.accounts.get(&Key::new(&key.name, DEFAULT)).is_some() })
    }

    fn plan(&self, world: &World, key: &Key) -> Plan {
        if world.exists {
            return Plan::rest();
        }
        let metadata = ObjectMeta { name: Some(DEFAULT.into()), namespace: Some(key.name.clone()), ..ObjectMeta::default() };
        Plan::act(vec![Action::create(&ServiceAccount { metadata, ..ServiceAccount::default() })])
    }
}
