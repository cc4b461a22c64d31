//! Pods as schedulers and controllers keep them -> the view that all who measure pods share (`podspec`).

use podspec::{ContainerView, List, SpecView, Stated, typed::stated};

use super::{Container, PodSpec};

impl SpecView for PodSpec {
    type Container = Container;

    fn containers(&self) -> &[Container] {
        &self.containers
    }

    fn init_containers(&self) -> &[Container] {
        self.init_containers.as_deref().unwrap_or_default()
    }

    fn resources(&self) -> Option<Stated<'_>> {
        self.resources.as_ref().map(Stated::from)
    }

    fn overhead(&self) -> List<'_> {
        self.overhead.as_ref().into()
    }
}

impl ContainerView for Container {
    fn restart_policy(&self) -> Option<&str> {
        self.restart_policy.as_deref()
    }

    fn resources(&self) -> Stated<'_> {
        self.resources.as_ref().map(Stated::from).unwrap_or_default()
    }

    fn host_ports(&self) -> impl Iterator<Item = (i32, &str, &str)> {
        self.ports.iter().flatten().map(stated)
    }
}
